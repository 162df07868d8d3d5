//! Whom the node hears from, what that changes, and what it answers from what it has.

use std::sync::Arc;

use os_identity::NodeId;

use super::{
    JOIN_DELAY_MS, MAX_REMEMBERED, MAX_UNANSWERED, MAX_WAITING_PUSHES, Node, Purpose, RETRY_FIRST_MS,
};
use crate::record::Record;
use crate::routing_table::{K, Seen};
use crate::{Contact, Key};

impl Node {
    pub(super) fn closest_for(&self, from: NodeId, target: &Key) -> Vec<Contact> {
        let mut contacts = self.table.closest(target, K + 1);
        contacts.retain(|c| c.id != from);
        contacts.truncate(K);
        contacts
    }

    pub(super) fn records_here(&self, key: &Key, record_type: Option<u8>, now_ms: u64) -> Vec<Arc<Record>> {
        let mut records: Vec<_> =
            self.own.get(key, record_type).filter(|r| r.is_live(now_ms)).cloned().collect();
        for record in self.store.get(key, record_type, now_ms) {
            if !records.contains(&record) {
                records.push(record);
            }
        }
        records
    }

    pub(super) fn keep(&mut self, record: Arc<Record>, now_ms: u64) -> Result<(), String> {
        let verified = record.verify_with(now_ms, self.config.signature_check);
        verified.map_err(|e| e.to_string())?;
        self.store.insert(record.clone()).map_err(|e| e.to_string())?;
        self.own.superseded_by(&record);
        Ok(())
    }

    pub(super) fn heard_from(&mut self, contact: Contact, now_ms: u64) {
        match self.table.seen(contact.clone(), now_ms) {
            Seen::Added => self.on_new_contact(&contact, now_ms),
            Seen::Waiting { ping: Some(oldest) } => self.remember_first(oldest),
            Seen::Waiting { ping: None } | Seen::Updated | Seen::Own => {}
        }
    }

    pub(super) fn remember_first(&mut self, contact: Contact) {
        let asked = self.requests.values().any(|r| r.purpose == Purpose::Probe && r.to.id == contact.id);
        if !asked && !self.remembered.iter().any(|c| c.id == contact.id) {
            self.remembered.truncate(MAX_REMEMBERED - 1);
            self.remembered.push_front(contact);
        }
    }

    pub(super) fn on_new_contact(&mut self, contact: &Contact, now_ms: u64) {
        self.unanswered.clear();
        (self.retry_at, self.retry_wait_ms) = (None, RETRY_FIRST_MS);
        if self.table.len() <= K {
            self.join_at = Some(self.join_at.unwrap_or(u64::MAX).min(now_ms + JOIN_DELAY_MS));
        }
        let wanted = |record: &&Arc<Record>| {
            record.is_live(now_ms) && self.table.count_closer(&record.statement.key, &contact.key()) < K
        };
        let room = MAX_WAITING_PUSHES - self.waiting_pushes.len();
        let pushes: Vec<_> = self.own.current().filter(wanted).take(room).cloned().collect();
        self.waiting_pushes.extend(pushes.into_iter().map(|record| (contact.clone(), record)));
    }

    pub(super) fn retry_later(&mut self, contact: Contact, now_ms: u64) {
        if self.table.is_empty() && self.unanswered.len() < MAX_UNANSWERED {
            self.unanswered.push_back(contact);
            self.retry_at.get_or_insert(now_ms.saturating_add(self.retry_wait_ms));
        }
    }
}
