//! The hello stream of a connection: version and features, and where each end sees the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_proto::relayed::{OFFERS_RELAY, TAKES_RELAYED};
use mesh_proto::{Frames, Hello, MAX_HELLO, is_detour};
use mesh_transport::close_code;
use os_identity::NodeId;
use quinn::{Connection, RecvStream, VarInt};

use crate::link::Heard;
use crate::links::Links;

/// How soon a peer that has moved is told so.
const LOOK: Duration = Duration::from_secs(15);
/// Hellos of one peer on one connection; addresses do not change more often than that.
const MAX_HELLOS: usize = 1000;
const BUFFER: usize = 1024;

/// Tells and hears, until the connection ends. A peer with which nothing can be agreed on is left.
pub async fn exchange(links: &Arc<Links>, peer: NodeId, connection: &Connection) {
    let (told, heard) = tokio::join!(tell(links, connection), hear(links, peer, connection));
    for result in [told, heard] {
        if let Err(e) = result {
            tracing::debug!("hello of {peer}: {e:#}");
        }
    }
}

/// What this node can do beyond the protocol's version.
fn features(links: &Links) -> Vec<&'static str> {
    if links.relaying.is_offered() { vec![OFFERS_RELAY, TAKES_RELAYED] } else { vec![TAKES_RELAYED] }
}

async fn tell(links: &Links, connection: &Connection) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    let mut told = None;
    loop {
        let seen_at = connection.remote_address();
        if told.replace(seen_at) != Some(seen_at) {
            // By a detour there is no address to be seen.
            let seen_at = (!is_detour(&seen_at.ip())).then_some(seen_at);
            stream.write_all(&Hello::new(&features(links), seen_at).frame()).await?;
        }
        tokio::select! {
            _ = connection.closed() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn hear(links: &Arc<Links>, peer: NodeId, connection: &Connection) -> Result<()> {
    let mut stream = connection.accept_uni().await?;
    let result = read(links, peer, connection, &mut stream).await;
    if let Err(e) = &result
        && connection.close_reason().is_none()
    {
        tracing::warn!("left {peer}: {e:#}");
        connection.close(VarInt::from_u32(close_code::VERSION), format!("{e:#}").as_bytes());
    }
    result
}

async fn read(
    links: &Arc<Links>,
    peer: NodeId,
    connection: &Connection,
    stream: &mut RecvStream,
) -> Result<()> {
    let mut frames = Frames::new(MAX_HELLO);
    let mut buffer = [0; BUFFER];
    let mut count = 0;
    while let Some(n) = stream.read(&mut buffer).await? {
        frames.push(&buffer[..n]);
        while let Some(frame) = frames.next_frame()? {
            let theirs = Hello::decode(frame)?;
            let mine = Hello::new(&features(links), None);
            let agreed = mine.agree(&theirs).context("nothing can be agreed on")?;
            tracing::trace!("agreed with {peer}: {agreed:?}");
            let offers = |word: &str| theirs.features.iter().any(|f| f == word);
            let heard = Heard {
                sees_me_at: theirs.seen_at(),
                offers_relay: offers(OFFERS_RELAY),
                takes_relayed: offers(TAKES_RELAYED),
            };
            links.heard(peer, connection, heard);
            count += 1;
            if count > MAX_HELLOS {
                bail!("more than {MAX_HELLOS} hellos");
            }
        }
    }
    Ok(())
}
