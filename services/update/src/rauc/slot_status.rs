//! Our slots in RAUC's words. Pure: what booted, the boot loader's entries and the records in, RAUC's view out.

use os_slots::{BootInfo, Entry, Slot};
use services_api::report::InstallReport;

use crate::records::Installed;
use crate::updater::Finished;

/// One slot's keys and values, as RAUC's `GetSlotStatus` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    pub name: &'static str,
    pub values: Vec<(&'static str, String)>,
}

/// `rootfs.0` is slot A, `rootfs.1` slot B; their boot names are our letters.
pub fn name(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "rootfs.0",
        Slot::B => "rootfs.1",
    }
}

/// `entries` in the boot loader's order; `installed` answers what is known of an entry.
pub fn slots(
    boot: &BootInfo,
    entries: &[Entry],
    installed: impl Fn(&Entry) -> Option<Installed>,
) -> Vec<SlotStatus> {
    [Slot::A, Slot::B]
        .map(|slot| {
            let entry = entry_of(slot, entries);
            SlotStatus { name: name(slot), values: values(boot, slot, entry, entry.and_then(&installed)) }
        })
        .into()
}

/// The entry of a slot that the boot loader would take.
pub fn entry_of(slot: Slot, entries: &[Entry]) -> Option<&Entry> {
    entries.iter().find(|e| e.slot() == slot)
}

/// The slot that the boot loader takes next.
pub fn primary(entries: &[Entry]) -> Option<Slot> {
    entries.first().map(Entry::slot)
}

fn values(
    boot: &BootInfo,
    slot: Slot,
    entry: Option<&Entry>,
    installed: Option<Installed>,
) -> Vec<(&'static str, String)> {
    let booted = slot == boot.slot;
    let good = entry.is_some_and(|e| !e.is_exhausted());
    let mut values = vec![
        ("class", "rootfs".to_string()),
        ("type", "raw".into()),
        ("device", boot.root(slot).display().to_string()),
        ("bootname", slot.to_string()),
        ("state", if booted { "booted" } else { "inactive" }.into()),
        ("boot-status", if good { "good" } else { "bad" }.into()),
    ];
    if booted {
        values.push(("mountpoint", "/".into()));
    }
    if let Some(entry) = entry {
        values.push(("description", entry.to_string()));
    }
    if let Some(version) = installed.as_ref().map(|i| &i.version).or_else(|| booted.then_some(&boot.version))
    {
        values.push(("bundle.compatible", boot.board.clone()));
        values.push(("bundle.version", version.clone()));
        values.push(("status", "ok".into()));
    }
    if let Some(installed) = installed {
        values.push(("bundle.build", installed.release));
        values.extend(timestamp(installed.at_unix).map(|t| ("installed.timestamp", t)));
    }
    values
}

fn timestamp(unix: u64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(unix).ok().filter(|s| *s > 0)?).ok()?;
    let (date, (h, m, s)) = (at.date(), at.time().as_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    Some(format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z"))
}

/// What RAUC's properties say about the install that runs, or about the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    pub operation: &'static str,
    pub last_error: String,
    /// Percent, what is being done, depth of nesting.
    pub progress: (i32, String, i32),
}

pub fn activity(installing: Option<&InstallReport>, finished: &Finished) -> Activity {
    let last_error = finished.error.clone().unwrap_or_default();
    match installing.filter(|i| i.phase != "reboot") {
        Some(report) => {
            Activity { operation: "installing", last_error: String::new(), progress: progress(report) }
        }
        None if finished.count == 0 => {
            Activity { operation: "idle", last_error, progress: (0, String::new(), 0) }
        }
        None => {
            let words = if finished.error.is_none() { "Installing done." } else { "Installing failed." };
            Activity { operation: "idle", last_error, progress: (100, words.into(), 1) }
        }
    }
}

