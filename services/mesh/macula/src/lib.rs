//! The third wire generation of Macula (SDK 9.8 to 10.x, ALPN `macula`), as a station speaks it to its clients.
//!
//! Existing clients take a node for one of their stations: they register with their key, call procedures of the station and of
//! each other, publish and subscribe, and put records and content. Nothing here reads a clock, opens a socket
//! or spawns: [`Station`] takes frames and the time and says what to send and what to ask of the node's own DHT and content.
//!
//! On the wire: QUIC, TLS 1.3, ALPN `macula`. The station's certificate is self-signed over the key that signs its frames (a
//! client may pin it), and it asks for none: frames carry their signers' identities. Idle connections end after
//! 300 s; 100 streams in both directions are open to a client. A stream carries frames: four bytes of length,
//! big-endian, at most 0xffffff, and one CBOR map ([`Frame`]).
//!
//! What this generation also has and a node does not: frames of the stations' own DHT, membership and overlay
//! (`find_node`, `swim_*`, `hyparview_*`, `plumtree_*`, `want`/`have`/`block`). They are skipped and counted.
//! Nodes have their own protocol for all that.

mod cbor;
mod error_code;
mod frame;
pub mod manifest;
mod record;
mod signing;
mod station;

pub use cbor::{CborError, MAX_DEPTH, MAX_ITEMS, Value, decode};
pub use error_code::ErrorCode;
pub use frame::*;
pub use minicbor::data::Int;
pub use record::{
    DEFAULT_TTL_MS, MAX_RECORD, Record, RecordError, content_key, procedure_key, realm_id, record_type,
    station_endpoint_key,
};
pub use signing::{puzzle_evidence, puzzle_solved, sign_message, verify_message};
pub use station::*;

/// The protocol's ALPN word.
pub const ALPN: &[u8] = b"macula";
