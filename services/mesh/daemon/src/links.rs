//! Connections to peers: who is connected, and how to get to whoever is not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_proto::{Observed, PeerBook, Source, StreamHeader, Upgrades};
use mesh_transport::{Dialer, Paths, close_code};
use os_identity::NodeId;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use services_api::report::PeerReport;
use tokio::sync::{Notify, Semaphore};

use crate::admission::Admission;
use crate::announced::Announced;
use crate::apps::Apps;
use crate::authority::Authority;
use crate::bus_api::Handlers;
use crate::guests::Guests;
use crate::link::{Heard, Link, Opened, Users, by, report};
use crate::punch::Punching;
use crate::relay::Relaying;
use crate::topics::Topics;
use crate::tunnels::Tunnels;
use crate::{hello, lan, punch, relay, streams};

/// Connections per peer; a further one closes the oldest.
const MAX_PER_PEER: usize = 4;
/// Handshakes under way at once; further ones wait in the socket.
const MAX_HANDSHAKES: usize = 64;

/// The protocol of which searches in the DHT are made.
const DHT: &str = "dht/1";

/// All links of this node.
pub struct Links {
    pub owner: Option<NodeId>,
    pub handlers: Handlers,
    pub topics: Topics,
    pub apps: Apps,
    pub relaying: Relaying,
    pub tunnels: Tunnels,
    pub punching: Punching,
    pub announced: Announced,
    pub paths: Paths,
    pub endpoint: Endpoint,
    pub dialer: Arc<Dialer>,
    pub authority: Authority,
    /// Who takes connections that are not of nodes.
    pub guests: Guests,
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

impl Links {
    pub fn new(
        me: NodeId,
        owner: Option<NodeId>,
        (dialer, paths): (Arc<Dialer>, Paths),
        relaying: Relaying,
        tunnels: Tunnels,
    ) -> Arc<Self> {
        Arc::new(Self {
            owner,
            handlers: Handlers::default(),
            topics: Topics::default(),
            apps: Apps::default(),
            authority: Authority::new(me, owner),
            guests: Guests::default(),
            relaying,
            tunnels,
            punching: Punching::default(),
            announced: Announced::default(),
            paths,
            endpoint: dialer.endpoint().clone(),
            dialer,
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
    pub fn heard(self: &Arc<Self>, peer: NodeId, connection: &Connection, heard: Heard) {
        let now = self.now();
        let mut state = self.state();
        if let Some(address) = heard.sees_me_at {
            state.observed.note(peer, address, now);
        }
        let links = state.connections.get_mut(&peer).into_iter().flatten();
        let mut is_news = false;
        for link in links.filter(|l| l.connection.stable_id() == connection.stable_id()) {
            is_news |= link.heard.replace(heard) != Some(heard);
        }
        drop(state);
        if is_news {
            // What this node tells of itself in the DHT depends on it.
            self.announce(peer, true);
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
                    if let Err(e) = links.dial(dial.node, false).await {
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
        if link.via.is_none() {
            let links = self.clone();
            tokio::spawn(async move { punch::retire_detours(&links, node).await });
        }
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
        // What the DHT itself asks of a peer must not lead to another search.
        let connection = self.dial(node, header.protocol != DHT).await?;
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
