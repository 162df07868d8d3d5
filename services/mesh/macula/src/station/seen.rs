//! Messages that came already: by publisher and sequence number, for five minutes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use os_identity::NodeId;

const REMEMBER_MS: u64 = 300_000;
/// Newest messages remembered of one publisher.
const PER_PUBLISHER: usize = 1024;
/// Publishers; for another one the one that was silent longest is forgotten.
const PUBLISHERS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Seen {
    publishers: BTreeMap<NodeId, Publisher>,
    /// When it is worth looking for what can be freed; [`Self::is_new`] looks at the time itself.
    sweep_at_ms: Option<u64>,
}

#[derive(Debug, Default)]
struct Publisher {
    /// In the order in which they came, with the time when they are forgotten.
    order: VecDeque<(u64, u64)>,
    known: BTreeSet<u64>,
}

impl Seen {
    /// Is this message new? It no longer is, then.
    pub fn is_new(&mut self, publisher: &NodeId, seq: u64, now_ms: u64) -> bool {
        if !self.publishers.contains_key(publisher) && self.publishers.len() == PUBLISHERS {
            self.forget_one();
        }
        self.sweep_at_ms.get_or_insert(now_ms + REMEMBER_MS);
        let of = self.publishers.entry(*publisher).or_default();
        of.expire(now_ms);
        if !of.known.insert(seq) {
            return false;
        }
        if of.order.len() == PER_PUBLISHER {
            of.pop();
        }
        of.order.push_back((now_ms + REMEMBER_MS, seq));
        true
    }

    /// Frees what is no longer needed.
    pub fn expire(&mut self, now_ms: u64) {
        if self.sweep_at_ms.is_none_or(|at| now_ms < at) {
            return;
        }
        self.publishers.values_mut().for_each(|publisher| publisher.expire(now_ms));
        self.publishers.retain(|_, publisher| !publisher.order.is_empty());
        let newest = self.publishers.values().filter_map(|publisher| publisher.order.back());
        self.sweep_at_ms = newest.map(|(until, _)| *until).min();
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.sweep_at_ms
    }

    fn forget_one(&mut self) {
        let silent = self.publishers.iter().min_by_key(|(_, publisher)| publisher.order.back().copied());
        if let Some(publisher) = silent.map(|(publisher, _)| *publisher) {
            self.publishers.remove(&publisher);
        }
    }
}

impl Publisher {
    fn expire(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(until, _)| *until <= now_ms) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, seq)) = self.order.pop_front() {
            self.known.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn a_message_is_new_once_in_five_minutes() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&id(1), 7, 0));
        assert!(!seen.is_new(&id(1), 7, REMEMBER_MS - 1));
        assert!(seen.is_new(&id(2), 7, 1), "of another publisher");
        assert!(seen.is_new(&id(1), 7, REMEMBER_MS));
        assert_eq!(seen.next_deadline(), Some(REMEMBER_MS));
        seen.expire(REMEMBER_MS);
        assert_eq!(seen.next_deadline(), Some(REMEMBER_MS + 1));
        seen.expire(2 * REMEMBER_MS);
        assert_eq!(seen.next_deadline(), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for seq in 0..=PER_PUBLISHER as u64 {
            assert!(seen.is_new(&id(0), seq, 0));
        }
        assert!(!seen.is_new(&id(0), 1, 0));
        assert!(seen.is_new(&id(0), 0, 0), "the oldest made room");
        for publisher in 1..=PUBLISHERS as u32 {
            assert!(seen.is_new(&id(publisher), 0, u64::from(publisher)));
        }
        assert_eq!(seen.publishers.len(), PUBLISHERS);
        assert!(!seen.publishers.contains_key(&id(0)), "the one silent longest made room");
    }
}
