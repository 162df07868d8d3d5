//! `control-content/1`: what the owner asks for.
//!
//! `put` ([`PutParams`], then the bytes) stores, pins under the content's name and announces; the answer is the MCID.
//! `get` (MCID) answers [`GetAnswer`], then the bytes. `has` (MCID): whether all of it is here. `report`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use content_store::ContentWriter;
use os_content_id::{CHUNK_SIZE, Mcid};
use services_api::control::{self, Answer, Call};
use services_api::daemon::now_ms;
use services_api::report::{GetAnswer, PutParams};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::interface::start_fetch;
use crate::local::blocking;
use crate::node::Node;
use crate::peers::Peers;

/// An owner who sends or takes nothing for so long is cut off.
const STALL: Duration = Duration::from_secs(60);
/// After the answer, what is still on its way is read for so long, so that the answer is not lost with the stream.
const LINGER: Duration = Duration::from_secs(10);

/// One call; `resource` is what its stream was opened for.
pub async fn serve<S, P>(mut stream: S, resource: &str, node: &Arc<Node<P>>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Peers,
{
    let mut follows = None;
    let follows_ref = &mut follows;
    let handler = |call: Call, stream| async move {
        let mut stream = stream;
        (answer(&call, &mut stream, node, follows_ref).await, stream)
    };
    control::serve_one(&mut stream, resource, handler).await?;
    if let Some(mut content) = follows {
        copy(&mut content, &mut stream).await?;
    }
    let _ = stream.shutdown().await;
    let _ = timeout(LINGER, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
    Ok(())
}

async fn answer<S, P>(
    call: &Call,
    stream: &mut S,
    node: &Arc<Node<P>>,
    follows: &mut Option<UnixStream>,
) -> Result<Answer>
where
    S: AsyncRead + Unpin,
    P: Peers,
{
    match call.method.as_str() {
        "put" => {
            let mcid = put(stream, call.params()?, node).await?;
            node.announce(mcid);
            control::ok(&mcid.to_string())
        }
        "get" => {
            let started = start_fetch(node, &parse(call)?, None).await?;
            started.stream.set_nonblocking(true)?;
            *follows = Some(UnixStream::from_std(started.stream)?);
            control::ok(&GetAnswer { name: started.name, size: started.size })
        }
        "has" => control::ok(&node.local.has_all(&parse(call)?).await),
        "report" => control::ok(&node.report()),
        _ => Err(call.unknown()),
    }
}

fn parse(call: &Call) -> Result<Mcid> {
    let text: String = call.params()?;
    text.parse().with_context(|| format!("`{}` is not an MCID", text.chars().take(100).collect::<String>()))
}

async fn put<S, P>(stream: &mut S, params: PutParams, node: &Arc<Node<P>>) -> Result<Mcid>
where
    S: AsyncRead + Unpin,
    P: Peers,
{
    let _permit = node.put_permit.acquire().await?;
    let stored = receive(stream, &params.name, params.size, node).await;
    node.announce_removed();
    let mcid = stored.with_context(|| format!("`{}` was not stored", params.name))?;
    let (store, name) = (node.local.store.clone(), params.name);
    let name = if name.is_empty() { mcid.to_string() } else { name };
    blocking(move || store.pin(&name, &mcid)).await??;
    Ok(mcid)
}

/// Stores so many bytes of a stream.
pub async fn receive<S, P>(stream: &mut S, name: &str, size: u64, node: &Arc<Node<P>>) -> Result<Mcid>
where
    S: AsyncRead + Unpin,
{
    let mut writer = ContentWriter::new(node.local.store.clone(), name, size)?;
    let mut left = size;
    let mut chunk = Vec::new();
    while left > 0 {
        chunk.resize(left.min(u64::from(CHUNK_SIZE)) as usize, 0);
        match timeout(STALL, stream.read_exact(&mut chunk)).await {
            Ok(read) => read.with_context(|| format!("the stream ended {left} bytes early"))?,
            Err(_) => bail!("nothing came for {} s, {left} bytes are missing", STALL.as_secs()),
        };
        left -= chunk.len() as u64;
        (writer, chunk) = blocking(move || writer.push(&chunk).map(|()| (writer, chunk))).await??;
    }
    Ok(blocking(move || writer.finish(now_ms())).await??)
}

async fn copy<S: AsyncWrite + Unpin>(content: &mut UnixStream, out: &mut S) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = content.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        timeout(STALL, out.write_all(&buffer[..n])).await.context("the owner takes nothing")??;
    }
}
