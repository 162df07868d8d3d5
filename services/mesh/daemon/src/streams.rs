//! Streams: from a peer to the service that handles it, and from a service to a peer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_transport::close_code;
use os_identity::NodeId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use services_api::control::{self, protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::links::Links;

/// The protocol that mesh answers by itself: whatever 32 bytes come in go back.
const PING: &str = "ping/1";
const PING_LEN: usize = 32;
const BUFFER: usize = 64 * 1024;
/// How long a service may take to take over a stream.
const HANDOVER: Duration = Duration::from_secs(5);

/// Serves every stream that the peer opens, until the connection ends; says why it ended.
pub async fn serve(links: &Arc<Links>, peer: NodeId, connection: &Connection) -> String {
    loop {
        match connection.accept_bi().await {
            Ok((send, recv)) => {
                let links = links.clone();
                tokio::spawn(async move {
                    if let Err(e) = dispatch(&links, peer, send, recv).await {
                        tracing::debug!("stream of {peer}: {e:#}");
                    }
                });
            }
            Err(e) => return e.to_string(),
        }
    }
}

async fn dispatch(
    links: &Arc<Links>,
    peer: NodeId,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    let header = match mesh_transport::read_header(&mut recv).await {
        Ok(header) => header,
        Err(e) => {
            refuse(&mut send, &mut recv, close_code::BAD_HEADER);
            return Err(e);
        }
    };
    match header.protocol.as_str() {
        PING => echo(send, recv).await,
        protocol::MESH if links.owner == Some(peer) => {
            let (here, there) = UnixStream::pair()?;
            tokio::spawn(pump(send, recv, there));
            control::serve_one(here, |call, stream| answer(links.clone(), call, stream)).await
        }
        word => {
            let Some(handler) = links.handlers.find(word, links.owner == Some(peer)) else {
                tracing::info!("refused {peer} a stream: `{word}` is not served to it");
                refuse(&mut send, &mut recv, close_code::REFUSED);
                return Ok(());
            };
            let (here, there) = socket_pair()?;
            let taken = handler.accept(peer.as_bytes(), word, there.into());
            match tokio::time::timeout(HANDOVER, taken).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    refuse(&mut send, &mut recv, close_code::BUSY);
                    return Err(e).with_context(|| format!("service of `{word}` did not take the stream"));
                }
                Err(_) => {
                    refuse(&mut send, &mut recv, close_code::GONE);
                    anyhow::bail!("service of `{word}` did not answer");
                }
            }
            pump(send, recv, here).await;
            Ok(())
        }
    }
}

fn refuse(send: &mut SendStream, recv: &mut RecvStream, code: u32) {
    // Both only fail on streams that are closed already.
    let _ = send.reset(VarInt::from_u32(code));
    let _ = recv.stop(VarInt::from_u32(code));
}

async fn answer(
    links: Arc<Links>,
    call: control::Call,
    stream: UnixStream,
) -> (Result<control::Answer>, UnixStream) {
    let answer = match call.method.as_str() {
        "peers" => control::ok(&links.report()),
        _ => Err(call.unknown()),
    };
    (answer, stream)
}

async fn echo(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut bytes = [0; PING_LEN];
    recv.read_exact(&mut bytes).await?;
    send.write_all(&bytes).await?;
    send.finish()?;
    Ok(())
}

/// Sends a fresh challenge over a new stream and waits for it to come back.
pub async fn ping(links: &Arc<Links>, peer: NodeId) -> Result<Duration> {
    let mut challenge = [0; PING_LEN];
    getrandom::fill(&mut challenge).map_err(std::io::Error::from)?;
    let start = std::time::Instant::now();
    let (mut send, mut recv) = links.open(peer, PING).await?;
    send.write_all(&challenge).await?;
    send.finish()?;
    let mut answer = [0; PING_LEN];
    recv.read_exact(&mut answer).await?;
    anyhow::ensure!(answer == challenge, "{peer} answered another challenge");
    Ok(start.elapsed())
}

/// Our end of a new socket pair, and the end to pass to a service.
pub fn socket_pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    here.set_nonblocking(true)?;
    Ok((UnixStream::from_std(here)?, there.into()))
}

/// Moves bytes between a QUIC stream and a service's socket, keeping half-close, until both directions are done.
pub async fn pump(send: SendStream, recv: RecvStream, socket: UnixStream) {
    let (reader, writer) = socket.into_split();
    tokio::join!(to_peer(reader, send), to_service(recv, writer));
}

async fn to_peer(mut from: tokio::net::unix::OwnedReadHalf, mut send: SendStream) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        tokio::select! {
            read = from.read_buf(&mut buffer) => match read {
                Ok(0) => {
                    let _ = send.finish();
                    return;
                }
                Ok(_) => {}
                Err(_) => {
                    let _ = send.reset(VarInt::from_u32(close_code::GONE));
                    return;
                }
            },
            // The peer does not want more: let the service see it at its next write.
            _ = send.stopped() => return,
        }
        if send.write_all(&buffer).await.is_err() {
            return;
        }
    }
}

async fn to_service(mut recv: RecvStream, mut to: tokio::net::unix::OwnedWriteHalf) {
    while let Ok(Some(chunk)) = recv.read_chunk(BUFFER, true).await {
        if to.write_all(&chunk.bytes).await.is_err() {
            let _ = recv.stop(VarInt::from_u32(close_code::GONE));
            return;
        }
    }
    let _ = to.shutdown().await;
}
