//! What a failure leads to. The node always ends in a boot: of the other slot's committed release when there is a
//! sound one, otherwise of the same release again after a pause that grows with each failure.

use std::collections::BTreeSet;
use std::time::Duration;

use os_slots::{Entry, Evidence, RESCUE_ENTRY, SEQ_MAX};

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

/// Failures of one install, whatever they were, after which another boot of it promises less than rescue does.
const RESCUE_AFTER: usize = 3;

/// Sequence numbers of installs that are known to be corrupt.
pub fn condemned(evidence: &[Evidence]) -> BTreeSet<u32> {
    evidence.iter().filter(|evidence| evidence.condemns()).map(|evidence| evidence.seq).collect()
}

/// What to do now that the boot of `booted` has failed. `entries` are the ones on the ESP (empty when unreadable);
/// `evidence` is all that is known, this failure included if it could be written.
pub fn react(on_failure: OnFailure, booted: Entry, entries: &[Entry], evidence: &[Evidence]) -> Reaction {
    let seq = booted.seq;
    if on_failure == OnFailure::OtherSlot
        && let Some(entry) = refuge(seq, entries, evidence)
    {
        return Reaction::OtherSlot { entry: entry.to_string(), pause: PAUSE_SWITCH };
    }
    let failures = evidence.iter().filter(|evidence| evidence.seq == seq).count().max(1);
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let pause = (PAUSE_FIRST * 2u32.pow(doublings)).min(PAUSE_MAX);
    let is_unusable = on_failure == OnFailure::OtherSlot && condemned(evidence).contains(&seq);
    // What is on trial has its tries; the committed slot follows by itself.
    match is_unusable || (booted.is_committed() && failures >= RESCUE_AFTER) {
        true => Reaction::Rescue { pause },
        false => Reaction::Again { pause },
    }
}

/// The newest committed entry of the other slot that is not known to be corrupt.
pub fn refuge(seq: u32, entries: &[Entry], evidence: &[Evidence]) -> Option<Entry> {
    let corrupt = condemned(evidence);
    let slot = os_slots::slot_of_seq(seq);
    let sound =
        |entry: &&Entry| entry.is_committed() && entry.slot() != slot && !corrupt.contains(&entry.seq);
    entries.iter().filter(sound).max_by_key(|entry| entry.seq).copied()
}

/// Why the rescue system runs, for the owner.
pub fn why_rescue(evidence: &[Evidence]) -> String {
    match evidence.last() {
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

/// Which evidence to remove so that a new piece fits: the oldest, by time and then by name. Unreadable pieces go
/// first. Each item is (file name, `at_unix` if it could be read).
pub fn evidence_to_remove(files: &[(String, Option<u64>)]) -> Vec<&str> {
    let mut by_age: Vec<&(String, Option<u64>)> = files.iter().collect();
    by_age.sort_by_key(|(name, at)| (*at, name.clone()));
    let surplus = (files.len() + 1).saturating_sub(EVIDENCE_MAX);
    by_age.into_iter().take(surplus).map(|(name, _)| name.as_str()).collect()
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
    use os_slots::slot_of_seq;

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
        assert!(matches!(react(committed, RESCUE_AFTER - 1), Reaction::Again { .. }));
        assert!(matches!(react(committed, RESCUE_AFTER), Reaction::Rescue { .. }));
        assert!(matches!(react(Entry::armed(1), RESCUE_AFTER), Reaction::Again { .. }));
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
        let files: Vec<_> =
            (0..20u64).map(|at| (format!("e{at:02}"), (at != 19).then_some(100 - at))).collect();
        assert_eq!(evidence_to_remove(&files), ["e19", "e18", "e17", "e16", "e15"]);
        assert!(evidence_to_remove(&files[..15]).is_empty());
        assert_eq!(evidence_file("../../etc"), None);
        assert!(evidence_file("0b3c1de2-0000-4000-8000-aabbccddeeff").is_some());
    }
}
