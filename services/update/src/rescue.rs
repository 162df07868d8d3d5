//! The rescue system's purpose: to get a release into a slot again, from whoever has it.
//!
//! Tried in turn, for as long as it takes: the release that was committed last, then what the other slot held. (A followed
//! channel's newest comes from the reconciler as always.) A slot that may be sound after all gets another boot when
//! nothing could be had for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use os_content_id::Mcid;
use os_slots::slot_of_seq;

use crate::links::reboot;
use crate::records::Installed;
use crate::seed;
use crate::updater::{Standing, Updater};

/// Pause after a round in which nothing could be had; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// After so long the committed slot is tried again, if nothing speaks against it.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn run(updater: &Arc<Updater>) {
    let boot = &updater.node.boot;
    updater.records.event("rescue", boot.rescue.clone().unwrap_or_default());
    // What is left of the slots saves fetching it, and the release itself needs no neighbour.
    if let Err(e) = seed::offer(updater).await {
        tracing::info!("rescue: the committed slot does not help: {e:#}");
    }
    let (begun, mut pause) = (Instant::now(), PAUSE_FIRST);
    loop {
        for release in candidates(updater) {
            settled(updater).await;
            if let Err(e) = updater.install(release, true).await {
                tracing::warn!("rescue: {release} cannot be installed yet: {e:#}");
            }
        }
        settled(updater).await;
        if begun.elapsed() > PATIENCE && committed_may_be_sound(updater).await {
            updater.records.event("rescue", "nothing could be had here; trying the committed slot again");
            updater.set_standing(Standing::Rebooting);
            let _ = reboot(&updater.links, "the rescue system found no release").await;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What once ran here: the committed release first, whatever is remembered of it, then the other slot's if it has not
/// failed.
fn candidates(updater: &Updater) -> Vec<Mcid> {
    let (boot, failed) = (&updater.node.boot, updater.records.failed());
    let mut known = updater.records.slots();
    known.retain(|i| i.seq == boot.seq || failed.find(&i.release).is_none());
    known.sort_by_key(|i| std::cmp::Reverse((i.seq == boot.seq, i.seq)));
    let bundle = |i: &Installed| Some(Mcid::of_raw(&updater.records.seed_files(slot_of_seq(i.seq))?.release));
    let mut releases: Vec<Mcid> = known.iter().filter_map(bundle).collect();
    releases.dedup();
    releases
}

/// Until no install runs. One that has succeeded ends in a reboot, and this never returns.
async fn settled(updater: &Updater) {
    while updater.standing() != Standing::Settled {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn committed_may_be_sound(updater: &Arc<Updater>) -> bool {
    let boot = &updater.node.boot;
    let entries = updater.entries().await.unwrap_or_default();
    entries.iter().any(|e| e.is_committed() && !boot.is_condemned(e.seq))
}
