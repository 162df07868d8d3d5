//! Which of the addresses that strangers name may be sent to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// 2001:20::/28, which RFC 7343 sets aside for identifiers that look like addresses and are never on the wire.
const DETOURS: u128 = 0x2001_0020 << 96;
const DETOUR_BITS: u32 = 28;

/// The name of a way to a peer that is no IP address, for programs that know only those.
pub fn detour_address(hash: u128) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::from(DETOURS | hash >> DETOUR_BITS), 1))
}

/// Whether an address is such a name, and not one of the network.
pub fn is_detour(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if u128::from(*v6) >> (128 - DETOUR_BITS) == DETOURS >> (128 - DETOUR_BITS))
}

/// Nothing that would make this node talk to itself, to a whole network, or to a link it cannot name.
pub fn is_dialable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let usable = !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_detour(&ip);
    address.port() != 0 && usable && !link_local
}

/// Of a network that is not the Internet: many have the same.
pub fn is_private(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        // 100.64.0.0/10 is between a provider's NAT and its customers'.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Where a peer that wants to be met halfway may be sent to: what a third node sees of it, and what it claims besides only as far as
/// that agrees. So nobody can make a node send to somebody else.
///
/// `seen` is where the node in the middle sees the peer, `me` where it sees this node.
pub fn plausible(claimed: &[SocketAddr], seen: SocketAddr, me: Option<SocketAddr>) -> Vec<SocketAddr> {
    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
    if !is_dialable(&seen) {
        return Vec::new();
    }
    // Behind the same NAT, or the node in the middle is on the peer's own network.
    let near = is_private(&seen.ip()) || me.is_some_and(|me| me.ip().to_canonical() == seen.ip());
    let agrees = |ip: IpAddr| ip == seen.ip() || same_network(ip, seen.ip()) || (near && is_private(&ip));
    let mut out = vec![seen];
    out.extend(claimed.iter().map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())));
    out.retain(|a| is_dialable(a) && agrees(a.ip()));
    dedup(&mut out);
    out.truncate(crate::MAX_ADDRESSES);
    out
}

/// An IPv6 host has many addresses in its one /64.
fn same_network(a: IpAddr, b: IpAddr) -> bool {
    matches!((a, b), (IpAddr::V6(a), IpAddr::V6(b)) if a.octets()[..8] == b.octets()[..8])
}

fn dedup(addresses: &mut Vec<SocketAddr>) {
    let mut kept: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    addresses.retain(|a| {
        let fresh = !kept.contains(a);
        kept.push(*a);
        fresh
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn check(claimed: &[&str], seen: &str, me: &str, expected: &[&str]) {
        let claimed: Vec<_> = claimed.iter().map(|a| at(a)).collect();
        let expected: Vec<_> = expected.iter().map(|a| at(a)).collect();
        assert_eq!(plausible(&claimed, at(seen), Some(at(me))), expected, "{claimed:?} seen at {seen}");
    }

    #[test]
    fn a_peer_is_met_where_it_is_seen_and_nowhere_else() {
        let (home, other) = ("203.0.113.7:4433", "198.51.100.1:4433");
        check(&["192.0.2.66:53", "10.0.0.1:80"], home, other, &[home]);
        check(&["203.0.113.7:9", "[2001:db8::1]:9"], home, other, &[home, "203.0.113.7:9"]);
        check(&["[::ffff:203.0.113.7]:4433"], "[::ffff:203.0.113.7]:4433", other, &[home]);
        check(&["10.0.0.1:80"], "127.0.0.1:1", "127.0.0.1:2", &[]);
    }

    #[test]
    fn private_addresses_are_tried_by_who_may_share_them() {
        let home = "203.0.113.7:4433";
        check(&["10.0.0.2:4433"], home, "203.0.113.7:5000", &[home, "10.0.0.2:4433"]);
        check(&["10.0.0.2:4433"], "10.9.0.1:1", "10.9.0.2:1", &["10.9.0.1:1", "10.0.0.2:4433"]);
        check(&["127.0.0.1:1", "10.0.0.2:0", "[fe80::1]:1"], home, home, &[home]);
    }

    #[test]
    fn an_ipv6_host_may_have_other_addresses_in_its_network() {
        let seen = "[2001:db8:1:2::5]:4433";
        let claimed = ["[2001:db8:1:2::6]:4433", "[2001:db8:1:3::6]:4433"];
        check(&claimed, seen, "[2001:db8:9::1]:1", &[seen, claimed[0]]);
    }

    #[test]
    fn a_detour_is_no_address() {
        for hash in [0, 1, u128::MAX] {
            let detour = detour_address(hash);
            assert!(is_detour(&detour.ip()) && !is_dialable(&detour), "{detour}");
        }
        for ip in ["2001:1f::1", "2001:30::1", "2001:db8::1", "203.0.113.7"] {
            assert!(!is_detour(&ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let claimed: Vec<_> = (1..100).map(|port| SocketAddr::from(([203, 0, 113, 7], port))).collect();
        assert_eq!(plausible(&claimed, at("203.0.113.7:4433"), None).len(), crate::MAX_ADDRESSES);
    }
}
