//! UCAN 1.0 invocations (<https://github.com/ucan-wg/invocation>), as far as checking one needs: an order to do something, signed
//! by the one who gives it, with the delegations that allow it.
//!
//! Over the native protocol the connection proves who asks, so no invocation is needed; over anything else it is.

use std::collections::BTreeMap;

use ipld_core::ipld::Ipld;
use os_identity::{NodeId, NodeKey, Signature};

use crate::authorize::has_expired;
use crate::dag_cbor::{open, required_time, seal};
use crate::error::{EncodeError, TokenError};
use crate::fields::Fields;
use crate::refusal::Refusal;
use crate::{Ability, Did, Format, MAX_TOKEN, MAX_TOKENS, TokenId};

const TAG: &str = "ucan/inv@1.0.0-rc.1";
const FINAL_TAG: &str = "ucan/inv@1.0.0";

#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    pub issuer: Did,
    pub subject: Did,
    /// Who is to do it; the subject when not said.
    pub audience: Option<Did>,
    pub command: Ability,
    pub args: BTreeMap<String, Ipld>,
    /// From the root's delegation to the one whose audience is the issuer.
    pub proofs: Vec<TokenId>,
    pub nonce: Vec<u8>,
    pub meta: BTreeMap<String, Ipld>,
    pub expires: Option<u64>,
    /// The issuer's own claim.
    pub issued_at: Option<u64>,
    signed: Vec<u8>,
    signature: Signature,
}

impl Invocation {
    /// Reads one; nothing is known of its signature yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge(bytes.len()));
        }
        let envelope = open(bytes, &[TAG, FINAL_TAG], "an invocation (ucan/inv)")?;
        let mut fields = envelope.payload;
        let invocation = Self {
            issuer: fields.did("iss")?,
            subject: fields.did("sub")?,
            audience: if fields.has("aud") { Some(fields.did("aud")?) } else { None },
            command: Ability::from_command(&fields.text("cmd")?)?,
            args: match fields.need("args")? {
                Ipld::Map(args) => args,
                _ => return Err(TokenError::field("args", "is not a map")),
            },
            proofs: proofs(&mut fields)?,
            nonce: fields.bytes("nonce")?,
            meta: fields.map("meta")?,
            expires: required_time(&mut fields)?,
            issued_at: fields.time("iat")?,
            signed: envelope.signed,
            signature: envelope.signature,
        };
        // What caused it is no matter here.
        match fields.take("cause") {
            None | Some(Ipld::Link(_)) => fields.finish().map(|()| invocation),
            Some(_) => Err(TokenError::field("cause", "is not a link")),
        }
    }

    pub(crate) fn arguments(&self) -> Ipld {
        Ipld::Map(self.args.clone())
    }

    /// Everything but signature and proofs. Gives issuer and subject.
    pub(crate) fn check(&self, executor: &NodeId, now: u64) -> Result<(NodeId, NodeId), Refusal> {
        let invoker = self.issuer.key().ok_or_else(|| Refusal::InvokerIsNoKey(self.issuer.to_string()))?;
        let subject = self.subject.key().ok_or_else(|| Refusal::SubjectIsNoKey(self.subject.to_string()))?;
        let audience = self.audience.as_ref().unwrap_or(&self.subject);
        if audience.key() != Some(*executor) {
            let (found, expected) = (audience.to_string(), executor.to_string());
            return Err(Refusal::WrongExecutor { found, expected });
        }
        match has_expired(self.expires, now) {
            Some(at) => Err(Refusal::InvocationExpired(at)),
            None => Ok((invoker, subject)),
        }
    }

    /// Whether exactly the proofs that it names were sent along; they travel with the leaf first.
    pub(crate) fn check_proofs(&self, sent: &[TokenId]) -> Result<(), Refusal> {
        for at in 0..sent.len().max(self.proofs.len()) {
            let (named, sent) = (self.proofs.iter().rev().nth(at), sent.get(at));
            match (named, sent) {
                (Some(named), sent) if Some(named) != sent => return Err(Refusal::InvocationProofs(*named)),
                (None, Some(sent)) => return Err(Refusal::InvocationProofs(*sent)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn verify(&self) -> Result<(), Refusal> {
        let issuer = self.issuer.key().ok_or(Refusal::InvocationSignature)?;
        os_identity::verify_raw(&issuer, &self.signed, &self.signature)
            .map_err(|_| Refusal::InvocationSignature)
    }
}

/// An order in the making.
#[derive(Debug, Clone)]
pub struct Order {
    pub subject: Did,
    pub audience: Option<Did>,
    /// As UCAN 1.0 writes it: `/macula/os/update`.
    pub command: String,
    pub args: BTreeMap<String, Ipld>,
    /// From the root's delegation on.
    pub proofs: Vec<TokenId>,
    pub nonce: Vec<u8>,
    pub expires: Option<u64>,
}

/// An invocation that its issuer signed for this executor, with the very proofs that it names. What these are worth is still open.
#[derive(Debug, Clone)]
pub struct Proven {
    pub invocation: Invocation,
    pub invoker: NodeId,
    pub subject: NodeId,
}

/// Everything about an invocation but what its proofs grant: for whoever has rules of its own for that. `sent`: the proofs that came
/// along, the leaf first.
pub fn prove(bytes: &[u8], sent: &[TokenId], executor: &NodeId, now: u64) -> Result<Proven, Refusal> {
    let invocation = Invocation::decode(bytes).map_err(Refusal::UnreadableInvocation)?;
    let (invoker, subject) = invocation.check(executor, now)?;
    invocation.check_proofs(sent)?;
    invocation.verify()?;
    Ok(Proven { invocation, invoker, subject })
}

/// Signs an order.
pub fn issue(order: &Order, key: &NodeKey) -> Result<Vec<u8>, EncodeError> {
    issue_with(order, &key.node_id(), |bytes| key.sign_raw(bytes))
}

/// Writes an order of `issuer`; `sign` signs exactly the bytes that it gets, with a key that may be elsewhere.
pub fn issue_with(
    order: &Order,
    issuer: &NodeId,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> Result<Vec<u8>, EncodeError> {
    let text = |text: String| Ipld::String(text);
    let link = |id: &TokenId| Ipld::Link(id.link(Format::DagCbor));
    let mut payload = BTreeMap::from([
        ("iss".to_owned(), text(issuer.to_string())),
        ("sub".to_owned(), text(order.subject.to_string())),
        ("cmd".to_owned(), text(order.command.clone())),
        ("args".to_owned(), Ipld::Map(order.args.clone())),
        ("prf".to_owned(), Ipld::List(order.proofs.iter().map(link).collect())),
        ("nonce".to_owned(), Ipld::Bytes(order.nonce.clone())),
        ("exp".to_owned(), order.expires.map_or(Ipld::Null, |at| Ipld::Integer(at.into()))),
    ]);
    payload.extend(order.audience.as_ref().map(|did| ("aud".to_owned(), text(did.to_string()))));
    let bytes = seal(TAG, payload, sign)?;
    Invocation::decode(&bytes)?;
    Ok(bytes)
}

fn proofs(fields: &mut Fields) -> Result<Vec<TokenId>, TokenError> {
    let list = fields.list("prf")?;
    if list.len() > MAX_TOKENS {
        return Err(TokenError::field("prf", "names too many proofs"));
    }
    let one = |value: &Ipld| match value {
        Ipld::Link(cid) => {
            TokenId::from_cid(cid).ok_or_else(|| TokenError::field("prf", "names a link that is no token"))
        }
        _ => Err(TokenError::field("prf", "names something that is no link")),
    };
    list.iter().map(one).collect()
}
