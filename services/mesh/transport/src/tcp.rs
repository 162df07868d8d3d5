//! TLS over TCP, for networks that let no UDP through: the same certificates as QUIC's, and packets of QUIC as frames.
//!
//! The tunnel shares its TCP port with other protocols, which are told apart by their ALPN words.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use os_identity::NodeId;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{Certain, Credentials, client_tls, server_tls_as};

/// ALPN of the tunnel: packets of QUIC, each after its length (2 bytes, big-endian).
pub const TUNNEL_ALPN: &[u8] = b"macula-os-relay/1";
/// Largest packet in a tunnel.
pub const MAX_PACKET: usize = 2048;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// A tunnel in which nothing comes is closed: QUIC in it says something every ten seconds.
const IDLE: Duration = Duration::from_secs(45);

/// The certificates of both ends of a tunnel, renewed while they are used.
pub struct TunnelTls {
    certain: Certain,
    configs: RwLock<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>)>,
}

impl TunnelTls {
    pub fn new(credentials: &Credentials, certain: Certain) -> Result<Self> {
        Ok(Self { certain, configs: RwLock::new(configs(credentials, certain)?) })
    }

    /// From now on these; connections that are up keep theirs.
    pub fn renew(&self, credentials: &Credentials) -> Result<()> {
        let fresh = configs(credentials, self.certain)?;
        *self.configs.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub fn server(&self) -> rustls::ServerConfig {
        (*self.configs.read().unwrap_or_else(PoisonError::into_inner).0).clone()
    }

    /// A tunnel to `node`, which must be there.
    pub async fn connect(&self, address: SocketAddr, node: &NodeId) -> Result<TlsStream<TcpStream>> {
        let config = self.configs.read().unwrap_or_else(PoisonError::into_inner).1.clone();
        let connecting = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("macula.node")?;
            anyhow::Ok(TlsConnector::from(config).connect(name, tcp).await?)
        };
        let stream =
            tokio::time::timeout(HANDSHAKE_WAIT, connecting).await.context("no answer in time")??;
        let there = peer_of(stream.get_ref().1.peer_certificates())?;
        ensure!(there == *node, "{address} is {there}, not {node}");
        Ok(stream)
    }
}

fn configs(
    credentials: &Credentials,
    certain: Certain,
) -> Result<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>)> {
    let server = server_tls_as(credentials, certain, TUNNEL_ALPN)?;
    let client = client_tls(credentials, certain, TUNNEL_ALPN)?;
    Ok((Arc::new(server), Arc::new(client)))
}

/// The node id that the far end proved in the handshake.
pub fn peer_of(chain: Option<&[CertificateDer<'_>]>) -> Result<NodeId> {
    let chain = chain.context("peer proved no identity")?;
    Ok(os_certificate::node_id_of_verified_chain(chain)?)
}

/// Moves packets both ways until the tunnel ends, `outgoing` has no more senders, or nothing comes for a while.
pub async fn tunnel(
    stream: impl AsyncRead + AsyncWrite,
    outgoing: mpsc::Receiver<Vec<u8>>,
    deliver: impl FnMut(Vec<u8>),
) -> Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        ended = read_packets(reader, deliver) => ended,
        ended = write_packets(writer, outgoing) => ended,
    }
}

async fn read_packets(reader: impl AsyncRead, mut deliver: impl FnMut(Vec<u8>)) -> Result<()> {
    let mut reader = std::pin::pin!(tokio::io::BufReader::new(reader));
    loop {
        let packet = async {
            let len = usize::from(reader.read_u16().await?);
            ensure!(len <= MAX_PACKET, "a packet of {len} bytes");
            let mut packet = vec![0; len];
            reader.read_exact(&mut packet).await?;
            Ok(packet)
        };
        deliver(tokio::time::timeout(IDLE, packet).await.context("nothing comes")??);
    }
}

async fn write_packets(writer: impl AsyncWrite, mut packets: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    let mut writer = std::pin::pin!(writer);
    let mut batch = Vec::new();
    while let Some(packet) = packets.recv().await {
        batch.clear();
        append(&mut batch, &packet);
        // Whatever waits goes out in one record.
        while batch.len() < 14_000
            && let Ok(packet) = packets.try_recv()
        {
            append(&mut batch, &packet);
        }
        writer.write_all(&batch).await?;
        writer.flush().await?;
    }
    Ok(())
}

fn append(batch: &mut Vec<u8>, packet: &[u8]) {
    if packet.len() <= MAX_PACKET {
        batch.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        batch.extend_from_slice(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_out_as_they_went_in() {
        let (near, far) = tokio::io::duplex(100);
        let (send, packets) = mpsc::channel(10);
        let (_nothing, none) = mpsc::channel(1);
        let sent = vec![vec![1; 1], vec![], vec![2; MAX_PACKET], vec![3; MAX_PACKET + 1], vec![4; 5]];
        for packet in &sent {
            send.try_send(packet.clone()).unwrap();
        }
        drop(send);
        let mut got = Vec::new();
        let ends = tokio::join!(tunnel(near, packets, |_| {}), tunnel(far, none, |packet| got.push(packet)));
        assert!(ends.0.is_ok() && ends.1.is_err());
        assert_eq!(got, [&sent[..3], &sent[4..]].concat(), "all but the one that is too large");
    }

    #[tokio::test]
    async fn too_large_a_packet_ends_the_tunnel() {
        let (mut near, far) = tokio::io::duplex(100);
        let (_nothing, none) = mpsc::channel(1);
        near.write_all(&(MAX_PACKET as u16 + 1).to_be_bytes()).await.unwrap();
        let error = tunnel(far, none, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("a packet of"), "{error:#}");
    }
}
