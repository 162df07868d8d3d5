//! Whose connections and streams are taken: each network and each peer has its share.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use mesh_proto::{Limiter, Rate, network_of};
use os_identity::NodeId;

/// Handshakes of one IPv4 address or IPv6 network.
const HANDSHAKES: Rate = Rate { burst: 64, per_s: 8 };
/// Streams of one peer: a chunk of content is one.
const STREAMS: Rate = Rate { burst: 4096, per_s: 2048 };
const MAX_NETWORKS: usize = 16 * 1024;
const MAX_PEERS: usize = 16 * 1024;

pub struct Admission {
    handshakes: Mutex<Limiter<[u8; 16]>>,
    streams: Mutex<Limiter<NodeId>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            handshakes: Mutex::new(Limiter::new(HANDSHAKES, MAX_NETWORKS)),
            streams: Mutex::new(Limiter::new(STREAMS, MAX_PEERS)),
        }
    }
}

impl Admission {
    pub fn handshake(&self, from: SocketAddr, now_ms: u64) -> bool {
        let mut limiter = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.allow(&network_of(from.ip()), now_ms)
    }

    pub fn stream(&self, peer: &NodeId, now_ms: u64) -> bool {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).allow(peer, now_ms)
    }
}
