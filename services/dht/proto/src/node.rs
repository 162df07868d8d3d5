//! One node: table, store, lookups and own records tied together.
//!
//! Pure: the caller brings the time (ms since the Unix epoch, never going back), carries out each [`Action`] and
//! reports what came of it. After every call it polls actions until there are none and calls
//! [`Node::handle_timeout`] at [`Node::next_deadline`]. Nothing here survives a crash; what should is for the caller to
//! keep ([`Node::known_contacts`], the drafts and records it provides).

mod contacts;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use os_identity::NodeId;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::lookup::{Goal, Lookup, Outcome};
use crate::message::{MAX_RECORDS, Request, RequestBody, Response};
use crate::publication::{Publication, Published};
use crate::record::{Record, RecordError, SignatureCheck, Statement};
use crate::record_types::Draft;
use crate::republish::{OwnRecords, TooMany};
use crate::routing_table::RoutingTable;
use crate::store::{RecordStore, StoreLimits, StoreRefusal};
use crate::{Contact, Key};

/// A request that the caller reports nothing about counts as failed after this time.
pub const REQUEST_TIMEOUT_MS: u64 = 6000;
pub const REFRESH_MS: u64 = 3600 * 1000;
/// From a new contact in a small table to the lookup of our own place, so that contacts that come together are
/// one reason for it.
const JOIN_DELAY_MS: u64 = 500;
/// After one that met silence while we know few.
const JOIN_AGAIN_MS: u64 = 5000;
const MAX_ACTIVE_LOOKUPS: usize = 32;
const MAX_WAITING_LOOKUPS: usize = 1024;
const MAX_PROBES: usize = 4;
const MAX_REMEMBERED: usize = 256;
/// A node that knows nobody asks again whom it heard of: after this time, then ever more seldom.
const RETRY_FIRST_MS: u64 = 5000;
const RETRY_MAX_MS: u64 = 10 * 60 * 1000;
const MAX_UNANSWERED: usize = 32;
const MAX_PUSHES: usize = 4;
const MAX_WAITING_PUSHES: usize = 1024;

pub type RequestId = u64;
pub type LookupId = u64;

#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub store: StoreLimits,
    pub signature_check: SignatureCheck,
}

impl Default for Config {
    fn default() -> Self {
        Self { store: StoreLimits::default(), signature_check: Record::signature_holds }
    }
}

/// What the caller is to do.
#[derive(Debug)]
pub enum Action {
    /// Ask `to`, then call [`Node::on_response`] or [`Node::on_failure`].
    Send { id: RequestId, to: Contact, request: Request },
    /// A lookup that the caller started is done.
    Found { id: LookupId, outcome: Outcome },
    /// Sign this as the node, then call [`Node::on_signed`] or [`Node::on_not_signed`].
    Sign(Statement),
    /// A record of this node's went out to the nodes closest to its key.
    Published(Published),
}

