//! Answers peers on `content/1`.

use std::time::Duration;

use anyhow::{Context, Result};
use content_store::exchange::{Answer, MAX_REQUEST_FRAME, Request, encode_block, encode_manifest};
use os_content_id::Hash;
use services_api::frame;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::gate::Pass;
use crate::local::Local;

/// A stream without a request for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// A peer that takes one answer for longer is cut off.
const SLOW: Duration = Duration::from_secs(60);

/// Serves one stream until the peer ends it. Without a pass the peer is told that we are busy.
pub async fn serve<S>(mut stream: S, local: &Local, pass: Option<Pass>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if pass.is_none() {
        let busy = Answer::Refused("busy: too many streams, try again later".to_string());
        return send(&mut stream, &busy.encode()).await;
    }
    while let Some(bytes) = next_request(&mut stream).await? {
        match Request::decode(&bytes) {
            Ok(Request::Have(content)) => {
                let (held, total) = local.held(&content).await;
                send(&mut stream, &Answer::Have { held, total }.encode()).await?;
            }
            Ok(Request::Manifest(content)) => {
                let answer = match local.manifest(&content).await {
                    Some(list) => encode_manifest(&list.encode()),
                    None => Answer::NoManifest.encode(),
                };
                send(&mut stream, &answer).await?;
            }
            Ok(Request::Want { hashes, .. }) => send_blocks(&mut stream, local, hashes).await?,
            Err(e) => {
                send(&mut stream, &Answer::Refused(format!("not understood: {e}")).encode()).await?;
                return Err(e).context("a request was not understood");
            }
        }
    }
    let _ = stream.shutdown().await;
    Ok(())
}

async fn next_request<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Vec<u8>>> {
    match timeout(IDLE, frame::read(stream, MAX_REQUEST_FRAME)).await {
        Ok(frame) => frame.context("reading a request failed"),
        Err(_) => Ok(None),
    }
}

/// In the order asked; the next one is read from disk while one is sent.
async fn send_blocks<S: AsyncWrite + Unpin>(stream: &mut S, local: &Local, hashes: Vec<Hash>) -> Result<()> {
    let read = |hash: Hash| {
        let local = local.clone();
        tokio::spawn(async move { (hash, local.chunk(hash).await) })
    };
    let mut hashes = hashes.into_iter();
    let mut reading = hashes.next().map(read);
    while let Some(one) = reading {
        let (hash, bytes) = one.await.context("a worker failed")?;
        reading = hashes.next().map(read);
        let answer = match bytes {
            Some(bytes) => encode_block(&hash, &bytes),
            None => Answer::Missing(hash).encode(),
        };
        send(stream, &answer).await?;
    }
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> Result<()> {
    let sent = timeout(SLOW, frame::write(stream, answer)).await;
    sent.context("the peer took nothing for 60 s")?.context("sending an answer failed")
}
