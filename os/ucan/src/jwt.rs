//! UCAN 0.10 as a JWT (<https://github.com/ucan-wg/spec/tree/v0.10.0>), in the dialect of Macula's SDK.
//!
//! Header `{alg: "EdDSA", typ: "JWT", ucv: "0.10.0"}`, payload `iss`, `aud`, `exp?`, `nbf?`, `nnc?`, `fct?`, `cap`, `prf`. In
//! Macula's dialect `cap` is a list of `{with, can}` and `prf` has the base64url SHA-256 of each parent; 0.10 proper has a map
//! `{with: {can: [{}]}}`, `ucv` in the payload, and CIDs. Both are read, the first is written. Conditions on a capability (0.10's
//! caveats) are not understood and so refused.
//!
//! There is one way to write a token down that is accepted: no key twice, no unknown key, no padding, no spare bits.

use data_encoding::BASE64URL_NOPAD;
use ipld_core::ipld::Ipld;
use os_identity::{NodeKey, Signature};
use serde::Serialize;

use crate::error::{EncodeError, TokenError};
use crate::fields::{Fields, check_interval};
use crate::policy::Policy;
use crate::{
    Ability, Capability, Delegation, Format, MAX_CAPABILITIES, MAX_TOKENS, Resource, Subject, Token, TokenId,
    ipld, token,
};

const VERSION: &str = "0.10.0";

pub fn decode(bytes: &[u8]) -> Result<Token, TokenError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenError::JwtParts)?;
    let parts: Vec<&str> = text.splitn(4, '.').collect();
    let &[header, payload, signature] = parts.as_slice() else { return Err(TokenError::JwtParts) };
    let mut payload_fields = json(payload, "payload")?;
    check_header(json(header, "header")?, &mut payload_fields)?;
    let delegation = delegation(payload_fields)?;
    let signature = token::signature(&base64(signature, "signature")?)?;
    let signed = bytes[..header.len() + 1 + payload.len()].to_vec();
    Ok(Token { id: TokenId::of(bytes), format: Format::Jwt, delegation, signed, signature })
}

/// Signs with the issuer's key.
pub fn issue(delegation: &Delegation, key: &NodeKey) -> Result<Vec<u8>, EncodeError> {
    encode(delegation, |bytes| key.sign_raw(bytes))
}

