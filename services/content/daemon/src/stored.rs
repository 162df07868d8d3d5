//! What apps bring: bytes on a socket, the answer on the same one. Not pinned: it makes room for what is.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_content_id::Mcid;
use services_api::content::StoreAnswer;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::node::Node;
use crate::owner::receive;
use crate::peers::Peers;

/// An app that does not take its answer for so long, or goes on sending after it, is cut off.
const ANSWER: Duration = Duration::from_secs(10);

/// Stores what comes through the returned socket, in the background.
pub fn take<P: Peers>(node: &Arc<Node<P>>, name: String, size: u64) -> Result<StdUnixStream> {
    let permit = node.app_put_permits.clone().try_acquire_owned().context("busy; try again later")?;
    let (theirs, ours) = StdUnixStream::pair().context("cannot make a socket pair")?;
    ours.set_nonblocking(true)?;
    let mut ours = UnixStream::from_std(ours)?;
    let node = node.clone();
    tokio::spawn(async move {
        let stored = receive(&mut ours, &name, size, &node).await;
        node.announce_removed();
        let answer = answer(&node, &name, stored);
        let _ = timeout(ANSWER, tell(&mut ours, &answer)).await;
        drop(permit);
    });
    Ok(theirs)
}

/// A socket that is closed with unread bytes in it takes the answer along, so what is still coming is read.
async fn tell(socket: &mut UnixStream, answer: &StoreAnswer) -> std::io::Result<()> {
    socket.write_all(&answer.to_bytes()).await?;
    socket.shutdown().await?;
    tokio::io::copy(socket, &mut tokio::io::sink()).await.map(drop)
}

fn answer<P>(node: &Node<P>, name: &str, stored: Result<Mcid>) -> StoreAnswer {
    match stored {
        Ok(mcid) => {
            node.announce(mcid);
            StoreAnswer::Stored(mcid)
        }
        Err(e) => {
            let name: String = name.chars().take(60).collect();
            StoreAnswer::Refused(format!("`{name}` was not stored: {e:#}"))
        }
    }
}
