//! How much a relay carries: for one peer, and for all together.
//!
//! Counted is what comes in, before it is sent on, so that nobody makes a relay send more than this.

use os_identity::NodeId;

use crate::limits::{Limiter, Rate};

/// Peers that are counted at the same time; further ones wait.
const MAX_SENDERS: usize = 4096;
/// What may pass at once, as a part of a second's allowance; at least [`MIN_BURST`].
const BURST_PER_S: u32 = 4;
const MIN_BURST: u32 = 64 * 1024;
/// One peer's share of the whole.
const SHARE: u32 = 2;
/// What a datagram costs beyond its bytes: headers below it.
const OVERHEAD: usize = 60;

/// A relay's caps, and how much of them is used.
#[derive(Debug)]
pub struct RelayCaps {
    each: Limiter<NodeId>,
    all: Limiter<()>,
    counts: RelayCounts,
}

/// For people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    pub datagrams: u64,
    pub bytes: u64,
    /// Datagrams above the caps.
    pub dropped: u64,
}

impl RelayCaps {
    /// `bytes_per_s` is what the relay sends on in total; one peer gets at most half of it.
    pub fn new(bytes_per_s: u32) -> Self {
        Self {
            each: Limiter::new(rate(bytes_per_s / SHARE), MAX_SENDERS),
            all: Limiter::new(rate(bytes_per_s), 1),
            counts: RelayCounts::default(),
        }
    }

    /// Whether a datagram of so many bytes from `sender` is sent on.
    pub fn admit(&mut self, sender: &NodeId, len: usize, now_ms: u64) -> bool {
        let cost = u32::try_from(len + OVERHEAD).unwrap_or(u32::MAX);
        // Whoever is above its own share takes nothing from the others.
        let admitted = self.each.allow_many(sender, cost, now_ms) && self.all.allow_many(&(), cost, now_ms);
        if admitted {
            self.counts.datagrams += 1;
            self.counts.bytes += len as u64;
        } else {
            self.counts.dropped += 1;
        }
        admitted
    }

    pub fn counts(&self) -> RelayCounts {
        self.counts
    }
}

fn rate(per_s: u32) -> Rate {
    Rate { burst: (per_s / BURST_PER_S).max(MIN_BURST), per_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: u32 = 1_000_000 / 8;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Bytes (with overhead) that pass in ten seconds when each of `senders` sends a datagram of 1140 bytes per millisecond.
    fn ten_seconds(caps: &mut RelayCaps, senders: std::ops::Range<u8>) -> Vec<u64> {
        let mut passed = vec![0; senders.len()];
        for now in 0..10_000 {
            for (i, sender) in senders.clone().enumerate() {
                if caps.admit(&node(sender), 1140, now) {
                    passed[i] += 1200;
                }
            }
        }
        passed
    }

    #[test]
    fn one_peer_gets_its_share_and_all_together_the_whole() {
        let whole = 8 * MBIT;
        let alone = ten_seconds(&mut RelayCaps::new(whole), 0..1)[0];
        let share = u64::from(whole / 2) * 10;
        assert!((share..share + share / 20).contains(&alone), "{alone} of {share}");
        let together: u64 = ten_seconds(&mut RelayCaps::new(whole), 0..20).iter().sum();
        let all = u64::from(whole) * 10;
        assert!((all - 100_000..all + all / 20).contains(&together), "{together} of {all}");
    }

    #[test]
    fn a_flood_leaves_the_other_its_share() {
        let mut caps = RelayCaps::new(8 * MBIT);
        let (mut flood, mut quiet) = (0, 0);
        for now in 0..10_000 {
            flood += (0..10).filter(|_| caps.admit(&node(1), 1140, now)).count();
            quiet += usize::from(now % 10 == 0 && caps.admit(&node(2), 1140, now));
        }
        assert_eq!(quiet, 1000, "all of it, beside {flood} of the flood");
        assert_eq!(caps.counts().dropped, 100_000 - flood as u64);
    }

    #[test]
    fn many_made_up_senders_get_no_more_than_the_whole() {
        let mut caps = RelayCaps::new(MBIT);
        let passed = (0..=255).filter(|n| caps.admit(&node(*n), 2000, 0)).count();
        assert_eq!(passed, MIN_BURST as usize / 2060);
    }
}