/// Writes a token; `sign` signs exactly the bytes that it gets.
pub fn encode(
    delegation: &Delegation,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8>, EncodeError> {
    let payload = Payload::new(delegation)?;
    let header = Header { alg: "EdDSA", typ: "JWT", ucv: VERSION };
    let mut token = format!("{}.{}", part(&header), part(&payload));
    let signature = sign(token.as_bytes());
    token += ".";
    token += &BASE64URL_NOPAD.encode(&signature);
    // What is never read again would be a token that fails far from here.
    Token::decode(token.as_bytes())?;
    Ok(token.into_bytes())
}

fn base64(text: &str, part: &'static str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Base64 { part })
}

fn json(text: &str, part: &'static str) -> Result<Fields, TokenError> {
    let value = ipld::from_json(&base64(text, part)?).map_err(|why| TokenError::Json { part, why })?;
    Fields::new(value, part)
}

/// Exactly these fields: one that changes how to verify (`crit`, `jwk`, `zip`) is none that can be ignored.
fn check_header(mut header: Fields, payload: &mut Fields) -> Result<(), TokenError> {
    let algorithm = header.text("alg")?;
    if algorithm != "EdDSA" {
        return Err(TokenError::Algorithm(algorithm.chars().take(20).collect()));
    }
    expect("typ", header.text("typ")?, "JWT")?;
    // In the header with Macula, in the payload in 0.10 proper.
    match (header.take("ucv"), payload.take("ucv")) {
        (Some(Ipld::String(version)), None) | (None, Some(Ipld::String(version))) => {
            expect("version `ucv`", version, VERSION)?;
        }
        _ => return Err(TokenError::field("ucv", "is not given once as a string")),
    }
    header.finish()
}

fn expect(field: &'static str, found: String, expected: &'static str) -> Result<(), TokenError> {
    if found == expected {
        return Ok(());
    }
    Err(TokenError::Header { field, found: found.chars().take(20).collect(), expected })
}

fn delegation(mut fields: Fields) -> Result<Delegation, TokenError> {
    let delegation = Delegation {
        issuer: fields.did("iss")?,
        audience: fields.did("aud")?,
        subject: Subject::Implied,
        capabilities: capabilities(fields.need("cap")?)?,
        policy: Policy::default(),
        not_before: fields.time("nbf")?,
        expires: fields.time("exp")?,
        nonce: fields.text_nonce("nnc")?,
        meta: fields.map("fct")?,
        proofs: proofs(fields.take("prf"))?,
    };
    fields.finish()?;
    check_interval(delegation.not_before, delegation.expires)?;
    Ok(delegation)
}

fn capabilities(value: Ipld) -> Result<Vec<Capability>, TokenError> {
    let found = match value {
        Ipld::List(list) => list.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?,
        Ipld::Map(map) => map.into_iter().map(mapped).collect::<Result<Vec<_>, _>>()?.concat(),
        _ => return Err(TokenError::field("cap", "is neither a list nor a map")),
    };
    match found.len() {
        0 => Err(TokenError::GrantsNothing),
        1..=MAX_CAPABILITIES => Ok(found),
        _ => Err(TokenError::TooManyCapabilities),
    }
}

/// `{with, can}`.
fn listed(value: Ipld) -> Result<Capability, TokenError> {
    let mut fields = Fields::new(value, "cap")?;
    let capability = capability(&fields.text("can")?, &fields.text("with")?)?;
    fields.finish()?;
    Ok(capability)
}

/// `with: {can: [{}]}`.
fn mapped((with, abilities): (String, Ipld)) -> Result<Vec<Capability>, TokenError> {
    let Ipld::Map(abilities) = abilities else {
        return Err(TokenError::field("cap", "has a resource without abilities"));
    };
    let unconditional = Ipld::List(vec![Ipld::Map(Default::default())]);
    let one = |(can, caveats): (String, Ipld)| {
        if caveats != unconditional {
            return Err(TokenError::field("cap", "has a condition, which is not understood"));
        }
        capability(&can, &with)
    };
    abilities.into_iter().map(one).collect()
}

fn capability(can: &str, with: &str) -> Result<Capability, TokenError> {
    Ok(Capability { ability: Ability::parse(can)?, resource: Resource::parse(with)? })
}

fn proofs(value: Option<Ipld>) -> Result<Vec<TokenId>, TokenError> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Ipld::List(list)) => list,
        Some(_) => return Err(TokenError::field("prf", "is not a list")),
    };
    if list.len() >= MAX_TOKENS {
        return Err(TokenError::field("prf", "names too many proofs"));
    }
    let one = |value: &Ipld| match value {
        Ipld::String(text) => {
            text.parse().map_err(|_| TokenError::field("prf", "names something that is no token id"))
        }
        _ => Err(TokenError::field("prf", "names something that is no token id")),
    };
    list.iter().map(one).collect()
}

fn part(value: &impl Serialize) -> String {
    // Structs of strings, numbers and maps with string keys are always JSON.
    BASE64URL_NOPAD.encode(&serde_json::to_vec(value).unwrap_or_default())
}

#[derive(Serialize)]
struct Header {
    alg: &'static str,
    typ: &'static str,
    ucv: &'static str,
}

/// In the order of Macula's own tokens.
#[derive(Serialize)]
struct Payload {
    iss: String,
    aud: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    nnc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fct: Option<serde_json::Value>,
    cap: Vec<PayloadCapability>,
    prf: Vec<String>,
}

#[derive(Serialize)]
struct PayloadCapability {
    can: String,
    with: String,
}