/// Content is nine tenths of the way, its verification the rest.
fn progress(report: &InstallReport) -> (i32, String, i32) {
    let (words, percent) = match report.phase.as_str() {
        "release" | "manifest" => ("Checking the release", 0),
        "verify" => ("Verifying what was written", 95),
        "switch" => ("Switching slots", 99),
        _ => {
            let done = report.bytes_done.min(report.bytes_total);
            let tenths = u128::from(done) * 90 / u128::from(report.bytes_total.max(1));
            ("Copying the release", i32::try_from(tenths).unwrap_or(90))
        }
    };
    (percent, words.into(), 1)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn booted(entry: &str) -> BootInfo {
        BootInfo {
            version: "0.2.0".into(),
            board: "x86-generic".into(),
            boot_id: "b".into(),
            root_a: "/d2".into(),
            root_b: "/d3".into(),
            ..BootInfo::of(entry.parse().unwrap())
        }
    }

    pub fn list(names: &[&str]) -> Vec<Entry> {
        let mut list: Vec<Entry> = names.iter().map(|n| n.parse().unwrap()).collect();
        list.sort_by(Entry::boot_order);
        list
    }

    fn value<'a>(slot: &'a SlotStatus, key: &str) -> Option<&'a str> {
        slot.values.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    #[test]
    fn a_committed_update_beside_the_factory_image() {
        let entries = list(&["macula-000001.efi", "macula-000002.efi"]);
        let known = |e: &Entry| {
            (e.seq == 2).then(|| Installed {
                seq: 2,
                version: "0.2.0".into(),
                release: "mcid".into(),
                at_unix: 1_795_422_605,
            })
        };
        let slots = slots(&booted("macula-000002.efi"), &entries, known);
        assert_eq!(slots.iter().map(|s| s.name).collect::<Vec<_>>(), ["rootfs.0", "rootfs.1"]);
        let of = |i: usize, key| value(&slots[i], key);
        assert_eq!((of(0, "state"), of(0, "boot-status")), (Some("inactive"), Some("good")));
        assert_eq!((of(0, "bundle.version"), of(0, "device")), (None, Some("/d2")));
        assert_eq!((of(1, "state"), of(1, "bootname")), (Some("booted"), Some("B")));
        assert_eq!((of(1, "bundle.version"), of(1, "bundle.build")), (Some("0.2.0"), Some("mcid")));
        assert_eq!(of(1, "installed.timestamp"), Some("2026-11-23T08:30:05Z"));
        assert_eq!(primary(&entries), Some(Slot::B));
    }

    #[test]
    fn marked_or_empty_slots_are_bad_and_never_the_next() {
        let entries = list(&["macula-000001.efi", "macula-000002+0-3.efi"]);
        let view = slots(&booted("macula-000001.efi"), &entries, |_| None);
        assert_eq!(value(&view[1], "boot-status"), Some("bad"));
        assert_eq!(value(&view[0], "bundle.version"), Some("0.2.0"), "what runs is known without a record");
        assert_eq!(primary(&entries), Some(Slot::A));
        let alone = slots(&booted("macula-000001.efi"), &list(&["macula-000001.efi"]), |_| None);
        assert_eq!(value(&alone[1], "boot-status"), Some("bad"));
        assert_eq!(primary(&[]), None);
    }

    #[test]
    fn an_install_moves_from_idle_to_idle() {
        let mut report = InstallReport { phase: "fetch".into(), bytes_total: 200, ..Default::default() };
        let mut finished = Finished::default();
        assert_eq!(activity(None, &finished).operation, "idle");
        let percent = |r: &InstallReport, f: &Finished| activity(Some(r), f).progress.0;
        assert_eq!(percent(&report, &finished), 0);
        report.bytes_done = 100;
        assert_eq!(percent(&report, &finished), 45);
        // More than all, or nothing to do at all.
        (report.bytes_done, report.bytes_total) = (u64::MAX, u64::MAX - 1);
        assert_eq!(percent(&report, &finished), 90);
        report.bytes_total = 0;
        assert_eq!(percent(&report, &finished), 0);
        report.phase = "reboot".into();
        finished.count = 1;
        assert_eq!(activity(Some(&report), &finished).progress, (100, "Installing done.".into(), 1));
        finished.error = Some("no".into());
        assert_eq!(activity(None, &finished).last_error, "no");
    }

    #[test]
    fn a_clock_that_was_never_set_gives_no_time() {
        assert_eq!(timestamp(0), None);
        assert_eq!(timestamp(u64::MAX), None);
    }
}
