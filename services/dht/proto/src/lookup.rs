//! One iterative lookup: asks ever closer nodes until the `K` closest that answer have been asked, or enough of them
//! had the records.
//!
//! The nodes to start with are dealt out to [`PATHS`] paths; whom an answer names belongs to the path of the answerer,
//! and nobody is asked twice (S/Kademlia, Baumgart and Mies 2007, section 4.2). A liar therefore spoils one path. Each
//! path walks towards the target by itself; requests that no path can use fill up the `K` closest overall.

use std::collections::BTreeMap;
use std::sync::Arc;

use os_identity::NodeId;

use crate::record::Record;
use crate::routing_table::K;
use crate::{Contact, Distance, Key};

/// Requests in flight.
pub const ALPHA: usize = 3;
/// Disjoint paths.
pub const PATHS: usize = 3;
/// A request unanswered for this long no longer holds up the next one; a late answer still counts.
pub const STALL_MS: u64 = 1000;
/// A lookup ends after this time with what it has.
pub const LOOKUP_MAX_MS: u64 = 30_000;
/// How many of its closest nodes a path asks by itself.
const PATH_WIDTH: usize = K.div_ceil(PATHS);
/// Per path that many requests are in flight.
const PATH_ALPHA: usize = ALPHA / PATHS;
const MAX_CANDIDATES: usize = 256;
const MAX_FOUND: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The closest nodes.
    Nodes,
    /// Records under the target; done once `quorum` nodes had some.
    Records { record_type: Option<u8>, quorum: usize },
}

/// What a lookup found and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub target: Key,
    /// Nodes that answered, closest first, at most `K`.
    pub closest: Vec<Contact>,
    /// The winning record of each signer and type.
    pub records: Vec<Arc<Record>>,
    /// Requests in a row from here to the first record, or to the closest node; 0 if nobody was asked.
    pub hops: u16,
    pub requests: u32,
    /// Requests without an answer.
    pub failures: u32,
    pub elapsed_ms: u64,
    /// False if time ran out first.
    pub complete: bool,
}

#[derive(Debug)]
pub struct Lookup {
    target: Key,
    own: NodeId,
    goal: Goal,
    candidates: BTreeMap<Distance, Candidate>,
    records: BTreeMap<(u8, NodeId), Arc<Record>>,
    started_ms: u64,
    requests: u32,
    failures: u32,
    holders: usize,
    hops_to_record: Option<u16>,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    path: usize,
    /// 1 for whom we knew at the start.
    depth: u16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked { at_ms: u64 },
    Answered,
    Failed,
}

impl Lookup {
    /// `known`: whom to start with, closest first.
    pub fn new(target: Key, own: NodeId, goal: Goal, known: Vec<Contact>, now_ms: u64) -> Self {
        let mut lookup = Lookup {
            target,
            own,
            goal,
            candidates: BTreeMap::new(),
            records: BTreeMap::new(),
            started_ms: now_ms,
            requests: 0,
            failures: 0,
            holders: 0,
            hops_to_record: None,
        };
        known.into_iter().enumerate().for_each(|(n, contact)| lookup.add(contact, n % PATHS, 1));
        lookup
    }

    pub fn target(&self) -> Key {
        self.target
    }

    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The next node to ask, to be called until it gives `None`.
    pub fn next_request(&mut self, now_ms: u64) -> Option<Contact> {
        if self.is_finished(now_ms) || self.active(now_ms, None) >= ALPHA {
            return None;
        }
        let free = |path: &usize| self.active(now_ms, Some(*path)) < PATH_ALPHA;
        let on_path = (0..PATHS).filter(free).find_map(|path| self.new_among(Some(path), PATH_WIDTH));
        let distance = on_path.or_else(|| self.new_among(None, K))?;
        let candidate = self.candidates.get_mut(&distance)?;
        candidate.state = State::Asked { at_ms: now_ms };
        self.requests += 1;
        Some(candidate.contact.clone())
    }

    /// `from` answered with whom it knows closer. Names that are already known stay with their path.
    pub fn on_contacts(&mut self, from: &NodeId, contacts: Vec<Contact>) {
        let Some((path, depth)) = self.settle(from, State::Answered) else { return };
        contacts.into_iter().take(K).for_each(|contact| self.add(contact, path, depth.saturating_add(1)));
    }

    /// `from` had these records, all of them verified. To be called before [`Self::on_contacts`].
    pub fn on_records(&mut self, from: &NodeId, records: impl IntoIterator<Item = Arc<Record>>) {
        let Some(candidate) = self.candidates.get(&self.distance_of(from)) else { return };
        if !matches!(candidate.state, State::Asked { .. }) {
            return;
        }
        let depth = candidate.depth;
        if self.keep(records) > 0 {
            self.holders += 1;
            self.hops_to_record.get_or_insert(depth);
        }
    }