impl Payload {
    fn new(delegation: &Delegation) -> Result<Self, EncodeError> {
        if delegation.subject != Subject::Implied {
            return Err(EncodeError::NotInJwt("subject"));
        }
        if !delegation.policy.is_empty() {
            return Err(EncodeError::NotInJwt("policy"));
        }
        let nonce = String::from_utf8(delegation.nonce.clone());
        let meta = Ipld::Map(delegation.meta.clone());
        let capability =
            |c: &Capability| PayloadCapability { can: c.ability.to_string(), with: c.resource.to_string() };
        Ok(Self {
            iss: delegation.issuer.to_string(),
            aud: delegation.audience.to_string(),
            exp: delegation.expires,
            nbf: delegation.not_before,
            nnc: nonce.map_err(|_| EncodeError::NotInJwt("nonce that is not text"))?,
            fct: (!delegation.meta.is_empty()).then(|| ipld::to_json(&meta)),
            cap: delegation.capabilities.iter().map(capability).collect(),
            prf: delegation.proofs.iter().map(ToString::to_string).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use os_identity::NodeId;

    /// `ucan_did.json`, made by Macula's SDK.
    const KNOWN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsInVjdiI6IjAuMTAuMCJ9.\
        eyJpc3MiOiJkaWQ6bWFjdWxhOmlvLm1hY3VsYSIsImF1ZCI6ImRpZDptYWN1bGE6aW8ubWFjdWxhLmFjbWUiLCJleHAiOjQxMDI0NDQ4MDAsIm5uYyI6\
        Im4tMSIsImNhcCI6W3siY2FuIjoibWVzaC9jYWxsIiwid2l0aCI6Im1yaTpwcm9jOmlvLm1hY3VsYS9hY21lL2VjaG8ifV0sInByZiI6W119.\
        TOUVst6OinWzg47dkr52aWS0Bu1qdrtzP0F6uwPT9vtPJQ_NL474avRr4dvsfI77C2HTyRQ6FhloOWl8qQwhAw";

    fn known_key() -> NodeKey {
        let seed =
            HEXLOWER.decode(b"457f45ff5a09e172ed15cb20d6cb26b51ad15ed7308c12d478e8631f9ca03d4f").unwrap();
        NodeKey::from_seed(&seed.try_into().unwrap())
    }

    #[test]
    fn reads_what_macula_wrote() {
        let token = Token::decode(KNOWN.as_bytes()).unwrap();
        assert_eq!(token.id.to_string(), "NQ4gxMx3Tu5v7fvmERmlM6ghGLa-EFqupzRcwcVyEhY");
        let d = &token.delegation;
        assert_eq!(
            (d.issuer.to_string(), d.audience.to_string()),
            ("did:macula:io.macula".into(), "did:macula:io.macula.acme".into())
        );
        assert_eq!(d.capabilities[0].to_string(), "mesh/call with mri:proc:io.macula/acme/echo");
        assert_eq!((d.expires, d.not_before, d.nonce.as_slice()), (Some(4_102_444_800), None, &b"n-1"[..]));
        assert!(d.proofs.is_empty() && d.meta.is_empty());
        token.verify_by(&known_key().node_id()).unwrap();
        assert!(token.verify_by(&NodeId::from_bytes([7; 32])).is_err());
        // Nobody can say which key did:macula:io.macula has.
        assert!(token.verify().is_err());
    }

    #[test]
    fn writes_what_macula_wrote() {
        let token = Token::decode(KNOWN.as_bytes()).unwrap();
        assert_eq!(issue(&token.delegation, &known_key()).unwrap(), KNOWN.as_bytes());
    }

    fn with_json(header: &str, payload: &str) -> Result<Token, TokenError> {
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        decode(
            format!("{}.{}.{}", encode(header), encode(payload), BASE64URL_NOPAD.encode(&[0; 64])).as_bytes(),
        )
    }

    #[test]
    fn reads_0_10_proper() {
        let payload = r#"{"ucv":"0.10.0","iss":"did:web:a","aud":"did:web:b","exp":null,
            "cap":{"macula:a/b":{"x/y":[{}],"x/z":[{}]}},
            "prf":["bafkreif2pall7dybz7vecqka3zo24irdwabwdi4wc55jznaq75q7eaavvu"]}"#;
        let token = with_json(r#"{"alg":"EdDSA","typ":"JWT"}"#, payload).unwrap();
        let found: Vec<_> = token.delegation.capabilities.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["x/y with macula:a/b", "x/z with macula:a/b"]);
        assert_eq!(token.delegation.proofs, [TokenId::of(b"abc")]);
        let caveat = payload.replace("[{}],", r#"[{"max":1}],"#);
        assert!(with_json(r#"{"alg":"EdDSA","typ":"JWT"}"#, &caveat).is_err());
    }

    #[test]
    fn everything_that_is_said_comes_back() {
        let key = known_key();
        let text = r#"{"iss":"did:web:a","aud":"did:web:b","exp":20,"nbf":10,"nnc":"x","fct":{"a":[1,{"b":null}]},
            "cap":[{"can":"*","with":"*"},{"can":"a/*","with":"macula:*/b"}],"prf":[]}"#;
        let header = r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0"}"#;
        let delegation = with_json(header, text).unwrap().delegation;
        let token = Token::decode(&issue(&delegation, &key).unwrap()).unwrap();
        assert_eq!(token.delegation, delegation);
        token.verify_by(&key.node_id()).unwrap();
    }
}
