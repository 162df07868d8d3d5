//! Where peers see this node: what NAT does to it, and under which address others may reach it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use os_identity::NodeId;

/// Peers whose word is kept.
const MAX_WITNESSES: usize = 64;
/// As many peers must say the same before others are told: one alone may lie, or sit in front of the same NAT.
const ENOUGH: usize = 2;

/// What a NAT makes of this node's one port (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Fewer than two peers beyond the NAT have said anything.
    Unknown,
    /// The same address for every destination: others can be told it, and holes can be punched.
    Same,
    /// Another one for each destination: only a relay, or the peer's own open door, helps.
    Varies,
}

/// The newest word of each peer.
#[derive(Debug, Default)]
pub struct Observed {
    words: BTreeMap<NodeId, (SocketAddr, u64)>,
}

impl Observed {
    /// A peer sees this node at `address`.
    pub fn note(&mut self, peer: NodeId, address: SocketAddr, now_ms: u64) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if !is_worth_telling(&address.ip()) {
            return;
        }
        if self.words.len() >= MAX_WITNESSES && !self.words.contains_key(&peer) {
            let oldest = self.words.iter().min_by_key(|(_, (_, at))| *at).map(|(peer, _)| *peer);
            oldest.map(|peer| self.words.remove(&peer));
        }
        self.words.insert(peer, (address, now_ms));
    }

    /// The peer is no longer connected, and its word grows old.
    pub fn forget(&mut self, peer: &NodeId) {
        self.words.remove(peer);
    }

    /// Addresses that enough peers agree on, most agreed on first.
    pub fn agreed(&self) -> Vec<SocketAddr> {
        let mut counted: Vec<_> = self.counts().into_iter().filter(|(_, count)| *count >= ENOUGH).collect();
        counted.sort_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
        counted.into_iter().map(|(address, _)| address).collect()
    }

    /// For one of the two IP families.
    pub fn mapping(&self, v6: bool) -> Mapping {
        let of_family: Vec<_> =
            self.counts().into_iter().filter(|(address, _)| address.is_ipv6() == v6).collect();
        let witnesses: usize = of_family.iter().map(|(_, count)| count).sum();
        match of_family.len() {
            _ if witnesses < ENOUGH => Mapping::Unknown,
            1 => Mapping::Same,
            // One liar among many must not make a node give up.
            _ if of_family.iter().any(|(_, count)| count * 2 > witnesses) => Mapping::Same,
            _ => Mapping::Varies,
        }
    }

    fn counts(&self) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for (address, _) in self.words.values() {
            *counts.entry(*address).or_default() += 1;
        }
        counts
    }
}

/// Not this machine's own, not a link's, and nothing that is many.
fn is_worth_telling(ip: &IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || crate::is_detour(ip) || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    fn observed(words: &[(usize, SocketAddr)]) -> Observed {
        let mut observed = Observed::default();
        words.iter().for_each(|(n, address)| observed.note(peer(*n), *address, 0));
        observed
    }

    #[test]
    fn an_address_is_told_when_two_have_seen_it() {
        assert_eq!(observed(&[(1, at(5))]).agreed(), []);
        let mut two = observed(&[(1, at(5)), (2, at(5)), (3, at(9))]);
        assert_eq!(two.agreed(), [at(5)]);
        two.note(peer(1), at(9), 1);
        assert_eq!(two.agreed(), [at(9)], "a newer word replaces the older one");
        two.forget(&peer(3));
        assert_eq!(two.agreed(), []);
        let mapped: SocketAddr = "[::ffff:203.0.113.7]:5".parse().unwrap();
        assert_eq!(observed(&[(1, at(5)), (2, mapped)]).agreed(), [at(5)]);
    }

    #[test]
    fn the_kind_of_mapping_is_told_apart() {
        assert_eq!(observed(&[(1, at(5))]).mapping(false), Mapping::Unknown);
        assert_eq!(observed(&[(1, at(5)), (2, at(5))]).mapping(false), Mapping::Same);
        assert_eq!(observed(&[(1, at(5)), (2, at(5))]).mapping(true), Mapping::Unknown);
        assert_eq!(observed(&[(1, at(5)), (2, at(6))]).mapping(false), Mapping::Varies);
        assert_eq!(observed(&[(1, at(5)), (2, at(5)), (3, at(6))]).mapping(false), Mapping::Same, "one liar");
    }

    #[test]
    fn nonsense_is_not_kept_and_witnesses_are_bounded() {
        let junk = ["127.0.0.1:1", "[::1]:1", "[fe80::1]:1", "169.254.1.1:1", "0.0.0.0:1", "224.0.0.1:1"];
        let words: Vec<_> =
            junk.iter().flat_map(|a| [(1, a.parse().unwrap()), (2, a.parse().unwrap())]).collect();
        assert_eq!(observed(&words).agreed(), []);
        let mut many = Observed::default();
        (0..1000).for_each(|n| many.note(peer(n), at(1), n as u64));
        assert_eq!(many.words.len(), MAX_WITNESSES);
        assert!(many.words.contains_key(&peer(999)));
    }
}
