//! The node's work: lookups, publications, refreshes and probes, each started when due and moved on by answers.

use std::sync::Arc;

use rand::Rng;

use super::{
    Action, Busy, JOIN_AGAIN_MS, JOIN_DELAY_MS, LookupId, MAX_ACTIVE_LOOKUPS, MAX_PROBES, MAX_PUSHES,
    MAX_WAITING_LOOKUPS, Node, Outstanding, Purpose, REFRESH_MS, REQUEST_TIMEOUT_MS, RETRY_MAX_MS, User,
};
use crate::lookup::{Goal, Lookup, Outcome};
use crate::message::{Request, RequestBody, Response};
use crate::publication::Publication;
use crate::record::{Record, SignatureCheck};
use crate::republish::{Due, spread};
use crate::routing_table::K;
use crate::{Contact, Key};

impl Node {
    pub(super) fn start(
        &mut self,
        target: Key,
        goal: Goal,
        user: User,
        now_ms: u64,
    ) -> Result<LookupId, Busy> {
        if !self.has_room() {
            return Err(Busy);
        }
        let id = self.take_id();
        self.waiting_lookups.push_back((id, target, goal, user));
        self.pump(now_ms);
        Ok(id)
    }

    pub(super) fn enqueue(&mut self, target: Key, user: User) {
        let id = self.take_id();
        self.waiting_lookups.push_back((id, target, Goal::Nodes, user));
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting_lookups.len() < MAX_WAITING_LOOKUPS
    }

    pub(super) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn publish(&mut self, record: Arc<Record>) {
        self.enqueue(record.statement.key, User::Publication(record));
    }

    /// Does everything that can be done now.
    pub(super) fn pump(&mut self, now_ms: u64) {
        self.pump_schedule(now_ms);
        loop {
            self.pump_new_lookups(now_ms);
            if !self.pump_lookups(now_ms) {
                break;
            }
        }
        self.pump_publications(now_ms);
        self.pump_pushes(now_ms);
        self.pump_probes(now_ms);
    }

    pub(super) fn pump_schedule(&mut self, now_ms: u64) {
        if self.join_at.is_some_and(|at| at <= now_ms) {
            self.join_at = Some(now_ms + spread(REFRESH_MS, &mut self.rng));
            self.enqueue(Key::from(self.id), User::Join);
        }
        if self.retry_at.is_some_and(|at| at <= now_ms) {
            self.retry_at = None;
            self.retry_wait_ms = (self.retry_wait_ms * 2).min(RETRY_MAX_MS);
            self.remembered.append(&mut self.unanswered);
        }
        while let Some((index, at)) = self.table.stalest_bucket() {
            if at.saturating_add(REFRESH_MS) > now_ms || !self.has_room() {
                break;
            }
            self.refresh(index, now_ms);
        }
        while self.has_room() {
            match self.own.next_due(now_ms, &mut self.rng) {
                Some(Due::Sign(statement)) => self.actions.push_back(Action::Sign(statement)),
                Some(Due::Publish(record)) => self.publish(record),
                None => break,
            }
        }
    }

    pub(super) fn refresh(&mut self, bucket: u8, now_ms: u64) {
        let mut noise = [0; 32];
        self.rng.fill_bytes(&mut noise);
        let target = Key::from(self.id).in_bucket(bucket, noise);
        // Some early, so that the buckets of one node, and nodes that started together, drift apart.
        let jitter = REFRESH_MS - spread(REFRESH_MS, &mut self.rng);
        self.table.refreshed(&target, now_ms.saturating_sub(jitter));
        self.enqueue(target, User::Refresh);
    }

    pub(super) fn pump_new_lookups(&mut self, now_ms: u64) {
        while self.lookups.len() < MAX_ACTIVE_LOOKUPS {
            let Some((id, target, goal, user)) = self.waiting_lookups.pop_front() else { return };
            if !matches!(user, User::Refresh) {
                self.table.refreshed(&target, now_ms);
            }
            let known = self.table.closest_of_all(&target, K);
            let mut lookup = Lookup::new(target, self.id, goal, known, now_ms);
            if let Goal::Records { record_type, .. } = goal {
                lookup.keep(self.records_here(&target, record_type, now_ms));
            }
            self.lookups.insert(id, (lookup, user));
        }
    }

    /// Sends what lookups want to send. True if one ended.
    pub(super) fn pump_lookups(&mut self, now_ms: u64) -> bool {
        let ids: Vec<LookupId> = self.lookups.keys().copied().collect();
        let mut ended = false;
        for id in ids {
            while let Some((lookup, _)) = self.lookups.get_mut(&id) {
                let (target, goal) = (lookup.target(), lookup.goal());
                let Some(to) = lookup.next_request(now_ms) else { break };
                let body = match goal {
                    Goal::Nodes => RequestBody::FindNode { target },
                    Goal::Records { record_type, .. } => RequestBody::FindValue { key: target, record_type },
                };
                self.send(to, body, Purpose::Lookup(id), now_ms);
            }
            if self.lookups.get(&id).is_some_and(|(lookup, _)| lookup.is_finished(now_ms)) {
                self.end_lookup(id, now_ms);
                ended = true;
            }
        }
        ended
    }

    pub(super) fn end_lookup(&mut self, id: LookupId, now_ms: u64) {
        let Some((lookup, user)) = self.lookups.remove(&id) else { return };
        let outcome = lookup.into_outcome(now_ms);
        match user {
            User::Caller => self.actions.push_back(Action::Found { id, outcome }),
            User::Publication(record) => {
                self.publications.insert(id, Publication::new(record, outcome.closest));
            }
            User::Join => self.after_join(&outcome, now_ms),
            User::Refresh => {}
        }
    }

