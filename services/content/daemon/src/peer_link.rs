//! One stream to one provider, for one transfer: asks what it is told to ask, checks and hands on what comes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use content_store::Checked;
use content_store::download::Reply;
use content_store::exchange::{Answer, MAX_BLOCK_FRAME, Request};
use os_content_id::{Hash, Mcid};
use os_identity::NodeId;
use services_api::frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::local::blocking;
use crate::node::Node;
use crate::peers::Peers;

/// The first answer, after the stream is open.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// What a link tells its transfer.
pub enum LinkEvent {
    Up,
    Reply(Reply),
    /// It broke the rules of the protocol.
    Lied(String),
    Ended(String),
}

/// Ends the stream when dropped.
pub struct PeerLink {
    wants: mpsc::UnboundedSender<Vec<Hash>>,
    task: AbortHandle,
}

impl PeerLink {
    /// Opens the stream in the background. Each event comes with the node and `serial`, so that those of an earlier link
    /// to the same node can be told apart.
    pub fn start<P: Peers>(
        here: Arc<Node<P>>,
        node: NodeId,
        serial: u64,
        content: Mcid,
        events: mpsc::Sender<(NodeId, u64, LinkEvent)>,
    ) -> Self {
        // Never holds more than a transfer's window of hashes.
        let (wants, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let talk = async {
                let stream = here.peers.open(&node).await?;
                let tell =
                    |event| async { events.send((node, serial, event)).await.context("transfer ended") };
                run(stream, content, asked, tell).await
            };
            let last = match talk.await {
                Ok(lie) => LinkEvent::Lied(lie),
                Err(e) => LinkEvent::Ended(format!("{e:#}")),
            };
            let _ = events.send((node, serial, last)).await;
        });
        Self { wants, task: task.abort_handle() }
    }

    pub fn want(&self, hashes: Vec<Hash>) {
        let _ = self.wants.send(hashes);
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until the stream ends (an error) or the peer breaks the protocol (that is the value).
async fn run<F, Fut>(
    mut stream: UnixStream,
    content: Mcid,
    asked: mpsc::UnboundedReceiver<Vec<Hash>>,
    tell: F,
) -> Result<String>
where
    F: Fn(LinkEvent) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    frame::write(&mut stream, &Request::Have(content).encode()).await?;
    let first = timeout(FIRST_ANSWER, frame::expect(&mut stream, MAX_BLOCK_FRAME)).await;
    match Answer::decode(
        &first.context("did not answer within 15 s")?.context("ended the stream without an answer")?,
    ) {
        Ok(Answer::Have { held: 0, .. }) => bail!("has nothing of it any more"),
        Ok(Answer::Have { .. }) => tell(LinkEvent::Up).await?,
        Ok(Answer::Refused(reason)) => bail!("refused: {reason}"),
        Ok(_) => return Ok("answered something else than was asked".to_string()),
        Err(e) => return Ok(format!("sent a broken message: {e}")),
    }
    let (reader, writer) = stream.into_split();
    tokio::select! {
        read = read_answers(reader, tell) => read,
        written = write_wants(writer, content, asked) => match written {
            Ok(()) => bail!("transfer ended"),
            Err(e) => Err(e),
        },
    }
}

async fn write_wants<W>(mut w: W, content: Mcid, mut asked: mpsc::UnboundedReceiver<Vec<Hash>>) -> Result<()>
where
    W: AsyncWrite + Unpin,
{
    while let Some(hashes) = asked.recv().await {
        frame::write(&mut w, &Request::Want { content, hashes }.encode()).await?;
    }
    Ok(())
}

async fn read_answers<R, F, Fut>(mut r: R, tell: F) -> Result<String>
where
    R: AsyncRead + Unpin,
    F: Fn(LinkEvent) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    loop {
        let bytes = match frame::read(&mut r, MAX_BLOCK_FRAME).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => bail!("closed the stream"),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Ok(e.to_string()),
            Err(e) => return Err(e).context("the stream broke"),
        };
        let decoded = blocking(move || {
            Answer::decode(&bytes).map(|answer| match answer {
                Answer::Block { hash, bytes } => Ok(Reply::Block(Checked::new(hash, bytes))),
                Answer::Missing(hash) => Ok(Reply::Missing(hash)),
                other => Err(other),
            })
        });
        match decoded.await? {
            Ok(Ok(reply)) => tell(LinkEvent::Reply(reply)).await?,
            Ok(Err(Answer::Refused(reason))) => bail!("refused: {reason}"),
            Ok(Err(_)) => return Ok("answered something else than was asked".to_string()),
            Err(e) => return Ok(format!("sent a broken message: {e}")),
        }
    }
}
