//! The records that this node keeps for others: one per signer under each key and type, bounded in every direction.
//!
//! Where a bound is reached the record that is farther away goes: from this node for the total, and for one key the
//! record whose signer is farther. A flood of made-up signers thus has to cover every replica's surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use os_identity::NodeId;

use crate::Key;
use crate::record::{CLOCK_SKEW_MS, Record};

/// Upper bounds of a store. A record is at most 1 KiB.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    pub total: usize,
    pub per_signer: usize,
    pub per_key: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { total: 8192, per_signer: 1024, per_key: 40 }
    }
}

#[derive(Debug)]
pub struct RecordStore {
    own: Key,
    limits: StoreLimits,
    records: BTreeMap<Slot, Arc<Record>>,
    by_signer: BTreeMap<NodeId, BTreeSet<Slot>>,
    by_expiry: BTreeSet<(u64, Slot)>,
}

/// At most one record lives here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    key: Key,
    record_type: u8,
    signer: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    New,
    Replaced,
    /// The very same record was there.
    Same,
}

/// Why a valid record was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    #[error("a newer record of this signer is known, version {0}")]
    Older(u64),
    #[error("this node keeps no more records under this key")]
    KeyFull,
    #[error("this node keeps no more records of this signer")]
    SignerFull,
    #[error("this node is full of records that are closer to it")]
    Full,
}

