//! Pairing: how a node gets its owner, from a code that only somebody who stands before it has seen.
//!
//! - [`code`]: the code, as `macula:pair?...` and as a web address,
//! - [`claimant`]: the side that wants to own; in a browser, too,
//! - [`node`]: the node's side, its codes and how often they may be tried,
//! - [`setup`]: what the two tell each other once both have proved that they know the code,
//! - [`message`]: what is on the wire.
//!
//! The code's secret goes into a PAKE (SPAKE2, `docs/decisions/0024`): whoever has not seen it learns nothing from any number of
//! runs, as a listener, in the middle or as one of the ends, and each run that reaches the confirmation tests one guess. The
//! claimant speaks, the node answers, over anything that carries bytes. `docs/protocol.md` section 10 is the same in prose.
//!
//! No clock, socket or random numbers in here: the time in milliseconds and 32 random bytes come in as arguments.

pub mod base32;
mod channel;
pub mod claimant;
pub mod code;
mod confirm;
pub mod limits;
pub mod message;
pub mod node;
pub mod refusal;
mod schedule;
pub mod setup;

pub use claimant::{Claimant, Opened};
pub use code::{Fingerprint, PairCode, ParseCodeError, Secret, Slot};
pub use node::{NodeSide, Outcome, Standing};
pub use refusal::{PairError, Refused};
pub use setup::{Answer, HandOver, Introduction, Paired, Request};

/// The newest version of pairing that is spoken here, and the oldest.
pub const VERSION: u16 = 1;
pub const OLDEST_VERSION: u16 = 1;
/// The mesh protocol that carries it.
pub const PROTOCOL: &str = "pair/1";
/// Names a run, chosen at random by the claimant.
pub const SESSION: usize = 16;
pub type Session = [u8; SESSION];
