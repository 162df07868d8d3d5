//! `io.macula.Mesh1`: streams to peers, and the peers themselves.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_identity::NodeId;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};
use zbus::{Connection, OwnedFd};

use crate::bus;

#[zbus::proxy(
    interface = "io.macula.Mesh1",
    default_service = "io.macula.Mesh",
    default_path = "/io/macula/Mesh"
)]
pub trait Mesh {
    /// Opens a stream to a peer, connecting first where needed; to this node itself, too. `resource` (may be empty) says what of
    /// the protocol, `ucan` (may be empty) by what right. `timeout_ms` bounds the opening, and for `rpc/1` the call.
    fn open_stream(
        &self,
        node: &[u8],
        protocol: &str,
        resource: &str,
        ucan: &[u8],
        timeout_ms: u32,
    ) -> zbus::Result<OwnedFd>;

    /// From now on, streams of this protocol and resource come to the caller's `io.macula.StreamHandler1`; with an empty resource
    /// those of all resources that nobody else serves. `access`: `peer` (anybody), `owner`, or an ability such as `macula/mesh/call`:
    /// the owner and whoever shows that this was delegated to it.
    fn serve(&self, protocol: &str, resource: &str, access: &str) -> zbus::Result<()>;

    /// Opens a topic of this node to subscribers (`pubsub/1`).
    fn serve_topic(&self, topic: &str, access: &str) -> zbus::Result<()>;

    /// From now on this delegation counts no longer (`os_ucan::revocation`). For `dht`, which keeps and finds such statements.
    fn revoked(&self, statement: &[u8]) -> zbus::Result<()>;

    /// Adds an event to a topic of this node, and returns its number.
    fn publish(&self, topic: &str, event: &[u8]) -> zbus::Result<u64>;

    /// Where a node may be reached: `ip:port` texts (`[fe80::1%eth0]:4433` for link-local ones).
    fn learn(&self, node: &[u8], addresses: Vec<String>) -> zbus::Result<()>;

    /// Addresses under which this node can be reached, best first.
    fn local_addresses(&self) -> zbus::Result<Vec<String>>;

    /// Sends a fresh challenge to a connected or reachable peer; microseconds until it answered.
    fn ping(&self, node: &[u8], timeout_ms: u32) -> zbus::Result<u64>;

    /// JSON: a list of [`crate::report::PeerReport`].
    fn peers(&self) -> zbus::Result<String>;
}

/// What a service offers to mesh on its own connection.
#[zbus::proxy(
    interface = "io.macula.StreamHandler1",
    default_service = "io.macula.StreamHandler",
    default_path = "/io/macula/StreamHandler"
)]
pub trait StreamHandler {
    /// `deadline_ms`: how long the peer waits, 0 when it has not said.
    fn accept(
        &self,
        peer: &[u8],
        protocol: &str,
        resource: &str,
        deadline_ms: u32,
        stream: OwnedFd,
    ) -> zbus::Result<()>;

    /// A peer's first connection came up, or its last one went. Said again when a connected peer has said something new of itself, or
    /// of where it sees this node.
    fn peer_changed(&self, peer: &[u8], connected: bool) -> zbus::Result<()>;
}

pub const STREAM_HANDLER_PATH: &str = "/io/macula/StreamHandler";

/// A stream that a peer opened.
pub struct Incoming {
    pub peer: NodeId,
    pub protocol: String,
    /// Empty where the protocol has none.
    pub resource: String,
    pub deadline: Option<Duration>,
    pub stream: UnixStream,
}

/// What [`Streams`] hands to its service.
pub enum MeshEvent {
    Stream(Incoming),
    PeerUp(NodeId),
    PeerDown(NodeId),
    /// Mesh is there (again): what was told to it before must be told anew.
    Connected,
}

/// Streams waiting to be taken by the service; more than this many are refused to the peer.
const MAX_WAITING: usize = 64;

struct Handler {
    events: mpsc::Sender<MeshEvent>,
}

#[zbus::interface(name = "io.macula.StreamHandler1")]
impl Handler {
    fn accept(
        &self,
        peer: Vec<u8>,
        protocol: String,
        resource: String,
        deadline_ms: u32,
        stream: OwnedFd,
    ) -> zbus::fdo::Result<()> {
        let peer = bus::node_id(&peer)?;
        let stream = from_fd(stream).map_err(bus::failed)?;
        let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms.into()));
        let event = MeshEvent::Stream(Incoming { peer, protocol, resource, deadline, stream });
        self.events.try_send(event).map_err(|_| zbus::fdo::Error::LimitsExceeded("busy".into()))
    }

    async fn peer_changed(&self, peer: Vec<u8>, connected: bool) -> zbus::fdo::Result<()> {
        let peer = bus::node_id(&peer)?;
        let event = if connected { MeshEvent::PeerUp(peer) } else { MeshEvent::PeerDown(peer) };
        self.events.send(event).await.map_err(|_| zbus::fdo::Error::Failed("service is stopping".into()))
    }
}

/// A service's end of the mesh: takes streams of its protocols and opens streams to peers. Survives restarts of mesh.
#[derive(Clone)]
pub struct Streams {
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Streams {
    /// Serves `protocols` (word, access) in the background, for ever. Must be called within a tokio runtime.
    pub fn serve(protocols: &'static [(&'static str, &'static str)]) -> (Self, mpsc::Receiver<MeshEvent>) {
        let (events, receiver) = mpsc::channel(MAX_WAITING);
        let streams = Self { connection: Arc::default() };
        let slot = streams.connection.clone();
        tokio::spawn(async move {
            loop {
                let connection = bus::retry("mesh", || register(protocols, events.clone())).await;
                *slot.lock().await = Some(connection.clone());
                if events.send(MeshEvent::Connected).await.is_err() {
                    return;
                }
                connection.closed().await;
                *slot.lock().await = None;
                tracing::info!("mesh went away, connecting again");
            }
        });
        (streams, receiver)
    }

    /// The proxy for everything else that mesh does. Waits up to 10 s for mesh to be there.
    pub async fn mesh(&self) -> Result<MeshProxy<'static>> {
        for _ in 0..100 {
            if let Some(c) = self.connection.lock().await.clone() {
                return Ok(MeshProxy::new(&c).await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("mesh is not there")
    }

    /// Opens a stream to a peer.
    pub async fn open(&self, node: &NodeId, protocol: &str, timeout: Duration) -> Result<UnixStream> {
        let mesh = self.mesh().await?;
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let fd = mesh
            .open_stream(node.as_bytes(), protocol, "", &[], millis)
            .await
            .with_context(|| format!("no {protocol} stream to {node}"))?;
        from_fd(fd)
    }
}

async fn register(protocols: &[(&str, &str)], events: mpsc::Sender<MeshEvent>) -> Result<Connection> {
    let handler = Handler { events };
    let connection = bus::connect_with("mesh", |b| b.serve_at(STREAM_HANDLER_PATH, handler)).await?;
    let mesh = MeshProxy::new(&connection).await?;
    for (protocol, access) in protocols {
        mesh.serve(protocol, "", access).await?;
    }
    Ok(connection)
}

/// A passed file descriptor as a stream.
pub fn from_fd(fd: OwnedFd) -> Result<UnixStream> {
    let std = StdUnixStream::from(std::os::fd::OwnedFd::from(fd));
    std.set_nonblocking(true)?;
    Ok(UnixStream::from_std(std)?)
}
