//! Chains in three lines.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use ipld_core::ipld::Ipld;
use os_identity::{NodeId, NodeKey};
use os_ucan::{
    Ability, Capability, Delegation, Format, Grant, Refusal, Request, Resource, Subject, TokenId, authorize,
    chain, dag_cbor, ipld, jwt, policy::Policy,
};

pub const ROOT: u8 = 1;
pub const ALICE: u8 = 2;
pub const BOB: u8 = 3;
pub const CAROL: u8 = 4;
pub const MALLORY: u8 = 9;
pub const NOW: u64 = 1_795_000_000;
pub const FORMATS: [Format; 2] = [Format::Jwt, Format::DagCbor];

pub fn key(who: u8) -> NodeKey {
    NodeKey::from_seed(&[who; 32])
}

pub fn id(who: u8) -> NodeId {
    key(who).node_id()
}

/// `NODE` stands for what the root owns.
pub fn resource(text: &str) -> Resource {
    Resource::parse(&text.replace("NODE", &format!("macula:{}", id(ROOT)))).unwrap()
}

/// One delegation in the making; by default over everything, from an hour ago to in an hour.
#[derive(Clone)]
pub struct Give {
    pub from: u8,
    pub to: u8,
    /// Whose key signs, when it is not the issuer's.
    pub signed_by: u8,
    pub can: Vec<(String, String)>,
    pub subject: Subject,
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
    pub nonce: u8,
}

pub fn give(from: u8, to: u8) -> Give {
    Give {
        from,
        to,
        signed_by: from,
        can: vec![("*".into(), "*".into())],
        subject: Subject::Of(id(ROOT).into()),
        not_before: Some(NOW - 3600),
        expires: Some(NOW + 3600),
        nonce: 0,
    }
}

impl Give {
    pub fn can(mut self, ability: &str, resource: &str) -> Self {
        self.can = vec![(ability.into(), resource.into())];
        self
    }

    pub fn and(mut self, ability: &str, resource: &str) -> Self {
        self.can.push((ability.into(), resource.into()));
        self
    }

    pub fn until(self, expires: u64) -> Self {
        Self { expires: Some(expires), ..self }
    }

    pub fn not_before(self, not_before: u64) -> Self {
        Self { not_before: Some(not_before), ..self }
    }

    pub fn signed_by(self, signed_by: u8) -> Self {
        Self { signed_by, ..self }
    }

    pub fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    pub fn nonce(self, nonce: u8) -> Self {
        Self { nonce, ..self }
    }

    /// A JWT that names these proofs.
    pub fn jwt(&self, proofs: &[&[u8]]) -> Vec<u8> {
        let capability = |(can, with): &(String, String)| Capability {
            ability: Ability::parse(can).unwrap(),
            resource: resource(with),
        };
        let delegation = Delegation {
            subject: Subject::Implied,
            capabilities: self.can.iter().map(capability).collect(),
            policy: Policy::default(),
            nonce: format!("n{}", self.nonce).into_bytes(),
            proofs: proofs.iter().map(|proof| TokenId::of(proof)).collect(),
            ..self.delegation()
        };
        jwt::issue(&delegation, &key(self.signed_by)).unwrap()
    }

    pub fn cbor(&self) -> Vec<u8> {
        dag_cbor::issue(&self.delegation(), &key(self.signed_by)).unwrap()
    }

    /// As UCAN 1.0 has it: one command, the resource in the policy.
    fn delegation(&self) -> Delegation {
        let (can, with) = &self.can[0];
        Delegation {
            issuer: id(self.from).into(),
            audience: id(self.to).into(),
            subject: self.subject.clone(),
            capabilities: vec![Capability {
                ability: Ability::parse(can).unwrap().with_beneath(),
                resource: Resource::everything(),
            }],
            policy: dag_cbor::narrow_to(&resource(with)).unwrap_or_default(),
            not_before: self.not_before,
            expires: self.expires,
            nonce: vec![self.nonce],
            meta: BTreeMap::new(),
            proofs: vec![],
        }
    }
}

/// Delegations from the root's on, as a chain of this format: the leaf first.
pub fn chain_of(format: Format, from_root: &[Give]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for give in from_root {
        let token = match format {
            Format::Jwt => give.jwt(&tokens.first().map(Vec::as_slice).into_iter().collect::<Vec<_>>()),
            Format::DagCbor => give.cbor(),
        };
        tokens.insert(0, token);
    }
    tokens
}

/// Root to Alice to Bob to Carol, each a little narrower.
pub fn good() -> Vec<Give> {
    vec![
        give(ROOT, ALICE).can("macula/*", "NODE/*"),
        give(ALICE, BOB).can("macula/os/*", "NODE/*"),
        give(BOB, CAROL).can("macula/os/*", "NODE/slot/*"),
    ]
}

