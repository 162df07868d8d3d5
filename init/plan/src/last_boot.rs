//! How the boot before this one ended, by what it left behind. A boot that ends in order, or fails and says so, takes its
//! [`Running`] record away; whatever else ends a boot leaves the record, and the rest is found by its traces: the kernel's
//! last words in RAM, the watchdog's memory of having reset the machine, or none.

use std::hash::{DefaultHasher, Hash, Hasher};

use os_slots::{Entry, Evidence, Interrupted, LOG_TAIL_MAX};
use serde::{Deserialize, Serialize};

use crate::kernel_log;
use crate::supervision::WATCHDOG;

/// That a boot runs.
pub const RUNNING: &str = "/state/boot/running.json";
/// Where the kernel shows what an earlier one left in RAM, one file per dump.
pub const PSTORE: &str = "/sys/fs/pstore";
pub const STAGE_PANIC: &str = "panic";
pub const STAGE_WATCHDOG: &str = "watchdog";

/// How the kernel begins the line that says why it gave up.
const PANIC: &str = "Kernel panic - not syncing: ";
/// How PID 1 begins the line that names the entry.
const OURS: &str = "macula-init: slot ";

/// The record of a boot that has mounted the state partition and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub boot_id: String,
    pub entry: Entry,
    pub version: String,
    /// When it began, by the node's clock.
    pub at_unix: u64,
    /// The kernel log's last lines; only of boots on trial.
    #[serde(default)]
    pub log_tail: Vec<String>,
}

/// What PID 1 finds.
#[derive(Debug, Default)]
pub struct Found<'a> {
    pub running: Option<Running>,
    /// The kernel's dumps, oldest first.
    pub dumps: Vec<String>,
    pub watchdog_reset: bool,
    pub known: &'a [Evidence],
    pub now_unix: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum LastBoot {
    /// In order, or with evidence of its own; or it was too short to tell.
    Ended,
    Failed(Evidence),
    /// Power cut, reset button, or a kernel that panicked on a machine whose RAM forgets.
    Interrupted(Interrupted),
}

/// Judges the boot before this one.
pub fn last_boot(found: Found<'_>) -> LastBoot {
    if let Some(dump) = panic_dump(&found.dumps)
        && let Some(evidence) = panicked(dump, &found)
    {
        return LastBoot::Failed(evidence);
    }
    let Some(running) = found.running else { return LastBoot::Ended };
    if found.known.iter().any(|evidence| evidence.boot_id == running.boot_id) {
        return LastBoot::Ended;
    }
    let seq = running.entry.seq;
    let Running { boot_id, entry, version, at_unix, log_tail } = running;
    if !found.watchdog_reset {
        return LastBoot::Interrupted(Interrupted { boot_id, seq, version, at_unix, log_tail });
    }
    let reason =
        format!("the hardware watchdog reset the machine: nothing fed it for {} s", WATCHDOG.as_secs());
    let (slot, stage) = (entry.slot(), STAGE_WATCHDOG.to_owned());
    LastBoot::Failed(Evidence { boot_id, seq, slot, stage, reason, log_tail, at_unix, settled: false })
}

/// The newest dump of a panic; an oops that led to it has one of its own.
fn panic_dump(dumps: &[String]) -> Option<Vec<String>> {
    dumps.iter().rev().map(|dump| lines(dump)).find(|lines| panic_line(lines).is_some())
}

fn panicked(dump: Vec<String>, found: &Found<'_>) -> Option<Evidence> {
    let (at, reason) = panic_line(&dump)?;
    let running = found.running.as_ref();
    // The dump's own word counts more: the record may be of an earlier boot, if this one did not come to write its own.
    let entry = entry_of(&dump).or(running.map(|running| running.entry))?;
    let running = running.filter(|running| running.entry.seq == entry.seq);
    let first = at.saturating_sub(LOG_TAIL_MAX / 2);
    Some(Evidence {
        boot_id: running.map_or_else(|| id_of(&dump), |running| running.boot_id.clone()),
        seq: entry.seq,
        slot: entry.slot(),
        stage: STAGE_PANIC.to_owned(),
        reason,
        log_tail: dump.into_iter().skip(first).take(LOG_TAIL_MAX).collect(),
        at_unix: running.map_or(found.now_unix, |running| running.at_unix),
        settled: false,
    })
}

/// The dump's lines without their priorities; the store's own headings go.
fn lines(dump: &str) -> Vec<String> {
    let text =
        |line: &str| line.strip_prefix('<')?.split_once('>').map(|(_, text)| kernel_log::bounded(text));
    dump.lines().filter_map(text).collect()
}

fn panic_line(lines: &[String]) -> Option<(usize, String)> {
    let why = |line: &String| line.split_once(PANIC).map(|(_, why)| format!("kernel panic: {}", why.trim()));
    lines.iter().enumerate().find_map(|(at, line)| Some((at, why(line)?)))
}

