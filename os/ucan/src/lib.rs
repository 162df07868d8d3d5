//! UCAN: authority as signed delegations that anybody can check without asking anybody.
//!
//! A delegation says that its issuer lets its audience do something (an [`Ability`]) with something (a [`Resource`]). A
//! row of them, each issuer being the audience of the one before, leads from the key that owns the resource, the root, to the
//! one that asks. [`Authorizer::authorize`] walks the whole row.
//!
//! One model ([`Delegation`]), two ways to write it down: [`jwt`] is UCAN 0.10 as Macula's SDK has it, [`dag_cbor`] is UCAN
//! 1.0 (<https://github.com/ucan-wg/spec>, <https://github.com/ucan-wg/delegation>). [`chain`] is how a token travels with its
//! proofs, [`revocation`] how one is taken back.
//!
//! Everything here comes from strangers: every size, count and depth has a bound, what is not understood is refused, and
//! nothing is read but the bytes given. The time is an argument; no socket, file or clock is used.

mod ability;
mod authorize;
pub mod chain;
pub mod dag_cbor;
mod delegation;
mod did;
mod error;
mod fields;
pub mod invocation;
pub mod ipld;
pub mod jwt;
pub mod policy;
mod refusal;
mod resource;
pub mod review;
pub mod revocation;
mod token;
mod token_id;
mod walk;

pub use ability::Ability;
pub use authorize::{Authorizer, Grant, Request, authorize};
pub use delegation::{Capability, Delegation, Subject};
pub use did::Did;
pub use error::{EncodeError, TokenError};
pub use refusal::{Link, Refusal};
pub use resource::Resource;
pub use token::{Format, Token};
pub use token_id::TokenId;

/// One token, in bytes.
pub const MAX_TOKEN: usize = 4096;
/// A token and its proofs together.
pub const MAX_TOKENS: usize = 16;
/// The encoded [`chain`], in bytes.
pub const MAX_CHAIN: usize = 12 * 1024;
/// Links from the one that asks to the root.
pub const MAX_DEPTH: usize = 8;
/// Capabilities in one token.
pub const MAX_CAPABILITIES: usize = 32;
/// How far apart two honest clocks may be, in seconds (UCAN 1.0, "Time Bounds": a buffer of 60 is recommended).
pub const CLOCK_SKEW_S: u64 = 60;
