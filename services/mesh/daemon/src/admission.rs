//! Whose connections and streams are taken: each network and each peer has its share.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use mesh_proto::{Limiter, Rate};
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
        limiter.allow(&network(from.ip()), now_ms)
    }

    pub fn stream(&self, peer: &NodeId, now_ms: u64) -> bool {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).allow(peer, now_ms)
    }
}

/// An IPv4 address, or the first 64 bits of an IPv6 one: who has one address there has them all.
fn network(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_and_an_ipv4_address_is_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }
}
