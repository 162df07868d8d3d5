//! What a failure leads to. The node always ends in a boot: of the same release again while that may help, of the other
//! slot's committed release when there is a sound one, or of the rescue system. Pauses grow with each failure.

use std::collections::BTreeSet;
use std::time::Duration;

use os_slots::{Entry, Evidence, RESCUE_ENTRY, SEQ_MAX, failures, keeps_failing};

/// Most evidence files that stay in `/state/boot`.
pub const EVIDENCE_MAX: usize = 16;
/// Long enough to read the reason on a console, and for a console to drain.
const PAUSE_SWITCH: Duration = Duration::from_secs(3);
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How bad the failure of a boot step or of the running system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The release is unusable: leave for the other slot.
    OtherSlot,
    /// Another slot would fare no better, or the boot loader's counter decides: boot again after a pause.
    Reboot,
    /// Log it and go on: the step is a comfort.
    Continue,
}

/// How the node leaves this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Point `LoaderEntryOneShot` at this entry (its file name), wait and reboot.
    OtherSlot { entry: String, pause: Duration },
    /// Point `LoaderEntryOneShot` at the rescue system, wait and reboot. (Where there is none, the boot loader chooses.)
    Rescue { pause: Duration },
    /// Wait, then reboot and let the boot loader choose.
    Again { pause: Duration },
}

/// What the firmware says it booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booted {
    Slot(Entry),
    Rescue,
}

/// Sequence numbers of installs that are known to be corrupt.
pub fn condemned(evidence: &[Evidence]) -> BTreeSet<u32> {
    evidence.iter().filter(|evidence| evidence.condemns()).map(|evidence| evidence.seq).collect()
}

/// What to do now that the boot of `booted` has failed. `entries` are the ones on the ESP (empty when unreadable);
/// `evidence` is all that is known, this failure included if it could be written.
pub fn react(on_failure: OnFailure, booted: Entry, entries: &[Entry], evidence: &[Evidence]) -> Reaction {
    let seq = booted.seq;
    let refuge = refuge(seq, entries, evidence);
    if on_failure == OnFailure::OtherSlot
        && let Some(entry) = refuge
    {
        return Reaction::OtherSlot { entry: entry.to_string(), pause: PAUSE_SWITCH };
    }
    let pause = pause(failures(seq, evidence));
    let is_unusable = on_failure == OnFailure::OtherSlot && condemned(evidence).contains(&seq);
    // What is on trial has its tries; the committed slot follows by itself.
    let is_given_up = booted.is_committed() && keeps_failing(seq, evidence);
    match refuge.filter(|entry| !keeps_failing(entry.seq, evidence)) {
        Some(entry) if is_given_up => Reaction::OtherSlot { entry: entry.to_string(), pause },
        _ if is_given_up || is_unusable => Reaction::Rescue { pause },
        _ => Reaction::Again { pause },
    }
}

/// What to do at the start of a boot of `booted`, now that the boot before it turns out to have failed: a panic, a hang.
/// `evidence` contains that `failure`, which nothing had recorded before. `None`: go on.
pub fn react_late(
    failure: &Evidence,
    booted: Entry,
    entries: &[Entry],
    evidence: &[Evidence],
) -> Option<Reaction> {
    let is_committed = |seq| seq == booted.seq || entries.contains(&Entry::committed(seq));
    let is_given_up = booted.is_committed() && keeps_failing(booted.seq, evidence);
    // A trial that failed is no reason to leave the slot that follows it.
    (is_given_up && is_committed(failure.seq)).then(|| react(OnFailure::Reboot, booted, entries, evidence))
}

fn pause(failures: usize) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (PAUSE_FIRST * 2u32.pow(doublings)).min(PAUSE_MAX)
}

/// The newest committed entry of the other slot that is not known to be corrupt.
pub fn refuge(seq: u32, entries: &[Entry], evidence: &[Evidence]) -> Option<Entry> {
    let corrupt = condemned(evidence);
    let slot = os_slots::slot_of_seq(seq);
    let sound =
        |entry: &&Entry| entry.is_committed() && entry.slot() != slot && !corrupt.contains(&entry.seq);
    entries.iter().filter(sound).max_by_key(|entry| entry.seq).copied()
}

/// Which evidence a boot of the install `seq` that has settled marks as settled. Corruption does not heal.
pub fn is_settled_by(seq: u32, evidence: &Evidence) -> bool {
    evidence.seq == seq && !evidence.settled && !evidence.condemns()
}

/// Why the rescue system runs, for the owner.
pub fn why_rescue(evidence: &[Evidence]) -> String {
    match evidence.iter().rfind(|e| !e.settled) {
        Some(e) => {
            format!("started by hand, or because slot {} failed last ({}: {})", e.slot, e.stage, e.reason)
        }
        None => "started by hand, or because no slot holds a release that the boot loader can load".into(),
    }
}

