//! UCAN 1.0: a delegation in DAG-CBOR (<https://github.com/ucan-wg/delegation>, envelope: <https://github.com/ucan-wg/spec>).
//!
//! `[signature, {"h": varsig, "ucan/dlg@1.0.0-rc.1": {iss, aud, sub, cmd, pol, nonce, meta?, nbf?, exp}}]`. The signature is over
//! the encoded map. The varsig (<https://github.com/ChainAgnostic/varsig>) says Ed25519 over DAG-CBOR, anything else is refused. The
//! tag of the final 1.0.0 is read, too.
//!
//! A command covers what is beneath it. What a capability may be used on is in the policy, by this system's convention as the
//! argument `uri`, see [`narrow_to`].

use std::collections::BTreeMap;

use ipld_core::ipld::Ipld;
use os_identity::{NodeKey, Signature};

use crate::error::{EncodeError, TokenError};
use crate::fields::{Fields, check_interval};
use crate::ipld::CborError;
use crate::policy::Policy;
use crate::{Ability, Capability, Delegation, Did, Format, Resource, Subject, Token, TokenId, ipld, token};

const TAG: &str = "ucan/dlg@1.0.0-rc.1";
const FINAL_TAG: &str = "ucan/dlg@1.0.0";
/// Varsig v1, EdDSA on Ed25519 with SHA-512, DAG-CBOR.
const VARSIG: [u8; 8] = [0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x13, 0x71];
/// An array of two, and a byte string of 64: what stands before the signature.
const BEFORE_SIGNATURE: [u8; 3] = [0x82, 0x58, 0x40];
const SIGNED_FROM: usize = BEFORE_SIGNATURE.len() + os_identity::SIGNATURE_LEN;

pub fn decode(bytes: &[u8]) -> Result<Token, TokenError> {
    let envelope = open(bytes, &[TAG, FINAL_TAG], "a delegation (ucan/dlg)")?;
    let delegation = delegation(envelope.payload)?;
    let (signed, signature) = (envelope.signed, envelope.signature);
    Ok(Token { id: TokenId::of(bytes), format: Format::DagCbor, delegation, signed, signature })
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
    let token = seal(TAG, payload(delegation)?, sign)?;
    // What is never read again would be a token that fails far from here.
    Token::decode(&token)?;
    Ok(token)
}

/// The policy that keeps a capability to this resource: the argument `uri` must be it, or lie beneath it.
pub fn narrow_to(resource: &Resource) -> Result<Policy, EncodeError> {
    let text = resource.to_string();
    let statements = match text.strip_suffix("/*") {
        _ if *resource == Resource::everything() => vec![],
        Some(itself) if !itself.contains('*') => {
            let either = vec![on_uri("==", itself), on_uri("like", &text)];
            vec![Ipld::List(vec![Ipld::String("or".to_owned()), Ipld::List(either)])]
        }
        // Whatever has this scheme.
        Some(any_owner) if any_owner.ends_with(":*") => vec![on_uri("like", any_owner)],
        None if !text.contains('*') => vec![on_uri("==", &text)],
        // In `like` a star also crosses slashes, so it would let through more than was meant.
        _ => return Err(EncodeError::AnyOwner),
    };
    Ok(Policy::parse(&Ipld::List(statements)).map_err(TokenError::from)?)
}

/// What a check of `resource` gives policies to look at.
pub(crate) fn arguments(resource: &Resource) -> Ipld {
    Ipld::Map(BTreeMap::from([("uri".to_owned(), Ipld::String(resource.to_string()))]))
}

fn on_uri(operator: &str, value: &str) -> Ipld {
    Ipld::List([operator, ".uri", value].map(|part| Ipld::String(part.to_owned())).to_vec())
}

/// An envelope, taken apart; its signature is not yet looked at.
pub(crate) struct Envelope {
    pub payload: Fields,
    pub signed: Vec<u8>,
    pub signature: Signature,
}

