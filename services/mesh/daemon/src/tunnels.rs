//! QUIC over TCP, where a network lets no UDP through: a node dials its seeds so when they do not answer, and a relay takes it.
//!
//! A tunnel is a way like a relay (`mesh_transport::Paths`): the connection in it is the same as any other, only slower.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use mesh_transport::tcp::{self, Arrived, Service, TUNNEL_ALPN, TlsStream, TunnelTls};
use mesh_transport::{Via, close_code};
use os_identity::NodeId;
use quinn::{Connection, VarInt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::links::Links;

/// Tunnels at once.
const MAX_TUNNELS: usize = 256;
/// Packets on their way into one tunnel; more are lost.
const MAX_PACKETS: usize = 128;
/// Tunnels whose handshake is done and that nobody has taken yet.
const MAX_ARRIVED: usize = 16;

type Weak = mpsc::WeakSender<Vec<u8>>;
type Packets = mpsc::Receiver<Vec<u8>>;

/// The tunnels of this node, one for each peer.
pub struct Tunnels {
    pub tls: Arc<TunnelTls>,
    open: Mutex<HashMap<NodeId, mpsc::Sender<Vec<u8>>>>,
}

impl Tunnels {
    pub fn new(tls: Arc<TunnelTls>) -> Self {
        Self { tls, open: Mutex::default() }
    }

    /// What does not fit is lost, as in any network.
    pub fn send(&self, node: &NodeId, packet: Vec<u8>) {
        if let Some(packets) = self.open().get(node) {
            let _ = packets.try_send(packet);
        }
    }

    /// The new tunnel's sender, which the table alone holds, and its packets.
    fn add(&self, node: NodeId) -> Result<(Weak, Packets)> {
        let mut open = self.open();
        anyhow::ensure!(
            open.len() < MAX_TUNNELS || open.contains_key(&node),
            "{MAX_TUNNELS} tunnels are open"
        );
        let (send, packets) = mpsc::channel(MAX_PACKETS);
        let weak = send.downgrade();
        // A newer tunnel takes the place of an older one, which ends with its sender.
        open.insert(node, send);
        Ok((weak, packets))
    }

    fn remove(&self, node: &NodeId, send: &mpsc::Sender<Vec<u8>>) {
        let mut open = self.open();
        if open.get(node).is_some_and(|known| known.same_channel(send)) {
            open.remove(node);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<NodeId, mpsc::Sender<Vec<u8>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes tunnels on a TCP port, for ever.
pub async fn listen(links: Arc<Links>, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
    let listener = listener.with_context(|| format!("cannot bind TCP port {port}"))?;
    let (connections, mut arrived) = mpsc::channel::<Arrived>(MAX_ARRIVED);
    let tls = links.tunnels.tls.clone();
    let tunnel = Service { alpn: TUNNEL_ALPN, config: Box::new(move || tls.server()), connections };
    let taker = links.clone();
    tokio::spawn(async move {
        while let Some(Arrived { from, stream }) = arrived.recv().await {
            match tcp::peer_of(&stream) {
                Ok(node) if node != taker.me() => spawn(&taker, node, stream),
                Ok(_) => {}
                Err(e) => tracing::debug!("tunnel from {from}: {e:#}"),
            }
        }
    });
    tcp::serve(listener, vec![tunnel], move |from| links.admits_handshake(from)).await
}

/// Connects to a peer through a tunnel of this node's making.
pub async fn connect(links: &Arc<Links>, address: SocketAddr, node: NodeId) -> Result<Connection> {
    let stream = links.tunnels.tls.connect(address, &node).await?;
    spawn(links, node, stream);
    let way = links.paths.address(Via::Tcp { node });
    let (connection, _) = mesh_transport::connect(&links.endpoint, way, Some(&node)).await?;
    Ok(connection)
}

fn spawn(links: &Arc<Links>, node: NodeId, stream: TlsStream) {
    let links = links.clone();
    tokio::spawn(async move {
        if let Err(e) = run(&links, node, stream).await {
            tracing::debug!("tunnel with {node}: {e:#}");
        }
    });
}

async fn run(links: &Arc<Links>, node: NodeId, stream: TlsStream) -> Result<()> {
    let (sender, packets) = links.tunnels.add(node)?;
    let paths = links.paths.clone();
    let ended = tcp::tunnel(stream, packets, move |packet| paths.deliver(Via::Tcp { node }, packet)).await;
    if let Some(send) = sender.upgrade() {
        links.tunnels.remove(&node, &send);
        // Not only after half a minute of silence.
        for link in links.links_of(&node).iter().filter(|l| matches!(l.via, Some(Via::Tcp { .. }))) {
            link.connection.close(VarInt::from_u32(close_code::DONE), b"its tunnel has ended");
        }
    }
    ended
}
