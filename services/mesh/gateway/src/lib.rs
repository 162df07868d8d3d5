//! The gateway: a node's content, calls and topics over HTTP/1.1, 2 and 3, and its owner's console.
//!
//! Three ways in, one answer: [`http3`] takes QUIC connections with ALPN `h3`, [`http12`] takes TLS connections of a [`TcpPort`], both
//! hand requests to the same routes. `services/mesh/http` decides what requests mean; what they need from the node is
//! behind [`Node`].
//!
//! Nothing is stored, and everything is bounded: connections and requests by client and in all, heads and bodies in bytes, waiting in
//! time. Who may do what is the node's to say; without its word nothing but the node document is given out.

mod access;
mod asset;
mod body;
mod call;
mod content;
mod control;
mod events;
mod gate;
mod gateway;
mod http12;
mod http3;
mod node;
mod pair;
mod tcp;
mod watched;

pub use asset::Asset;
pub use body::Body;
pub use gate::{Gate, Slot};
pub use gateway::{Gateway, Settings};
pub use http3::serve_quic;
pub use http12::serve_tls;
pub use node::{Allowed, Content, Control, Duplex, Node};
pub use tcp::{TcpPort, TlsTcp};

pub const H3: &[u8] = b"h3";
pub const H2: &[u8] = b"h2";
pub const HTTP_1_1: &[u8] = b"http/1.1";