/// What is asked: by default Carol, to update the root's slot a.
#[derive(Clone)]
pub struct Ask {
    pub by: u8,
    pub root: u8,
    pub ability: String,
    pub resource: String,
    pub now: u64,
}

pub fn ask() -> Ask {
    Ask {
        by: CAROL,
        root: ROOT,
        ability: "macula/os/update".into(),
        resource: "NODE/slot/a".into(),
        now: NOW,
    }
}

impl Ask {
    pub fn by(self, by: u8) -> Self {
        Self { by, ..self }
    }

    pub fn to(self, ability: &str) -> Self {
        Self { ability: ability.into(), ..self }
    }

    pub fn with(self, resource: &str) -> Self {
        Self { resource: resource.into(), ..self }
    }

    pub fn at(self, now: u64) -> Self {
        Self { now, ..self }
    }

    pub fn of(self, root: u8) -> Self {
        Self { root, ..self }
    }

    pub fn answer(&self, tokens: &[Vec<u8>]) -> Result<Grant, Refusal> {
        self.answer_unless(tokens, |_, _| false)
    }

    pub fn answer_unless(
        &self,
        tokens: &[Vec<u8>],
        revoked: impl Fn(&TokenId, &NodeId) -> bool,
    ) -> Result<Grant, Refusal> {
        let bytes = if tokens.is_empty() { vec![] } else { chain::encode(tokens)? };
        self.answer_bytes(&bytes, revoked)
    }

    pub fn answer_bytes(
        &self,
        chain: &[u8],
        revoked: impl Fn(&TokenId, &NodeId) -> bool,
    ) -> Result<Grant, Refusal> {
        let (ability, resource) = (Ability::parse(&self.ability).unwrap(), resource(&self.resource));
        let (invoker, root) = (id(self.by), id(self.root));
        authorize(
            &Request { invoker, root, ability: &ability, resource: &resource, now: self.now },
            chain,
            revoked,
        )
    }
}

/// A JWT of any header and payload, rightly signed.
pub fn raw_jwt(header: &str, payload: &str, signer: u8) -> Vec<u8> {
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.as_bytes()),
        BASE64URL_NOPAD.encode(payload.as_bytes())
    );
    let signature = key(signer).sign_raw(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)).into_bytes()
}

pub const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT","ucv":"0.10.0"}"#;

/// The payload of a JWT that lets Carol do everything, with one text replaced by another.
pub fn payload(old: &str, new: &str) -> String {
    let text = format!(
        r#"{{"iss":"{}","aud":"{}","exp":{},"nnc":"n","cap":[{{"can":"*","with":"*"}}],"prf":[]}}"#,
        id(ROOT),
        id(CAROL),
        NOW + 3600
    );
    let changed = text.replacen(old, new, 1);
    assert!(old.is_empty() || changed != text, "{old} is not in it");
    changed
}

/// The payload of a delegation in DAG-CBOR that lets Carol do everything.
pub fn fields() -> BTreeMap<String, Ipld> {
    let text = |text: String| Ipld::String(text);
    BTreeMap::from([
        ("iss".into(), text(id(ROOT).to_string())),
        ("aud".into(), text(id(CAROL).to_string())),
        ("sub".into(), text(id(ROOT).to_string())),
        ("cmd".into(), text("/".into())),
        ("pol".into(), Ipld::List(vec![])),
        ("nonce".into(), Ipld::Bytes(vec![1])),
        ("exp".into(), Ipld::Integer((NOW + 3600).into())),
    ])
}

pub fn changed(name: &str, value: Option<Ipld>) -> BTreeMap<String, Ipld> {
    let mut fields = fields();
    match value {
        Some(value) => fields.insert(name.into(), value),
        None => fields.remove(name),
    };
    fields
}

pub const VARSIG: [u8; 8] = [0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x13, 0x71];
pub const TAG: &str = "ucan/dlg@1.0.0-rc.1";

/// What is signed in an envelope.
pub fn signed_part(varsig: &[u8], tag: &str, fields: BTreeMap<String, Ipld>) -> Vec<u8> {
    let map =
        BTreeMap::from([("h".to_owned(), Ipld::Bytes(varsig.to_vec())), (tag.to_owned(), Ipld::Map(fields))]);
    ipld::to_dag_cbor(&Ipld::Map(map)).unwrap()
}

/// An envelope around any bytes, rightly signed.
pub fn envelope(signed: &[u8], signer: u8) -> Vec<u8> {
    [&[0x82, 0x58, 0x40], &key(signer).sign_raw(signed)[..], signed].concat()
}

pub fn raw_cbor(fields: BTreeMap<String, Ipld>) -> Vec<u8> {
    envelope(&signed_part(&VARSIG, TAG, fields), ROOT)
}

pub fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|w| w == old).expect("what is to be replaced is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}