pub(crate) fn open(bytes: &[u8], tags: &[&str], expected: &'static str) -> Result<Envelope, TokenError> {
    let value = ipld::from_dag_cbor(bytes).map_err(|e| match e {
        CborError::Malformed(why) => TokenError::Cbor(why),
        CborError::NotCanonical => TokenError::NotCanonical,
    })?;
    let Ipld::List(parts) = value else { return Err(TokenError::Envelope) };
    let Ok([Ipld::Bytes(signature), Ipld::Map(mut signed)]) = <[Ipld; 2]>::try_from(parts) else {
        return Err(TokenError::Envelope);
    };
    let signature = token::signature(&signature)?;
    if signed.remove("h") != Some(Ipld::Bytes(VARSIG.to_vec())) {
        return Err(TokenError::Varsig);
    }
    let (tag, payload) = signed.pop_first().filter(|_| signed.is_empty()).ok_or(TokenError::Envelope)?;
    if !tags.contains(&tag.as_str()) {
        return Err(TokenError::Tag(tag.chars().take(40).collect(), expected));
    }
    // There is one encoding of what was read, so the signed part is where it has to be.
    let signed = bytes.get(SIGNED_FROM..).unwrap_or_default().to_vec();
    Ok(Envelope { payload: Fields::new(payload, "payload")?, signed, signature })
}

