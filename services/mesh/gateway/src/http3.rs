//! HTTP/3.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use h3::server::{RequestResolver, RequestStream};
use http::Response;
use quinn::VarInt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::Node;
use crate::body::{Body, RequestBody};
use crate::gateway::Gateway;
use crate::http12::{MAX_HEAD, REQUESTS};

/// RFC 9114, 8.1.
const H3_NO_ERROR: u32 = 0x100;
const H3_EXCESSIVE_LOAD: u32 = 0x107;
/// A client that has taken nothing for so long has gone.
const TAKE: Duration = Duration::from_secs(60);
/// The largest piece that is handed to QUIC at once.
const PIECE: usize = 64 * 1024;

type Receive = RequestStream<h3_quinn::RecvStream, Bytes>;
type Send = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;

/// Serves one connection to its end.
pub async fn serve_quic<N: Node>(gateway: Arc<Gateway<N>>, connection: quinn::Connection) {
    let from = connection.remote_address().ip();
    let Some(_slot) = gateway.http3_connections.enter(from) else {
        connection.close(VarInt::from_u32(H3_EXCESSIVE_LOAD), b"too many connections");
        return;
    };
    if let Err(e) = requests(&gateway, &connection, from).await {
        tracing::debug!("HTTP/3 connection from {from}: {e:#}");
    }
    connection.close(VarInt::from_u32(H3_NO_ERROR), b"");
}

async fn requests<N: Node>(
    gateway: &Arc<Gateway<N>>,
    connection: &quinn::Connection,
    from: IpAddr,
) -> Result<()> {
    let mut builder = h3::server::builder();
    builder.max_field_section_size(MAX_HEAD as u64);
    let h3 = builder.build::<_, Bytes>(h3_quinn::Connection::new(connection.clone()));
    let mut h3 = timeout(gateway.settings.head, h3).await.context("no HTTP/3 settings")??;
    let running = Arc::new(Semaphore::new(REQUESTS as usize));
    loop {
        let permit = running.clone().acquire_owned().await?;
        let accepted = match timeout(gateway.settings.silence, h3.accept()).await {
            Ok(accepted) => accepted?,
            // All permits but ours are back: nothing has been asked for a while, and nothing is being answered.
            Err(_) if running.available_permits() + 1 == REQUESTS as usize => return Ok(()),
            Err(_) => continue,
        };
        let Some(resolver) = accepted else { return Ok(()) };
        let gateway = gateway.clone();
        tokio::spawn(async move {
            if let Err(e) = request(&gateway, from, resolver).await {
                tracing::debug!("HTTP/3 request from {from}: {e:#}");
            }
            drop(permit);
        });
    }
}

async fn request<N: Node>(
    gateway: &Arc<Gateway<N>>,
    from: IpAddr,
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
) -> Result<()> {
    let resolved =
        timeout(gateway.settings.head, resolver.resolve_request()).await.context("no head came")?;
    let (request, stream) = resolved?;
    let (mut send, receive) = stream.split();
    let request = request.map(|()| H3Body(receive));
    // Dropped at the end, whether or not it was read: then the client is told to stop.
    let response = gateway.answer(from, request).await;
    let sent = respond(&mut send, response).await;
    if sent.is_err() {
        send.stop_stream(h3::error::Code::H3_INTERNAL_ERROR);
    }
    sent
}

async fn respond(send: &mut Send, response: Response<Body>) -> Result<()> {
    let (head, mut body) = response.into_parts();
    timeout(TAKE, send.send_response(Response::from_parts(head, ()))).await??;
    while let Some(piece) = body.next().await {
        let mut piece = piece?;
        while piece.has_remaining() {
            let next = piece.split_to(piece.len().min(PIECE));
            if timeout(TAKE, send.send_data(next)).await.is_err() {
                bail!("the client takes nothing any more");
            }
        }
    }
    Ok(timeout(TAKE, send.finish()).await??)
}

struct H3Body(Receive);

impl RequestBody for H3Body {
    async fn piece(&mut self) -> Option<Result<Bytes, String>> {
        match self.0.recv_data().await {
            Ok(Some(mut data)) => Some(Ok(data.copy_to_bytes(data.remaining()))),
            Ok(None) => None,
            Err(e) => Some(Err(e.to_string())),
        }
    }
}
