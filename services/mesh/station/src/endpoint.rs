//! A QUIC endpoint for ALPN `macula`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_certificate::self_signed;
use os_identity::NodeKey;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Semaphore, mpsc};

/// Clients of this generation send something every 15 s.
const IDLE: Duration = Duration::from_secs(300);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES_MAX: usize = 256;
const CONNECTIONS_WAITING: usize = 64;
const STREAMS: u32 = 100;
/// What a client may send before we have read it, and we before it has.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What this generation's stations call themselves in their certificates; nobody reads it.
const NAME: &str = "Macula Identity";
const LIFETIME_S: u64 = 10 * 365 * 24 * 3600;

/// An endpoint on `address` whose certificate is over `key`, which a client may pin. `now` is Unix time in seconds.
pub fn endpoint(address: SocketAddr, key: &NodeKey, now: u64) -> Result<Endpoint> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind UDP {address}"))?;
    socket.set_nonblocking(true)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let server = Some(server_config(key, now)?);
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, runtime)?)
}

/// The connections that come to an endpoint which serves nobody else, their handshakes done.
pub fn connections(endpoint: &Endpoint) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(CONNECTIONS_WAITING);
    let endpoint = endpoint.clone();
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        while let Some(incoming) = endpoint.accept().await {
            if handshakes.available_permits() < HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
                // It fails only for addresses that are validated already.
                let _ = incoming.retry();
                continue;
            }
            let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE, incoming).await {
                    let _ = sender.send(connection).await;
                }
                drop(handshake);
            });
        }
    });
    receiver
}

/// TLS 1.3, no certificate asked for: clients are known by their frames.
pub fn server_config(key: &NodeKey, now: u64) -> Result<ServerConfig> {
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls(key, now)?)?));
    config.transport_config(transport_config());
    Ok(config)
}

/// The same for a port that speaks other protocols, too.
pub fn server_tls(key: &NodeKey, now: u64) -> Result<rustls::ServerConfig> {
    let certificate = self_signed(key, NAME, now, LIFETIME_S)?;
    let pkcs8 = key.to_pkcs8_der().context("station key has no PKCS#8 form")?;
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], pkcs8)
        .context("station key and certificate do not fit")?;
    tls.alpn_protocols = vec![mesh_macula::ALPN.to_vec()];
    Ok(tls)
}

fn transport_config() -> Arc<TransportConfig> {
    let mut t = TransportConfig::default();
    t.max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    t.keep_alive_interval(Some(KEEP_ALIVE));
    t.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS));
    t.max_concurrent_uni_streams(VarInt::from_u32(0));
    t.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    t.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    t.send_window(CONNECTION_WINDOW.into());
    t.datagram_receive_buffer_size(None);
    Arc::new(t)
}
