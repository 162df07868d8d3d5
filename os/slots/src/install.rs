//! Where the next release goes.

use crate::{Entry, SEQ_MAX, Slot, slot_of_seq};

/// What an install does to the ESP before it writes the inactive root, and which number its entry gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallPlan {
    pub seq: u32,
    pub slot: Slot,
    /// Entries of the slot that is about to be overwritten: removed first, because from then on they would lead to
    /// a root that is half old, half new.
    pub remove: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("release on trial in slot {0} is neither committed nor failed yet: wait for its gate")]
    OnTrial(Slot),
    #[error(
        "slot {slot} holds {entry}, which is committed and newer than what is running: it must be marked bad \
         before its slot can be written"
    )]
    WouldRemoveCommitted { slot: Slot, entry: Entry },
    #[error("running entry macula-{0:06} is not on the ESP: without it the node could not fall back")]
    BootedMissing(u32),
    #[error("install sequence numbers are used up ({SEQ_MAX})")]
    OutOfNumbers,
}

/// The committed entry: the one without a counter that the boot loader would choose if there were no trial.
pub fn committed(entries: &[Entry]) -> Option<Entry> {
    entries.iter().copied().filter(Entry::is_committed).min_by(Entry::boot_order)
}

/// Plans an install into the slot that is not running. `booted` is the running entry's sequence number, `floor` the
/// highest number that this node remembers having used (trial record, failures), 0 if none: a number is never used
/// twice, so that a failure recorded for one install can never be taken for another's.
pub fn plan_install(entries: &[Entry], booted: u32, floor: u32) -> Result<InstallPlan, PlanError> {
    let running = entries.iter().filter(|e| e.seq == booted);
    if running.clone().count() == 0 {
        return Err(PlanError::BootedMissing(booted));
    }
    let slot = slot_of_seq(booted).other();
    if running.clone().all(|e| !e.is_committed()) {
        // Exhausted everything may boot an entry at zero tries; then there is nothing else to fall back to.
        return Err(PlanError::OnTrial(slot.other()));
    }
    if let Some(entry) = committed(entries).filter(|e| e.slot() == slot && e.seq > booted) {
        return Err(PlanError::WouldRemoveCommitted { slot, entry });
    }
    into(slot, entries, floor)
}

/// Stands for the running entry in the rescue system: the committed entry, which rescue leaves alone because it may be
/// sound after all, or, when there is none, one in slot B that does not exist, so that slot A is written.
pub fn standing_in_rescue(entries: &[Entry]) -> Entry {
    committed(entries).unwrap_or(Entry::committed(2))
}

/// Plans an install from the rescue system, where no slot runs.
pub fn plan_rescue(entries: &[Entry], floor: u32) -> Result<InstallPlan, PlanError> {
    into(standing_in_rescue(entries).slot().other(), entries, floor)
}

fn into(slot: Slot, entries: &[Entry], floor: u32) -> Result<InstallPlan, PlanError> {
    let highest = entries.iter().map(|e| e.seq).max().unwrap_or(0).max(floor);
    let next = highest.saturating_add(1);
    let seq = if slot_of_seq(next) == slot { next } else { highest.saturating_add(2) };
    if seq > SEQ_MAX {
        return Err(PlanError::OutOfNumbers);
    }
    Ok(InstallPlan { seq, slot, remove: entries.iter().copied().filter(|e| e.slot() == slot).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn first_update_of_a_fresh_image_goes_to_b() {
        let plan = plan_install(&list(&["macula-000001.efi"]), 1, 0).unwrap();
        assert_eq!((plan.seq, plan.slot, plan.remove.len()), (2, Slot::B, 0));
    }

    #[test]
    fn rescue_writes_the_slot_that_is_not_committed() {
        let plan = |names: &[&str], floor| {
            let plan = plan_rescue(&list(names), floor).unwrap();
            (plan.seq, plan.slot, plan.remove.len())
        };
        assert_eq!(plan(&["macula-000001.efi"], 0), (2, Slot::B, 0));
        assert_eq!(plan(&["macula-000001.efi", "macula-000002.efi"], 0), (3, Slot::A, 1));
        assert_eq!(plan(&["macula-000003.efi", "macula-000004+0-3.efi"], 4), (6, Slot::B, 1));
        // Nothing is left: numbers that were used once are still not used again.
        assert_eq!(plan(&[], 0), (1, Slot::A, 0));
        assert_eq!(plan(&[], 8), (9, Slot::A, 0));
        assert_eq!(plan(&["macula-000002+0-3.efi"], 0), (3, Slot::A, 0));
    }

    #[test]
    fn rule_3_installing_clears_the_slots_old_marks() {
        let entries = list(&["macula-000003.efi", "macula-000004+0-3.efi", "macula-000002.efi"]);
        let plan = plan_install(&entries, 3, 0).unwrap();
        assert_eq!((plan.seq, plan.slot), (6, Slot::B));
        assert_eq!(plan.remove, list(&["macula-000004+0-3.efi", "macula-000002.efi"]));
    }

    #[test]
    fn numbers_are_never_used_twice() {
        // The failed trial's entry was cleared, then the power went: the number comes from the records.
        assert_eq!(plan_install(&list(&["macula-000001.efi"]), 1, 2).unwrap().seq, 4);
        assert_eq!(plan_install(&list(&["macula-000001.efi"]), 1, 3).unwrap().seq, 4);
    }

    #[test]
    fn never_removes_the_booted_or_the_committed_entry() {
        let entries = list(&["macula-000001.efi", "macula-000002.efi"]);
        // Running from the old slot because the new one is corrupt: not before it has been marked bad.
        assert!(matches!(plan_install(&entries, 1, 0), Err(PlanError::WouldRemoveCommitted { .. })));
        let demoted = list(&["macula-000001.efi", "macula-000002+0-3.efi"]);
        let plan = plan_install(&demoted, 1, 0).unwrap();
        assert_eq!(plan.remove, list(&["macula-000002+0-3.efi"]));
        for (booted, entries) in [(1, &demoted), (2, &entries)] {
            let plan = plan_install(entries, booted, 0).unwrap();
            assert!(plan.remove.iter().all(|e| e.seq != booted && Some(*e) != committed(entries)));
        }
    }

    #[test]
    fn no_install_while_on_trial_or_without_the_way_back() {
        let entries = list(&["macula-000001.efi", "macula-000002+2-1.efi"]);
        assert_eq!(plan_install(&entries, 2, 0), Err(PlanError::OnTrial(Slot::B)));
        assert_eq!(plan_install(&entries, 3, 0), Err(PlanError::BootedMissing(3)));
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        assert_eq!(plan_install(&list(&["macula-999999.efi"]), SEQ_MAX, 0), Err(PlanError::OutOfNumbers));
    }
}
