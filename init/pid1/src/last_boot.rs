//! What the boot before this one left behind, and what this one leaves: `/state/boot/running.json` while it runs.
//!
//! Crash: evidence is on disk before the traces that it was made from are removed, so it is made again, with the same name.
//! A failure that leads out of the slot does so in the boot that finds it; a cut before that costs one more boot of the slot.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use init_plan::last_boot::{Found, LastBoot, PSTORE, RUNNING, Running, last_boot};
use init_plan::steps::STATE;
use init_plan::supervision::trial_watch;

use crate::console::{now, say};
use crate::node::Node;
use crate::sys::files::{read_bounded, write_whole};
use crate::{clock, evidence, leave};

const RUNNING_BYTES_MAX: u64 = 256 << 10;
/// One dump, unpacked, is at most what `pstore.kmsg_bytes` says.
const DUMP_BYTES_MAX: u64 = 1 << 20;
const DUMPS_MAX: usize = 32;
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Judges the boot before this one, keeps what is known of it, and records that this one runs, if it shall.
pub fn look_back(node: &mut Node) -> Result<()> {
    // First of all the time: what is found is dated.
    node.clock = clock::settle(node.command_line.as_ref().map_or(0, |line| line.built_unix));
    let (files, dumps) = dumps().into_iter().unzip::<PathBuf, String, Vec<_>, Vec<_>>();
    let text = read_bounded(Path::new(RUNNING), RUNNING_BYTES_MAX).ok();
    let running = text.and_then(|text| serde_json::from_str(&text).ok());
    let (watchdog_reset, known) = (node.watchdog.has_reset, evidence::read_all());
    let found = Found { running, dumps, watchdog_reset, known: &known, now_unix: evidence::now_unix() };
    let mut news = None;
    match last_boot(found) {
        LastBoot::Ended => {}
        LastBoot::Failed(failure) => {
            say(&format!("the boot before this one failed at {}: {}", failure.stage, failure.reason));
            evidence::keep(&failure)?;
            // A dump that cannot be removed is found in each boot, and leads out of one.
            news = Some(failure).filter(|failure| known.iter().all(|e| e.boot_id != failure.boot_id));
        }
        LastBoot::Interrupted(boot) => {
            say(&format!("the boot of {} before this one ended without a word", boot.version));
            node.interrupted = Some(boot);
        }
    }
    files.iter().for_each(|file| drop(fs::remove_file(file)));
    if let Some(failure) = news {
        // Told: should this boot leave at once, the next must not find the record again.
        let _ = fs::remove_file(RUNNING);
        leave::after_late_news(node, &failure);
    }
    begin(node)
}

/// The kernel's dumps, oldest first. Unreadable ones are shown as empty, so that they are removed.
fn dumps() -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(PSTORE) else { return Vec::new() };
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .take(DUMPS_MAX)
        .map(|entry| {
            let at = entry.metadata().and_then(|metadata| metadata.modified());
            (at.unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
        })
        .collect();
    files.sort();
    let text = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..bytes.len().min(DUMP_BYTES_MAX as usize)]).into_owned()
    };
    files.into_iter().map(|(_, path)| (path.clone(), text(&path))).collect()
}

fn begin(node: &mut Node) -> Result<()> {
    let (Some(entry), Some(line)) = (node.entry, &node.command_line) else {
        // The rescue system is no install that could fail; what was found is judged once.
        let _ = fs::remove_file(RUNNING);
        return Ok(());
    };
    let (boot_id, version) = (node.boot_id.clone(), line.version.clone());
    let at_unix = evidence::now_unix();
    let mut running = Running { boot_id, entry, version, at_unix, log_tail: Vec::new() };
    if !entry.is_committed() {
        running.log_tail = evidence::log_tail();
        let config = read_bounded(&Path::new(STATE).join("config.toml"), RUNNING_BYTES_MAX);
        node.tail_until = trial_watch(&config.unwrap_or_default());
    }
    write(&running)?;
    node.running = Some(running);
    node.tail_next = now() + RENEW_EVERY;
    Ok(())
}

/// On trial, until its verdict is due: keeps the log's last lines where a hang or a cut leaves them. Never later, for the
/// disk's sake.
pub fn renew_tail(node: &mut Node) {
    let now = now();
    let Some(running) = &mut node.running else { return };
    if now < node.tail_next || now > node.tail_until {
        return;
    }
    node.tail_next = now + RENEW_EVERY;
    let tail = evidence::log_tail();
    if tail != running.log_tail {
        running.log_tail = tail;
        if let Err(error) = write(running) {
            say(&format!("{error:#}"));
        }
    }
}

/// This boot ends in order, or has said why it fails.
pub fn forget_running(node: &mut Node) {
    if node.running.take().is_some()
        && let Err(error) = fs::remove_file(RUNNING)
    {
        say(&format!("cannot remove {RUNNING}: {error}"));
    }
}

fn write(running: &Running) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(running)?;
    write_whole(Path::new(RUNNING), 0o644, &bytes).with_context(|| format!("cannot write {RUNNING}"))
}
