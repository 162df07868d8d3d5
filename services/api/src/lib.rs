//! The contracts between a node's processes, and the little that every daemon shares.
//!
//! - [`bus`]: D-Bus, peer to peer: serve on the socket the supervisor passed, connect to another service.
//! - one module per service with its `io.macula.*1` proxy,
//! - [`mesh`]: also [`mesh::Streams`], which takes and opens streams to peers,
//! - [`frame`], [`control`] and [`control_dht`]: what flows on those streams,
//! - [`report`]: what people are shown, as serde types,
//! - [`clock`]: what PID 1 found out about the time,
//! - [`daemon`]: logging, readiness, and files that survive a power cut.

pub mod bus;
pub mod clock;
pub mod content;
pub mod control;
pub mod control_dht;
pub mod daemon;
pub mod dht;
pub mod durable;
pub mod frame;
pub mod identity;
pub mod mesh;
pub mod network;
pub mod pairing;
pub mod reconciler;
pub mod report;
pub mod supervisor;
pub mod update;

/// musl's own allocator costs about 1.6 times the CPU per byte moved over QUIC.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
