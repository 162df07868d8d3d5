//! QUIC between nodes: an endpoint whose peers are known by their node ids.
//!
//! Used by the mesh daemon, whose node key lives in another process, and by `maculactl`, which holds its owner's key.

mod alpn;
mod paths;
pub mod tcp;
mod tls;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_proto::{MAX_HEADER, StreamHeader};
use os_identity::NodeId;
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream, Runtime,
    SendStream, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::sync::mpsc;

pub use alpn::{AlpnPort, alpn_of, server_config_by_alpn};
pub use paths::{Outgoing, Paths, Via};
pub use tls::{Certain, Credentials, client_config, server_config, server_tls, system_clock};

/// Why a connection or stream was closed, as QUIC application error codes.
pub mod close_code {
    pub const DONE: u32 = 0;
    /// The peer opened a stream for a protocol that is not served, or that it may not use.
    pub const REFUSED: u32 = 1;
    pub const BUSY: u32 = 2;
    pub const BAD_HEADER: u32 = 3;
    /// The service behind the stream went away.
    pub const GONE: u32 = 4;
    /// The two ends have no version of the protocol in common.
    pub const VERSION: u32 = 5;
    /// The peer asks for more than its share.
    pub const TOO_MUCH: u32 = 6;
}

const IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Datagrams waiting to be read or sent, per connection. A tenth of a second of 10 Mbit/s: more only makes them late.
const DATAGRAM_BUFFER: usize = 128 * 1024;
/// How long a peer may take to send a stream's header.
const HEADER_WAIT: Duration = Duration::from_secs(10);

/// What may lie unread on a connection whose far end has not proved who it is, or never does, and of a node.
const STRANGERS_WINDOW: u32 = 1 << 20;
const NODES_WINDOW: u32 = 16 << 20;

/// Limits that hold for each connection: 256 streams, 4 MiB unread per stream, 16 MiB per connection of a node.
pub fn transport_config() -> Arc<TransportConfig> {
    let mut t = TransportConfig::default();
    t.max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    t.keep_alive_interval(Some(KEEP_ALIVE));
    t.max_concurrent_bidi_streams(VarInt::from_u32(256));
    // Nodes need one for hello, and one that takes its place; HTTP/3 at least three, besides those that mean nothing (RFC 9114, 6.2).
    t.max_concurrent_uni_streams(VarInt::from_u32(8));
    t.stream_receive_window(VarInt::from_u32(4 << 20));
    t.receive_window(VarInt::from_u32(STRANGERS_WINDOW));
    t.send_window(16 << 20);
    // Packets on their way through a relay. What is too much is dropped, oldest first.
    t.datagram_receive_buffer_size(Some(DATAGRAM_BUFFER));
    t.datagram_send_buffer_size(DATAGRAM_BUFFER);
    Arc::new(t)
}

/// A secret that stays the same over restarts: with it an endpoint tells peers at once that it has forgotten their connections
/// (RFC 9000, section 10.3), instead of leaving them to wait for [`IDLE`].
pub type ResetKey = [u8; 32];

/// An endpoint on `address`. `credentials` serve both directions; `certain` is what peers' certificates are judged by.
pub fn endpoint(
    address: SocketAddr,
    credentials: &Credentials,
    certain: Certain,
    reset_key: Option<&ResetKey>,
) -> Result<Endpoint> {
    let socket = bind(address).with_context(|| format!("cannot bind UDP {address}"))?;
    let socket = quinn::TokioRuntime.wrap_udp_socket(socket)?;
    endpoint_on(socket, credentials, certain, reset_key)
}

/// An endpoint that also reaches peers by ways that are no IP addresses; see [`Paths`].
pub fn endpoint_with_paths(
    address: SocketAddr,
    credentials: &Credentials,
    certain: Certain,
    reset_key: Option<&ResetKey>,
) -> Result<(Endpoint, Paths, mpsc::Receiver<Outgoing>)> {
    let socket = bind(address).with_context(|| format!("cannot bind UDP {address}"))?;
    let (paths, outgoing) = Paths::new(socket);
    let endpoint = endpoint_on(paths.socket()?, credentials, certain, reset_key)?;
    Ok((endpoint, paths, outgoing))
}

