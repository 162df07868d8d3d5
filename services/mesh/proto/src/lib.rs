//! The mesh's wire format and its decisions, without clock or sockets.

mod addresses;
mod frame;
mod header;
mod hello;
pub mod lan;
mod limits;
mod network;
mod observed;
mod peer_book;
pub mod pubsub;
pub mod punch;
mod relay;
pub mod relayed;
pub mod rpc;
mod upgrade;

pub use addresses::{detour_address, is_detour, is_dialable, is_private, plausible};
pub use frame::{FrameTooLarge, Frames};
pub use header::{ALPN, HeaderError, MAX_HEADER, MAX_PROTOCOL, MAX_RESOURCE, StreamHeader, is_resource};
pub use hello::{Agreed, Hello, HelloError, MAX_HELLO, OLDEST_VERSION, VERSION};
pub use limits::{Limiter, Rate, StreamLimiter};
pub use network::network_of;
pub use observed::{Mapping, Observed};
pub use peer_book::{Dial, MAX_ADDRESSES, MAX_PEERS, Peer, PeerBook, Source};
pub use relay::{RelayCaps, RelayCounts};
pub use upgrade::{MAX_DETOURS, Upgrades};
