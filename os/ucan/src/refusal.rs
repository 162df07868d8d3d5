//! `Refusal`: why somebody may not, in words for the audit log and for the one who asked.

use std::fmt;

use crate::chain::ChainError;
use crate::error::TokenError;
use crate::{CLOCK_SKEW_S, Did, MAX_DEPTH, TokenId};

/// A token in a chain, by its distance from the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// 1 is the leaf.
    pub number: usize,
    pub id: TokenId,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} ({})", self.number, self.id)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no token was shown, and {invoker} does not own the resource")]
    NoToken { invoker: String },
    #[error("{0} names a family, not one thing to do or to do it with")]
    NotConcrete(String),
    #[error("the token and its proofs: {0}")]
    Chain(#[from] ChainError),
    #[error("token {number} cannot be read: {why}")]
    Unreadable { number: usize, why: TokenError },
    #[error("token {number} is there twice")]
    Twice { number: usize },
    #[error("token {number} is in another format than what rests on it")]
    MixedFormats { number: usize },
    #[error("{link} was issued by {issuer}, which is no Ed25519 did:key: nobody can say which key that is")]
    IssuerIsNoKey { link: Link, issuer: String },
    #[error("{link} is for {audience}, not for {expected}")]
    WrongAudience { link: Link, audience: String, expected: String },
    #[error("{link} is not valid before {from} (seconds since 1970, clocks may differ by {CLOCK_SKEW_S})")]
    NotYetValid { link: Link, from: u64 },
    #[error("{link} expired at {at} (seconds since 1970, clocks may differ by {CLOCK_SKEW_S})")]
    Expired { link: Link, at: u64 },
    #[error("{link} does not grant {wanted}")]
    NotGranted { link: Link, wanted: String },
    #[error("{link} cannot have given the ability: it does not cover {wanted}")]
    AbilityEscalated { link: Link, wanted: String },
    #[error("{link} cannot have given the resource: it does not cover {wanted}")]
    ResourceEscalated { link: Link, wanted: String },
    #[error("{link} has a condition that does not hold: {statement}")]
    Policy { link: Link, statement: String },
    #[error("{link} is about what {subject} owns, the request about what {root} owns")]
    WrongSubject { link: Link, subject: String, root: String },
    #[error("{link} begins the chain and names no subject")]
    NoSubjectAtRoot { link: Link },
    #[error("{link} names the proof {proof}, which was not sent along")]
    MissingProof { link: Link, proof: TokenId },
    #[error("the chain ends at {link}, issued by {issuer}; the resource belongs to {root}")]
    NotFromRoot { link: Link, issuer: String, root: String },
    #[error("{link} has an issuer that the chain went through before")]
    Cycle { link: Link },
    #[error("the chain goes on after {link}; at most {MAX_DEPTH} links are followed")]
    TooDeep { link: Link },
    #[error("the chain is complete, but {0} more tokens were sent along")]
    Surplus(usize),
    #[error("the proofs branch too often to be followed")]
    TooManyBranches,
    #[error("{link} was revoked by {by}")]
    Revoked { link: Link, by: String },
    #[error("{link} does not bear a valid signature of its issuer")]
    Signature { link: Link },
    #[error("the invocation cannot be read: {0}")]
    UnreadableInvocation(TokenError),
    #[error("the invocation is for {found}, not for {expected}")]
    WrongExecutor { found: String, expected: String },
    #[error("the invocation was issued by {0}, which is no Ed25519 did:key")]
    InvokerIsNoKey(String),
    #[error("the invocation is about {0}, which is no Ed25519 did:key")]
    SubjectIsNoKey(String),
    #[error("the invocation expired at {0} (seconds since 1970, clocks may differ by {CLOCK_SKEW_S})")]
    InvocationExpired(u64),
    #[error("the invocation does not bear a valid signature of its issuer")]
    InvocationSignature,
    #[error("the invocation names other proofs than were sent along: {0} is missing or not in its place")]
    InvocationProofs(TokenId),
}

impl Refusal {
    /// How far the walk came: of two failed ways, the farther one is told.
    pub(crate) fn depth(&self) -> usize {
        use Refusal::*;
        match self {
            IssuerIsNoKey { link, .. } | WrongAudience { link, .. } | Cycle { link } => link.number,
            NotYetValid { link, .. } | Expired { link, .. } | Policy { link, .. } => link.number,
            NotGranted { link, .. } | AbilityEscalated { link, .. } => link.number,
            ResourceEscalated { link, .. } | WrongSubject { link, .. } => link.number,
            MissingProof { link, .. } | NotFromRoot { link, .. } | TooDeep { link } => link.number,
            // Said of a chain that reached the root.
            NoSubjectAtRoot { .. } | Surplus(_) | Revoked { .. } | Signature { .. } => usize::MAX,
            _ => 0,
        }
    }

    pub(crate) fn wrong_audience(link: Link, audience: &Did, expected: impl ToString) -> Self {
        Refusal::WrongAudience { link, audience: audience.to_string(), expected: expected.to_string() }
    }
}
