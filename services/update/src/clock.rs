//! This node's idea of the time: the system's clock with a floor, and its peers' clocks (`os_clock` has the rules).
//!
//! The floor lies in `/state/update/clock`, which PID 1 reads at boot. It is written at most once an hour, and when a
//! release is committed or newer metadata is believed. A crash leaves the earlier floor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use os_identity::NodeId;
use services_api::durable;
use services_api::mesh::{Incoming, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::now_unix;
use crate::updater::Updater;

/// What a node answers on it: its time in seconds since 1970, 8 bytes, big-endian. Nothing is asked.
pub const TIME: &str = "time/1";
const LOOK_EVERY: Duration = Duration::from_secs(600);
const ASK_PEERS_MAX: usize = 9;
const ASK_PATIENCE: Duration = Duration::from_secs(3);

pub struct Clock {
    path: PathBuf,
    saved: AtomicU64,
}

impl Clock {
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("clock");
        let saved = os_clock::parse_saved(&durable::read(&path).unwrap_or_default());
        Self { path, saved: AtomicU64::new(saved) }
    }

    pub fn floor(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// The system's time, but not before the floor.
    pub fn now(&self) -> u64 {
        os_clock::trusted(now_unix(), self.floor(), &[])
    }

    /// Raises the floor, at once.
    pub fn raise(&self, to: u64) {
        if to <= self.floor() || to > os_clock::LATEST {
            return;
        }
        self.saved.store(to, Ordering::Relaxed);
        if let Err(e) = durable::write(&self.path, to.to_string().as_bytes()) {
            tracing::warn!("the time is not kept: {e}");
        }
    }

    /// Raises the floor to the system's time if that is worth a write.
    pub fn save(&self) {
        let now = now_unix();
        if os_clock::is_worth_saving(self.floor(), now) {
            self.raise(now);
        }
    }
}

pub async fn keep_saved(updater: Arc<Updater>) {
    loop {
        updater.clock.save();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells a peer what time it is here.
pub async fn answer(clock: &Clock, incoming: Incoming) {
    let mut stream = incoming.stream;
    let told = tokio::time::timeout(ASK_PATIENCE, stream.write_all(&clock.now().to_be_bytes())).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!("{} did not wait for the time", incoming.peer);
    }
}

/// The times of some peers, asked all at once; who does not answer soon does not count.
pub async fn of_peers(streams: &Streams, peers: &[String]) -> Vec<u64> {
    let mut asking = tokio::task::JoinSet::new();
    for peer in peers.iter().take(ASK_PEERS_MAX).filter_map(|text| text.parse::<NodeId>().ok()) {
        let streams = streams.clone();
        asking.spawn(async move { tokio::time::timeout(ASK_PATIENCE, ask(&streams, &peer)).await.ok()? });
    }
    asking.join_all().await.into_iter().flatten().collect()
}

async fn ask(streams: &Streams, peer: &NodeId) -> Option<u64> {
    let mut stream = streams.open(peer, TIME, ASK_PATIENCE).await.ok()?;
    stream.read_u64().await.ok()
}
