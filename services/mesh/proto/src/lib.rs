//! The mesh's wire format and its decisions, without clock or sockets.

mod frame;
mod header;
mod hello;
mod limits;
mod network;
mod observed;
mod peer_book;
pub mod pubsub;
pub mod rpc;

pub use frame::{FrameTooLarge, Frames};
pub use header::{ALPN, HeaderError, MAX_HEADER, MAX_PROTOCOL, MAX_RESOURCE, StreamHeader, is_resource};
pub use hello::{Agreed, Hello, HelloError, MAX_HELLO, OLDEST_VERSION, VERSION};
pub use limits::{Limiter, Rate, StreamLimiter};
pub use network::network_of;
pub use observed::{Mapping, Observed};
pub use peer_book::{Dial, MAX_ADDRESSES, MAX_PEERS, Peer, PeerBook, Source};