fn endpoint_on(
    socket: Arc<dyn AsyncUdpSocket>,
    credentials: &Credentials,
    certain: Certain,
    reset_key: Option<&ResetKey>,
) -> Result<Endpoint> {
    let server = server_config(credentials, certain)?;
    let config = reset_key.map_or_else(EndpointConfig::default, remembering);
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
    endpoint.set_default_client_config(client_config(credentials, certain)?);
    Ok(endpoint)
}

fn remembering(key: &ResetKey) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key)));
    // The ids of connections from before a restart must look like this endpoint's own, or their packets are just dropped.
    let ids = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), b"connection ids");
    let ids = u64::from_le_bytes(ids.as_ref().first_chunk().copied().unwrap_or_default());
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

/// IPv6 sockets are dual stack, so that `[::]` means every address.
fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    // On Linux std binds v6 sockets with IPV6_V6ONLY as the sysctl says, which is 0 unless somebody changed it.
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What nodes ask for (SNI); it means nothing.
const NAME: &str = "macula.node";

/// An endpoint that dials with the newest certificate. quinn keeps a client configuration with each handle of an endpoint: set on
/// one, it leaves the others as they were.
pub struct Dialer {
    endpoint: Endpoint,
    certain: Certain,
    config: RwLock<ClientConfig>,
}

impl Dialer {
    pub fn new(endpoint: Endpoint, credentials: &Credentials, certain: Certain) -> Result<Self> {
        let config = RwLock::new(client_config(credentials, certain)?);
        Ok(Self { endpoint, certain, config })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// From now on with these; connections that are up keep theirs.
    pub fn renew(&self, credentials: &Credentials) -> Result<()> {
        let fresh = client_config(credentials, self.certain)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// As [`connect`].
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: Option<&NodeId>,
    ) -> Result<(Connection, NodeId)> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self.endpoint.connect_with(config, address, NAME)?;
        proved(connecting.await?, address, expected)
    }
}

/// Connects to an address. With `expected`, any other node there is an error.
pub async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    expected: Option<&NodeId>,
) -> Result<(Connection, NodeId)> {
    proved(endpoint.connect(address, NAME)?.await?, address, expected)
}

/// Looks at who is there, and closes if it is somebody else than expected.
fn proved(
    connection: Connection,
    address: SocketAddr,
    expected: Option<&NodeId>,
) -> Result<(Connection, NodeId)> {
    let node = peer_of(&connection)?;
    widen(&connection);
    match expected {
        Some(expected) if *expected != node => {
            connection.close(VarInt::from_u32(close_code::DONE), b"another node was expected here");
            bail!("{address} is {node}, not {expected}")
        }
        _ => Ok((connection, node)),
    }
}

/// Lets a node send more before we have read it.
pub fn widen(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(NODES_WINDOW));
}

/// The node id that the connection's far end proved in the handshake.
pub fn peer_of(connection: &Connection) -> Result<NodeId> {
    let identity = connection.peer_identity().context("peer proved no identity")?;
    let chain = identity
        .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
        .map_err(|_| anyhow::anyhow!("peer identity is of an unknown kind"))?;
    Ok(os_certificate::node_id_of_verified_chain(&chain)?)
}

/// Opens a stream and sends its header.
pub async fn open(connection: &Connection, header: &StreamHeader) -> Result<(SendStream, RecvStream)> {
    let (mut send, recv) = connection.open_bi().await?;
    let bytes = header.encode()?;
    send.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    send.write_all(&bytes).await?;
    Ok((send, recv))
}

/// Reads the header of a stream that the peer opened.
pub async fn read_header(recv: &mut RecvStream) -> Result<StreamHeader> {
    let read = async {
        let mut head = [0; 4];
        recv.read_exact(&mut head).await?;
        let len = u32::from_be_bytes(head) as usize;
        if len > MAX_HEADER {
            bail!("stream header of {len} bytes");
        }
        let mut bytes = vec![0; len];
        recv.read_exact(&mut bytes).await?;
        Ok(StreamHeader::decode(&bytes)?)
    };
    tokio::time::timeout(HEADER_WAIT, read).await.context("stream header did not come")?
}