    /// Records that this node has itself; they do not count towards the quorum.
    pub fn keep(&mut self, records: impl IntoIterator<Item = Arc<Record>>) -> usize {
        let mut kept = 0;
        for record in records {
            let slot = (record.statement.record_type, record.statement.signer);
            let newer = self.records.get(&slot).is_none_or(|known| record.precedence(known).is_gt());
            if newer && (self.records.len() < MAX_FOUND || self.records.contains_key(&slot)) {
                self.records.insert(slot, record);
            }
            kept += 1;
        }
        kept
    }

    pub fn on_failure(&mut self, from: &NodeId) {
        if self.settle(from, State::Failed).is_some() {
            self.failures += 1;
        }
    }

    pub fn is_finished(&self, now_ms: u64) -> bool {
        let satisfied = match self.goal {
            Goal::Records { quorum, .. } => self.holders >= quorum,
            Goal::Nodes => false,
        };
        satisfied || self.is_complete() || now_ms >= self.ends_at()
    }

    /// When to look again although nothing was heard: a request stalls or time is up.
    pub fn wake_at(&self, now_ms: u64) -> u64 {
        let stalls = self.candidates.values().filter_map(|c| match c.state {
            State::Asked { at_ms } => Some(at_ms.saturating_add(STALL_MS)).filter(|at| *at > now_ms),
            _ => None,
        });
        stalls.min().unwrap_or(u64::MAX).min(self.ends_at())
    }

    pub fn into_outcome(self, now_ms: u64) -> Outcome {
        let complete = self.is_complete() || now_ms < self.ends_at();
        let answered = || self.candidates.values().filter(|c| c.state == State::Answered);
        let hops_to_closest = answered().next().map_or(0, |c| c.depth);
        Outcome {
            target: self.target,
            closest: answered().take(K).map(|c| c.contact.clone()).collect(),
            hops: self.hops_to_record.unwrap_or(hops_to_closest),
            requests: self.requests,
            failures: self.failures,
            elapsed_ms: now_ms.saturating_sub(self.started_ms),
            complete,
            records: self.records.into_values().collect(),
        }
    }

    fn ends_at(&self) -> u64 {
        self.started_ms.saturating_add(LOOKUP_MAX_MS)
    }

    /// The `K` closest that did not fail have all answered.
    fn is_complete(&self) -> bool {
        let alive = self.candidates.values().filter(|c| c.state != State::Failed);
        alive.take(K).all(|c| c.state == State::Answered)
    }

    /// The closest not yet asked among the `width` closest, of one path or overall, that have not failed.
    fn new_among(&self, path: Option<usize>, width: usize) -> Option<Distance> {
        let of_path = |c: &Candidate| path.is_none_or(|p| c.path == p);
        let alive = self.candidates.iter().filter(|(_, c)| of_path(c) && c.state != State::Failed);
        alive.take(width).find(|(_, c)| c.state == State::New).map(|(distance, _)| *distance)
    }

    fn active(&self, now_ms: u64, path: Option<usize>) -> usize {
        let active = |c: &&Candidate| match c.state {
            State::Asked { at_ms } => now_ms < at_ms.saturating_add(STALL_MS),
            _ => false,
        };
        self.candidates.values().filter(|c| path.is_none_or(|p| c.path == p)).filter(active).count()
    }

    fn settle(&mut self, from: &NodeId, state: State) -> Option<(usize, u16)> {
        let distance = self.distance_of(from);
        let candidate = self.candidates.get_mut(&distance)?;
        if !matches!(candidate.state, State::Asked { .. }) {
            return None;
        }
        candidate.state = state;
        Some((candidate.path, candidate.depth))
    }

    fn add(&mut self, contact: Contact, path: usize, depth: u16) {
        let distance = self.distance_of(&contact.id);
        if contact.id == self.own || self.candidates.contains_key(&distance) {
            return;
        }
        self.candidates.insert(distance, Candidate { contact, path, depth, state: State::New });
        if self.candidates.len() > MAX_CANDIDATES {
            self.candidates.pop_last();
        }
    }

