//! The one task that owns the node: brings it events and the time, carries out what it wants done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dht_proto::record_types::{NodeAddress, Provider, revocation_draft};
use dht_proto::{
    Action, Config, Contact, Key, LookupId, Node, Outcome, Published, PutError, Record, RequestId, Response,
    Statement, StoreRefusal,
};
use os_content_id::Mcid;
use os_identity::{NodeId, Signature};
use os_ucan::revocation::Revocation;
use services_api::bus::Link;
use services_api::control::protocol;
use services_api::daemon;
use services_api::identity::IdentityProxy;
use services_api::mesh::{Incoming, MeshEvent, Streams};
use services_api::report::DhtReport;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::{Clock, Now};
use crate::contact_cache::ContactCache;
use crate::exchange::{self, Surroundings};
use crate::handle::{Command, Handle, Reply, Table};
use crate::own_records::{McidBytes, OwnFile};
use crate::owner;
use crate::revoked::RevokedFile;

/// Commands waiting to be taken.
const MAX_COMMANDS: usize = 64;
/// Peers' and the owner's streams answered at once; more are closed unanswered.
const MAX_INCOMING: usize = 64;
/// From a change in the table to its snapshot.
const SAVE_AFTER_MS: u64 = 5 * 60 * 1000;
/// Records of clients; a node of its own has room for more than these (`dht_proto::MAX_OWN_RECORDS`).
const MAX_CARRIED: usize = 256;
/// Records in one answer.
const MAX_HELD: usize = 256;
/// Nodes whose addresses mesh is known to have.
const MAX_TAUGHT: usize = 1024;
/// The longest sleep: a clock that was set is noticed within this time.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// What a driver is made of.
pub struct Parts {
    pub node_id: NodeId,
    pub own: OwnFile,
    pub revoked: RevokedFile,
    pub cache: ContactCache,
    pub streams: Streams,
    pub identity: Arc<Link>,
}

pub struct Driver {
    parts: Parts,
    node: Node,
    clock: Clock,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    done: mpsc::UnboundedSender<Done>,
    /// Not bounded by itself: the node bounds how much is under way.
    finished: mpsc::UnboundedReceiver<Done>,
    lookups: BTreeMap<LookupId, Reply<Result<Outcome>>>,
    puts: Vec<(Arc<Record>, Reply<Result<u32>>)>,
    /// Clients' records and when they expire.
    carried: BTreeMap<(Key, u8, NodeId), u64>,
    /// Addresses that mesh has been told.
    taught: BTreeMap<NodeId, Arc<[SocketAddr]>>,
    incoming: Arc<Semaphore>,
    looking_around: bool,
    look_again: bool,
    /// Through which others may reach this node.
    relays: Vec<Contact>,
    /// Some of what was promised could not be published.
    promises_open: bool,
    save_at_ms: Option<u64>,
    contacts_told: Option<usize>,
}

/// Work that went on beside the driver.
enum Done {
    Asked { id: RequestId, result: Result<Response> },
    Signed { statement: Statement, result: Result<Signature> },
    LookedAround(Result<Surroundings>),
}

