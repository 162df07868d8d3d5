//! Connections to peers: who is connected, and how to get to whoever is not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_proto::{Observed, PeerBook, Source, StreamHeader, Upgrades};
use mesh_transport::{Paths, Via, close_code};
use os_identity::NodeId;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use services_api::report::PeerReport;
use tokio::sync::{Notify, Semaphore};

use crate::admission::Admission;
use crate::authority::Authority;
use crate::bus_api::Handlers;
use crate::punch::Punching;
use crate::relay::Relaying;
use crate::topics::Topics;
use crate::tunnels::Tunnels;
use crate::{hello, lan, relay, streams};

/// Connections per peer; a further one closes the oldest.
const MAX_PER_PEER: usize = 4;
/// Handshakes under way at once; further ones wait in the socket.
const MAX_HANDSHAKES: usize = 64;

/// All links of this node.
pub struct Links {
    pub owner: Option<NodeId>,
    pub handlers: Handlers,
    pub topics: Topics,
    pub relaying: Relaying,
    pub tunnels: Tunnels,
    pub punching: Punching,
    pub paths: Paths,
    pub endpoint: Endpoint,
    pub authority: Authority,
    admission: Admission,
    me: NodeId,
    state: Mutex<State>,
    wake: Notify,
    pub upgrade: Notify,
    change: Notify,
    started: Instant,
}

pub struct State {
    pub book: PeerBook,
    pub observed: Observed,
    pub upgrades: Upgrades,
    pub connections: HashMap<NodeId, Vec<Link>>,
}

/// One connection to a peer.
#[derive(Clone)]
pub struct Link {
    pub connection: Connection,
    pub outgoing: bool,
    /// How its packets go, when they do not go straight over UDP.
    pub via: Option<Via>,
    /// Where the peer sees this node, and what it can do, once it has said so.
    pub heard: Option<Heard>,
    pub users: Users,
}

/// What a peer's hello said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    pub sees_me_at: Option<SocketAddr>,
    pub offers_relay: bool,
    pub takes_relayed: bool,
}

/// How many streams of a connection are in use.
#[derive(Clone, Default)]
pub struct Users(Arc<AtomicUsize>);

/// Kept for as long as a stream is used.
pub struct InUse(Users);

impl Users {
    pub fn enter(&self) -> InUse {
        self.0.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream to a peer; `in_use` is kept for as long as it is.
pub struct Opened {
    pub send: SendStream,
    pub recv: RecvStream,
    pub in_use: InUse,
}

impl Link {
    fn is_live(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// The best one comes first: what takes no detour, then what is newest.
    fn best<'a>(links: &'a [Link]) -> Option<&'a Link> {
        let live = || links.iter().rev().filter(|l| l.is_live());
        live()
            .find(|l| l.via.is_none())
            .or_else(|| live().find(|l| matches!(l.via, Some(Via::Tcp { .. }))))
            .or_else(|| live().next())
    }
}

impl Links {
    pub fn new(
        me: NodeId,
        owner: Option<NodeId>,
        (endpoint, paths): (Endpoint, Paths),
        relaying: Relaying,
        tunnels: Tunnels,
    ) -> Arc<Self> {
        Arc::new(Self {
            owner,
            handlers: Handlers::default(),
            topics: Topics::default(),
            authority: Authority::new(me, owner),
            relaying,
            tunnels,
            punching: Punching::default(),
            paths,
            endpoint,
            admission: Admission::default(),
            me,
            state: Mutex::new(State {
                book: PeerBook::new(me),
                observed: Observed::default(),
                upgrades: Upgrades::default(),
                connections: HashMap::new(),
            }),
            wake: Notify::new(),
            upgrade: Notify::new(),
            change: Notify::new(),
            started: Instant::now(),
        })
    }

    pub fn me(&self) -> NodeId {
        self.me
    }

    pub fn learn(&self, node: NodeId, addresses: &[SocketAddr], source: Source) {
        let now = self.now();
        self.state().book.learn(node, addresses, source, now);
        self.wake.notify_one();
    }

    /// What a peer has said of itself and of this node over that connection.
    pub fn heard(&self, peer: NodeId, connection: &Connection, heard: Heard) {
        let now = self.now();
        let mut state = self.state();
        if let Some(address) = heard.sees_me_at {
            state.observed.note(peer, address, now);
        }
        let links = state.connections.get_mut(&peer).into_iter().flatten();
        for link in links.filter(|l| l.connection.stable_id() == connection.stable_id()) {
            link.heard = Some(heard);
        }
    }

    /// Under which addresses others may find this node: its own ones, and those that peers agree on.
    pub fn own_addresses(&self) -> Result<Vec<SocketAddr>> {
        let port = self.endpoint.local_addr().map_or(0, |a| a.port());
        let mut all: Vec<_> = lan::own_addresses()?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        for seen in self.state().observed.agreed() {
            if !all.contains(&seen) {
                all.push(seen);
            }
        }
        Ok(all)
    }

    /// Whether one more handshake may begin now with whoever is at that address.
    pub fn admits_handshake(&self, from: SocketAddr) -> bool {
        self.admission.handshake(from, self.now())
    }