    fn distance_of(&self, id: &NodeId) -> Distance {
        Key::from(*id).distance(&self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{TYPE, sign, signer};

    const OWN: NodeId = NodeId::from_bytes([0xee; 32]);
    const RECORDS: Goal = Goal::Records { record_type: Some(TYPE), quorum: 2 };

    /// A contact at distance `n` from the target of zeros.
    fn at(n: u8) -> Contact {
        Contact::new(NodeId::from_bytes([n; 32]), [])
    }

    fn lookup(goal: Goal, known: impl IntoIterator<Item = u8>) -> Lookup {
        Lookup::new(Key::from_bytes([0; 32]), OWN, goal, known.into_iter().map(at).collect(), 0)
    }

    fn asked(lookup: &mut Lookup, now_ms: u64) -> Vec<u8> {
        std::iter::from_fn(|| lookup.next_request(now_ms)).map(|c| c.id.as_bytes()[0]).collect()
    }

    #[test]
    fn nobody_to_ask_is_an_empty_answer() {
        let mut lookup = lookup(Goal::Nodes, []);
        assert_eq!(lookup.next_request(0), None);
        assert!(lookup.is_finished(0));
        let outcome = lookup.into_outcome(0);
        assert!(outcome.closest.is_empty() && outcome.complete && outcome.hops == 0);
    }

    #[test]
    fn walks_closer_with_three_requests_in_flight() {
        let mut lookup = lookup(Goal::Nodes, [100, 110, 120, 130]);
        assert_eq!(asked(&mut lookup, 0), [100, 110, 120]);
        lookup.on_contacts(&at(110).id, vec![at(10), at(100), Contact::new(OWN, [])]);
        assert_eq!(asked(&mut lookup, 0), [10]);
        lookup.on_contacts(&at(10).id, vec![]);
        lookup.on_failure(&at(100).id);
        assert_eq!(asked(&mut lookup, 0), [130]);
        for n in [120, 130] {
            lookup.on_contacts(&at(n).id, vec![at(10)]);
        }
        assert!(lookup.is_finished(0));
        let outcome = lookup.into_outcome(7);
        let closest: Vec<u8> = outcome.closest.iter().map(|c| c.id.as_bytes()[0]).collect();
        assert_eq!(closest, [10, 110, 120, 130]);
        assert_eq!((outcome.requests, outcome.failures, outcome.hops, outcome.elapsed_ms), (5, 1, 2, 7));
    }

    #[test]
    fn a_liar_spoils_one_path_only() {
        let mut lookup = lookup(Goal::Nodes, [200, 210, 220]);
        assert_eq!(asked(&mut lookup, 0), [200, 210, 220]);
        lookup.on_contacts(&at(200).id, (1..=20).map(at).collect());
        lookup.on_contacts(&at(210).id, vec![at(100)]);
        lookup.on_contacts(&at(220).id, vec![at(110)]);
        let next = asked(&mut lookup, 0);
        assert_eq!(next, [1, 100, 110], "the other paths go their own way");
    }

    #[test]
    fn a_silent_node_does_not_hold_up_the_others() {
        let mut lookup = lookup(Goal::Nodes, 1..=6);
        assert_eq!(asked(&mut lookup, 0), [1, 2, 3]);
        assert!(asked(&mut lookup, STALL_MS - 1).is_empty());
        assert_eq!(lookup.wake_at(0), STALL_MS);
        assert_eq!(asked(&mut lookup, STALL_MS), [4, 5, 6]);
        assert_eq!(lookup.wake_at(STALL_MS), 2 * STALL_MS);
        (2..=6).for_each(|n| lookup.on_contacts(&at(n).id, vec![]));
        assert!(!lookup.is_finished(STALL_MS));
        assert_eq!(lookup.wake_at(STALL_MS), LOOKUP_MAX_MS);
        assert!(lookup.is_finished(LOOKUP_MAX_MS));
        assert!(!lookup.into_outcome(LOOKUP_MAX_MS).complete);
    }

    #[test]
    fn collects_the_newest_record_of_every_signer() {
        let mut lookup = lookup(RECORDS, 1..=6);
        let record = |by, version| Arc::new(sign(&signer(by), |s| s.version = version));
        asked(&mut lookup, 0);
        lookup.keep([record(1, 1)]);
        lookup.on_records(&at(1).id, [record(1, 2), record(2, 1)]);
        lookup.on_contacts(&at(1).id, vec![]);
        lookup.on_records(&at(1).id, [record(3, 1)]);
        lookup.on_records(&at(2).id, []);
        assert!(!lookup.is_finished(0), "an empty answer is nobody's record");
        lookup.on_records(&at(3).id, [record(1, 1)]);
        assert!(lookup.is_finished(0));
        assert_eq!(lookup.next_request(0), None);
        let outcome = lookup.into_outcome(0);
        let mut found: Vec<(u64, NodeId)> =
            outcome.records.iter().map(|r| (r.statement.version, r.statement.signer)).collect();
        found.sort();
        assert_eq!(found, [(1, signer(2).node_id()), (2, signer(1).node_id())]);
    }

    #[test]
    fn unasked_answers_and_floods_change_nothing() {
        let mut lookup = lookup(Goal::Nodes, [1]);
        lookup.on_contacts(&at(1).id, vec![at(2)]);
        lookup.on_contacts(&at(9).id, vec![at(3)]);
        assert_eq!(lookup.candidates.len(), 1);
        for n in 0..=u8::MAX {
            let mut id = [n; 32];
            for m in 0..4 {
                id[31] = m;
                lookup.add(Contact::new(NodeId::from_bytes(id), []), 0, 1);
            }
        }
        assert_eq!(lookup.candidates.len(), MAX_CANDIDATES);
    }
}
