//! What stands between a node and the Internet, as nftables rules (RFC 4787 and RFC 3489 for the words).

/// A router between `lan` and `wan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// No router: a public address.
    Open,
    /// One mapping for all destinations; whoever sends to it gets in.
    FullCone,
    /// One mapping; those addresses get in that were sent to.
    AddressRestricted,
    /// One mapping; only address and port that were sent to get in.
    PortRestricted,
    /// Another mapping for each destination.
    Symmetric,
    /// Port-restricted, and lets no UDP out.
    NoUdp,
}

use Nat::*;

/// The ones of which every pair is tried.
pub const KINDS: [Nat; 5] = [Open, FullCone, AddressRestricted, PortRestricted, Symmetric];

impl Nat {
    pub fn word(self) -> &'static str {
        match self {
            Open => "open",
            FullCone => "full-cone",
            AddressRestricted => "address-restricted",
            PortRestricted => "port-restricted",
            Symmetric => "symmetric",
            NoUdp => "udp-blocked",
        }
    }

    /// Whether nodes behind these two can meet halfway.
    pub fn meets(self, other: Nat) -> bool {
        let narrow = |nat| matches!(nat, PortRestricted | Symmetric);
        let one_way = |a, b| a == Symmetric && narrow(b);
        self != NoUdp && other != NoUdp && !one_way(self, other) && !one_way(other, self)
    }

    /// For `nft -f`: the router of a network whose one node is `inside`.
    pub fn rules(self, inside: &str) -> String {
        let enter = match self {
            FullCone => format!("iifname wan udp dport 4433 dnat to {inside}:4433"),
            AddressRestricted => {
                format!("iifname wan udp dport 4433 ip saddr @spoken_to dnat to {inside}:4433")
            }
            _ => String::new(),
        };
        let leave = if self == Symmetric { "masquerade random,fully-random" } else { "masquerade" };
        let block = if self == NoUdp { "meta l4proto udp drop" } else { "" };
        format!(
            "table ip nat {{
                set spoken_to {{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }}
                chain remember {{
                    type filter hook forward priority -1;
                    iifname lan udp sport 4433 update @spoken_to {{ ip daddr }}
                }}
                chain enter {{
                    type nat hook prerouting priority dstnat;
                    {enter}
                }}
                chain leave {{
                    type nat hook postrouting priority srcnat;
                    oifname wan {leave}
                }}
            }}
            {}",
            firewall(block)
        )
    }
}

/// What comes from outside unasked is dropped, as home routers do.
pub fn firewall(first: &str) -> String {
    format!(
        "table inet filter {{
            chain input {{
                type filter hook input priority 0; policy drop;
                iifname lan accept
                meta l4proto {{ icmp, ipv6-icmp }} accept
                ct state established,related accept
            }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                {first}
                iifname lan accept
                meta l4proto ipv6-icmp accept
                ct state established,related accept
                ct status dnat accept
            }}
        }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_of_the_pairs_need_a_relay() {
        let pairs = KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| (*a, *b)));
        let apart: Vec<_> = pairs.filter(|(a, b)| !a.meets(*b)).collect();
        assert_eq!(apart, [(PortRestricted, Symmetric), (Symmetric, PortRestricted), (Symmetric, Symmetric)]);
        assert!(!Open.meets(NoUdp));
    }
}