/// File name of a piece of evidence; `None` when the boot id is not one (it comes from the kernel, but becomes a path).
pub fn evidence_file(boot_id: &str) -> Option<String> {
    let fine = boot_id.len() == 36 && boot_id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    fine.then(|| format!("evidence-{boot_id}.json"))
}

/// Which evidence to remove so that a new piece about the install `seq` fits: unreadable pieces first, then settled ones,
/// then other installs', each by time and then by name. (By time alone, a node that has lost its clock would forget each
/// failure for the next one.) Each item is a file's name and what it says, if it could be read.
pub fn evidence_to_remove(seq: u32, files: &[(String, Option<Evidence>)]) -> Vec<&str> {
    let worth = |evidence: &Evidence| (!evidence.settled, evidence.seq == seq, evidence.at_unix);
    let mut by_worth: Vec<&(String, Option<Evidence>)> = files.iter().collect();
    by_worth.sort_by_key(|(name, evidence)| (evidence.as_ref().map(worth), name.clone()));
    let surplus = (files.len() + 1).saturating_sub(EVIDENCE_MAX);
    by_worth.into_iter().take(surplus).map(|(name, _)| name.as_str()).collect()
}

/// The boot the firmware names: the counted entry when `LoaderBootCountPath` is there, otherwise the selected one.
pub fn booted_entry(selected: Option<&str>, count_path: Option<&str>) -> Result<Booted, String> {
    let name = match (count_path, selected) {
        (Some(path), _) => crate::firmware::file_name(path),
        // An entry of the menu that another profile of the same UKI makes is called `macula-000001.efi@reset`.
        (None, Some(selected)) => selected.split_once('@').map_or(selected, |(file, _profile)| file),
        (None, None) => return Err("the firmware does not say which entry it booted".into()),
    };
    if name == RESCUE_ENTRY {
        return Ok(Booted::Rescue);
    }
    let entry: Entry = name.parse().map_err(|error| format!("booted entry {name:?}: {error}"))?;
    match entry.seq <= SEQ_MAX {
        true => Ok(Booted::Slot(entry)),
        false => Err(format!("booted entry {name:?}: sequence number is out of range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_slots::{FAILURES_MAX, slot_of_seq};

    fn evidence(seq: u32, stage: &str) -> Evidence {
        let (boot_id, reason) = (format!("b{seq}"), String::new());
        Evidence {
            boot_id,
            seq,
            slot: slot_of_seq(seq),
            stage: stage.into(),
            reason,
            log_tail: vec![],
            at_unix: 0,
            settled: false,
        }
    }

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_corrupt_root_leaves_for_the_newest_sound_entry_of_the_other_slot() {
        let on_disk =
            entries(&["macula-000001.efi", "macula-000003.efi", "macula-000004.efi", "macula-000005+3.efi"]);
        let reaction = react(OnFailure::OtherSlot, Entry::committed(4), &on_disk, &[evidence(4, "verity")]);
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000003.efi".into(), pause: PAUSE_SWITCH });
        let reaction = react(
            OnFailure::OtherSlot,
            Entry::committed(4),
            &on_disk,
            &[evidence(4, "verity"), evidence(3, "root")],
        );
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000001.efi".into(), pause: PAUSE_SWITCH });
    }

    #[test]
    fn rule_2_without_a_refuge_rescue_comes_and_pauses_grow_and_stay_bounded() {
        let on_disk = entries(&["macula-000001.efi", "macula-000002.efi"]);
        let mut known = vec![evidence(1, "verity")];
        let mut pauses = Vec::new();
        for _ in 0..10 {
            known.push(evidence(2, "verity"));
            let Reaction::Rescue { pause } =
                react(OnFailure::OtherSlot, Entry::committed(2), &on_disk, &known)
            else {
                panic!("left")
            };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
        assert_eq!(
            react(OnFailure::OtherSlot, Entry::committed(2), &[], &[]),
            Reaction::Again { pause: PAUSE_FIRST }
        );
    }

    #[test]
    fn what_the_release_ran_into_does_not_condemn_it() {
        let on_disk = entries(&["macula-000001.efi", "macula-000002.efi"]);
        let known = [evidence(1, "supervisor"), evidence(2, "verity")];
        let reaction = react(OnFailure::OtherSlot, Entry::committed(2), &on_disk, &known);
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000001.efi".into(), pause: PAUSE_SWITCH });
        assert!(matches!(
            react(OnFailure::Reboot, Entry::committed(2), &on_disk, &known),
            Reaction::Again { .. }
        ));
    }

    #[test]
    fn rule_2_a_committed_slot_that_keeps_failing_leads_to_rescue_after_another_try() {
        let on_disk = entries(&["macula-000001.efi"]);
        let failed = |times: usize| vec![evidence(1, "supervisor"); times];
        let react = |entry, times| react(OnFailure::Reboot, entry, &on_disk, &failed(times));
        let committed = Entry::committed(1);
        assert!(matches!(react(committed, 1), Reaction::Again { .. }));
        assert!(matches!(react(committed, FAILURES_MAX - 1), Reaction::Again { .. }));
        assert!(matches!(react(committed, FAILURES_MAX), Reaction::Rescue { .. }));
        assert!(matches!(react(Entry::armed(1), FAILURES_MAX), Reaction::Again { .. }));
    }

    fn failed(seq: u32, stage: &str, times: usize) -> Vec<Evidence> {
        vec![evidence(seq, stage); times]
    }

    #[test]
    fn rule_2_panics_that_the_next_boot_finds_lead_out_of_the_committed_slot() {
        let late = |booted, on_disk: &[&str], known: &[Evidence]| {
            react_late(known.last().unwrap(), booted, &entries(on_disk), known)
        };
        let (both, alone) = (["macula-000001.efi", "macula-000002.efi"], ["macula-000002.efi"]);
        let two = Entry::committed(2);
        for stage in ["panic", "watchdog"] {
            assert_eq!(late(two, &both, &failed(2, stage, FAILURES_MAX - 1)), None);
            let often = failed(2, stage, FAILURES_MAX);
            let pause = Duration::from_secs(20);
            let to_one = Reaction::OtherSlot { entry: "macula-000001.efi".into(), pause };
            assert_eq!(late(two, &both, &often), Some(to_one.clone()));
            assert_eq!(late(two, &alone, &often), Some(Reaction::Rescue { pause }));
            assert_eq!(
                late(two, &[], &often),
                Some(Reaction::Rescue { pause }),
                "an ESP that cannot be read"
            );
            assert_eq!(late(Entry::armed(2), &both, &often), None, "a trial has its tries");

            // The refuge fails, too: it gets as many boots, with none of the other in between, and then comes rescue.
            let then = |times| [often.clone(), failed(1, stage, times)].concat();
            assert_eq!(late(two, &both, &then(FAILURES_MAX - 1)), Some(to_one));
            assert_eq!(late(two, &both, &then(FAILURES_MAX)), Some(Reaction::Rescue { pause }));
            // A refuge that is corrupt is none.
            let corrupt = [failed(1, "verity", 1), often.clone()].concat();
            assert_eq!(late(two, &both, &corrupt), Some(Reaction::Rescue { pause }));
            // Somebody else's trial says nothing about this slot.
            assert_eq!(late(two, &alone, &[often, failed(3, stage, 1)].concat()), None);
        }
    }

    #[test]
    fn rule_2_what_is_settled_no_longer_counts() {
        let on_disk = entries(&["macula-000001.efi"]);
        let committed = Entry::committed(1);
        let mut known = failed(1, "panic", FAILURES_MAX);
        assert!(known.iter().all(|e| is_settled_by(1, e) && !is_settled_by(2, e)));
        known[0].settled = true;
        assert!(!is_settled_by(1, &known[0]));
        assert_eq!(react_late(&known[2], committed, &on_disk, &known), None);
        let again = react(OnFailure::Reboot, committed, &on_disk, &known);
        assert_eq!(again, Reaction::Again { pause: PAUSE_FIRST * 2 });
        assert!(!is_settled_by(1, &evidence(1, "verity")), "corruption does not heal");
        known.iter_mut().for_each(|e| e.settled = true);
        assert!(why_rescue(&known).contains("no slot holds"));
    }

    #[test]
    fn the_firmware_names_the_entry() {
        let booted = |selected, counted| booted_entry(selected, counted).unwrap();
        let counted = booted(Some("macula-000002.efi"), Some("\\EFI\\Linux\\macula-000002+2-1.efi"));
        assert_eq!(counted, Booted::Slot("macula-000002+2-1.efi".parse().unwrap()));
        assert_eq!(booted(Some("macula-000001.efi"), None), Booted::Slot(Entry::committed(1)));
        assert_eq!(booted(Some(RESCUE_ENTRY), None), Booted::Rescue);
        assert!(booted_entry(None, None).is_err());
        assert!(booted_entry(Some("other.efi"), None).unwrap_err().contains("other.efi"));
    }

    #[test]
    fn evidence_stays_bounded() {
        let piece = |at: u64| Evidence { at_unix: 100 - at, ..evidence(1, "panic") };
        let mut files: Vec<_> =
            (0..20u64).map(|at| (format!("e{at:02}"), (at != 19).then(|| piece(at)))).collect();
        assert_eq!(evidence_to_remove(1, &files), ["e19", "e18", "e17", "e16", "e15"]);
        assert!(evidence_to_remove(1, &files[..15]).is_empty());
        // However old, what counts for the install that fails now stays longest.
        for at in [1, 2] {
            files[at].1.as_mut().unwrap().settled = true;
        }
        files[3].1.as_mut().unwrap().seq = 2;
        assert_eq!(evidence_to_remove(1, &files), ["e19", "e02", "e01", "e03", "e18"]);
        assert_eq!(evidence_file("../../etc"), None);
        assert!(evidence_file("0b3c1de2-0000-4000-8000-aabbccddeeff").is_some());
    }
}
