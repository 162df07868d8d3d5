//! Content to and from a node: `put`, `has` and `get` of `control-content/1`, with the raw bytes beside the frames.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use indicatif::ProgressBar;
use os_content_id::Mcid;
use quinn::{RecvStream, SendStream};
use services_api::control::{self, protocol};
use services_api::report::{GetAnswer, PutParams};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::artifacts::ContentHasher;
use crate::connect::Remote;

const PIECE: usize = 256 * 1024;
/// How long nothing may move before a transfer counts as stuck.
const STALL: Duration = Duration::from_secs(60);
/// What the node may need to check and announce content after its last byte.
const STORE_WAIT: Duration = Duration::from_secs(120);

/// Whether the node holds all of the content. A node that cannot tell counts as one that does not.
pub async fn has(remote: &Remote, mcid: &Mcid) -> Result<bool> {
    match remote.call(protocol::CONTENT, "has", &mcid.to_string()).await {
        Err(e) if e.to_string().contains("does not know the method") => Ok(false),
        answer => answer,
    }
}

/// Uploads `size` bytes of a file. The MCID that the node gave it.
pub async fn put(remote: &Remote, path: &Path, name: &str, size: u64, bar: &ProgressBar) -> Result<Mcid> {
    let file = File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    put_bytes(remote, file, name, size, bar).await.with_context(|| format!("upload of {name}"))
}

/// Uploads a small block.
pub async fn put_block(remote: &Remote, bytes: &[u8], name: &str) -> Result<Mcid> {
    let size = bytes.len() as u64;
    put_bytes(remote, bytes, name, size, &ProgressBar::hidden())
        .await
        .with_context(|| format!("upload of {name}"))
}

async fn put_bytes<R>(remote: &Remote, source: R, name: &str, size: u64, bar: &ProgressBar) -> Result<Mcid>
where
    R: AsyncRead + Unpin,
{
    let (mut send, mut recv) = remote.open(protocol::CONTENT, "put").await?;
    let params = PutParams { name: name.to_string(), size };
    let mut answer = pin!(control::answer::<_, String>(&mut recv));
    // The node may refuse in the middle: its answer, not our broken stream, says why.
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        sent = send_all(&mut send, &params, source, bar) => match sent {
            Err(e) if !e.chain().any(|c| c.is::<quinn::WriteError>()) => return Err(e),
            _ => tokio::time::timeout(STORE_WAIT, answer)
                .await
                .map_err(|_| anyhow!("the node did not say within {} s that it stored it", STORE_WAIT.as_secs()))?,
        },
    };
    let text = match answered {
        Ok(text) => text,
        Err(e) => return Err(remote.explain(protocol::CONTENT, e).await),
    };
    text.parse().with_context(|| format!("the node answered `{text}`, which is no MCID"))
}

async fn send_all<R>(send: &mut SendStream, params: &PutParams, source: R, bar: &ProgressBar) -> Result<()>
where
    R: AsyncRead + Unpin,
{
    let request = control::send(send, "put", params).await;
    request.map_err(|e| e.downcast::<std::io::Error>().map_or_else(|e| e, stream_error))?;
    let mut source = source.take(params.size);
    let mut buffer = vec![0; PIECE];
    let mut sent = 0;
    while sent < params.size {
        let n = source.read(&mut buffer).await?;
        if n == 0 {
            bail!("the file is {sent} bytes, was {} a moment ago", params.size);
        }
        let write = tokio::time::timeout(STALL, send.write_all(&buffer[..n])).await;
        write.map_err(|_| anyhow!("the node took nothing for {} s", STALL.as_secs()))??;
        sent += n as u64;
        bar.inc(n as u64);
    }
    send.finish()?;
    Ok(())
}

/// The stream's own error, which tokio's traits wrap.
fn stream_error(error: std::io::Error) -> Error {
    match error.downcast::<quinn::WriteError>() {
        Ok(e) => e.into(),
        Err(e) => e.into(),
    }
}

/// Downloads content into a file, which appears under its name only when every byte was checked against the MCID.
pub async fn get(remote: &Remote, mcid: &Mcid, out: &Path, bar: &ProgressBar) -> Result<GetAnswer> {
    let (mut send, mut recv) = remote.open(protocol::CONTENT, "get").await?;
    let mut stream = tokio::io::join(&mut recv, &mut send);
    let answer: GetAnswer = match control::call(&mut stream, "get", &mcid.to_string()).await {
        Ok(answer) => answer,
        Err(e) => return Err(remote.explain(protocol::CONTENT, e).await),
    };
    bar.set_length(answer.size);
    let part = part_path(out)?;
    let received = receive(&mut recv, &answer, mcid, &part, bar).await;
    let kept = match received {
        Ok(()) => {
            tokio::fs::rename(&part, out).await.with_context(|| format!("cannot write {}", out.display()))
        }
        Err(e) => Err(e),
    };
    if kept.is_err() {
        let _ = tokio::fs::remove_file(&part).await;
    }
    kept.map(|()| answer)
}

fn part_path(out: &Path) -> Result<PathBuf> {
    let name = out.file_name().with_context(|| format!("{} is not the name of a file", out.display()))?;
    let mut part = name.to_os_string();
    part.push(format!(".part-{}", std::process::id()));
    Ok(out.with_file_name(part))
}

async fn receive(
    recv: &mut RecvStream,
    answer: &GetAnswer,
    mcid: &Mcid,
    part: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let mut file = File::create(part).await.with_context(|| format!("cannot write {}", part.display()))?;
    let mut hasher = ContentHasher::new(&answer.name);
    let mut buffer = vec![0; PIECE];
    let mut left = answer.size;
    while left > 0 {
        let want = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let n = tokio::time::timeout(STALL, AsyncReadExt::read(recv, &mut buffer[..want]))
            .await
            .map_err(|_| anyhow!("nothing came for {} s", STALL.as_secs()))??;
        if n == 0 {
            bail!("the stream ended {left} bytes early: `maculactl content status` on the node says why");
        }
        file.write_all(&buffer[..n]).await.with_context(|| format!("cannot write {}", part.display()))?;
        hasher.update(&buffer[..n]);
        bar.inc(n as u64);
        left -= n as u64;
    }
    file.sync_all().await?;
    if hasher.is(mcid) { Ok(()) } else { bail!("what the node sent is not the content of {mcid}") }
}
