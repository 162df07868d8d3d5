//! One TCP port, several application protocols over TLS, each with TLS of its own; the counterpart of `mesh_transport::AlpnPort`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gate::{Gate, Slot};

/// Connections at once, and those of one client: a browser opens six.
const CONNECTIONS: (usize, usize) = (128, 16);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub type TlsTcp = TlsStream<TcpStream>;

type Host = Arc<dyn Fn(TlsTcp, SocketAddr, Slot) + Send + Sync>;

#[derive(Clone)]
struct Spoken {
    tls: Arc<ServerConfig>,
    host: Host,
}

pub struct TcpPort {
    spoken: Mutex<Vec<Spoken>>,
    gate: Gate,
    admits: Box<dyn Fn(SocketAddr) -> bool + Send + Sync>,
}

impl TcpPort {
    /// `admits`: whether somebody from there may connect now, for limits on how often.
    pub fn new(admits: impl Fn(SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        let gate = Gate::new(CONNECTIONS.0, CONNECTIONS.1);
        Self { spoken: Mutex::default(), gate, admits: Box::new(admits) }
    }

    /// From now on `host` gets the connections with these protocols (`alpn_protocols`), instead of an earlier one for the same. It must
    /// not wait, and keeps the slot as long as the connection.
    pub fn speak(
        &self,
        tls: ServerConfig,
        host: impl Fn(TlsTcp, SocketAddr, Slot) + Send + Sync + 'static,
    ) -> Result<()> {
        ensure!(!tls.alpn_protocols.is_empty(), "a TLS configuration without ALPN would never be chosen");
        let new = Spoken { tls: Arc::new(tls), host: Arc::new(host) };
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.retain(|old| old.tls.alpn_protocols != new.tls.alpn_protocols);
        spoken.push(new);
        Ok(())
    }

    /// Takes connections for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!("cannot take a TCP connection: {e}");
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let slot = if (self.admits)(from) { self.gate.enter(from.ip()) } else { None };
            let Some(slot) = slot else {
                tracing::debug!("turned {from} away: too many TCP connections");
                continue;
            };
            let port = self.clone();
            tokio::spawn(async move {
                if let Err(e) = port.take(stream, from, slot).await {
                    tracing::debug!("TCP connection from {from}: {e:#}");
                }
            });
        }
    }

    async fn take(&self, stream: TcpStream, from: SocketAddr, slot: Slot) -> Result<()> {
        stream.set_nodelay(true)?;
        let handshake = async {
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let offered = start.client_hello().alpn();
            let offered: Option<Vec<Vec<u8>>> = offered.map(|all| all.map(<[u8]>::to_vec).collect());
            let spoken = self.choose(offered.as_deref())?;
            let stream = start.into_stream(spoken.tls).await?;
            anyhow::Ok((stream, spoken.host))
        };
        let (stream, host) = timeout(HANDSHAKE, handshake).await.context("handshake took too long")??;
        host(stream, from, slot);
        Ok(())
    }

    /// Clients that offer nothing speak HTTP/1.1. Whoever offers nothing that is spoken gets the first, which refuses it in TLS' own words.
    fn choose(&self, offered: Option<&[Vec<u8>]>) -> Result<Spoken> {
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let default = [crate::HTTP_1_1.to_vec()];
        let offered = offered.unwrap_or(&default);
        let speaks = |s: &&Spoken| s.tls.alpn_protocols.iter().any(|p| offered.contains(p));
        match spoken.iter().find(speaks).or(spoken.first()) {
            Some(chosen) => Ok(chosen.clone()),
            None => bail!("nothing is spoken here"),
        }
    }
}
