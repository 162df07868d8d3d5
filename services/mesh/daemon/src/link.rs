//! One connection to a peer, and what is told of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_transport::Via;
use os_identity::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use services_api::report::PeerReport;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    pub fn is_live(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// The best one comes first: what takes no detour, then what is newest.
    pub fn best(links: &[Link]) -> Option<&Link> {
        let live = || links.iter().rev().filter(|l| l.is_live());
        live()
            .find(|l| l.via.is_none())
            .or_else(|| live().find(|l| matches!(l.via, Some(Via::Tcp { .. }))))
            .or_else(|| live().next())
    }
}

/// For people and other services.
pub fn report(node: &NodeId, peer: &mesh_proto::Peer, links: Option<&Vec<Link>>) -> PeerReport {
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
        out.relay |= link.carries() && link.heard.is_some_and(|h| h.offers_relay);
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
pub fn by(via: Option<Via>) -> String {
    match via {
        None => String::new(),
        Some(Via::Tcp { .. }) => ", over TCP".into(),
        Some(Via::Relay { relay, .. }) => format!(", through {relay}"),
    }
}
