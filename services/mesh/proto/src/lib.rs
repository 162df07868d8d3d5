//! The mesh's wire format and its decisions, without clock or sockets.

mod header;
mod peer_book;

pub use header::{ALPN, HeaderError, MAX_HEADER, MAX_PROTOCOL, StreamHeader};
pub use peer_book::{Dial, MAX_ADDRESSES, MAX_PEERS, Peer, PeerBook, Source};