impl RecordStore {
    pub fn new(own: NodeId, limits: StoreLimits) -> Self {
        let (records, by_signer, by_expiry) = Default::default();
        Self { own: Key::from(own), limits, records, by_signer, by_expiry }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Keeps a record that the caller has verified.
    pub fn insert(&mut self, record: Arc<Record>) -> Result<Stored, StoreRefusal> {
        let slot = Slot::of(&record);
        if let Some(known) = self.records.get(&slot) {
            if *known == record {
                return Ok(Stored::Same);
            }
            if record.precedence(known).is_lt() {
                return Err(StoreRefusal::Older(known.statement.version));
            }
            self.remove(&slot);
            self.add(slot, record);
            return Ok(Stored::Replaced);
        }
        for loser in self.losers(&slot)?.into_iter().flatten() {
            self.remove(&loser);
        }
        self.add(slot, record);
        Ok(Stored::New)
    }

    /// Live records under `key`, of one type or of all.
    pub fn get(&self, key: &Key, record_type: Option<u8>, now_ms: u64) -> Vec<Arc<Record>> {
        let wanted = |slot: &Slot| record_type.is_none_or(|t| slot.record_type == t);
        self.under(key).filter(|(s, r)| wanted(s) && r.is_live(now_ms)).map(|(_, r)| r.clone()).collect()
    }

    pub fn forget(&mut self, key: Key, record_type: u8, signer: NodeId) {
        self.remove(&Slot { key, record_type, signer });
    }

    /// Drops what has expired.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((expiry, slot)) = self.by_expiry.first().copied() {
            if expiry.saturating_add(CLOCK_SKEW_MS) > now_ms {
                break;
            }
            self.remove(&slot);
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<u64> {
        self.by_expiry.first().map(|(expiry, _)| expiry.saturating_add(CLOCK_SKEW_MS))
    }

    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// Who has to go so that `slot` can come, for each of the three bounds that is reached.
    fn losers(&self, slot: &Slot) -> Result<[Option<Slot>; 3], StoreRefusal> {
        let signer_distance = |s: &Slot| self.own.distance(&Key::from(s.signer));
        let key_distance = |s: &Slot| self.own.distance(&s.key);
        let same_key: Vec<Slot> = self.under(&slot.key).map(|(s, _)| *s).collect();
        let key_loser = farthest(same_key.iter(), self.limits.per_key, slot, signer_distance)
            .ok_or(StoreRefusal::KeyFull)?;
        let same_signer = self.by_signer.get(&slot.signer).into_iter().flatten();
        let signer_loser = farthest(same_signer, self.limits.per_signer, slot, key_distance)
            .ok_or(StoreRefusal::SignerFull)?;
        let freed = usize::from(key_loser.is_some()) + usize::from(signer_loser.is_some());
        if self.records.len() - freed.min(self.records.len()) < self.limits.total {
            return Ok([key_loser, signer_loser, None]);
        }
        let loser = farthest(self.records.keys(), self.limits.total, slot, key_distance);
        Ok([key_loser, signer_loser, loser.ok_or(StoreRefusal::Full)?])
    }

    fn under(&self, key: &Key) -> impl Iterator<Item = (&Slot, &Arc<Record>)> {
        let (low, high) = (NodeId::from_bytes([0; 32]), NodeId::from_bytes([0xff; 32]));
        let first = Slot { key: *key, record_type: 0, signer: low };
        let last = Slot { key: *key, record_type: u8::MAX, signer: high };
        self.records.range(first..=last)
    }

    fn add(&mut self, slot: Slot, record: Arc<Record>) {
        self.by_expiry.insert((record.statement.expires_ms, slot));
        self.by_signer.entry(slot.signer).or_default().insert(slot);
        self.records.insert(slot, record);
    }

    fn remove(&mut self, slot: &Slot) {
        let Some(record) = self.records.remove(slot) else { return };
        self.by_expiry.remove(&(record.statement.expires_ms, *slot));
        if let Some(slots) = self.by_signer.get_mut(&slot.signer) {
            slots.remove(slot);
            if slots.is_empty() {
                self.by_signer.remove(&slot.signer);
            }
        }
    }
}

impl Slot {
    fn of(record: &Record) -> Self {
        let statement = &record.statement;
        Slot { key: statement.key, record_type: statement.record_type, signer: statement.signer }
    }
}

/// `Some(None)`: the bound is not reached. `Some(Some(slot))`: that one gives way. `None`: the newcomer is the
/// farthest itself.
fn farthest<'a, D: Ord>(
    slots: impl Iterator<Item = &'a Slot>,
    limit: usize,
    newcomer: &Slot,
    distance: impl Fn(&Slot) -> D,
) -> Option<Option<Slot>> {
    let (mut count, mut worst) = (0, None);
    for slot in slots {
        count += 1;
        worst = worst.max(Some((distance(slot), *slot)));
    }
    if count < limit {
        return Some(None);
    }
    worst.filter(|(d, _)| *d > distance(newcomer)).map(|(_, slot)| Some(slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{NOW, TYPE, sign, signer};

    const OWN: [u8; 32] = [0; 32];

    fn store(limits: StoreLimits) -> RecordStore {
        RecordStore::new(NodeId::from_bytes(OWN), limits)
    }

    fn at(by: u8, key: u8, version: u64) -> Arc<Record> {
        let record = sign(&signer(by), |s| (s.key, s.version) = (Key::from_bytes([key; 32]), version));
        Arc::new(record)
    }

    #[test]
    fn the_highest_version_of_each_signer_stays() {
        let mut store = store(StoreLimits::default());
        assert_eq!(store.insert(at(1, 1, 2)), Ok(Stored::New));
        assert_eq!(store.insert(at(2, 1, 1)), Ok(Stored::New));
        assert_eq!(store.insert(at(1, 1, 2)), Ok(Stored::Same));
        assert_eq!(store.insert(at(1, 1, 1)), Err(StoreRefusal::Older(2)));
        assert_eq!(store.insert(at(1, 1, 3)), Ok(Stored::Replaced));
        let found = store.get(&Key::from_bytes([1; 32]), None, NOW);
        let mut versions: Vec<u64> = found.iter().map(|r| r.statement.version).collect();
        versions.sort();
        assert_eq!(versions, [1, 3]);
        assert!(store.get(&Key::from_bytes([1; 32]), Some(TYPE + 1), NOW).is_empty());
        assert!(store.get(&Key::from_bytes([2; 32]), None, NOW).is_empty());
    }

    #[test]
    fn the_farthest_give_way_when_full() {
        let limits = StoreLimits { total: 3, ..StoreLimits::default() };
        let mut store = store(limits);
        for key in [5, 6, 7] {
            store.insert(at(key, key, 1)).unwrap();
        }
        assert_eq!(store.insert(at(1, 9, 1)), Err(StoreRefusal::Full));
        assert_eq!(store.insert(at(1, 1, 1)), Ok(Stored::New));
        let keys: Vec<u8> = store.records().map(|r| r.statement.key.as_bytes()[0]).collect();
        assert_eq!(keys, [1, 5, 6]);
    }

    #[test]
    fn one_signer_and_one_key_cannot_take_it_all() {
        let limits = StoreLimits { total: 100, per_signer: 2, per_key: 2 };
        let mut store = store(limits);
        for key in [5, 6] {
            store.insert(at(1, key, 1)).unwrap();
        }
        assert_eq!(store.insert(at(1, 7, 1)), Err(StoreRefusal::SignerFull));
        assert_eq!(store.insert(at(1, 4, 1)), Ok(Stored::New));
        let mut signers: Vec<u8> = (10..16).collect();
        signers.sort_by_key(|n| *signer(*n).node_id().as_bytes());
        let (nearest, rest) = signers.split_first().unwrap();
        rest[..2].iter().for_each(|n| assert_eq!(store.insert(at(*n, 99, 1)), Ok(Stored::New)));
        rest[2..].iter().for_each(|n| assert_eq!(store.insert(at(*n, 99, 1)), Err(StoreRefusal::KeyFull)));
        assert_eq!(store.insert(at(*nearest, 99, 1)), Ok(Stored::New));
        assert_eq!(store.len(), 4);
        assert_eq!(store.by_expiry.len(), 4);
    }

    #[test]
    fn what_expired_is_gone() {
        let mut store = store(StoreLimits::default());
        let key = Key::from_bytes([3; 32]);
        store.insert(at(1, 3, 1)).unwrap();
        let end = store.next_expiry().unwrap();
        store.expire(end - 1);
        assert_eq!(store.get(&key, None, end - 1).len(), 1);
        assert!(store.get(&key, None, end).is_empty(), "not handed out even before the sweep");
        store.expire(end);
        assert!(store.is_empty() && store.by_signer.is_empty() && store.next_expiry().is_none());
    }
}