fn entry_of(lines: &[String]) -> Option<Entry> {
    let name = |line: &String| line.split_once(OURS)?.1.split_once('(')?.1.split(')').next()?.parse().ok();
    lines.iter().rev().find_map(name)
}

/// Stands in for the id of a boot that left nothing but a dump; has the form of one.
fn id_of(lines: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    lines.hash(&mut hasher);
    let hash = hasher.finish();
    format!("{:08x}-0000-4000-8000-{:012x}", hash >> 32, hash & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::evidence_file;

    const ID: &str = "0b3c1de2-0000-4000-8000-aabbccddeeff";
    const DUMP: &str = "Panic#2 Part1\n<5>[    1.000000] macula-init: slot B (macula-000002+2-1.efi) version 0.2.0 for b\n\
        <6>[    9.000000] mesh: hello\n<0>[    9.100000] Kernel panic - not syncing: Attempted to kill init! \
        exitcode=0x00000b00\n<4>[    9.200000] Call Trace:\ncut off";

    fn running(entry: &str) -> Option<Running> {
        Some(Running {
            boot_id: ID.into(),
            entry: entry.parse().unwrap(),
            version: "0.2.0".into(),
            at_unix: 7,
            log_tail: vec!["last".into()],
        })
    }

    fn stage(last: &LastBoot) -> &str {
        match last {
            LastBoot::Ended => "",
            LastBoot::Failed(evidence) => &evidence.stage,
            LastBoot::Interrupted(_) => "interrupted",
        }
    }

    #[test]
    fn rule_4_each_bad_end_has_its_name() {
        let entry = "macula-000002+2-1.efi";
        let oops = DUMP.replace(PANIC, "Oops: ");
        for (record, dumps, watchdog_reset, expected) in [
            (None, vec![], false, ""),
            (None, vec![], true, ""),
            (running(entry), vec![], false, "interrupted"),
            (running(entry), vec![], true, STAGE_WATCHDOG),
            (running(entry), vec![oops.clone()], true, STAGE_WATCHDOG),
            (running(entry), vec![DUMP.to_owned()], false, STAGE_PANIC),
            (running(entry), vec![oops, DUMP.to_owned()], true, STAGE_PANIC),
            (None, vec![DUMP.to_owned()], false, STAGE_PANIC),
            (None, vec!["Panic#1 Part1\n<0>Kernel panic - not syncing: x".to_owned()], false, ""),
        ] {
            let found = Found { running: record, dumps, watchdog_reset, ..Found::default() };
            let shown = format!("{found:?}");
            assert_eq!(stage(&last_boot(found)), expected, "{shown}");
        }
    }

    #[test]
    fn a_panic_is_told_with_its_reason_and_its_last_lines() {
        let found = Found {
            running: running("macula-000002+2-1.efi"),
            dumps: vec![DUMP.to_owned()],
            ..Found::default()
        };
        let LastBoot::Failed(evidence) = last_boot(found) else { panic!("no evidence") };
        assert_eq!(evidence.reason, "kernel panic: Attempted to kill init! exitcode=0x00000b00");
        assert_eq!((evidence.boot_id.as_str(), evidence.seq, evidence.at_unix), (ID, 2, 7));
        assert_eq!(evidence.log_tail.len(), 4);
        assert_eq!(evidence.log_tail[3], "[    9.200000] Call Trace:");
        assert!(!evidence.condemns(), "the release's bytes are not to blame");
    }

    #[test]
    fn a_panic_of_a_boot_that_left_no_record_is_told_once_and_bounded() {
        let long = (0..5000).map(|n| format!("<6>[    2.000000] line {n}\x07{}\n", "x".repeat(900)));
        let dump = format!("{}{DUMP}", long.collect::<String>());
        let judge = |record| {
            last_boot(Found { running: record, dumps: vec![dump.clone()], now_unix: 9, ..Found::default() })
        };
        let LastBoot::Failed(evidence) = judge(running("macula-000001.efi")) else { panic!("no evidence") };
        assert_eq!((evidence.seq, evidence.at_unix), (2, 9), "the dump names its own entry");
        assert!(evidence_file(&evidence.boot_id).is_some());
        assert_eq!(judge(None), LastBoot::Failed(evidence.clone()), "the same dump, the same id");
        assert!(evidence.log_tail.len() <= LOG_TAIL_MAX);
        assert!(evidence.log_tail.iter().all(|line| line.len() <= 240 && !line.contains('\x07')));
    }

    #[test]
    fn a_boot_that_has_said_why_it_failed_is_not_called_interrupted() {
        let found = Found { running: running("macula-000002.efi"), watchdog_reset: true, ..Found::default() };
        let LastBoot::Failed(evidence) = last_boot(found) else { panic!("no evidence") };
        assert_eq!(evidence.log_tail, ["last"]);
        let again = Found {
            running: running("macula-000002.efi"),
            watchdog_reset: true,
            known: &[evidence],
            ..Found::default()
        };
        assert_eq!(last_boot(again), LastBoot::Ended);
    }
}
