//! QUIC over TCP, where a network lets no UDP through: a node dials its seeds so when they do not answer, and a relay takes it.
//!
//! A tunnel is a way like a relay (`mesh_transport::Paths`): the connection in it is the same as any other, only slower.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use mesh_gateway::{Slot, TcpPort, TlsTcp};
use mesh_transport::tcp::{self, TunnelTls};
use mesh_transport::{Via, close_code};
use os_identity::NodeId;
use quinn::{Connection, VarInt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::links::Links;

/// Tunnels at once.
const MAX_TUNNELS: usize = 256;
/// Packets on their way into one tunnel; more are lost.
const MAX_PACKETS: usize = 128;
const RENEW: Duration = Duration::from_secs(3600);

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

/// Takes tunnels on the TCP port, for ever.
pub async fn take(links: Arc<Links>, tcp: Arc<TcpPort>) {
    loop {
        let taker = links.clone();
        let host = move |stream: TlsTcp, from: SocketAddr, slot: Slot| match tcp::peer_of(
            stream.get_ref().1.peer_certificates(),
        ) {
            Ok(node) if node != taker.me() => spawn(&taker, node, stream, Some(slot)),
            Ok(_) => {}
            Err(e) => tracing::debug!("tunnel from {from}: {e:#}"),
        };
        if let Err(e) = tcp.speak(links.tunnels.tls.server(), host) {
            tracing::error!("peers without UDP cannot come in: {e:#}");
        }
        // The session's certificate is renewed every day.
        tokio::time::sleep(RENEW).await;
    }
}

/// Connects to a peer through a tunnel of this node's making.
pub async fn connect(links: &Arc<Links>, address: SocketAddr, node: NodeId) -> Result<Connection> {
    let stream = links.tunnels.tls.connect(address, &node).await?;
    spawn(links, node, stream, None);
    let way = links.paths.address(Via::Tcp { node });
    let (connection, _) = links.dialer.connect(way, Some(&node)).await?;
    Ok(connection)
}

/// `slot`: its place among the TCP port's connections.
fn spawn<S>(links: &Arc<Links>, node: NodeId, stream: S, slot: Option<Slot>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let links = links.clone();
    tokio::spawn(async move {
        if let Err(e) = run(&links, node, stream).await {
            tracing::debug!("tunnel with {node}: {e:#}");
        }
        drop(slot);
    });
}

async fn run<S>(links: &Arc<Links>, node: NodeId, stream: S) -> Result<()>
where
    S: AsyncRead + AsyncWrite,
{
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