pub(crate) fn seal(
    tag: &str,
    payload: BTreeMap<String, Ipld>,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8>, EncodeError> {
    let header = ("h".to_owned(), Ipld::Bytes(VARSIG.to_vec()));
    let signed = BTreeMap::from([header, (tag.to_owned(), Ipld::Map(payload))]);
    let signed = ipld::to_dag_cbor(&Ipld::Map(signed)).ok_or(TokenError::NotCanonical)?;
    Ok([&BEFORE_SIGNATURE[..], &sign(&signed), &signed].concat())
}

fn delegation(mut fields: Fields) -> Result<Delegation, TokenError> {
    let subject = match fields.need("sub")? {
        Ipld::Null => Subject::Anyone,
        Ipld::String(text) => Subject::Of(Did::parse(&text)?),
        _ => return Err(TokenError::field("sub", "is neither a string nor null")),
    };
    let ability = Ability::from_command(&fields.text("cmd")?)?;
    let delegation = Delegation {
        issuer: fields.did("iss")?,
        audience: fields.did("aud")?,
        subject,
        capabilities: vec![Capability { ability, resource: Resource::everything() }],
        policy: Policy::parse(&fields.need("pol")?)?,
        not_before: fields.time("nbf")?,
        expires: required_time(&mut fields)?,
        nonce: fields.bytes("nonce")?,
        meta: fields.map("meta")?,
        proofs: Vec::new(),
    };
    fields.finish()?;
    check_interval(delegation.not_before, delegation.expires)?;
    Ok(delegation)
}

/// `exp`: for ever must be said.
pub(crate) fn required_time(fields: &mut Fields) -> Result<Option<u64>, TokenError> {
    if fields.has("exp") { fields.time("exp") } else { Err(TokenError::field("exp", "is missing")) }
}

fn payload(delegation: &Delegation) -> Result<BTreeMap<String, Ipld>, EncodeError> {
    let [capability] = delegation.capabilities.as_slice() else {
        return Err(EncodeError::Capabilities(delegation.capabilities.len()));
    };
    if capability.resource != Resource::everything() {
        return Err(EncodeError::Resource);
    }
    let command = capability.ability.command();
    let command = command.ok_or_else(|| EncodeError::Concrete(capability.ability.to_string()))?;
    let subject = match &delegation.subject {
        Subject::Implied => return Err(EncodeError::NoSubject),
        Subject::Anyone => Ipld::Null,
        Subject::Of(did) => Ipld::String(did.to_string()),
    };
    let time = |seconds: u64| Ipld::Integer(seconds.into());
    let mut payload = BTreeMap::from([
        ("iss".to_owned(), Ipld::String(delegation.issuer.to_string())),
        ("aud".to_owned(), Ipld::String(delegation.audience.to_string())),
        ("sub".to_owned(), subject),
        ("cmd".to_owned(), Ipld::String(command)),
        ("pol".to_owned(), delegation.policy.to_ipld()),
        ("nonce".to_owned(), Ipld::Bytes(delegation.nonce.clone())),
        ("exp".to_owned(), delegation.expires.map_or(Ipld::Null, time)),
    ]);
    payload.extend(delegation.not_before.map(|seconds| ("nbf".to_owned(), time(seconds))));
    if !delegation.meta.is_empty() {
        payload.insert("meta".to_owned(), Ipld::Map(delegation.meta.clone()));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_becomes_a_policy_that_means_the_same() {
        let resources = ["*", "macula:a", "macula:a/*", "macula:a/b", "macula:a/b/*", "macula:*/*"];
        let asked = [
            "macula:a",
            "macula:a/b",
            "macula:a/b/c",
            "macula:ab",
            "macula:a/bc",
            "macula:c/a/b",
            "mri:a:b/c",
        ];
        for resource in resources.map(|text| Resource::parse(text).unwrap()) {
            let policy = narrow_to(&resource).unwrap();
            for asked in asked.map(|text| Resource::parse(text).unwrap()) {
                assert_eq!(policy.allows(&arguments(&asked)), resource.covers(&asked), "{resource} {asked}");
            }
        }
        for unsayable in ["macula:*", "macula:*/b", "macula:*/b/*"] {
            assert_eq!(narrow_to(&Resource::parse(unsayable).unwrap()), Err(EncodeError::AnyOwner));
        }
    }

    fn some() -> Delegation {
        Delegation {
            issuer: NodeKey::from_seed(&[1; 32]).node_id().into(),
            audience: Did::parse("did:web:example.org").unwrap(),
            subject: Subject::Anyone,
            capabilities: vec![Capability {
                ability: Ability::parse("macula/os/*").unwrap(),
                resource: Resource::everything(),
            }],
            policy: narrow_to(&Resource::parse("macula:a/*").unwrap()).unwrap(),
            not_before: Some(10),
            expires: Some(20),
            nonce: vec![1, 2, 3],
            meta: BTreeMap::from([("a".to_owned(), Ipld::Bytes(vec![4]))]),
            proofs: vec![],
        }
    }

    #[test]
    fn everything_that_is_said_comes_back() {
        let key = NodeKey::from_seed(&[1; 32]);
        let for_ever = Delegation { expires: None, not_before: None, meta: BTreeMap::new(), ..some() };
        for delegation in [some(), for_ever] {
            let bytes = issue(&delegation, &key).unwrap();
            let token = Token::decode(&bytes).unwrap();
            assert_eq!(token.delegation, delegation);
            token.verify().unwrap();
            assert_eq!(token.id, TokenId::of(&bytes));
        }
    }

    #[test]
    fn what_a_command_cannot_say_is_not_written() {
        let key = NodeKey::from_seed(&[1; 32]);
        let capability = |ability: &str, resource: &str| Capability {
            ability: Ability::parse(ability).unwrap(),
            resource: Resource::parse(resource).unwrap(),
        };
        let with = |capabilities| issue(&Delegation { capabilities, ..some() }, &key).unwrap_err();
        assert_eq!(with(vec![capability("a/b", "*")]), EncodeError::Concrete("a/b".into()));
        assert_eq!(with(vec![capability("a/*", "macula:a")]), EncodeError::Resource);
        assert_eq!(with(vec![]), EncodeError::Capabilities(0));
        assert_eq!(with(vec![capability("a/*", "*"), capability("b/*", "*")]), EncodeError::Capabilities(2));
        let implied = Delegation { subject: Subject::Implied, ..some() };
        assert_eq!(issue(&implied, &key), Err(EncodeError::NoSubject));
        let backwards = Delegation { not_before: Some(21), ..some() };
        assert_eq!(issue(&backwards, &key), Err(EncodeError::Unreadable(TokenError::EndsBeforeItBegins)));
    }
}
