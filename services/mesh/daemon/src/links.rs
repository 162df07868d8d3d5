//! Connections to peers: who is connected, and how to get to whoever is not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use mesh_proto::{Observed, PeerBook, Source, StreamHeader};
use mesh_transport::close_code;
use os_identity::NodeId;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use services_api::report::PeerReport;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::authority::Authority;
use crate::bus_api::Handlers;
use crate::guests::Guests;
use crate::topics::Topics;
use crate::{hello, streams};

const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// Between the starts of attempts at a peer's several addresses (RFC 8305 calls it the connection attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Connections per peer; a further one closes the oldest.
const MAX_PER_PEER: usize = 4;
/// Handshakes under way at once; further ones wait in the socket.
const MAX_HANDSHAKES: usize = 64;

/// All links of this node.
pub struct Links {
    pub owner: Option<NodeId>,
    pub handlers: Handlers,
    pub topics: Topics,
    pub authority: Authority,
    /// Who takes connections that are not of nodes.
    pub guests: Guests,
    admission: Admission,
    endpoint: Endpoint,
    me: NodeId,
    state: Mutex<State>,
    wake: Notify,
    change: Notify,
    started: Instant,
}

struct State {
    book: PeerBook,
    observed: Observed,
    connections: HashMap<NodeId, Vec<Link>>,
}

#[derive(Clone)]
struct Link {
    connection: Connection,
    outgoing: bool,
}

