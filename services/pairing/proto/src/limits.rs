//! How much of everything.

/// One message, in bytes, in the clear or sealed.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// A hello, welcome, confirmation, in bytes.
pub const MAX_OPENING: usize = 512;

/// Wrong guesses that a code stands.
pub const TRIES: u32 = 5;
/// How long a code is shown before another takes its place, in milliseconds.
pub const SHOWN_MS: u64 = 10 * 60 * 1000;
/// From hello to confirmation: no person is waited for in between.
pub const OPENING_MS: u64 = 60 * 1000;
/// Between the messages of a claimant that has confirmed: it has a form to fill in.
pub const IDLE_MS: u64 = 15 * 60 * 1000;
/// A run whose owner was taken answers the same question again, if the answer got lost, for so long.
pub const AFTERWARDS_MS: u64 = 5 * 60 * 1000;

/// Runs before their confirmation, in all and from one place.
pub const MAX_OPENING_RUNS: usize = 16;
pub const MAX_OPENING_RUNS_EACH: usize = 4;
/// Runs after it. One more ends the one that has been idle longest.
pub const MAX_OPEN_RUNS: usize = 4;

/// Hellos in a minute, in all and from one place.
pub const HELLOS_A_MINUTE: u32 = 60;
pub const HELLOS_A_MINUTE_EACH: u32 = 12;
/// After so many wrong guesses from one place nothing is heard from there ...
pub const WRONG_EACH: u32 = 5;
/// ... for so long.
pub const BAN_MS: u64 = 10 * 60 * 1000;
/// Places that are remembered.
pub const MAX_PLACES: usize = 256;
