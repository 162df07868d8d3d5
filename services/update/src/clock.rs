//! This node's idea of the time: the system's clock with a floor, and its peers' clocks (`os_clock` has the rules).
//!
//! The floor lies in `/state/update/clock`, which PID 1 reads at boot. It is written at most once an hour, and when a
//! release is committed or newer metadata is believed. A crash leaves the earlier floor. The machine's clock alone never
//! moves it: one that was wrong for a day would otherwise make all metadata look expired for years.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use os_clock::BootClock;
use os_identity::NodeId;
use services_api::durable;
use services_api::mesh::{Incoming, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::now_unix;
use crate::updater::Updater;

/// What a node answers on it: its time in seconds since 1970, 8 bytes, big-endian. Nothing is asked.
pub const TIME: &str = "time/1";
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// While too few peers have told the time for it to count.
const LOOK_EVERY_ALONE: Duration = Duration::from_secs(20);
/// While the time is lost.
const LOOK_EVERY_LOST: Duration = Duration::from_secs(5);
/// A node that has lost the time does not tell it while it may still learn it. After that what it has is better than
/// nothing, for others that have lost it, too.
const SILENT_WHILE_LOST: Duration = Duration::from_secs(120);
const ASK_PEERS_MAX: usize = 9;
const ASK_PATIENCE: Duration = Duration::from_secs(3);

pub struct Clock {
    path: PathBuf,
    saved: AtomicU64,
    /// What was certain, and since when this process has lived with it.
    certain: Mutex<(u64, Instant)>,
    lost: bool,
    /// By some peer, in this life.
    told: AtomicBool,
    /// That its peers say something else, in words, while they are too few to be followed.
    dispute: Mutex<Option<String>>,
    begun: Instant,
}

impl Clock {
    pub fn open(state_dir: &Path, boot: BootClock) -> Self {
        let path = state_dir.join("clock");
        let saved = os_clock::parse_saved(&durable::read(&path).unwrap_or_default());
        let begun = Instant::now();
        let certain = Mutex::new((os_clock::floor(&[saved, boot.floor_unix]), begun));
        Self {
            path,
            saved: AtomicU64::new(saved),
            certain,
            lost: boot.lost,
            told: AtomicBool::new(false),
            dispute: Mutex::default(),
            begun,
        }
    }

    /// Has certainly passed.
    pub fn floor(&self) -> u64 {
        let (floor, since) = *lock(&self.certain);
        floor + since.elapsed().as_secs()
    }

    /// The system's time, but not before the floor.
    pub fn now(&self) -> u64 {
        os_clock::trusted(now_unix(), self.floor(), &[])
    }

    /// Raises the floor to a time that is certain, and keeps it, at once.
    pub fn raise(&self, to: u64) {
        self.set_floor(to);
        self.keep(to);
    }

    /// Keeps the floor if that is worth a write.
    pub fn save(&self) {
        let floor = self.floor();
        if os_clock::is_worth_saving(self.saved.load(Ordering::Relaxed), floor) {
            self.keep(floor);
        }
    }

    /// What the owner should know about it.
    pub fn complaint(&self) -> Option<String> {
        if self.is_lost() {
            let text = "the machine's clock holds nonsense (an empty battery?) and no neighbour has told the time yet; it \
                runs from the newest time that was known here";
            return Some(text.into());
        }
        lock(&self.dispute).clone()
    }

    fn set_dispute(&self, ahead_s: Option<i64>) {
        *lock(&self.dispute) = ahead_s.map(|ahead| {
            let (off, way) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
            format!(
                "the clock is {off} s {way} what neighbours say, who are too few to be followed; if it is wrong, releases and \
                 content may not be found: set the machine's clock (firmware setup)"
            )
        });
    }

    fn set_floor(&self, to: u64) {
        if to > self.floor() && to <= os_clock::LATEST {
            *lock(&self.certain) = (to, Instant::now());
        }
    }

    fn keep(&self, to: u64) {
        if to <= self.saved.load(Ordering::Relaxed) || to > os_clock::LATEST {
            return;
        }
        self.saved.store(to, Ordering::Relaxed);
        if let Err(e) = durable::write(&self.path, to.to_string().as_bytes()) {
            tracing::warn!("the time is not kept: {e}");
        }
    }

    /// Lost at boot and not learnt since.
    fn is_lost(&self) -> bool {
        self.lost && !self.told.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks peers what time it is, follows them as `os_clock` has it, and keeps the floor.
pub async fn look_after(updater: Arc<Updater>) {
    loop {
        let told = ask_around(&updater).await.unwrap_or_else(|e| {
            tracing::warn!("the clock cannot be set: {e:#}");
            0
        });
        updater.clock.save();
        let pause = match told {
            _ if updater.clock.is_lost() => LOOK_EVERY_LOST,
            os_clock::PEERS_MIN.. => LOOK_EVERY,
            _ => LOOK_EVERY_ALONE,
        };
        tokio::time::sleep(pause).await;
    }
}

/// How many told the time.
async fn ask_around(updater: &Updater) -> anyhow::Result<usize> {
    let clock = &updater.clock;
    let peers = of_peers(&updater.links.streams, &updater.connected_peers().await).await;
    let (system, floor) = (now_unix(), clock.floor());
    if let Some(certain) = os_clock::confirmed(system, &peers) {
        clock.set_floor(certain);
    }
    let adjustment = os_clock::adjustment(system, floor, clock.lost, &peers);
    clock.set_dispute(os_clock::dispute(system, &peers).filter(|_| adjustment.is_none()));
    if let Some(to) = adjustment {
        updater.links.supervisor().await?.set_clock(to).await?;
        let way = if to > system { "behind" } else { "ahead" };
        let (off, asked) = (to.abs_diff(system), peers.len());
        let text = format!("it was {off} s {way}; set to what neighbours say ({asked} told the time)");
        updater.records.event("clock", text);
    }
    if !peers.is_empty() {
        clock.told.store(true, Ordering::Relaxed);
    }
    Ok(peers.len())
}

/// Tells a peer what time it is here.
pub async fn answer(clock: &Clock, incoming: Incoming) {
    if clock.is_lost() && clock.begun.elapsed() < SILENT_WHILE_LOST {
        return tracing::debug!("{} asks for the time, which is lost here", incoming.peer);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Years before whatever the host's clock says.
    const FLOOR: u64 = 1_700_000_000;

    #[test]
    fn the_machines_clock_alone_does_not_move_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::open(dir.path(), BootClock { floor_unix: FLOOR, lost: true });
        assert!(clock.now() > FLOOR + 1_000_000 && clock.complaint().is_some());
        clock.save();
        let saved = os_clock::parse_saved(&durable::read(&dir.path().join("clock")).unwrap());
        assert!((FLOOR..FLOOR + 60).contains(&saved), "{saved}");
        clock.raise(FLOOR + 5000);
        let again = Clock::open(dir.path(), BootClock { floor_unix: FLOOR, lost: false });
        assert!((FLOOR + 5000..FLOOR + 5060).contains(&again.floor()) && again.complaint().is_none());
        again.set_dispute(Some(-9));
        assert!(again.complaint().unwrap().contains("9 s behind"));
    }
}
