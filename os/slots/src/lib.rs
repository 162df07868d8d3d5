//! The A/B rules as pure logic: which entry boots next, which slot an update may write, when a trial commits
//! and what a failure means. No clock, no disk, no boot loader: entries, records and `elapsed` in, verdicts out.
//!
//! Two kinds of state and no third. The *committed* slot is an entry file without a counter; it is written only
//! when a trial commits. The *trial* is an entry file with a counter (the boot loader counts it down) plus one
//! [`Trial`] record on the state partition that says what is being tried. A crash between writing the record and
//! arming the entry, or between committing the entry and clearing the record, leaves a combination that
//! [`after_boot`] names and finishes.

mod boot_info;
mod entry;
mod failed;
mod gate;
mod install;
mod trial;

pub use boot_info::{
    BootInfo, Evidence, FAILURES_MAX, Interrupted, STAGES_OF_CORRUPTION, SecureBoot, failures, keeps_failing,
};
pub use entry::{Entry, EntryError, RESCUE_ENTRY, SEQ_MAX, TRIES_MAX, Tries};
pub use failed::{FAILED_RELEASES_MAX, FailedRelease, FailedReleases, LOG_TAIL_MAX};
pub use gate::{CheckResult, GateConfig, GateInputs, GateVerdict, gate};
pub use install::{InstallPlan, PlanError, committed, plan_install, plan_rescue, standing_in_rescue};
pub use trial::{BootVerdict, SETTLED_MS, Trial, after_boot};

use serde::{Deserialize, Serialize};

/// How often the boot loader tries an entry that has been armed before it falls back for good.
pub const TRIAL_TRIES: u32 = 3;

/// One of the two places that a release can live in. Text form: `A` or `B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Slot::A => "A",
            Slot::B => "B",
        })
    }
}

/// Odd install sequence numbers live in slot A, even ones in slot B, so that the name of the entry which the
/// firmware says it booted names the slot by itself.
pub fn slot_of_seq(seq: u32) -> Slot {
    if seq % 2 == 1 { Slot::A } else { Slot::B }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_is_a_even_is_b() {
        assert_eq!(slot_of_seq(1), Slot::A);
        assert_eq!(slot_of_seq(2), Slot::B);
        assert_eq!(serde_json::to_string(&Slot::B).unwrap(), "\"B\"");
    }
}