impl Driver {
    pub fn new(parts: Parts) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let (done, finished) = mpsc::unbounded_channel();
        let handle = Handle::new(parts.node_id, sender);
        let driver = Driver {
            node: fresh_node(parts.node_id),
            parts,
            clock: Clock::default(),
            handle: handle.clone(),
            commands,
            done,
            finished,
            lookups: BTreeMap::new(),
            puts: Vec::new(),
            carried: BTreeMap::new(),
            taught: BTreeMap::new(),
            incoming: Arc::new(Semaphore::new(MAX_INCOMING)),
            looking_around: false,
            look_again: false,
            relays: Vec::new(),
            promises_open: false,
            save_at_ms: None,
            contacts_told: None,
        };
        (driver, handle)
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, mut mesh: mpsc::Receiver<MeshEvent>) -> Result<()> {
        let mut stop = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let now_ms = self.now();
        let remembered = self.parts.cache.load();
        self.promise_again(now_ms);
        self.node.remember(remembered, now_ms);
        loop {
            self.act();
            let sleep = tokio::time::sleep(self.sleep_time());
            tokio::select! {
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(done) = self.finished.recv() => self.on_done(done),
                Some(event) = mesh.recv() => self.on_mesh(event),
                () = sleep => self.on_time(),
                _ = stop.recv() => {
                    self.parts.cache.save(self.node.known_contacts());
                    return Ok(());
                }
            }
        }
    }

    fn now(&mut self) -> u64 {
        match self.clock.now() {
            Now::Ms(now_ms) => now_ms,
            Now::SetBack(now_ms) => {
                tracing::warn!("the clock was set back: starting anew from what is known");
                self.start_anew(now_ms);
                now_ms
            }
        }
    }

    /// All times that the node reckoned with are void. Waiting callers are told that their call was given up.
    fn start_anew(&mut self, now_ms: u64) {
        let contacts: Vec<Contact> = self.node.known_contacts().cloned().collect();
        let addresses = self.node.addresses().clone();
        self.node = fresh_node(self.parts.node_id);
        self.node.set_addresses(addresses.iter().copied());
        self.lookups.clear();
        self.puts.clear();
        self.save_at_ms = None;
        self.promise_again(now_ms);
        self.node.remember(contacts, now_ms);
    }

    fn sleep_time(&mut self) -> Duration {
        let now_ms = self.now();
        let deadline = [self.node.next_deadline(now_ms), self.save_at_ms].into_iter().flatten().min();
        let wait = deadline.map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        wait.unwrap_or(MAX_SLEEP).min(MAX_SLEEP)
    }

    fn on_time(&mut self) {
        let now_ms = self.now();
        if self.save_at_ms.is_some_and(|at| at <= now_ms) {
            self.save_at_ms = None;
            self.parts.cache.save(self.node.known_contacts());
        }
        self.node.handle_timeout(now_ms);
    }

    /// Carries out what the node wants done.
    fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Send { id, to, request } => self.ask(id, to, request),
                Action::Sign(statement) => self.sign(statement),
                Action::Found { id, outcome } => {
                    if let Some(reply) = self.lookups.remove(&id) {
                        let _ = reply.send(Ok(outcome));
                    }
                }
                Action::Published(published) => self.on_published(published),
            }
        }
        let contacts = self.node.table().len();
        if self.contacts_told != Some(contacts) {
            self.contacts_told = Some(contacts);
            daemon::status(&format!("{contacts} contacts"));
        }
    }

    fn ask(&mut self, id: RequestId, to: Contact, request: dht_proto::Request) {
        let teach = !to.addresses.is_empty() && self.taught.get(&to.id) != Some(&to.addresses);
        if teach {
            if self.taught.len() >= MAX_TAUGHT {
                self.taught.clear();
            }
            self.taught.insert(to.id, to.addresses.clone());
        }
        let (streams, done) = (self.parts.streams.clone(), self.done.clone());
        tokio::spawn(async move {
            let result = async {
                if teach {
                    exchange::teach(&streams, &to).await?;
                }
                exchange::ask(streams, to, request).await
            };
            let _ = done.send(Done::Asked { id, result: result.await });
        });
    }

    fn sign(&mut self, statement: Statement) {
        let (identity, done) = (self.parts.identity.clone(), self.done.clone());
        tokio::spawn(async move {
            let result = signature(&identity, &statement).await;
            let _ = done.send(Done::Signed { statement, result });
        });
    }

    fn on_published(&mut self, published: Published) {
        let (stored, refused, silent) = (published.stored, published.refused, published.silent);
        let key = published.record.statement.key;
        let reason = published.reason.unwrap_or_default();
        tracing::debug!("record {key}: stored by {stored}, refused by {refused}, {silent} silent {reason}");
        let waiting = std::mem::take(&mut self.puts);
        for (record, reply) in waiting {
            if record == published.record {
                let _ = reply.send(match (stored, refused) {
                    (0, 1..) => Err(anyhow!("all {refused} nodes asked refused the record: {reason}")),
                    _ => Ok(stored),
                });
            } else {
                self.puts.push((record, reply));
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        let now_ms = self.now();
        match done {
            Done::Asked { id, result: Ok(response) } => {
                self.node.on_response(id, response, now_ms);
                self.save_at_ms.get_or_insert(now_ms + SAVE_AFTER_MS);
            }
            Done::Asked { id, result: Err(e) } => {
                tracing::debug!("request {id}: {e:#}");
                self.node.on_failure(id, now_ms);
            }
            Done::Signed { statement, result } => self.on_signed(statement, result, now_ms),
            Done::LookedAround(result) => self.on_looked_around(result, now_ms),
        }
    }

    fn on_signed(&mut self, statement: Statement, result: Result<Signature>, now_ms: u64) {
        let taken = result
            .and_then(|signature| Ok(self.node.on_signed(statement.clone().signed(signature), now_ms)?));
        if let Err(e) = taken {
            tracing::warn!("a record could not be signed, trying again: {e:#}");
            self.node.on_not_signed(&statement, now_ms);
        }
    }

    fn on_mesh(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Stream(incoming) => self.on_stream(incoming),
            MeshEvent::Connected => {
                self.taught.clear();
                self.tell_revoked(self.parts.revoked.iter().map(Revocation::to_bytes).collect());
                self.look_around();
            }
            MeshEvent::PeerUp(_) => self.look_around(),
            // Whether it is gone is for requests to find out: mesh connects again when it can.
            MeshEvent::PeerDown(_) => {}
        }
    }

    fn on_stream(&mut self, incoming: Incoming) {
        let Ok(permit) = self.incoming.clone().try_acquire_owned() else {
            return tracing::debug!("too many streams at once: one of {} is closed", incoming.peer);
        };
        let (handle, peer) = (self.handle.clone(), incoming.peer);
        tokio::spawn(async move {
            let served = match incoming.protocol.as_str() {
                protocol::DHT => owner::serve(handle, incoming).await,
                _ => exchange::answer(handle, incoming).await,
            };
            if let Err(e) = served {
                tracing::debug!("stream of {peer}: {e:#}");
            }
            drop(permit);
        });
    }

    /// Peers that come up together are one reason to look.
    fn look_around(&mut self) {
        if self.looking_around {
            self.look_again = true;
            return;
        }
        self.looking_around = true;
        let (streams, done) = (self.parts.streams.clone(), self.done.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = done.send(Done::LookedAround(exchange::look_around(streams).await));
        });
    }

    fn on_looked_around(&mut self, result: Result<Surroundings>, now_ms: u64) {
        self.looking_around = false;
        if std::mem::take(&mut self.look_again) {
            self.look_around();
        }
        let surroundings = match result {
            Ok(surroundings) => surroundings,
            Err(e) => return tracing::warn!("cannot ask mesh who is there: {e:#}"),
        };
        let before = self.node.addresses().clone();
        self.node.set_addresses(surroundings.addresses);
        let relays = std::mem::replace(&mut self.relays, surroundings.relays);
        if *self.node.addresses() != before || self.relays != relays || self.promises_open {
            self.promise_again(now_ms);
        }
        let unknown = |c: &Contact| self.node.table().get(&c.id).is_none_or(|entry| entry.failures > 0);
        let new: Vec<Contact> = surroundings.peers.into_iter().filter(unknown).collect();
        self.node.remember(new, now_ms);
    }

    /// Has the node publish everything that this node promised, under its present addresses.
    fn promise_again(&mut self, now_ms: u64) {
        let addresses = self.node.addresses().clone();
        if !addresses.is_empty() {
            let draft = NodeAddress { addresses, relays: self.relays.clone() }.draft(self.parts.node_id);
            let _ = self.node.provide(draft, now_ms).map_err(|e| tracing::warn!("own address: {e}"));
        }
        let provided: Vec<McidBytes> = self.parts.own.provided().copied().collect();
        for mcid in provided {
            let draft = self.provider(mcid, false).draft();
            let _ = self.node.provide(draft, now_ms).map_err(|e| tracing::warn!("provided content: {e}"));
        }
        for revocation in self.parts.revoked.iter() {
            let draft = revocation_draft(revocation);
            let _ = self.node.provide(draft, now_ms).map_err(|e| tracing::warn!("revocation: {e}"));
        }
        self.promises_open = false;
        for record in self.parts.own.records().to_vec() {
            match self.node.put(record.clone(), now_ms) {
                Ok(()) => {}
                Err(PutError::Refused(StoreRefusal::Older(version))) => {
                    tracing::info!("record {}: version {version} took its place", record.statement.key);
                    self.parts.own.forget(&record);
                }
                Err(e) => {
                    // A clock that is not set yet, most likely: tried again when peers turn up.
                    tracing::warn!("record {} is not published: {e}", record.statement.key);
                    self.promises_open = true;
                }
            }
        }
    }

    fn provider(&self, mcid: McidBytes, withdrawn: bool) -> Provider {
        Provider { mcid, addresses: self.node.addresses().clone(), withdrawn }
    }
}

