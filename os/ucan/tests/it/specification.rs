//! The specification's own fixtures for UCAN 1.0. Where they come from: `fixtures/README.md`.

use data_encoding::{BASE64, BASE64_NOPAD};
use ipld_core::ipld::Ipld;
use os_identity::{NodeId, NodeKey};
use os_ucan::invocation::Invocation;
use os_ucan::policy::Policy;
use os_ucan::{Authorizer, Did, Refusal, Subject, Token, TokenError, TokenId, chain, dag_cbor, ipld};
use serde_json::Value;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

/// `{"/": {"bytes": base64}}`.
fn bytes(value: &Value) -> Vec<u8> {
    BASE64_NOPAD.decode(value["/"]["bytes"].as_str().unwrap().as_bytes()).unwrap()
}

fn value(json: &Value) -> Ipld {
    ipld::from_json(json.to_string().as_bytes()).unwrap()
}

/// base64pad(varint(0x1300) + seed).
fn principal(fixture: &Value, name: &str) -> NodeKey {
    let bytes = BASE64.decode(fixture["principals"][name].as_str().unwrap().as_bytes()).unwrap();
    NodeKey::from_seed(&bytes[2..].try_into().unwrap())
}

#[test]
fn delegations_are_read_and_verified() {
    for text in [include_str!("fixtures/delegation.json"), include_str!("fixtures/delegation-rc1.json")] {
        let fixture = parse(text);
        for case in list(&fixture, "valid") {
            let raw = BASE64.decode(case["token"].as_str().unwrap().as_bytes()).unwrap();
            let token = Token::decode(&raw).unwrap();
            token.verify().unwrap();
            let cid: TokenId = case["cid"].as_str().unwrap().parse().unwrap();
            assert_eq!(token.id, cid);
            assert!(token.id.cid(token.format).starts_with("zdpu"));
            let (d, payload) = (&token.delegation, &case["envelope"]["payload"]);
            assert_eq!(d.issuer.to_string(), payload["iss"].as_str().unwrap());
            assert_eq!(d.audience.to_string(), payload["aud"].as_str().unwrap());
            assert_eq!(d.subject, Subject::Of(Did::parse(payload["sub"].as_str().unwrap()).unwrap()));
            assert_eq!(d.capabilities[0].ability.command().as_deref(), payload["cmd"].as_str());
            assert_eq!(d.policy.to_string(), payload["pol"].to_string());
            assert_eq!(d.expires, payload["exp"].as_u64());
            assert_eq!(BASE64.encode(&d.nonce), payload["nonce"].as_str().unwrap());
        }
    }
}

/// Ed25519 leaves no choice: the same delegation by the same key is the same token, byte for byte.
#[test]
fn a_delegation_is_written_as_the_specification_has_it() {
    let fixture = parse(include_str!("fixtures/delegation-rc1.json"));
    let raw = BASE64.decode(fixture["valid"][0]["token"].as_str().unwrap().as_bytes()).unwrap();
    let token = Token::decode(&raw).unwrap();
    assert_eq!(dag_cbor::issue(&token.delegation, &principal(&fixture, "bob")).unwrap(), raw);
}

#[test]
fn policies_hold_where_they_should() {
    let fixture = parse(include_str!("fixtures/policy.json"));
    let mut seen = 0;
    for (kind, expected) in [("valid", true), ("invalid", false)] {
        for case in list(&fixture, kind) {
            for policy in list(case, "policies") {
                let read = Policy::parse(&value(policy)).unwrap();
                assert_eq!(read.allows(&value(&case["args"])), expected, "{policy} of {}", case["args"]);
                assert_eq!(Policy::parse(&read.to_ipld()).unwrap(), read);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 25);
}

/// What the specification calls the error, in our words.
fn is_called(refusal: &Refusal, name: &str) -> bool {
    use Refusal::*;
    match name {
        "InvalidClaim" => matches!(refusal, NoToken { .. } | NotFromRoot { .. }),
        "UnavailableProof" => matches!(refusal, InvocationProofs(_)),
        "Expired" => matches!(refusal, Expired { .. } | InvocationExpired(_)),
        "TooEarly" => matches!(refusal, NotYetValid { .. }),
        "InvalidAudience" => matches!(refusal, WrongAudience { .. }),
        "InvalidSubject" => matches!(refusal, WrongSubject { .. }),
        // In the fixtures they are empty.
        "InvalidSignature" => matches!(
            refusal,
            Unreadable { why: TokenError::SignatureLength, .. }
                | UnreadableInvocation(TokenError::SignatureLength)
        ),
        "MatchError" => matches!(refusal, Policy { .. }),
        _ => false,
    }
}

#[test]
fn invocations_are_allowed_and_refused_as_they_should() {
    let fixture = parse(include_str!("fixtures/invocation.json"));
    for case in list(&fixture, "valid") {
        let (invocation, grant) = check(case).unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
        assert_eq!(grant.chain.len(), list(case, "proofs").len(), "{}", case["name"]);
        assert_eq!(invocation.command.to_string(), "msg/send/*");
    }
    for case in list(&fixture, "invalid") {
        let refusal = check(case).map(|_| ()).expect_err(case["name"].as_str().unwrap());
        let name = case["error"]["name"].as_str().unwrap();
        assert!(is_called(&refusal, name), "{}: {name}, but we say: {refusal}", case["name"]);
    }
    assert_eq!((list(&fixture, "valid").len(), list(&fixture, "invalid").len()), (7, 13));
}

fn check(case: &Value) -> Result<(Invocation, os_ucan::Grant), Refusal> {
    let raw = bytes(&case["invocation"]);
    let executor = match Invocation::decode(&raw) {
        Ok(read) => read.audience.unwrap_or(read.subject).key().unwrap(),
        Err(_) => NodeId::from_bytes([0; 32]),
    };
    // The fixtures have the root's delegation first.
    let proofs: Vec<_> = list(case, "proofs").iter().rev().map(bytes).collect();
    let chain = if proofs.is_empty() { vec![] } else { chain::encode(&proofs).unwrap() };
    let now = case["time"].as_u64().unwrap();
    Authorizer::new(0).authorize_invocation(&raw, &chain, &executor, now, |_, _| false)
}
