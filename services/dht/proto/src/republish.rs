//! The records that this node answers for: signed anew and published again long before they expire.
//!
//! Each one knows when it is due next. Times are spread by up to a tenth, so that nodes that started together do not
//! publish together.

use std::collections::BTreeMap;
use std::sync::Arc;

use os_identity::NodeId;
use rand::{Rng, RngExt};

use crate::Key;
use crate::record::{Record, Statement};
use crate::record_types::Draft;

pub const REPUBLISH_MS: u64 = 3600 * 1000;
/// A draft's record outlives three republications that went wrong.
pub const DRAFT_LIFETIME_MS: u64 = 4 * 3600 * 1000;
/// After a signature could not be had.
pub const RETRY_MS: u64 = 30 * 1000;
pub const MAX_OWN_RECORDS: usize = 1024;

/// The node answers for [`MAX_OWN_RECORDS`] records already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node publishes {MAX_OWN_RECORDS} records already: withdraw one first")]
pub struct TooMany;

#[derive(Debug, Default)]
pub struct OwnRecords {
    entries: BTreeMap<Name, Own>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    key: Key,
    record_type: u8,
    signer: NodeId,
}

#[derive(Debug)]
struct Own {
    /// To be signed by this node each time; without it the record was signed elsewhere and is published as it is.
    draft: Option<Draft>,
    current: Option<Arc<Record>>,
    due_ms: u64,
    /// Published for the last time before then.
    until_ms: Option<u64>,
}

/// What is to be done for a record that is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Sign(Statement),
    Publish(Arc<Record>),
}

impl OwnRecords {
    /// Publishes `draft` from now on. The same one again changes nothing.
    pub fn provide(&mut self, signer: NodeId, draft: Draft, now_ms: u64) -> Result<(), TooMany> {
        let name = Name { key: draft.key, record_type: draft.record_type, signer };
        let unchanged = |own: &Own| own.draft.as_ref().is_some_and(|d| *d == draft) && own.until_ms.is_none();
        if self.entries.get(&name).is_some_and(unchanged) {
            return Ok(());
        }
        self.set(name, Some(draft), None, now_ms)
    }

    /// Publishes `record` as it is until it expires.
    pub fn put(&mut self, record: Arc<Record>, now_ms: u64) -> Result<(), TooMany> {
        let name = Name::of(&record.statement);
        self.set(name, None, Some(record), now_ms)
    }

    /// Publishes `farewell` for as long as the record in its place may live elsewhere, then nothing. False, with
    /// nothing done, if no record is in its place.
    pub fn withdraw(&mut self, signer: NodeId, farewell: Draft, now_ms: u64) -> bool {
        let name = Name { key: farewell.key, record_type: farewell.record_type, signer };
        let Some(own) = self.entries.get_mut(&name).filter(|own| own.until_ms.is_none()) else {
            return false;
        };
        if own.current.is_none() {
            self.entries.remove(&name);
            return true;
        }
        own.draft = Some(farewell);
        own.due_ms = now_ms;
        own.until_ms = Some(now_ms.saturating_add(DRAFT_LIFETIME_MS));
        true
    }