    /// Our neighbours are known now. The first time the farther buckets get filled too, unless the table holds all
    /// there is, and own records go where they belong.
    pub(super) fn after_join(&mut self, outcome: &Outcome, now_ms: u64) {
        if outcome.failures > 0 && self.table.len() < K {
            // Ends: whoever does not answer leaves the table.
            self.join_at = Some(now_ms + JOIN_AGAIN_MS);
        }
        if self.joined || outcome.closest.is_empty() {
            return;
        }
        self.joined = true;
        if self.table.len() >= K {
            let nearest = self.table.bucket_indexes().next().unwrap_or(u8::MAX);
            (nearest..=u8::MAX).skip(1).for_each(|index| self.refresh(index, now_ms));
        }
        self.own.all_due(now_ms + JOIN_DELAY_MS);
    }

    pub(super) fn pump_publications(&mut self, now_ms: u64) {
        let ids: Vec<LookupId> = self.publications.keys().copied().collect();
        for id in ids {
            while let Some(publication) = self.publications.get_mut(&id) {
                let Some(to) = publication.next_request() else { break };
                let record = publication.record().clone();
                self.send(to, RequestBody::Store { record }, Purpose::Publication(id), now_ms);
            }
            if self.publications.get(&id).is_some_and(Publication::is_finished)
                && let Some(publication) = self.publications.remove(&id)
            {
                self.actions.push_back(Action::Published(publication.into_result()));
            }
        }
    }

    pub(super) fn pump_pushes(&mut self, now_ms: u64) {
        while self.pushes < MAX_PUSHES {
            let Some((to, record)) = self.waiting_pushes.pop_front() else { return };
            self.pushes += 1;
            self.send(to, RequestBody::Store { record }, Purpose::Push, now_ms);
        }
    }

    pub(super) fn pump_probes(&mut self, now_ms: u64) {
        while self.probes < MAX_PROBES {
            let Some(to) = self.remembered.pop_front() else { return };
            self.probes += 1;
            self.send(to, RequestBody::Ping, Purpose::Probe, now_ms);
        }
    }

    pub(super) fn send(&mut self, to: Contact, body: RequestBody, purpose: Purpose, now_ms: u64) {
        let id = self.take_id();
        let times_out_ms = now_ms.saturating_add(REQUEST_TIMEOUT_MS);
        self.requests.insert(id, Outstanding { to: to.clone(), purpose, times_out_ms });
        let request = Request { sender_addresses: self.addresses.clone(), body };
        self.actions.push_back(Action::Send { id, to, request });
    }

    /// Whether the lookup wants records; `None` if it is over.
    pub(super) fn lookup_goal(&self, id: LookupId) -> Option<bool> {
        self.lookups.get(&id).map(|(lookup, _)| matches!(lookup.goal(), Goal::Records { .. }))
    }

    pub(super) fn request_done(&mut self, request: Outstanding, response: Response, now_ms: u64) {
        let from = request.to.id;
        match (request.purpose, response) {
            (Purpose::Lookup(id), Response::Nodes { contacts }) => {
                if let Some((lookup, _)) = self.lookups.get_mut(&id) {
                    lookup.on_contacts(&from, contacts);
                }
            }
            (Purpose::Lookup(id), Response::Value { records, contacts }) => {
                let check = self.config.signature_check;
                if let Some((lookup, _)) = self.lookups.get_mut(&id) {
                    let valid = valid_answers(lookup, records, check, now_ms);
                    lookup.on_records(&from, valid);
                    lookup.on_contacts(&from, contacts);
                }
            }
            (Purpose::Publication(id), Response::Stored(stored)) => {
                if let Some(publication) = self.publications.get_mut(&id) {
                    publication.on_answer(stored);
                }
            }
            (Purpose::Push, _) => self.pushes -= 1,
            (Purpose::Probe, _) => self.probes -= 1,
            _ => {}
        }
    }

    pub(super) fn request_failed(&mut self, request: Outstanding, now_ms: u64) {
        let id = request.to.id;
        self.table.failed(&id, now_ms);
        match request.purpose {
            Purpose::Lookup(lookup) => {
                if let Some((lookup, _)) = self.lookups.get_mut(&lookup) {
                    lookup.on_failure(&id);
                }
            }
            Purpose::Publication(publication) => {
                if let Some(publication) = self.publications.get_mut(&publication) {
                    publication.on_failure();
                }
            }
            Purpose::Push => self.pushes -= 1,
            Purpose::Probe => {
                self.probes -= 1;
                self.retry_later(request.to, now_ms);
            }
        }
        self.pump(now_ms);
    }
}

/// Records that were asked for and hold. A record that does not is left out, its messenger may have been deceived.
fn valid_answers(
    lookup: &Lookup,
    records: Vec<Arc<Record>>,
    signature_check: SignatureCheck,
    now_ms: u64,
) -> Vec<Arc<Record>> {
    let Goal::Records { record_type, .. } = lookup.goal() else { return Vec::new() };
    let asked_for = |r: &Arc<Record>| {
        r.statement.key == lookup.target() && record_type.is_none_or(|t| r.statement.record_type == t)
    };
    let valid = |r: &Arc<Record>| asked_for(r) && r.verify_with(now_ms, signature_check).is_ok();
    records.into_iter().filter(valid).collect()
}
