//! The station's rules, one by one.

mod calls;
mod chance;
mod handshake;
mod limits;
mod pubsub;
mod sessions;
mod system;
mod world;
