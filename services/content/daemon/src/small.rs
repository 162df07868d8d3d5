//! Small objects, whole: raw blocks and manifests. From here, else from the first peer whose answer proves right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use content_store::exchange::{Answer, MAX_BLOCK_FRAME, MAX_MANIFEST_FRAME, Request};
use os_content_id::{ChunkList, Mcid, hash};
use os_identity::NodeId;
use services_api::frame;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::local::{blocking, is_manifest};
use crate::node::Node;
use crate::peers::Peers;

/// Below the minute after which D-Bus callers give up.
const DEADLINE: Duration = Duration::from_secs(45);
/// One peer's time.
const ONE: Duration = Duration::from_secs(20);
/// Peers asked at once.
const PARALLEL: usize = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// What a peer's answer was.
enum Found {
    Good(Vec<u8>),
    Lie(String),
}

/// A raw block.
pub async fn get<P: Peers>(node: &Arc<Node<P>>, mcid: &Mcid) -> Result<Vec<u8>> {
    if is_manifest(mcid) {
        bail!("{mcid} is a manifest's id: its content comes chunk by chunk, with Fetch");
    }
    if let Some(bytes) = node.local.chunk(mcid.hash).await {
        return Ok(bytes);
    }
    let bytes = from_peers(node, mcid).await?;
    node.local.cache_raw(bytes.clone()).await;
    node.announce_removed();
    Ok(bytes)
}

pub async fn manifest<P: Peers>(node: &Arc<Node<P>>, mcid: &Mcid) -> Result<ChunkList> {
    if !is_manifest(mcid) {
        bail!("{mcid} is a raw block's id, it has no manifest");
    }
    if let Some(list) = node.local.manifest(mcid).await {
        return Ok(list);
    }
    let bytes = from_peers(node, mcid).await?;
    let list = ChunkList::decode(&bytes, mcid)?;
    node.local.cache_manifest(list.clone()).await;
    node.announce_removed();
    Ok(list)
}

async fn from_peers<P: Peers>(node: &Arc<Node<P>>, mcid: &Mcid) -> Result<Vec<u8>> {
    let deadline = Instant::now() + DEADLINE;
    let mut tried: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut lookup = String::new();
    while Instant::now() + PAUSE < deadline {
        match timeout_at(deadline, node.peers.providers(mcid)).await {
            Ok(Ok(peers)) => {
                lookup.clear();
                if let Ok(Some(bytes)) = timeout_at(deadline, race(node, mcid, peers, &mut tried)).await {
                    return Ok(bytes);
                }
            }
            Ok(Err(e)) => lookup = format!("; looking for providers failed: {e:#}"),
            Err(_) => lookup = "; looking for providers took too long".to_string(),
        }
        sleep(PAUSE).await;
    }
    let tried: Vec<_> = tried.iter().map(|(p, why)| format!("{p}: {why}")).collect();
    let tried = if tried.is_empty() { "nobody is known to have it".to_string() } else { tried.join("; ") };
    Err(anyhow!("{mcid} could not be had within {} s: {tried}{lookup}", DEADLINE.as_secs()))
}

/// Asks the peers, a few at once; the first right answer wins.
async fn race<P: Peers>(
    node: &Arc<Node<P>>,
    mcid: &Mcid,
    peers: Vec<NodeId>,
    tried: &mut BTreeMap<NodeId, String>,
) -> Option<Vec<u8>> {
    let mut waiting = peers.into_iter();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < PARALLEL
            && let Some(peer) = waiting.next()
        {
            if let Some(lie) = node.lie_of(&peer) {
                tried.insert(peer, lie);
                continue;
            }
            let (node, mcid) = (node.clone(), *mcid);
            asking.spawn(async move {
                let answer = timeout(ONE, ask(&node.peers, &peer, mcid)).await;
                (peer, answer.unwrap_or_else(|_| Err(anyhow!("did not answer within {} s", ONE.as_secs()))))
            });
        }
        match asking.join_next().await? {
            Ok((_, Ok(Found::Good(bytes)))) => return Some(bytes),
            Ok((peer, Ok(Found::Lie(why)))) => {
                node.lied(peer, &why);
                tried.insert(peer, why);
            }
            Ok((peer, Err(e))) => drop(tried.insert(peer, format!("{e:#}"))),
            Err(e) => tracing::warn!("a worker failed: {e}"),
        }
    }
}

async fn ask<P: Peers>(peers: &P, peer: &NodeId, mcid: Mcid) -> Result<Found> {
    let mut stream = peers.open(peer).await?;
    let (request, max) = match is_manifest(&mcid) {
        true => (Request::Manifest(mcid), MAX_MANIFEST_FRAME),
        false => (Request::Want { content: mcid, hashes: vec![mcid.hash] }, MAX_BLOCK_FRAME),
    };
    frame::write(&mut stream, &request.encode()).await?;
    let bytes = frame::expect(&mut stream, max).await.context("no answer")?;
    blocking(move || judge(&bytes, &mcid)).await?
}

fn judge(bytes: &[u8], mcid: &Mcid) -> Result<Found> {
    match Answer::decode(bytes) {
        Ok(Answer::Block { bytes, .. }) if !is_manifest(mcid) => match hash(&bytes) == mcid.hash {
            true => Ok(Found::Good(bytes)),
            false => Ok(Found::Lie("its block does not match its hash".to_string())),
        },
        Ok(Answer::Manifest(bytes)) if is_manifest(mcid) => match ChunkList::decode(&bytes, mcid) {
            Ok(_) => Ok(Found::Good(bytes)),
            Err(e) => Ok(Found::Lie(format!("its manifest is wrong: {e}"))),
        },
        Ok(Answer::Missing(_) | Answer::NoManifest) => bail!("does not have it any more"),
        Ok(Answer::Refused(reason)) => bail!("refused: {reason}"),
        Ok(_) => Ok(Found::Lie("answered something else than was asked".to_string())),
        Err(e) => Ok(Found::Lie(format!("sent a broken message: {e}"))),
    }
}
