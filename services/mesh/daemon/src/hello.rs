//! The hello stream of a connection: version and features, and where each end sees the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_proto::{Frames, Hello, MAX_HELLO};
use mesh_transport::close_code;
use os_identity::NodeId;
use quinn::{Connection, RecvStream, VarInt};

use crate::links::Links;

/// What this node can do beyond the protocol's version.
const FEATURES: &[&str] = &[];
/// How soon a peer that has moved is told so.
const LOOK: Duration = Duration::from_secs(15);
/// Hellos of one peer on one connection; addresses do not change more often than that.
const MAX_HELLOS: usize = 1000;
const BUFFER: usize = 1024;

/// Tells and hears, until the connection ends. A peer with which nothing can be agreed on is left.
pub async fn exchange(links: &Arc<Links>, peer: NodeId, connection: &Connection) {
    let (told, heard) = tokio::join!(tell(connection), hear(links, peer, connection));
    for result in [told, heard] {
        if let Err(e) = result {
            tracing::debug!("hello of {peer}: {e:#}");
        }
    }
}

async fn tell(connection: &Connection) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    let mut told = None;
    loop {
        let seen_at = connection.remote_address();
        if told.replace(seen_at) != Some(seen_at) {
            stream.write_all(&Hello::new(FEATURES, Some(seen_at)).frame()).await?;
        }
        tokio::select! {
            _ = connection.closed() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn hear(links: &Arc<Links>, peer: NodeId, connection: &Connection) -> Result<()> {
    let mut stream = connection.accept_uni().await?;
    let result = read(links, peer, &mut stream).await;
    if let Err(e) = &result
        && connection.close_reason().is_none()
    {
        tracing::warn!("left {peer}: {e:#}");
        connection.close(VarInt::from_u32(close_code::VERSION), format!("{e:#}").as_bytes());
    }
    result
}

async fn read(links: &Arc<Links>, peer: NodeId, stream: &mut RecvStream) -> Result<()> {
    let mut frames = Frames::new(MAX_HELLO);
    let mut buffer = [0; BUFFER];
    let mut count = 0;
    while let Some(n) = stream.read(&mut buffer).await? {
        frames.push(&buffer[..n]);
        while let Some(frame) = frames.next_frame()? {
            let theirs = Hello::decode(frame)?;
            let agreed = Hello::new(FEATURES, None).agree(&theirs).context("nothing can be agreed on")?;
            tracing::trace!("agreed with {peer}: {agreed:?}");
            if let Some(address) = theirs.seen_at() {
                links.seen_at(peer, address);
            }
            count += 1;
            if count > MAX_HELLOS {
                bail!("more than {MAX_HELLOS} hellos");
            }
        }
    }
    Ok(())
}