/// Too many lookups are waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING_LOOKUPS} lookups are waiting already: try again later")]
pub struct Busy;

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    Invalid(#[from] RecordError),
    #[error(transparent)]
    Refused(#[from] StoreRefusal),
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

#[derive(Debug)]
pub struct Node {
    id: NodeId,
    addresses: Arc<[SocketAddr]>,
    config: Config,
    rng: Xoshiro256PlusPlus,
    table: RoutingTable,
    store: RecordStore,
    own: OwnRecords,
    actions: VecDeque<Action>,
    /// Ids count up and all wait equally long, so the first is the first to time out.
    requests: BTreeMap<RequestId, Outstanding>,
    lookups: BTreeMap<LookupId, (Lookup, User)>,
    waiting_lookups: VecDeque<(LookupId, Key, Goal, User)>,
    publications: BTreeMap<LookupId, Publication>,
    /// Contacts to ask for a sign of life.
    remembered: VecDeque<Contact>,
    probes: usize,
    /// Contacts that gave none while the table was empty.
    unanswered: VecDeque<Contact>,
    retry_at: Option<u64>,
    retry_wait_ms: u64,
    /// Own records for contacts that turned up close to their keys.
    waiting_pushes: VecDeque<(Contact, Arc<Record>)>,
    pushes: usize,
    next_id: u64,
    join_at: Option<u64>,
    joined: bool,
}

#[derive(Debug)]
struct Outstanding {
    to: Contact,
    purpose: Purpose,
    times_out_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Lookup(LookupId),
    Publication(LookupId),
    Push,
    Probe,
}

/// Whom a lookup is for.
#[derive(Debug)]
enum User {
    Caller,
    Join,
    Refresh,
    Publication(Arc<Record>),
}

impl Node {
    pub fn new(id: NodeId, config: Config, seed: u64) -> Self {
        Self {
            id,
            addresses: Arc::default(),
            config,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            table: RoutingTable::new(id),
            store: RecordStore::new(id, config.store),
            own: OwnRecords::default(),
            actions: VecDeque::new(),
            requests: BTreeMap::new(),
            lookups: BTreeMap::new(),
            waiting_lookups: VecDeque::new(),
            publications: BTreeMap::new(),
            remembered: VecDeque::new(),
            probes: 0,
            unanswered: VecDeque::new(),
            retry_at: None,
            retry_wait_ms: RETRY_FIRST_MS,
            waiting_pushes: VecDeque::new(),
            pushes: 0,
            next_id: 0,
            join_at: None,
            joined: false,
        }
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    pub fn store(&self) -> &RecordStore {
        &self.store
    }

    pub fn own_records(&self) -> &OwnRecords {
        &self.own
    }

    /// Contacts worth remembering across a restart, for [`Self::remember`].
    pub fn known_contacts(&self) -> impl Iterator<Item = &Contact> {
        self.table.entries().filter(|e| e.failures == 0).map(|e| &e.contact)
    }

    /// Where this node can be reached, told to whom it asks.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.addresses = Contact::new(self.id, addresses).addresses;
    }

    pub fn addresses(&self) -> &Arc<[SocketAddr]> {
        &self.addresses
    }

    /// Contacts that may be there: seeds, peers just connected, what was known before a restart. They come into the
    /// table once they answer.
    pub fn remember(&mut self, contacts: impl IntoIterator<Item = Contact>, now_ms: u64) {
        for contact in contacts {
            let known = self.remembered.iter().any(|c| c.id == contact.id);
            if contact.id != self.id && !known && self.remembered.len() < MAX_REMEMBERED {
                self.remembered.push_back(contact);
            }
        }
        self.pump(now_ms);
    }

    /// Answers `from`, as the transport authenticated it.
    pub fn handle_request(&mut self, from: NodeId, request: Request, now_ms: u64) -> Response {
        self.heard_from(Contact { id: from, addresses: request.sender_addresses }, now_ms);
        let response = match request.body {
            RequestBody::Ping => Response::Pong,
            RequestBody::FindNode { target } => Response::Nodes { contacts: self.closest_for(from, &target) },
            RequestBody::FindValue { key, record_type } => {
                let mut records = self.records_here(&key, record_type, now_ms);
                records.truncate(MAX_RECORDS);
                Response::Value { records, contacts: self.closest_for(from, &key) }
            }
            RequestBody::Store { record } => Response::Stored(self.keep(record, now_ms)),
        };
        self.pump(now_ms);
        response
    }

    /// Finds the nodes closest to `target`. Ends in [`Action::Found`].
    pub fn find_nodes(&mut self, target: Key, now_ms: u64) -> Result<LookupId, Busy> {
        self.start(target, Goal::Nodes, User::Caller, now_ms)
    }

    /// Finds records under `key`; `quorum` nodes that have some are enough, more find later versions and more signers.
    /// Ends in [`Action::Found`], whose records are valid as of now.
    pub fn find_records(
        &mut self,
        key: Key,
        record_type: Option<u8>,
        quorum: usize,
        now_ms: u64,
    ) -> Result<LookupId, Busy> {
        self.start(key, Goal::Records { record_type, quorum }, User::Caller, now_ms)
    }

    /// Signs and publishes `draft`, now and then each hour.
    pub fn provide(&mut self, draft: Draft, now_ms: u64) -> Result<(), TooMany> {
        self.own.provide(self.id, draft, now_ms)?;
        self.pump(now_ms);
        Ok(())
    }

    /// Stops providing what `farewell` has the key and type of, and publishes `farewell` in its place until the last
    /// copy must have expired. False if it was not provided.
    pub fn withdraw(&mut self, farewell: Draft, now_ms: u64) -> bool {
        self.store.forget(farewell.key, farewell.record_type, self.id);
        let known = self.own.withdraw(self.id, farewell, now_ms);
        self.pump(now_ms);
        known
    }

    /// Publishes a record signed elsewhere, now and then each hour until it expires.
    pub fn put(&mut self, record: Arc<Record>, now_ms: u64) -> Result<(), PutError> {
        record.verify_with(now_ms, self.config.signature_check)?;
        self.store.insert(record.clone())?;
        self.own.put(record, now_ms)?;
        self.pump(now_ms);
        Ok(())
    }

    pub fn on_signed(&mut self, record: Record, now_ms: u64) -> Result<(), RecordError> {
        record.verify_with(now_ms, self.config.signature_check)?;
        let record = Arc::new(record);
        if self.own.signed(record.clone()) {
            // A store that is full does not matter: own records are handed out anyway.
            let _ = self.store.insert(record.clone());
            self.publish(record);
        }
        self.pump(now_ms);
        Ok(())
    }

    pub fn on_not_signed(&mut self, statement: &Statement, now_ms: u64) {
        self.own.not_signed(statement, now_ms);
    }

    pub fn on_response(&mut self, id: RequestId, response: Response, now_ms: u64) {
        let Some(request) = self.requests.remove(&id) else { return };
        let fits = match (&request.purpose, &response) {
            (Purpose::Lookup(lookup), Response::Nodes { .. }) => self.lookup_goal(*lookup) != Some(true),
            (Purpose::Lookup(lookup), Response::Value { .. }) => self.lookup_goal(*lookup) != Some(false),
            (Purpose::Publication(_) | Purpose::Push, Response::Stored(_)) => true,
            (Purpose::Probe, Response::Pong) => true,
            _ => false,
        };
        if !fits {
            return self.request_failed(request, now_ms);
        }
        self.heard_from(request.to.clone(), now_ms);
        self.request_done(request, response, now_ms);
        self.pump(now_ms);
    }

    /// The request could not be sent, or was not answered, or not with a response.
    pub fn on_failure(&mut self, id: RequestId, now_ms: u64) {
        if let Some(request) = self.requests.remove(&id) {
            self.request_failed(request, now_ms);
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`] if nothing else happens; `None` while there is nothing to wait for.
    pub fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        let request = self.requests.values().next().map(|r| r.times_out_ms);
        let lookup = self.lookups.values().map(|(lookup, _)| lookup.wake_at(now_ms)).min();
        // With the queue full a finished lookup brings the next own record up.
        let own = self.own.next_deadline().filter(|_| self.has_room());
        let refresh = self.table.stalest_bucket().map(|(_, at)| at.saturating_add(REFRESH_MS));
        let refresh = refresh.filter(|_| self.has_room());
        let (join, retry, expiry) = (self.join_at, self.retry_at, self.store.next_expiry());
        [request, lookup, own, refresh, join, retry, expiry].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now_ms: u64) {
        while let Some(first) = self.requests.first_entry().filter(|r| r.get().times_out_ms <= now_ms) {
            let request = first.remove();
            self.request_failed(request, now_ms);
        }
        self.store.expire(now_ms);
        self.pump(now_ms);
    }
}