impl Driver {
    fn on_command(&mut self, command: Command) {
        let now_ms = self.now();
        match command {
            Command::Request { from, request, reply } => {
                let _ = reply.send(self.node.handle_request(from, request, now_ms));
            }
            Command::Provide { mcid, reply } => {
                let _ = reply.send(self.provide(mcid, now_ms));
            }
            Command::Unprovide { mcid, reply } => {
                let _ = reply.send(self.unprovide(mcid, now_ms));
            }
            Command::Carry { record, reply } => {
                let _ = reply.send(self.carry(record, now_ms));
            }
            Command::Held { record_type, reply } => {
                let held = self.node.store().records().filter(|r| r.statement.record_type == record_type);
                let _ = reply.send(held.take(MAX_HELD).cloned().collect());
            }
            Command::Revoke { revocation, reply } => {
                let _ = reply.send(self.revoke(revocation, now_ms));
            }
            Command::Put { record, reply } => self.put(record, reply, now_ms),
            Command::Find { key, record_type, quorum, reply } => {
                match self.node.find_records(key, record_type, quorum, now_ms) {
                    Ok(id) => {
                        self.lookups.insert(id, reply);
                    }
                    Err(busy) => {
                        let _ = reply.send(Err(anyhow!(busy)));
                    }
                }
            }
            Command::Report { reply } => {
                let _ = reply.send(self.report());
            }
            Command::Table { reply } => {
                let _ = reply.send(self.table());
            }
        }
    }

