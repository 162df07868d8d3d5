//! What a failure leads to. The node always ends in a boot: of the other slot's committed release when there is a
//! sound one, otherwise of the same release again after a pause that grows with each failure.

use std::collections::BTreeSet;
use std::time::Duration;

use os_slots::{Entry, Evidence, SEQ_MAX};

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
    /// Wait, then reboot and let the boot loader choose.
    Again { pause: Duration },
}

/// Stages of evidence that condemn a release's bytes, as opposed to what it ran into.
pub const STAGES_OF_CORRUPTION: [&str; 3] = ["verity", "root", "switch-root"];

/// Whether this evidence says that the install with its sequence number is corrupt.
pub fn condemns(evidence: &Evidence) -> bool {
    STAGES_OF_CORRUPTION.contains(&evidence.stage.as_str())
}

/// Sequence numbers of installs that are known to be corrupt.
pub fn condemned(evidence: &[Evidence]) -> BTreeSet<u32> {
    evidence.iter().filter(|evidence| condemns(evidence)).map(|evidence| evidence.seq).collect()
}

/// What to do now that the boot of `seq` has failed. `entries` are the ones on the ESP (empty when unreadable);
/// `evidence` is all that is known, this failure included if it could be written.
pub fn react(on_failure: OnFailure, seq: u32, entries: &[Entry], evidence: &[Evidence]) -> Reaction {
    if on_failure == OnFailure::OtherSlot
        && let Some(entry) = refuge(seq, entries, evidence)
    {
        return Reaction::OtherSlot { entry: entry.to_string(), pause: PAUSE_SWITCH };
    }
    let failures = evidence.iter().filter(|evidence| evidence.seq == seq).count().max(1);
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    Reaction::Again { pause: (PAUSE_FIRST * 2u32.pow(doublings)).min(PAUSE_MAX) }
}

/// The newest committed entry of the other slot that is not known to be corrupt.
pub fn refuge(seq: u32, entries: &[Entry], evidence: &[Evidence]) -> Option<Entry> {
    let corrupt = condemned(evidence);
    let slot = os_slots::slot_of_seq(seq);
    let sound =
        |entry: &&Entry| entry.is_committed() && entry.slot() != slot && !corrupt.contains(&entry.seq);
    entries.iter().filter(sound).max_by_key(|entry| entry.seq).copied()
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
pub fn booted_entry(selected: Option<&str>, count_path: Option<&str>) -> Result<Entry, String> {
    let name = match (count_path, selected) {
        (Some(path), _) => crate::firmware::file_name(path),
        // An entry of the menu that another profile of the same UKI makes is called `macula-000001.efi@reset`.
        (None, Some(selected)) => selected.split_once('@').map_or(selected, |(file, _profile)| file),
        (None, None) => return Err("the firmware does not say which entry it booted".into()),
    };
    let entry: Entry = name.parse().map_err(|error| format!("booted entry {name:?}: {error}"))?;
    match entry.seq <= SEQ_MAX {
        true => Ok(entry),
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
        let reaction = react(OnFailure::OtherSlot, 4, &on_disk, &[evidence(4, "verity")]);
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000003.efi".into(), pause: PAUSE_SWITCH });
        let reaction =
            react(OnFailure::OtherSlot, 4, &on_disk, &[evidence(4, "verity"), evidence(3, "root")]);
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000001.efi".into(), pause: PAUSE_SWITCH });
    }

    #[test]
    fn without_a_refuge_pauses_grow_and_stay_bounded() {
        let on_disk = entries(&["macula-000001.efi", "macula-000002.efi"]);
        let mut known = vec![evidence(1, "verity")];
        let mut pauses = Vec::new();
        for _ in 0..10 {
            known.push(evidence(2, "verity"));
            let Reaction::Again { pause } = react(OnFailure::OtherSlot, 2, &on_disk, &known) else {
                panic!("left")
            };
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
        assert_eq!(react(OnFailure::OtherSlot, 2, &[], &[]), Reaction::Again { pause: PAUSE_FIRST });
    }

    #[test]
    fn what_the_release_ran_into_does_not_condemn_it() {
        let on_disk = entries(&["macula-000001.efi", "macula-000002.efi"]);
        let known = [evidence(1, "supervisor"), evidence(2, "verity")];
        let reaction = react(OnFailure::OtherSlot, 2, &on_disk, &known);
        assert_eq!(reaction, Reaction::OtherSlot { entry: "macula-000001.efi".into(), pause: PAUSE_SWITCH });
        assert!(matches!(react(OnFailure::Reboot, 2, &on_disk, &known), Reaction::Again { .. }));
    }

    #[test]
    fn the_firmware_names_the_entry() {
        let counted =
            booted_entry(Some("macula-000002.efi"), Some("\\EFI\\Linux\\macula-000002+2-1.efi")).unwrap();
        assert_eq!(counted.tries.unwrap().left, 2);
        assert!(booted_entry(Some("macula-000001.efi"), None).unwrap().is_committed());
        assert!(booted_entry(None, None).is_err());
        assert!(booted_entry(Some("rescue.efi"), None).unwrap_err().contains("rescue.efi"));
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
