//! What failed boots leave for the next one: `/state/boot/evidence-<boot id>.json`.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use init_plan::failure::{evidence_file, evidence_to_remove, is_settled_by};
use init_plan::kernel_log;
use init_plan::steps::EVIDENCE;
use nix::libc;
use os_slots::{Entry, Evidence, LOG_TAIL_MAX};

use crate::console::say;
use crate::sys::files::{read_bounded, write_whole};

/// One piece is far smaller: its log lines are bounded in number and length.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// More files than this in the folder are not looked at.
const FILES_MAX: usize = 1024;

/// All evidence, oldest first. Unreadable files are skipped: they may be half of what a crash left.
pub fn read_all() -> Vec<Evidence> {
    let read = |name: String| read(&name);
    let mut all: Vec<Evidence> = files().into_iter().filter_map(read).collect();
    all.sort_by(|a, b| (a.at_unix, &a.boot_id).cmp(&(b.at_unix, &b.boot_id)));
    all
}

/// Writes why this boot failed. The first reason stays: later ones of the same boot are its consequences.
pub fn write(boot_id: &str, entry: Entry, stage: &str, reason: &str) -> Result<()> {
    keep(&Evidence {
        boot_id: boot_id.to_owned(),
        seq: entry.seq,
        slot: entry.slot(),
        stage: stage.to_owned(),
        reason: reason.to_owned(),
        log_tail: log_tail(),
        at_unix: now_unix(),
        settled: false,
    })
}

/// Writes why a boot failed, if nothing says so yet.
pub fn keep(evidence: &Evidence) -> Result<()> {
    let name = evidence_file(&evidence.boot_id).context("that boot has no id")?;
    let path = Path::new(EVIDENCE).join(&name);
    if path.exists() {
        return Ok(());
    }
    let known: Vec<_> = files().into_iter().map(|name| (name.clone(), read(&name))).collect();
    for surplus in evidence_to_remove(evidence.seq, &known) {
        let _ = fs::remove_file(Path::new(EVIDENCE).join(surplus));
    }
    write_to(&path, evidence)
}

/// A boot of the install `seq` has settled: what failed before it is kept and no longer counts. After a cut in the middle
/// the rest is marked by the next boot that settles. Nothing is written when nothing has failed.
pub fn settle(seq: u32) {
    for name in files() {
        let Some(evidence) = read(&name).filter(|evidence| is_settled_by(seq, evidence)) else { continue };
        let settled = Evidence { settled: true, ..evidence };
        match write_to(&Path::new(EVIDENCE).join(&name), &settled) {
            Ok(()) => say(&format!("settled: the failure at {} no longer counts", settled.stage)),
            Err(error) => say(&format!("{error:#}")),
        }
    }
}

fn write_to(path: &Path, evidence: &Evidence) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(evidence)?;
    write_whole(path, 0o644, &bytes).with_context(|| format!("cannot write {}", path.display()))
}

pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn files() -> Vec<String> {
    let Ok(entries) = fs::read_dir(EVIDENCE) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("evidence-") && name.ends_with(".json")).take(FILES_MAX).collect()
}

fn read(name: &str) -> Option<Evidence> {
    let text = read_bounded(&Path::new(EVIDENCE).join(name), FILE_BYTES_MAX).ok()?;
    serde_json::from_str(&text).ok()
}

/// The kernel log's last lines, ours included.
pub fn log_tail() -> Vec<String> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut log) = open else { return Vec::new() };
    let mut tail = VecDeque::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => tail.extend(kernel_log::line(&record[..length])),
            // The record was overwritten before we came to it; the next read goes on after the gap.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        while tail.len() > LOG_TAIL_MAX {
            tail.pop_front();
        }
    }
    tail.into()
}
