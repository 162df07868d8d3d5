//! The one model behind both formats.

use std::collections::BTreeMap;
use std::fmt;

use ipld_core::ipld::Ipld;

use crate::policy::Policy;
use crate::{Ability, Did, Resource, TokenId};

/// What one key lets another do.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegation {
    pub issuer: Did,
    pub audience: Did,
    pub subject: Subject,
    /// At least one. UCAN 1.0 always has one, over any resource: there `policy` narrows it.
    pub capabilities: Vec<Capability>,
    /// What must hold of the arguments. Empty in a JWT.
    pub policy: Policy,
    /// Seconds since 1970, inclusive. None: since always.
    pub not_before: Option<u64>,
    /// Seconds since 1970, exclusive. None: for ever.
    pub expires: Option<u64>,
    /// Makes two delegations of the same thing two tokens.
    pub nonce: Vec<u8>,
    /// Said beside it; grants nothing.
    pub meta: BTreeMap<String, Ipld>,
    /// Where the issuer has it from. A JWT names its proofs; in UCAN 1.0 their order says it.
    pub proofs: Vec<TokenId>,
}

/// Whose resource it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Not said (JWT): the key that the chain ends at.
    Implied,
    /// Anybody's (UCAN 1.0, "Powerline"): whatever the issuer gets, its audience gets.
    Anyone,
    Of(Did),
}

/// An ability over a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    pub ability: Ability,
    pub resource: Resource,
}

impl Capability {
    pub fn covers(&self, other: &Self) -> bool {
        self.ability.covers(&other.ability) && self.resource.covers(&other.resource)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.ability, self.resource)
    }
}