    /// One record that is due, which then is not due for another hour; to be called until it gives `None`.
    pub fn next_due(&mut self, now_ms: u64, rng: &mut impl Rng) -> Option<Due> {
        loop {
            let name = *self.entries.iter().find(|(_, own)| own.due_ms <= now_ms)?.0;
            let own = self.entries.get_mut(&name)?;
            let expired = |r: &Arc<Record>| own.draft.is_none() && !r.is_live(now_ms);
            if own.until_ms.is_some_and(|until| until <= now_ms) || own.current.as_ref().is_some_and(expired)
            {
                self.entries.remove(&name);
                continue;
            }
            own.due_ms = now_ms.saturating_add(spread(REPUBLISH_MS, rng));
            if let Some(due) = own.due(name.signer, now_ms) {
                return Some(due);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.entries.values().map(|own| own.due_ms).min()
    }

    /// A statement that was [`Due::Sign`] is signed. False if nobody waits for it any more.
    pub fn signed(&mut self, record: Arc<Record>) -> bool {
        match self.entries.get_mut(&Name::of(&record.statement)) {
            Some(own) if own.draft.as_ref().is_some_and(|d| d.payload == record.statement.payload) => {
                own.current = Some(record);
                true
            }
            _ => false,
        }
    }

    /// A statement that was [`Due::Sign`] could not be signed.
    pub fn not_signed(&mut self, statement: &Statement, now_ms: u64) {
        if let Some(own) = self.entries.get_mut(&Name::of(statement)) {
            own.due_ms = own.due_ms.min(now_ms.saturating_add(RETRY_MS));
        }
    }

    /// `record` is the newest known in its place: a record signed elsewhere that it supersedes is no longer ours to keep alive.
    pub fn superseded_by(&mut self, record: &Record) {
        let name = Name::of(&record.statement);
        let obsolete = |own: &Own| {
            own.draft.is_none() && own.current.as_ref().is_some_and(|c| record.precedence(c).is_gt())
        };
        if self.entries.get(&name).is_some_and(obsolete) {
            self.entries.remove(&name);
        }
    }

    /// Everything is due at `at_ms`: this node has just found its place.
    pub fn all_due(&mut self, at_ms: u64) {
        self.entries.values_mut().for_each(|own| own.due_ms = own.due_ms.min(at_ms));
    }

    pub fn get(&self, key: &Key, record_type: Option<u8>) -> impl Iterator<Item = &Arc<Record>> {
        let wanted = move |n: &Name| n.key == *key && record_type.is_none_or(|t| n.record_type == t);
        self.entries.iter().filter(move |(name, _)| wanted(name)).filter_map(|(_, own)| own.current.as_ref())
    }

    pub fn current(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.entries.values().filter_map(|own| own.current.as_ref())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn set(
        &mut self,
        name: Name,
        draft: Option<Draft>,
        current: Option<Arc<Record>>,
        now_ms: u64,
    ) -> Result<(), TooMany> {
        let known = self.entries.remove(&name);
        if known.is_none() && self.entries.len() >= MAX_OWN_RECORDS {
            return Err(TooMany);
        }
        let current = current.or(known.and_then(|own| own.current));
        self.entries.insert(name, Own { draft, current, due_ms: now_ms, until_ms: None });
        Ok(())
    }
}

impl Own {
    fn due(&self, signer: NodeId, now_ms: u64) -> Option<Due> {
        let Some(draft) = &self.draft else { return self.current.clone().map(Due::Publish) };
        let last = self.current.as_ref().map_or(0, |r| r.statement.version);
        // The time as version: higher than before also after a restart that forgot the last one.
        let version = now_ms.max(last.saturating_add(1));
        Some(Due::Sign(draft.statement(signer, version, now_ms, DRAFT_LIFETIME_MS)))
    }
}

impl Name {
    fn of(statement: &Statement) -> Self {
        Name { key: statement.key, record_type: statement.record_type, signer: statement.signer }
    }
}

/// `interval_ms` less up to a tenth.
pub(crate) fn spread(interval_ms: u64, rng: &mut impl Rng) -> u64 {
    interval_ms - rng.random_range(0..=interval_ms / 10)
}

#[cfg(test)]
mod tests {
    use os_identity::domain;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;
    use crate::record::tests::{NOW, TYPE, sign, signer};
    use crate::record_types::Provider;

    fn draft(withdrawn: bool) -> Draft {
        Provider { mcid: [5; 34], addresses: [].into(), withdrawn }.draft()
    }

    fn due(own: &mut OwnRecords, now_ms: u64) -> Option<Due> {
        own.next_due(now_ms, &mut Xoshiro256PlusPlus::seed_from_u64(1))
    }

    fn sign_due(own: &mut OwnRecords, now_ms: u64) -> Arc<Record> {
        let Some(Due::Sign(statement)) = due(own, now_ms) else { panic!("nothing to sign") };
        let signature = signer(1).sign(domain::DHT_RECORD, &statement.signing_bytes());
        let record = Arc::new(statement.signed(signature));
        assert!(own.signed(record.clone()));
        record
    }

    #[test]
    fn a_draft_is_signed_anew_each_hour() {
        let mut own = OwnRecords::default();
        own.provide(signer(1).node_id(), draft(false), NOW).unwrap();
        let first = sign_due(&mut own, NOW);
        assert_eq!(first.verify(NOW), Ok(()));
        own.provide(signer(1).node_id(), draft(false), NOW).unwrap();
        assert_eq!(due(&mut own, NOW), None, "provided twice is provided once");
        let next = own.next_deadline().unwrap();
        assert!((NOW + REPUBLISH_MS * 9 / 10..=NOW + REPUBLISH_MS).contains(&next));
        let second = sign_due(&mut own, next);
        assert!(second.precedence(&first).is_gt());
        assert!(second.statement.expires_ms > first.statement.expires_ms);
    }

    #[test]
    fn a_failed_signature_is_tried_again_soon() {
        let mut own = OwnRecords::default();
        own.provide(signer(1).node_id(), draft(false), NOW).unwrap();
        let Some(Due::Sign(statement)) = due(&mut own, NOW) else { panic!() };
        own.not_signed(&statement, NOW);
        assert_eq!(own.next_deadline(), Some(NOW + RETRY_MS));
    }

    #[test]
    fn a_withdrawal_follows_what_was_published_and_then_ends() {
        let (mut own, me) = (OwnRecords::default(), signer(1).node_id());
        own.provide(me, draft(false), NOW).unwrap();
        assert!(own.withdraw(me, draft(true), NOW), "never published: nothing to take back");
        assert!(own.is_empty());
        own.provide(me, draft(false), NOW).unwrap();
        let published = sign_due(&mut own, NOW);
        assert!(own.withdraw(me, draft(true), NOW + 1));
        assert!(!own.withdraw(me, draft(true), NOW + 1));
        let farewell = sign_due(&mut own, NOW + 1);
        assert!(farewell.precedence(&published).is_gt());
        assert!(Provider::parse(&farewell.statement.payload).unwrap().withdrawn);
        assert_eq!(due(&mut own, NOW + 1 + DRAFT_LIFETIME_MS), None);
        assert!(own.is_empty());
    }

    #[test]
    fn a_record_signed_elsewhere_is_published_until_it_expires() {
        let mut own = OwnRecords::default();
        let record = Arc::new(sign(&signer(2), |s| s.expires_ms = NOW + 3 * REPUBLISH_MS / 2));
        own.put(record.clone(), NOW).unwrap();
        let mut times = Vec::new();
        while let Some(at) = own.next_deadline() {
            if let Some(due) = due(&mut own, at) {
                assert_eq!(due, Due::Publish(record.clone()));
                times.push(at - NOW);
            }
        }
        assert_eq!(times.len(), 2, "{times:?}");
        assert!(!own.signed(record));
    }

    #[test]
    fn a_newer_record_from_elsewhere_ends_the_care_for_an_older_one() {
        let mut own = OwnRecords::default();
        let version = |version| sign(&signer(2), |s| s.version = version);
        own.put(Arc::new(version(2)), NOW).unwrap();
        own.superseded_by(&version(1));
        own.superseded_by(&version(2));
        assert_eq!(own.len(), 1);
        own.superseded_by(&version(3));
        assert!(own.is_empty());
    }

    #[test]
    fn there_is_a_bound() {
        let mut own = OwnRecords::default();
        let put = |own: &mut OwnRecords, n: usize| {
            let key = Key::hash(&[&n.to_be_bytes()]);
            own.provide(signer(1).node_id(), Draft { record_type: TYPE, key, payload: vec![] }, NOW)
        };
        (0..MAX_OWN_RECORDS).for_each(|n| put(&mut own, n).unwrap());
        assert_eq!(put(&mut own, MAX_OWN_RECORDS), Err(TooMany));
        assert_eq!(put(&mut own, 0), Ok(()));
    }
}