    fn provide(&mut self, mcid: McidBytes, now_ms: u64) -> Result<()> {
        self.parts.own.provide(mcid)?;
        Ok(self.node.provide(self.provider(mcid, false).draft(), now_ms)?)
    }

    fn unprovide(&mut self, mcid: McidBytes, now_ms: u64) -> Result<()> {
        if self.parts.own.unprovide(&mcid)? {
            self.node.withdraw(self.provider(mcid, true).draft(), now_ms);
        }
        Ok(())
    }

    fn carry(&mut self, record: Arc<Record>, now_ms: u64) -> Result<()> {
        self.carried.retain(|_, expires_ms| *expires_ms > now_ms);
        let s = &record.statement;
        let place = (s.key, s.record_type, s.signer);
        if self.carried.len() >= MAX_CARRIED && !self.carried.contains_key(&place) {
            return Err(anyhow!("this node carries {MAX_CARRIED} records of clients already"));
        }
        let expires_ms = s.expires_ms;
        self.node.put(record, now_ms)?;
        self.carried.insert(place, expires_ms);
        Ok(())
    }

    fn revoke(&mut self, revocation: Revocation, now_ms: u64) -> Result<()> {
        let draft = revocation_draft(&revocation);
        let statement = revocation.to_bytes();
        if self.parts.revoked.add(revocation)? {
            self.node.provide(draft, now_ms)?;
            self.tell_revoked(vec![statement]);
        }
        Ok(())
    }

    /// It is mesh that asks who may what.
    fn tell_revoked(&self, statements: Vec<Vec<u8>>) {
        let streams = self.parts.streams.clone();
        tokio::spawn(async move {
            let tell = async {
                let mesh = streams.mesh().await?;
                for statement in &statements {
                    mesh.revoked(statement).await?;
                }
                anyhow::Ok(())
            };
            // When mesh comes back it is told all of them.
            if let Err(e) = tell.await {
                tracing::warn!("mesh was not told what has been taken back: {e:#}");
            }
        });
    }

    fn put(&mut self, record: Arc<Record>, reply: oneshot::Sender<Result<u32>>, now_ms: u64) {
        let kept = self.node.put(record.clone(), now_ms).map_err(anyhow::Error::from);
        match kept.and_then(|()| self.parts.own.put(record.clone(), now_ms)) {
            Ok(()) => self.puts.push((record, reply)),
            Err(e) => {
                let _ = reply.send(Err(e));
            }
        }
    }

    fn report(&self) -> DhtReport {
        let table = self.node.table();
        let text = |mcid: &McidBytes| Mcid::try_from(mcid.as_slice()).map(|m| m.to_string()).ok();
        DhtReport {
            contacts: table.len() as u32,
            buckets: table.summary().len() as u32,
            records_stored: self.node.store().len() as u32,
            provided: self.parts.own.provided().filter_map(text).collect(),
        }
    }

    fn table(&self) -> Table {
        Table {
            node: self.parts.node_id,
            entries: self.node.table().entries().cloned().collect(),
            buckets: self.node.table().summary(),
            own_records: self.node.own_records().len(),
        }
    }
}

fn fresh_node(id: NodeId) -> Node {
    // Chance spreads load; nothing secret hangs on it.
    let seed = getrandom::u64().unwrap_or_else(|_| daemon::now_ms());
    Node::new(id, Config::default(), seed)
}

async fn signature(identity: &Link, statement: &Statement) -> Result<Signature> {
    let identity = IdentityProxy::new(&identity.get().await?).await?;
    let signature =
        identity.sign_record(&statement.signing_bytes()).await.context("identity did not sign")?;
    signature.try_into().map_err(|s: Vec<u8>| anyhow!("identity gave a signature of {} bytes", s.len()))
}
