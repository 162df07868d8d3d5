//! Packets through a relay: this node as the relay of others, and as one of the two far ends.
//!
//! The relay sees who sends how much to whom, and nothing else: what passes is QUIC between the far ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_proto::punch::{MAX_MEET, RELAY_PROTOCOL, Seen};
use mesh_proto::relayed::{Halves, Part, Relayed, Way};
use mesh_proto::{Limiter, Rate, RelayCaps, StreamHeader};
use mesh_transport::{Outgoing, Via, close_code};
use os_identity::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use services_api::frame;
use tokio::sync::mpsc;

use crate::link::{Heard, Link};
use crate::links::Links;
use crate::streams;

/// Senders whose half packets are kept.
const MAX_SENDERS: usize = 256;
/// Peers that come through one relay for the first time.
const NEWCOMERS: Rate = Rate { burst: 64, per_s: 8 };
const MAX_RELAYS: usize = 1024;
/// How long a relay may take to say where a peer is.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// What is under way through this node, and to it.
pub struct Relaying {
    /// What this node carries for others; `None`: nothing.
    caps: Option<Mutex<RelayCaps>>,
    halves: Mutex<BTreeMap<(NodeId, NodeId), Halves>>,
    newcomers: Mutex<Limiter<NodeId>>,
    number: AtomicU16,
}

impl Relaying {
    /// `bytes_per_s`: how much this node carries for others, if it does at all.
    pub fn new(bytes_per_s: Option<u32>) -> Self {
        Self {
            caps: bytes_per_s.map(|rate| Mutex::new(RelayCaps::new(rate))),
            halves: Mutex::default(),
            newcomers: Mutex::new(Limiter::new(NEWCOMERS, MAX_RELAYS)),
            number: AtomicU16::new(0),
        }
    }

    pub fn is_offered(&self) -> bool {
        self.caps.is_some()
    }

    fn admits(&self, sender: &NodeId, len: usize, now_ms: u64) -> bool {
        let Some(caps) = &self.caps else { return false };
        caps.lock().unwrap_or_else(PoisonError::into_inner).admit(sender, len, now_ms)
    }

    /// Sends on a connection what fits; the rest is lost, as in any network.
    fn send(&self, connection: &Connection, relayed: Relayed) {
        let Some(max) = connection.max_datagram_size() else { return };
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        for datagram in relayed.fit(max, number) {
            let _ = connection.send_datagram(datagram.into());
        }
    }

    fn whole(&self, relay: NodeId, relayed: &Relayed) -> Option<Vec<u8>> {
        if relayed.part == Part::Whole {
            return Some(relayed.bytes.to_vec());
        }
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (relay, relayed.node);
        if halves.len() >= MAX_SENDERS && !halves.contains_key(&key) {
            halves.clear();
        }
        halves.entry(key).or_default().push(relayed.part, relayed.bytes)
    }
}

impl Link {
    /// Whether packets of others may go by this connection. Not through a second relay: that would be one detour after another.
    pub fn carries(&self) -> bool {
        self.connection.close_reason().is_none() && !matches!(self.via, Some(Via::Relay { .. }))
    }
}

/// Takes a peer's datagrams until the connection ends.
pub async fn take_datagrams(links: &Arc<Links>, peer: NodeId, link: &Link) {
    while let Ok(datagram) = link.connection.read_datagram().await {
        if !link.carries() {
            continue;
        }
        match Relayed::decode(&datagram) {
            Some(relayed) if relayed.way == Way::To => pass_on(links, peer, relayed),
            Some(relayed) => take_in(links, peer, relayed),
            None => tracing::trace!("datagram of {peer} that says nothing"),
        }
    }
}

/// As the relay: from one peer to another.
fn pass_on(links: &Arc<Links>, from: NodeId, relayed: Relayed) {
    let to = relayed.node;
    if to == from || !links.relaying.is_offered() {
        return;
    }
    let Some(link) = carrier(links, &to, |heard| heard.takes_relayed) else { return };
    if links.relaying.admits(&from, relayed.bytes.len(), links.now()) {
        links.relaying.send(&link.connection, Relayed { way: Way::From, node: from, ..relayed });
    }
}

/// As the far end: a packet that `relay` brings.
fn take_in(links: &Arc<Links>, relay: NodeId, relayed: Relayed) {
    let via = Via::Relay { relay, node: relayed.node };
    if relayed.node == relay || relayed.node == links.me() {
        return;
    }
    // Whoever has not said that it relays brings nobody's packets.
    if carrier(links, &relay, |heard| heard.offers_relay).is_none() {
        return;
    }
    if !links.paths.knows(&via) {
        let mut newcomers = links.relaying.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        if !newcomers.allow(&relay, links.now()) {
            return;
        }
    }
    if let Some(packet) = links.relaying.whole(relay, &relayed) {
        links.paths.deliver(via, packet);
    }
}

/// Sends what the endpoint has for peers behind relays and at the far ends of tunnels, for ever.
pub async fn carry(links: Arc<Links>, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some((via, packet)) = outgoing.recv().await {
        match via {
            Via::Relay { relay, node } => {
                if let Some(link) = carrier(&links, &relay, |heard| heard.offers_relay) {
                    let relayed = Relayed::whole(Way::To, node, &packet);
                    links.relaying.send(&link.connection, relayed);
                }
            }
            Via::Tcp { node } => links.tunnels.send(&node, packet),
        }
    }
}

/// The best connection with a peer that carries datagrams and can do what is asked.
fn carrier(links: &Arc<Links>, peer: &NodeId, can: impl Fn(&Heard) -> bool) -> Option<Link> {
    let mut usable: Vec<_> = links.links_of(peer);
    usable.retain(|l| l.carries() && l.heard.as_ref().is_some_and(&can));
    // Straight ones before TCP; the sort keeps the newest first.
    usable.sort_by_key(|l| l.via.is_some());
    usable.into_iter().next()
}

/// Answers `relay/1`: whether a node is connected here and can be relayed to, and where it is seen.
pub async fn answer(
    links: &Arc<Links>,
    node: Option<&str>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    let node = node.and_then(|text| text.parse::<NodeId>().ok());
    let link = node
        .filter(|node| links.relaying.is_offered() && links.owner != Some(*node))
        .and_then(|node| carrier(links, &node, |heard| heard.takes_relayed));
    let Some(link) = link else {
        streams::refuse(&mut send, &mut recv, close_code::REFUSED);
        return Ok(());
    };
    let seen = link.via.is_none().then(|| link.connection.remote_address());
    send.write_all(&Seen::at(seen).frame()).await?;
    send.finish()?;
    Ok(())
}

/// Asks a relay for a peer: where it sees it. An error when it does not.
pub async fn ask(links: &Arc<Links>, relay: NodeId, node: NodeId) -> Result<Option<SocketAddr>> {
    let link = carrier(links, &relay, |heard| heard.offers_relay).context("not connected to it")?;
    let asked = async {
        let header = StreamHeader::of(RELAY_PROTOCOL, &node.to_string());
        let (mut send, mut recv) = mesh_transport::open(&link.connection, &header).await?;
        send.finish()?;
        anyhow::Ok(frame::expect(&mut recv, MAX_MEET).await?)
    };
    let answer = tokio::time::timeout(ANSWER_WAIT, asked).await.context("it does not answer")?;
    let answer = answer.context("the peer is not connected to it, or it does not relay")?;
    Ok(Seen::decode(&answer)?.address())
}