    /// Whether a peer may open one more stream now.
    pub fn admits(&self, peer: &NodeId) -> bool {
        self.admission.stream(peer, self.now())
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
            if !self.admits_handshake(from) {
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
        let node = mesh_transport::peer_of(&connection)?;
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
                    if let Err(e) = links.dial(dial.node).await {
                        tracing::debug!("cannot reach {}: {e:#}", dial.node);
                    }
                });
            }
            let next = self.state().book.next_deadline();
            let wait = next.map_or(3_600_000, |at| at.saturating_sub(now).max(50));
            let _ = tokio::time::timeout(Duration::from_millis(wait), self.wake.notified()).await;
        }
    }

    /// The next attempt comes later.
    pub fn dial_failed(&self, node: &NodeId, why: &str) {
        let now = self.now();
        self.state().book.dial_failed(node, why, now);
        self.wake.notify_one();
    }

    /// Notes a connection and serves the streams that come over it until it ends.
    pub fn add(self: &Arc<Self>, node: NodeId, connection: Connection, outgoing: bool) {
        let address = connection.remote_address();
        let via = self.paths.via(address);
        let link =
            Link { connection: connection.clone(), outgoing, via, heard: None, users: Users::default() };
        let now = self.now();
        let first = {
            let mut state = self.state();
            let list = state.connections.entry(node).or_default();
            if list.len() >= MAX_PER_PEER {
                let oldest = list.remove(0).connection;
                oldest.close(VarInt::from_u32(close_code::DONE), b"too many connections from this node");
            }
            list.push(link.clone());
            state.book.connected(node, (outgoing && via.is_none()).then_some(address), now)
        };
        if first {
            self.tell(
                node,
                &format!("connected ({}{})", if outgoing { "we dialled" } else { "it dialled" }, by(via)),
            );
            self.announce(node, true);
        }
        self.note_way(node, &link);
        let links = self.clone();
        tokio::spawn(async move {
            let (why, (), ()) = tokio::join!(
                streams::serve(&links, node, &link),
                hello::exchange(&links, node, &connection),
                relay::take_datagrams(&links, node, &link)
            );
            links.remove(node, &connection, &why);
        });
    }

    /// A new connection by a detour wants a better one; a direct one is it.
    fn note_way(self: &Arc<Self>, node: NodeId, link: &Link) {
        let now = self.now();
        let mut state = self.state();
        let direct = state.connections.get(&node).is_some_and(|l| l.iter().any(|l| l.via.is_none()));
        if direct {
            state.upgrades.done(&node);
        } else if link.outgoing {
            state.upgrades.detour(node, now);
        }
        drop(state);
        self.upgrade.notify_one();
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
                    state.upgrades.done(&node);
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
    pub async fn open(self: &Arc<Self>, node: NodeId, header: &StreamHeader) -> Result<Opened> {
        if node == self.me {
            bail!("{node} is this node itself");
        }
        if let Some(link) = self.live(&node) {
            let in_use = link.users.enter();
            match mesh_transport::open(&link.connection, header).await {
                Ok((send, recv)) => return Ok(Opened { send, recv, in_use }),
                Err(e) => tracing::debug!("connection to {node} is no longer good: {e:#}"),
            }
        }
        let connection = self.dial(node).await?;
        let in_use = self.link_of(&node, &connection).map(|l| l.users).unwrap_or_default().enter();
        let (send, recv) = mesh_transport::open(&connection, header).await?;
        Ok(Opened { send, recv, in_use })
    }

    /// The best live connection.
    pub fn live(&self, node: &NodeId) -> Option<Link> {
        Link::best(self.state().connections.get(node)?).cloned()
    }

    /// All live connections, newest first.
    pub fn links_of(&self, node: &NodeId) -> Vec<Link> {
        let state = self.state();
        state.connections.get(node).into_iter().flatten().rev().filter(|l| l.is_live()).cloned().collect()
    }

    /// Peers, and where they are, with whom this node has only connections that they opened. Without the owner, who is no node.
    pub fn dialled_by_them(&self) -> Vec<(NodeId, SocketAddr)> {
        let state = self.state();
        let nodes = state.connections.iter().filter(|(node, _)| self.owner != Some(**node));
        let theirs = nodes.filter(|(_, links)| links.iter().all(|l| !l.outgoing && l.via.is_none()));
        theirs.filter_map(|(node, links)| Some((*node, links.last()?.connection.remote_address()))).collect()
    }

    fn link_of(&self, node: &NodeId, connection: &Connection) -> Option<Link> {
        let same = |l: &Link| l.connection.stable_id() == connection.stable_id();
        self.links_of(node).into_iter().find(same)
    }

    pub fn report(&self) -> Vec<PeerReport> {
        let state = self.state();
        state.book.iter().map(|(node, peer)| report(node, peer, state.connections.get(node))).collect()
    }

    pub fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
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
        out.sent_bytes += stats.udp_tx.bytes;
        out.received_bytes += stats.udp_rx.bytes;
    }
    if let Some(best) = links.and_then(|links| Link::best(links)) {
        out.direction = if best.outgoing { "outgoing" } else { "incoming" }.to_string();
        out.rtt_us = best.connection.rtt().as_micros() as u64;
        match best.via {
            None => out.address = best.connection.remote_address().to_string(),
            Some(Via::Tcp { .. }) => out.via = "tcp".into(),
            Some(Via::Relay { relay, .. }) => out.via = relay.to_string(),
        }
    }
    out
}

/// For people.
fn by(via: Option<Via>) -> String {
    match via {
        None => String::new(),
        Some(Via::Tcp { .. }) => ", over TCP".into(),
        Some(Via::Relay { relay, .. }) => format!(", through {relay}"),
    }
}
