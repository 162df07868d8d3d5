//! Whom this node knows: 256 buckets by distance, `k` contacts in each.
//!
//! A bucket keeps whom it has known longest, because they stay longest (Kademlia, section 2.2): a newcomer to a full
//! bucket waits until the least recently seen contact has failed to answer. Only contacts that were themselves heard
//! from come in here, never ones that somebody else named.

use std::collections::BTreeMap;

use os_identity::NodeId;

use crate::{Contact, Distance, Key};

/// Contacts per bucket and nodes per record.
pub const K: usize = 20;
/// Newcomers that wait for a place in a full bucket.
const WAITING: usize = 4;
/// Unanswered requests in a row after which a contact goes even if nobody waits for its place.
const FAILURES_MAX: u8 = 3;
/// A contact heard from more recently than this is taken to be alive without asking.
pub const FRESH_MS: u64 = 15 * 60 * 1000;

#[derive(Debug)]
pub struct RoutingTable {
    own: Key,
    buckets: BTreeMap<u8, Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Least recently seen first.
    entries: Vec<Entry>,
    /// Most recently seen last.
    waiting: Vec<Contact>,
    refreshed_ms: u64,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub contact: Contact,
    pub last_seen_ms: u64,
    /// Requests in a row that it left unanswered.
    pub failures: u8,
}

/// What became of a contact that was heard from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Added,
    Updated,
    /// The bucket is full. `ping` names the contact that has to prove itself, if one is due.
    Waiting {
        ping: Option<Contact>,
    },
    /// It is this node.
    Own,
}

/// One bucket, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSummary {
    pub index: u8,
    pub contacts: usize,
    pub doubtful: usize,
    pub waiting: usize,
}

