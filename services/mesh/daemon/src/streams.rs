//! Streams: from a peer to whoever handles them, and from a service to a peer or to this node's own services.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mesh_proto::rpc::{self, CallError, Code};
use mesh_proto::{StreamHeader, pubsub, punch};
use mesh_transport::close_code;
use os_identity::NodeId;
use os_ucan::Ability;
use quinn::{RecvStream, SendStream, VarInt};
use services_api::control::{self, protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::access::Access;
use crate::authority::Pass;
use crate::link::{Link, Opened};
use crate::links::Links;
use crate::relay;
use crate::topics::Reading;

/// The protocol that mesh answers by itself: whatever 32 bytes come in go back.
const PING: &str = "ping/1";
const PING_LEN: usize = 32;
const BUFFER: usize = 64 * 1024;
/// How long a service may take to take over a stream.
const HANDOVER: Duration = Duration::from_secs(5);

/// Serves every stream that the peer opens, until the connection ends; says why it ended.
pub async fn serve(links: &Arc<Links>, peer: NodeId, link: &Link) -> String {
    loop {
        match link.connection.accept_bi().await {
            Ok((send, recv)) => {
                let (links, link, in_use) = (links.clone(), link.clone(), link.users.enter());
                tokio::spawn(async move {
                    if let Err(e) = dispatch(&links, peer, &link, send, recv).await {
                        tracing::debug!("stream of {peer}: {e:#}");
                    }
                    drop(in_use);
                });
            }
            Err(e) => return e.to_string(),
        }
    }
}

async fn dispatch(
    links: &Arc<Links>,
    peer: NodeId,
    link: &Link,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    if !links.admits(&peer) {
        refuse(&mut send, &mut recv, close_code::TOO_MUCH);
        anyhow::bail!("more streams than its share");
    }
    let header = match mesh_transport::read_header(&mut recv).await {
        Ok(header) => header,
        Err(e) => {
            refuse(&mut send, &mut recv, close_code::BAD_HEADER);
            return Err(e);
        }
    };
    match header.protocol.as_str() {
        PING => echo(send, recv).await,
        punch::PROTOCOL => crate::punch::answer(links, peer, link, send, recv).await,
        punch::RELAY_PROTOCOL => relay::answer(links, header.resource.as_deref(), send, recv).await,
        _ => {
            match open_for(links, peer, &header).await {
                Ok((here, pass)) if pass.is_free() => pump(send, recv, here).await,
                Ok((here, pass)) => tokio::select! {
                    () = pump(send, recv, here) => {}
                    () = links.authority.over(&pass) => {
                        tracing::info!("{peer} has lost the right to its stream of `{}`", header.protocol);
                    }
                },
                Err(refusal) => {
                    tracing::debug!("refused {peer} a stream of `{}`: {}", header.protocol, refusal.text);
                    tell_refusal(&header, &refusal, send, recv).await;
                }
            }
            Ok(())
        }
    }
}

/// A stream to one of this node's services for somebody who has proved to be `who`, if he may have it.
pub async fn open_for(
    links: &Arc<Links>,
    who: NodeId,
    header: &StreamHeader,
) -> Result<(UnixStream, Pass), CallError> {
    let failed = |e: std::io::Error| CallError::new(Code::INTERNAL, e.to_string());
    if header.protocol != protocol::MESH {
        let (here, there) = socket_pair().map_err(failed)?;
        return Ok((here, hand_over(links, who, header, there).await?));
    }
    let pass = check(links, who, &Access::Delegated(mesh_ability()?), header).await?;
    let (here, there) = UnixStream::pair().map_err(failed)?;
    let (links, method) = (links.clone(), header.resource.clone().unwrap_or_default());
    tokio::spawn(async move {
        let served = control::serve_one(there, &method, |call, stream| answer(links, call, stream)).await;
        if let Err(e) = served {
            tracing::debug!("a call by {who} failed: {e:#}");
        }
    });
    Ok((here, pass))
}

fn mesh_ability() -> Result<Ability, CallError> {
    Ability::parse("macula/mesh").map_err(|e| CallError::new(Code::INTERNAL, e.to_string()))
}

/// A stream to one of this node's own services.
pub async fn open_here(links: &Arc<Links>, header: &StreamHeader) -> Result<OwnedFd> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    hand_over(links, links.me(), header, there.into()).await?;
    Ok(here.into())
}

