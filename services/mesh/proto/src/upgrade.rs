//! When to try again for a direct way to a peer that is reached by a detour (through a relay, or over TCP).
//!
//! Pure: `now` is passed in. Holds the peers with a detour and nobody else, at most [`MAX_DETOURS`]; one beyond that keeps
//! its detour.

use std::collections::BTreeMap;

use os_identity::NodeId;

pub const MAX_DETOURS: usize = 1024;
const FIRST_RETRY_MS: u64 = 5_000;
const LAST_RETRY_MS: u64 = 10 * 60_000;
/// Tries under way at once.
const MAX_TRYING: usize = 16;

#[derive(Debug, Default)]
pub struct Upgrades {
    detours: BTreeMap<NodeId, Detour>,
}

#[derive(Debug)]
struct Detour {
    next_ms: u64,
    retry_ms: u64,
    trying: bool,
}

impl Upgrades {
    /// The peer was reached by a detour, and nothing better is there. The first try is due at once.
    pub fn detour(&mut self, node: NodeId, now: u64) {
        if self.detours.len() < MAX_DETOURS {
            let fresh = Detour { next_ms: now, retry_ms: FIRST_RETRY_MS, trying: false };
            self.detours.entry(node).or_insert(fresh);
        }
    }

    /// There is a direct way now, or the peer has gone.
    pub fn done(&mut self, node: &NodeId) {
        self.detours.remove(node);
    }

    pub fn failed(&mut self, node: &NodeId, now: u64) {
        if let Some(detour) = self.detours.get_mut(node) {
            detour.trying = false;
            detour.next_ms = now + detour.retry_ms;
            detour.retry_ms = (detour.retry_ms * 2).min(LAST_RETRY_MS);
        }
    }

    /// This node is somewhere else now: what failed before may work.
    pub fn moved(&mut self, now: u64) {
        for detour in self.detours.values_mut() {
            detour.next_ms = now;
            detour.retry_ms = FIRST_RETRY_MS;
        }
    }

    /// Whom to try now; each counts as being tried until [`Self::failed`] or [`Self::done`].
    pub fn due(&mut self, now: u64) -> Vec<NodeId> {
        let trying = self.detours.values().filter(|d| d.trying).count();
        let due = self.detours.iter_mut().filter(|(_, d)| !d.trying && d.next_ms <= now);
        due.take(MAX_TRYING.saturating_sub(trying))
            .map(|(node, detour)| {
                detour.trying = true;
                *node
            })
            .collect()
    }

    /// When [`Self::due`] may next have something; when tries end it is asked again anyway.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.detours.values().filter(|d| d.trying).count() >= MAX_TRYING {
            return None;
        }
        self.detours.values().filter(|d| !d.trying).map(|d| d.next_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn tries_come_at_once_and_then_ever_later() {
        let mut upgrades = Upgrades::default();
        upgrades.detour(node(1), 7);
        assert_eq!(upgrades.next_deadline(), Some(7));
        assert_eq!(upgrades.due(7), [node(1)]);
        assert_eq!((upgrades.due(7), upgrades.next_deadline()), (vec![], None), "one try at a time");
        let mut now = 7;
        for wait in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            upgrades.failed(&node(1), now);
            upgrades.detour(node(1), now);
            assert_eq!(upgrades.next_deadline(), Some(now + wait * 1000), "a second detour changes nothing");
            now += wait * 1000;
            assert_eq!(upgrades.due(now), [node(1)]);
        }
        upgrades.failed(&node(1), now);
        upgrades.moved(now);
        assert_eq!(upgrades.due(now), [node(1)]);
        upgrades.done(&node(1));
        upgrades.failed(&node(1), now);
        assert_eq!(upgrades.next_deadline(), None);
    }

    #[test]
    fn many_detours_are_tried_a_few_at_a_time() {
        let mut upgrades = Upgrades::default();
        (0..5000).for_each(|n| upgrades.detour(node(n), 0));
        assert_eq!(upgrades.detours.len(), MAX_DETOURS);
        let first = upgrades.due(0);
        assert_eq!((first.len(), upgrades.due(0).len()), (MAX_TRYING, 0));
        assert_eq!(upgrades.next_deadline(), None);
        first.iter().for_each(|n| upgrades.done(n));
        assert_eq!(upgrades.due(0).len(), MAX_TRYING);
    }
}
