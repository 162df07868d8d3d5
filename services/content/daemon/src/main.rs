//! `content`: blocks and manifests by MCID, for this node and for its peers.
//!
//! The rules (what is kept, whom to ask, when to give up on somebody) are in `content-store`; here are its streams
//! (through mesh), its disk and its clock. A crash ends transfers under way and forgets what was offered; stored content
//! stays, as that crate says, and is announced again at the start.

mod announce;
mod fetch;
mod gate;
mod interface;
mod local;
mod node;
mod owner;
mod peer_link;
mod peers;
mod serve;
mod small;
mod stored;
#[cfg(test)]
mod test_net;
mod transfers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use content_store::{Offers, Store, default_quota};
use services_api::bus::{self, Link, uid};
use services_api::mesh::{Incoming, MeshEvent, Streams};
use services_api::{control, daemon};
use tokio::sync::mpsc;

use crate::gate::Gate;
use crate::interface::Content;
use crate::local::Local;
use crate::node::Node;
use crate::peers::MeshPeers;

const CLIENTS: [u32; 3] = [uid::UPDATE, uid::RECONCILER, uid::MESH];
const PROTOCOLS: &[(&str, &str)] =
    &[(peers::PROTOCOL, "peer"), (control::protocol::CONTENT, "macula/content")];
/// Threads for hashing and the disk.
const BLOCKING_THREADS: usize = 4;
/// Contents announced again at the start.
const MAX_ANNOUNCED: usize = 1024;
/// Streams that peers hold open to us, and those of a single peer.
const MAX_PEER_STREAMS: (usize, usize) = (32, 4);
const MAX_OWNER_STREAMS: (usize, usize) = (8, 8);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(2))
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    daemon::init_logging();
    let listener = bus::listen("content")?;
    let directory = state_directory();
    let store = Arc::new(open_store(&directory)?);
    let roots = vec![bus::run_dir().join("dev/content"), directory];
    let (streams, events) = Streams::serve(PROTOCOLS);
    let dht = Arc::new(Link::new("dht"));
    let local = Local::new(store.clone(), Arc::new(Offers::new(roots)));
    let announcer = announce::start(dht.clone(), store.to_announce(MAX_ANNOUNCED)?);
    let node = Arc::new(Node::new(local, MeshPeers { streams, dht }, announcer));
    let served = node.clone();
    let server = bus::serve(listener, &CLIENTS, move |builder, uid| {
        builder.serve_at("/io/macula/Content", Content::new(served.clone(), uid))
    });
    daemon::ready();
    tokio::select! {
        served = server => served.context("the D-Bus server ended"),
        () = take_streams(node, events) => anyhow::bail!("mesh's events ended"),
    }
}

fn open_store(directory: &std::path::Path) -> Result<Store> {
    std::fs::create_dir_all(directory)?;
    let quota = default_quota(directory).context("cannot ask the file system for its size")?;
    let store = Store::open(directory, quota, daemon::now_ms())?;
    let usage = store.usage();
    tracing::info!("{} blocks, {} of at most {quota} bytes", usage.blocks, usage.bytes);
    Ok(store)
}

async fn take_streams(node: Arc<Node<MeshPeers>>, mut events: mpsc::Receiver<MeshEvent>) {
    let peer_gate = Gate::new(MAX_PEER_STREAMS);
    let owner_gate = Gate::new(MAX_OWNER_STREAMS);
    while let Some(event) = events.recv().await {
        let MeshEvent::Stream(Incoming { peer, protocol, resource, stream, .. }) = event else { continue };
        let node = node.clone();
        if protocol == peers::PROTOCOL {
            let pass = peer_gate.enter(peer);
            tokio::spawn(async move {
                if let Err(e) = serve::serve(stream, &node.local, pass).await {
                    tracing::info!("{peer}: {e:#}");
                }
            });
        } else if let Some(pass) = owner_gate.enter(peer) {
            tokio::spawn(async move {
                if let Err(e) = owner::serve(stream, &resource, &node).await {
                    tracing::info!("owner: {e:#}");
                }
                drop(pass);
            });
        }
    }
}

fn state_directory() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from("/state/content"), PathBuf::from)
}
