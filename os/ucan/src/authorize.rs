//! `authorize`: may this key do this with that, now?

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use os_identity::NodeId;

use crate::invocation::{Invocation, Proven, prove};
use crate::refusal::Refusal;
use crate::walk::{Question, Walk};
use crate::{Ability, CLOCK_SKEW_S, Capability, Format, Resource, Token, TokenId, chain, dag_cbor};

/// A question to answer.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The key that asks. That it is really this one is proved elsewhere: by the connection, or by an invocation's signature.
    pub invoker: NodeId,
    /// The key that owns the resource; it may do anything and needs no token.
    pub root: NodeId,
    pub ability: &'a Ability,
    pub resource: &'a Resource,
    /// Seconds since 1970.
    pub now: u64,
}

/// That somebody may, and because of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The tokens that allow it, leaf first; empty for the root itself.
    pub chain: Vec<TokenId>,
    /// When the first of them expires. Until then, and until a revocation becomes known, the answer stays the same.
    pub until: Option<u64>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain.as_slice() {
            [] => f.write_str("as owner"),
            ids => write!(f, "by {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" from ")),
        }
    }
}

/// Answers one request, remembering nothing. `chain` is what [`chain::encode`] makes; empty: no token.
///
/// `revoked` says whether a key revoked a token. It is asked only about keys that may: the token's issuer and those above.
pub fn authorize(
    request: &Request<'_>,
    chain: &[u8],
    revoked: impl Fn(&TokenId, &NodeId) -> bool,
) -> Result<Grant, Refusal> {
    Authorizer::new(0).authorize(request, chain, revoked)
}

/// Remembers tokens whose signature it has seen to hold, so that a chain shown again costs hashing only. Time, revocation and
/// all other rules are looked at each time.
#[derive(Debug)]
pub struct Authorizer {
    capacity: usize,
    verified: BTreeMap<TokenId, Arc<Token>>,
    /// The oldest first.
    order: VecDeque<TokenId>,
}

impl Authorizer {
    /// Remembers at most so many tokens; each takes a few kilobytes at most.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, verified: BTreeMap::new(), order: VecDeque::new() }
    }

    pub fn authorize(
        &mut self,
        request: &Request<'_>,
        chain: &[u8],
        revoked: impl Fn(&TokenId, &NodeId) -> bool,
    ) -> Result<Grant, Refusal> {
        let wanted = Capability { ability: request.ability.clone(), resource: request.resource.clone() };
        if !wanted.ability.is_concrete() || !wanted.resource.is_concrete() {
            return Err(Refusal::NotConcrete(wanted.to_string()));
        }
        if request.invoker == request.root {
            return Ok(Grant { chain: Vec::new(), until: None });
        }
        if chain.is_empty() {
            return Err(Refusal::NoToken { invoker: request.invoker.to_string() });
        }
        let tokens = self.read(&chain::decode(chain)?)?;
        let (invoker, root, now) = (request.invoker, request.root, request.now);
        let args = dag_cbor::arguments(request.resource);
        self.walk(&Question { invoker, root, wanted, args, now }, &tokens, &revoked)
    }

    /// Checks a UCAN 1.0 invocation: that it is meant for `executor`, that it holds now, and that its proofs (as they travel, see
    /// [`chain`]; empty: none) give its issuer what it asks. Whether its subject owns anything here is the caller's to know.
    pub fn authorize_invocation(
        &mut self,
        invocation: &[u8],
        chain: &[u8],
        executor: &NodeId,
        now: u64,
        revoked: impl Fn(&TokenId, &NodeId) -> bool,
    ) -> Result<(Invocation, Grant), Refusal> {
        let raw = if chain.is_empty() { Vec::new() } else { chain::decode(chain)? };
        let tokens = self.read(&raw)?;
        let sent: Vec<_> = tokens.iter().map(|t| t.id).collect();
        if let Some(at) = tokens.iter().position(|token| token.format != Format::DagCbor) {
            return Err(Refusal::MixedFormats { number: at + 1 });
        }
        let Proven { invocation, invoker, subject: root } = prove(invocation, &sent, executor, now)?;
        let until = invocation.expires;
        if invoker == root {
            return Ok((invocation, Grant { chain: Vec::new(), until }));
        }
        if tokens.is_empty() {
            return Err(Refusal::NoToken { invoker: invoker.to_string() });
        }
        let wanted = Capability { ability: invocation.command.concrete(), resource: Resource::everything() };
        let args = invocation.arguments();
        let question = Question { invoker, root, wanted, args, now };
        let mut grant = self.walk(&question, &tokens, &revoked)?;
        grant.until = grant.until.into_iter().chain(until).min();
        Ok((invocation, grant))
    }

    fn read(&self, raw: &[&[u8]]) -> Result<Vec<Arc<Token>>, Refusal> {
        let mut tokens: Vec<Arc<Token>> = Vec::with_capacity(raw.len());
        for (at, bytes) in raw.iter().enumerate() {
            let number = at + 1;
            let token = match self.verified.get(&TokenId::of(bytes)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Token::decode(bytes).map_err(|why| Refusal::Unreadable { number, why })?),
            };
            if tokens.iter().any(|other| other.id == token.id) {
                return Err(Refusal::Twice { number });
            }
            if tokens.first().is_some_and(|leaf| leaf.format != token.format) {
                return Err(Refusal::MixedFormats { number });
            }
            tokens.push(token);
        }
        Ok(tokens)
    }

    fn walk(
        &mut self,
        question: &Question,
        tokens: &[Arc<Token>],
        revoked: &dyn Fn(&TokenId, &NodeId) -> bool,
    ) -> Result<Grant, Refusal> {
        let verified =
            tokens.iter().map(|token| self.verified.contains_key(&token.id).then_some(true)).collect();
        let path = Walk { question, tokens, verified, revoked, steps: 0 }.run()?;
        let chain: Vec<Arc<Token>> = path.into_iter().map(|at| Arc::clone(&tokens[at])).collect();
        chain.iter().for_each(|token| self.remember(token));
        let until = chain.iter().filter_map(|token| token.delegation.expires).min();
        Ok(Grant { chain: chain.iter().map(|token| token.id).collect(), until })
    }

    /// Only tokens of a chain that was granted come here: who may do nothing pushes nobody out.
    fn remember(&mut self, token: &Arc<Token>) {
        if self.capacity == 0 || self.verified.contains_key(&token.id) {
            return;
        }
        while self.order.len() >= self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.verified.remove(&oldest);
            }
        }
        self.order.push_back(token.id);
        self.verified.insert(token.id, Arc::clone(token));
    }
}

/// Whether what ends then has ended, with the skew that honest clocks may have.
pub(crate) fn has_expired(at: Option<u64>, now: u64) -> Option<u64> {
    at.filter(|at| now >= at.saturating_add(CLOCK_SKEW_S))
}