impl Links {
    pub fn new(me: NodeId, owner: Option<NodeId>, endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self {
            owner,
            handlers: Handlers::default(),
            topics: Topics::default(),
            authority: Authority::new(me, owner),
            guests: Guests::default(),
            admission: Admission::default(),
            endpoint,
            me,
            state: Mutex::new(State {
                book: PeerBook::new(me),
                observed: Observed::default(),
                connections: HashMap::new(),
            }),
            wake: Notify::new(),
            change: Notify::new(),
            started: Instant::now(),
        })
    }

    pub fn me(&self) -> NodeId {
        self.me
    }

    pub fn local_port(&self) -> u16 {
        self.endpoint.local_addr().map_or(0, |a| a.port())
    }

    pub fn learn(&self, node: NodeId, addresses: &[SocketAddr], source: Source) {
        let now = self.now();
        self.state().book.learn(node, addresses, source, now);
        self.wake.notify_one();
    }

    /// A peer sees this node at that address.
    pub fn seen_at(&self, peer: NodeId, address: SocketAddr) {
        let now = self.now();
        self.state().observed.note(peer, address, now);
    }

    /// Where peers agree that this node is seen.
    pub fn seen_addresses(&self) -> Vec<SocketAddr> {
        self.state().observed.agreed()
    }

    /// Whether a peer may open one more stream now.
    pub fn admits(&self, peer: &NodeId) -> bool {
        self.admission.stream(peer, self.now())
    }

    /// Whether somebody from there may connect once more now.
    pub fn admits_connection(&self, from: SocketAddr) -> bool {
        self.admission.handshake(from, self.now())
    }

    /// Without the owner, who is no node.
    pub fn connected_nodes(&self) -> Vec<NodeId> {
        self.state().connections.keys().copied().filter(|n| self.owner != Some(*n)).collect()
    }

    /// Resolves when a peer has come or gone since the last call.
    pub async fn changed(&self) {
        self.change.notified().await;
    }

    /// Takes connections for ever.
    pub async fn accept_peers(self: Arc<Self>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            let from = incoming.remote_address();
            if !self.admits_connection(from) {
                tracing::debug!("refused {from} a connection: too many from there");
                incoming.refuse();
                continue;
            }
            if handshakes.available_permits() < MAX_HANDSHAKES / 2 && !incoming.remote_address_validated() {
                // Whoever only claims to be at that address does not come back.
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let links = self.clone();
            tokio::spawn(async move {
                if let Err(e) = links.accept(incoming).await {
                    tracing::debug!("connection from {from} failed: {e:#}");
                }
                drop(permit);
            });
        }
    }

    async fn accept(self: &Arc<Self>, incoming: Incoming) -> Result<()> {
        let connection = incoming.await?;
        let alpn = mesh_transport::alpn_of(&connection);
        if alpn != mesh_proto::ALPN {
            return self.guests.hand_over(&alpn, connection);
        }
        let node = mesh_transport::peer_of(&connection)?;
        mesh_transport::widen(&connection);
        if node == self.me {
            connection.close(VarInt::from_u32(close_code::DONE), b"this is me");
            return Ok(());
        }
        self.add(node, connection, false);
        Ok(())
    }

    /// Dials what the peer book says is due, for ever.
    pub async fn keep_dialing(self: Arc<Self>) {
        loop {
            let now = self.now();
            let due = self.state().book.due(now);
            for dial in due {
                let links = self.clone();
                tokio::spawn(async move {
                    if let Err(e) = links.dial(dial.node, dial.addresses).await {
                        tracing::debug!("cannot reach {}: {e:#}", dial.node);
                    }
                });
            }
            let next = self.state().book.next_deadline();
            let wait = next.map_or(3_600_000, |at| at.saturating_sub(now).max(50));
            let _ = tokio::time::timeout(Duration::from_millis(wait), self.wake.notified()).await;
        }
    }

    /// Connects to one of the addresses, whichever answers as `node` first.
    async fn dial(self: &Arc<Self>, node: NodeId, addresses: Vec<SocketAddr>) -> Result<Connection> {
        let attempt = self.race(node, addresses);
        let result = match tokio::time::timeout(DIAL_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("no answer within {} s", DIAL_TIMEOUT.as_secs())),
        };
        match result {
            Ok(connection) => {
                self.add(node, connection.clone(), true);
                Ok(connection)
            }
            Err(e) => {
                let now = self.now();
                self.state().book.dial_failed(&node, &format!("{e:#}"), now);
                self.wake.notify_one();
                Err(e)
            }
        }
    }

    async fn race(&self, node: NodeId, addresses: Vec<SocketAddr>) -> Result<Connection> {
        let mut attempts = JoinSet::new();
        for (i, address) in addresses.into_iter().enumerate() {
            let endpoint = self.endpoint.clone();
            attempts.spawn(async move {
                tokio::time::sleep(ATTEMPT_DELAY * i as u32).await;
                let result = mesh_transport::connect(&endpoint, v6(address), Some(&node)).await;
                result.with_context(|| format!("{address}"))
            });
        }
        let mut failures = Vec::new();
        while let Some(done) = attempts.join_next().await {
            match done? {
                Ok((connection, _)) => return Ok(connection),
                Err(e) => failures.push(format!("{e:#}")),
            }
        }
        if failures.is_empty() {
            bail!("no address is known");
        }
        bail!("{}", failures.join("; "))
    }

    /// Notes a connection and serves the streams that come over it until it ends.
    fn add(self: &Arc<Self>, node: NodeId, connection: Connection, outgoing: bool) {
        let address = connection.remote_address();
        let now = self.now();
        let first = {
            let mut state = self.state();
            let list = state.connections.entry(node).or_default();
            if list.len() >= MAX_PER_PEER {
                let oldest = list.remove(0).connection;
                oldest.close(VarInt::from_u32(close_code::DONE), b"too many connections from this node");
            }
            list.push(Link { connection: connection.clone(), outgoing });
            state.book.connected(node, outgoing.then_some(address), now)
        };
        if first {
            self.tell(node, &format!("connected ({})", if outgoing { "we dialled" } else { "it dialled" }));
            self.announce(node, true);
        }
        let links = self.clone();
        tokio::spawn(async move {
            let (why, ()) = tokio::join!(
                streams::serve(&links, node, &connection),
                hello::exchange(&links, node, &connection)
            );
            links.remove(node, &connection, &why);
        });
    }

    fn remove(self: &Arc<Self>, node: NodeId, connection: &Connection, why: &str) {
        let now = self.now();
        let last = {
            let mut state = self.state();
            if let Some(list) = state.connections.get_mut(&node) {
                list.retain(|l| l.connection.stable_id() != connection.stable_id());
                if list.is_empty() {
                    state.connections.remove(&node);
                    state.observed.forget(&node);
                }
            }
            state.book.disconnected(&node, why, now)
        };
        if last {
            self.tell(node, &format!("gone: {why}"));
            self.announce(node, false);
        }
        self.wake.notify_one();
    }

    /// The owner comes and goes with each order, which is not worth a line in a log of bounded length.
    fn tell(&self, node: NodeId, what: &str) {
        if self.owner == Some(node) {
            tracing::debug!("owner {what}");
        } else {
            tracing::info!("peer {node} {what}");
        }
    }

    /// The owner is a person with a program, not a node: no service has anything to ask of it.
    fn announce(self: &Arc<Self>, node: NodeId, connected: bool) {
        self.change.notify_one();
        if self.owner == Some(node) {
            return;
        }
        let links = self.clone();
        tokio::spawn(async move { links.handlers.peer_changed(node, connected).await });
    }

    /// Opens a stream to a peer, connecting first where needed.
    pub async fn open(
        self: &Arc<Self>,
        node: NodeId,
        header: &StreamHeader,
    ) -> Result<(SendStream, RecvStream)> {
        if node == self.me {
            bail!("{node} is this node itself");
        }
        if let Some(connection) = self.live(&node) {
            match mesh_transport::open(&connection, header).await {
                Ok(stream) => return Ok(stream),
                Err(e) => tracing::debug!("connection to {node} is no longer good: {e:#}"),
            }
        }
        let addresses = self.state().book.get(&node).map(|p| p.addresses.clone()).unwrap_or_default();
        let connection = self.dial(node, addresses).await?;
        mesh_transport::open(&connection, header).await
    }

    fn live(&self, node: &NodeId) -> Option<Connection> {
        let state = self.state();
        let links = state.connections.get(node)?;
        links.iter().rev().map(|l| &l.connection).find(|c| c.close_reason().is_none()).cloned()
    }

    pub fn report(&self) -> Vec<PeerReport> {
        let state = self.state();
        state.book.iter().map(|(node, peer)| report(node, peer, state.connections.get(node))).collect()
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn report(node: &NodeId, peer: &mesh_proto::Peer, links: Option<&Vec<Link>>) -> PeerReport {
    let mut out = PeerReport {
        node: node.to_string(),
        addresses: peer.addresses.iter().map(SocketAddr::to_string).collect(),
        source: peer.source.word().to_string(),
        last_error: peer.last_error.clone(),
        ..PeerReport::default()
    };
    for link in links.into_iter().flatten() {
        let stats = link.connection.stats();
        out.connected = true;
        out.direction = if link.outgoing { "outgoing" } else { "incoming" }.to_string();
        out.address = link.connection.remote_address().to_string();
        out.rtt_us = link.connection.rtt().as_micros() as u64;
        out.sent_bytes += stats.udp_tx.bytes;
        out.received_bytes += stats.udp_rx.bytes;
    }
    out
}

/// The endpoint's socket is IPv6: IPv4 peers are reached through mapped addresses.
fn v6(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(a) => SocketAddr::from((a.ip().to_ipv6_mapped(), a.port())),
        v6 => v6,
    }
}