impl RoutingTable {
    pub fn new(own: NodeId) -> Self {
        Self { own: Key::from(own), buckets: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.buckets.values().map(|b| b.entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, id: &NodeId) -> Option<&Entry> {
        let bucket = self.buckets.get(&self.index_of(&Key::from(*id))?)?;
        bucket.entries.iter().find(|e| e.contact.id == *id)
    }

    /// Notes that `contact` was heard from. Empty addresses do not replace known ones.
    pub fn seen(&mut self, contact: Contact, now_ms: u64) -> Seen {
        let Some(index) = self.index_of(&contact.key()) else { return Seen::Own };
        let bucket = self.buckets.entry(index).or_insert_with(|| Bucket::new(now_ms));
        bucket.seen(contact, now_ms)
    }

    /// Notes that `id` left a request unanswered. True if that cost it its place.
    pub fn failed(&mut self, id: &NodeId, now_ms: u64) -> bool {
        let Some(index) = self.index_of(&Key::from(*id)) else { return false };
        let Some(bucket) = self.buckets.get_mut(&index) else { return false };
        let removed = bucket.failed(id, now_ms);
        if bucket.entries.is_empty() && bucket.waiting.is_empty() {
            self.buckets.remove(&index);
        }
        removed
    }

    /// The `count` contacts closest to `target`, nearest first, without those that left the last request unanswered.
    pub fn closest(&self, target: &Key, count: usize) -> Vec<Contact> {
        self.closest_where(target, count, |entry| entry.failures == 0)
    }

    /// As [`Self::closest`], doubtful contacts too: what a lookup of our own starts with.
    pub fn closest_of_all(&self, target: &Key, count: usize) -> Vec<Contact> {
        self.closest_where(target, count, |_| true)
    }

    fn closest_where(&self, target: &Key, count: usize, keep: impl Fn(&Entry) -> bool) -> Vec<Contact> {
        let mut found = Vec::with_capacity(count.min(K));
        for bucket in self.buckets_by_distance(target) {
            let mut near: Vec<&Entry> = bucket.entries.iter().filter(|e| keep(e)).collect();
            near.sort_unstable_by_key(|e| e.contact.key().distance(target));
            found.extend(near.into_iter().take(count - found.len()).map(|e| e.contact.clone()));
            if found.len() >= count {
                break;
            }
        }
        found
    }

    /// All contacts of one bucket are closer to a target than all of the next one in this order: those buckets whose
    /// bit is set in our own distance to the target clear it, the highest first; the others set theirs, the lowest first.
    fn buckets_by_distance(&self, target: &Key) -> impl Iterator<Item = &Bucket> {
        let own: Distance = self.own.distance(target);
        let nearer = self.buckets.iter().rev().filter(move |(index, _)| own.bit(**index));
        let farther = self.buckets.iter().filter(move |(index, _)| !own.bit(**index));
        nearer.chain(farther).map(|(_, bucket)| bucket)
    }

    /// Of the contacts, how many are closer to `target` than `than` is. Counts to `K` at most.
    pub fn count_closer(&self, target: &Key, than: &Key) -> usize {
        let limit = than.distance(target);
        let closest = self.closest(target, K);
        closest.iter().take_while(|c| c.key().distance(target) < limit).count()
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.values().flat_map(|b| b.entries.iter())
    }

    pub fn summary(&self) -> Vec<BucketSummary> {
        let doubtful = |b: &Bucket| b.entries.iter().filter(|e| e.failures > 0).count();
        let summarize = |(index, b): (&u8, &Bucket)| BucketSummary {
            index: *index,
            contacts: b.entries.len(),
            doubtful: doubtful(b),
            waiting: b.waiting.len(),
        };
        self.buckets.iter().map(summarize).collect()
    }

    /// A lookup towards `target` went out: its bucket is as fresh as it gets.
    pub fn refreshed(&mut self, target: &Key, now_ms: u64) {
        if let Some(bucket) = self.index_of(target).and_then(|index| self.buckets.get_mut(&index)) {
            bucket.refreshed_ms = now_ms;
        }
    }

    /// The bucket that was refreshed least recently, and when.
    pub fn stalest_bucket(&self) -> Option<(u8, u64)> {
        self.buckets.iter().map(|(index, b)| (*index, b.refreshed_ms)).min_by_key(|(_, at)| *at)
    }

    /// Buckets in use, the nearest first.
    pub fn bucket_indexes(&self) -> impl Iterator<Item = u8> {
        self.buckets.keys().copied()
    }

    fn index_of(&self, key: &Key) -> Option<u8> {
        self.own.distance(key).bucket_index()
    }
}

impl Bucket {
    fn new(now_ms: u64) -> Self {
        Bucket { refreshed_ms: now_ms, ..Bucket::default() }
    }

    fn seen(&mut self, mut contact: Contact, now_ms: u64) -> Seen {
        if let Some(at) = self.entries.iter().position(|e| e.contact.id == contact.id) {
            let known = self.entries.remove(at);
            if contact.addresses.is_empty() {
                contact.addresses = known.contact.addresses;
            }
            self.entries.push(Entry { contact, last_seen_ms: now_ms, failures: 0 });
            return Seen::Updated;
        }
        if self.entries.len() >= K && !self.drop_worst() {
            return self.wait(contact, now_ms);
        }
        self.waiting.retain(|w| w.id != contact.id);
        self.entries.push(Entry { contact, last_seen_ms: now_ms, failures: 0 });
        Seen::Added
    }

    /// Makes room at the expense of the contact with the most failures, if one has any.
    fn drop_worst(&mut self) -> bool {
        let worst = (0..self.entries.len()).max_by_key(|at| self.entries[*at].failures);
        match worst {
            Some(at) if self.entries[at].failures > 0 => {
                self.entries.remove(at);
                true
            }
            _ => false,
        }
    }

    fn wait(&mut self, contact: Contact, now_ms: u64) -> Seen {
        self.waiting.retain(|w| w.id != contact.id);
        if self.waiting.len() >= WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(contact);
        let oldest = self.entries.first().filter(|e| e.last_seen_ms.saturating_add(FRESH_MS) <= now_ms);
        Seen::Waiting { ping: oldest.map(|e| e.contact.clone()) }
    }

    fn failed(&mut self, id: &NodeId, now_ms: u64) -> bool {
        self.waiting.retain(|w| w.id != *id);
        let Some(at) = self.entries.iter().position(|e| e.contact.id == *id) else { return false };
        let entry = &mut self.entries[at];
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < FAILURES_MAX && self.waiting.is_empty() {
            return false;
        }
        self.entries.remove(at);
        if let Some(contact) = self.waiting.pop() {
            self.entries.push(Entry { contact, last_seen_ms: now_ms, failures: 0 });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn node(n: u32) -> Contact {
        Contact::new(NodeId::from_bytes(*Key::hash(&[&n.to_be_bytes()]).as_bytes()), [])
    }

    /// Contacts in the far half as seen from an own id of zeros.
    fn far(n: u8) -> Contact {
        let mut id = [n; 32];
        id[0] |= 0x80;
        Contact::new(NodeId::from_bytes(id), [])
    }

    fn table() -> RoutingTable {
        RoutingTable::new(NodeId::from_bytes([0; 32]))
    }

    fn full_bucket() -> RoutingTable {
        let mut table = table();
        (0..K as u8).for_each(|n| assert_eq!(table.seen(far(n), NOW), Seen::Added));
        table
    }

    #[test]
    fn a_full_bucket_keeps_its_old_contacts_until_one_fails() {
        let mut table = full_bucket();
        assert_eq!(table.seen(far(100), NOW), Seen::Waiting { ping: None });
        let later = NOW + FRESH_MS;
        assert_eq!(table.seen(far(100), later), Seen::Waiting { ping: Some(far(0)) });
        assert_eq!(table.seen(far(0), later), Seen::Updated);
        assert_eq!(table.seen(far(100), later), Seen::Waiting { ping: Some(far(1)) });
        assert!(table.failed(&far(1).id, later), "somebody waits for the place");
        assert!(table.get(&far(1).id).is_none());
        assert!(table.get(&far(100).id).is_some());
        assert_eq!(table.len(), K);
    }

    #[test]
    fn without_a_successor_a_contact_gets_three_chances() {
        let mut table = table();
        table.seen(far(1), NOW);
        assert!(!table.failed(&far(1).id, NOW));
        assert!(table.closest(&far(1).key(), K).is_empty(), "not recommended to others");
        assert_eq!(table.closest_of_all(&far(1).key(), K).len(), 1, "but still tried");
        assert!(!table.failed(&far(1).id, NOW));
        assert!(table.failed(&far(1).id, NOW));
        assert!(table.is_empty());
        assert_eq!(table.summary(), []);
    }

    #[test]
    fn a_doubtful_contact_gives_way_to_a_newcomer() {
        let mut table = full_bucket();
        assert!(!table.failed(&far(7).id, NOW));
        assert_eq!(table.seen(far(100), NOW), Seen::Added);
        assert!(table.get(&far(7).id).is_none());
    }

    #[test]
    fn bad_contacts_do_no_harm() {
        let mut table = table();
        assert_eq!(table.seen(Contact::new(NodeId::from_bytes([0; 32]), []), NOW), Seen::Own);
        assert!(!table.failed(&far(1).id, NOW));
        let reachable = Contact::new(far(1).id, ["10.0.0.1:4433".parse().unwrap()]);
        table.seen(reachable.clone(), NOW);
        table.seen(far(1), NOW);
        assert_eq!(table.get(&far(1).id).unwrap().contact, reachable, "no addresses is no news");
    }

    #[test]
    fn memory_is_bounded_and_closest_is_exact() {
        let mut table = table();
        (0..50_000).for_each(|n| {
            table.seen(node(n), NOW);
        });
        assert!(table.len() <= 256 * K);
        assert!(table.buckets.values().all(|b| b.entries.len() <= K && b.waiting.len() <= WAITING));
        for n in 0..50u32 {
            let target = Key::hash(&[b"target", &n.to_be_bytes()]);
            let mut all: Vec<Contact> = table.entries().map(|e| e.contact.clone()).collect();
            all.sort_by_key(|c| c.key().distance(&target));
            assert_eq!(table.closest(&target, K), all[..K]);
        }
    }
}