/// A stream of one of this node's apps to a service or another app.
pub async fn open_as(links: &Arc<Links>, app: NodeId, header: &StreamHeader) -> Result<UnixStream> {
    let (here, there) = socket_pair()?;
    hand_over(links, app, header, there).await?;
    Ok(here)
}

/// Moves bytes between two sockets until both directions are done.
pub async fn splice(mut a: UnixStream, mut b: UnixStream) {
    // Whichever end broke, the other one sees its socket close.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, BUFFER, BUFFER).await;
}

async fn check(
    links: &Arc<Links>,
    peer: NodeId,
    access: &Access,
    header: &StreamHeader,
) -> Result<Pass, CallError> {
    let asked = (header.protocol.as_str(), header.resource.as_deref().unwrap_or(""));
    links.authority.check(peer, access, asked, header.ucan.as_deref().unwrap_or_default()).await
}

/// Gives a stream of `peer` to whoever serves it.
async fn hand_over(
    links: &Arc<Links>,
    peer: NodeId,
    header: &StreamHeader,
    stream: OwnedFd,
) -> Result<Pass, CallError> {
    let (protocol, resource) = (header.protocol.as_str(), header.resource.as_deref().unwrap_or(""));
    if protocol == pubsub::PROTOCOL {
        let reading = links.topics.read(resource)?;
        let pass = check(links, peer, &reading.access, header).await?;
        publish(peer, resource, reading, stream)?;
        return Ok(pass);
    }
    let handler = links.handlers.find(protocol, resource)?;
    let pass = check(links, peer, &handler.access, header).await?;
    let deadline_ms = header.deadline_ms.unwrap_or(0);
    let taken = handler.proxy.accept(peer.as_bytes(), protocol, resource, deadline_ms, stream.into());
    match tokio::time::timeout(HANDOVER, taken).await {
        Ok(Ok(())) => Ok(pass),
        Ok(Err(e)) => Err(CallError::new(Code::BUSY, format!("the service did not take it: {e}"))),
        Err(_) => Err(CallError::new(Code::UNAVAILABLE, "the service does not answer")),
    }
}

/// Sends a topic's events to a subscriber for as long as it wants them.
fn publish(peer: NodeId, topic: &str, reading: Reading, stream: OwnedFd) -> Result<(), CallError> {
    let failed = |e: std::io::Error| CallError::new(Code::INTERNAL, e.to_string());
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true).map_err(failed)?;
    let (reader, writer) = UnixStream::from_std(stream).map_err(failed)?.into_split();
    let topic = topic.to_owned();
    tokio::spawn(async move {
        let ended = mesh_stream::publish_to(reader, writer, reading.log, reading.published).await;
        if let Err(e) = ended {
            tracing::debug!("subscription of {peer} to `{topic}` ended: {e}");
        }
    });
    Ok(())
}

/// In the protocol's own words where it has some, otherwise by a code. Whoever calls as the owner's delegate reads why it may not.
async fn tell_refusal(
    header: &StreamHeader,
    refusal: &CallError,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let frame = match header.protocol.as_str() {
        rpc::PROTOCOL => rpc::error_frame(refusal),
        pubsub::PROTOCOL => pubsub::refusal_frame(refusal),
        word if protocol::is_control(word) && header.ucan.is_some() => control::refusal_frame(&refusal.text),
        _ => {
            let code = match refusal.code {
                Code::BUSY => close_code::BUSY,
                Code::UNAVAILABLE => close_code::GONE,
                _ => close_code::REFUSED,
            };
            return refuse(&mut send, &mut recv, code);
        }
    };
    // A peer that has gone does not miss its refusal.
    let _ = recv.stop(VarInt::from_u32(close_code::REFUSED));
    if send.write_all(&frame).await.is_ok() {
        let _ = send.finish();
    }
}

pub fn refuse(send: &mut SendStream, recv: &mut RecvStream, code: u32) {
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
    let Opened { mut send, mut recv, in_use: _in_use } = links.open(peer, &StreamHeader::new(PING)).await?;
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
