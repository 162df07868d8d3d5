//! What PID 1 tells everybody about this boot: `/run/macula/boot.json`.

use std::fmt;
use std::path::{Path, PathBuf};

use os_clock::BootClock;
use serde::{Deserialize, Serialize};

use crate::{Entry, Slot};

/// What is known about a boot that failed. PID 1 leaves one file per failure in `/state/boot/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The kernel's id of the boot that failed.
    pub boot_id: String,
    pub seq: u32,
    pub slot: Slot,
    /// Where it failed: a boot step's name, or `verity`, `supervisor`, ...
    pub stage: String,
    /// One sentence for the owner.
    pub reason: String,
    /// Last lines of the kernel log or of the unit that failed.
    #[serde(default)]
    pub log_tail: Vec<String>,
    /// Seconds since 1970 by the node's clock, which may not have been set.
    pub at_unix: u64,
    /// A later boot of the same install has settled: it is told and no longer counts.
    #[serde(default)]
    pub settled: bool,
}

/// A boot that ended without a word: its power was cut, or somebody pressed the reset button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    pub boot_id: String,
    pub seq: u32,
    pub version: String,
    /// When it had begun, by the node's clock.
    pub at_unix: u64,
    /// The kernel log's last lines, if it was on trial.
    #[serde(default)]
    pub log_tail: Vec<String>,
}

/// Stages of evidence that condemn a release's bytes, as opposed to what it ran into.
pub const STAGES_OF_CORRUPTION: [&str; 3] = ["verity", "root", "switch-root"];

/// Failures of one committed install, whatever they were and without a settled boot between them, after which another
/// boot of it promises less than anything else.
pub const FAILURES_MAX: usize = 3;

/// Stages of evidence of boots that were ended by the machine, or by PID 1, without going to the other slot at once.
const STAYED: [&str; 3] = ["panic", "watchdog", "units"];

impl Evidence {
    /// Whether PID 1 may have left the slot for this alone.
    pub fn left_the_slot(&self) -> bool {
        !STAYED.contains(&self.stage.as_str())
    }

    /// Whether it says that the install with its sequence number is corrupt.
    pub fn condemns(&self) -> bool {
        STAGES_OF_CORRUPTION.contains(&self.stage.as_str())
    }
}

/// Boots of the install with this sequence number that have failed since one of them settled.
pub fn failures(seq: u32, evidence: &[Evidence]) -> usize {
    evidence.iter().filter(|e| e.seq == seq && !e.settled).count()
}

/// Whether they are too many for another boot of it.
pub fn keeps_failing(seq: u32, evidence: &[Evidence]) -> bool {
    failures(seq, evidence) >= FAILURES_MAX
}

/// What the firmware says about Secure Boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// It has none, or says nothing about it.
    #[default]
    Absent,
    Off,
    /// Off, and whoever comes first may enrol keys.
    SetupMode,
    On,
}

impl SecureBoot {
    /// From the firmware's variables `SecureBoot` and `SetupMode`.
    pub fn of(secure_boot: Option<bool>, setup_mode: Option<bool>) -> Self {
        match (secure_boot, setup_mode) {
            (Some(true), _) => Self::On,
            (_, Some(true)) => Self::SetupMode,
            (Some(false), _) => Self::Off,
            (None, _) => Self::Absent,
        }
    }
}

impl fmt::Display for SecureBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Off => "off",
            Self::SetupMode => "setup mode",
            Self::On => "on",
        })
    }
}

/// What booted, as JSON in `/run/macula/boot.json` (mode 0444).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootInfo {
    /// The entry as its file is called after the boot loader counted this boot down.
    pub entry: Entry,
    pub seq: u32,
    pub slot: Slot,
    /// Why the rescue system runs instead of a slot; `None` when a slot does. `seq` and `slot` are then the ones that
    /// [`crate::standing_in_rescue`] gives: nobody runs them, but they are not to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<String>,
    /// True when the firmware says that this boot was counted (`LoaderBootCountPath` is there).
    pub trial: bool,
    /// Boots left after this one; `None` unless on trial.
    pub tries_left: Option<u32>,
    /// Version of the running release.
    pub version: String,
    /// Board profile, such as `x86-generic`.
    pub board: String,
    /// dm-verity root hash from the command line, hex.
    pub root_hash: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Device nodes of the boot disk and its partitions.
    pub disk: PathBuf,
    pub esp: PathBuf,
    pub root_a: PathBuf,
    pub root_b: PathBuf,
    pub state: PathBuf,
    /// How the state partition is opened, such as `tpm`; `None` when it is not encrypted.
    #[serde(default)]
    pub encryption: Option<String>,
    /// Whether there is a TPM 2.0 that it could be opened with.
    #[serde(default)]
    pub tpm: bool,
    /// True when this boot grew the state partition and gave the disk its own GUIDs.
    pub first_boot: bool,
    /// Somebody at the machine has said, in this boot, that the node is to forget its owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget_owner: bool,
    /// Earlier failures, oldest first.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// The boot before this one, if it ended without a word.
    #[serde(default)]
    pub interrupted: Option<Interrupted>,
    /// What is certain about the time.
    #[serde(default)]
    pub clock: BootClock,
    #[serde(default)]
    pub secure_boot: SecureBoot,
}

impl BootInfo {
    /// A boot of this entry of which nothing else is known: no version, no devices, no failures.
    pub fn of(entry: Entry) -> Self {
        Self {
            entry,
            seq: entry.seq,
            slot: entry.slot(),
            rescue: None,
            trial: !entry.is_committed(),
            tries_left: entry.tries.map(|tries| tries.left),
            version: String::new(),
            board: String::new(),
            root_hash: String::new(),
            boot_id: String::new(),
            disk: PathBuf::new(),
            esp: PathBuf::new(),
            root_a: PathBuf::new(),
            root_b: PathBuf::new(),
            state: PathBuf::new(),
            encryption: None,
            tpm: false,
            first_boot: false,
            forget_owner: false,
            evidence: Vec::new(),
            interrupted: None,
            clock: BootClock::default(),
            secure_boot: SecureBoot::default(),
        }
    }

    pub fn root(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.root_a,
            Slot::B => &self.root_b,
        }
    }

    pub fn active_root(&self) -> &Path {
        self.root(self.slot)
    }

    pub fn inactive_root(&self) -> &Path {
        self.root(self.slot.other())
    }

    /// Whether a known failure says that the install with this sequence number is corrupt.
    pub fn is_condemned(&self, seq: u32) -> bool {
        self.evidence.iter().any(|e| e.seq == seq && e.condemns())
    }

    /// The newest failure known of the install with this sequence number.
    pub fn evidence_of(&self, seq: u32) -> Option<&Evidence> {
        self.evidence.iter().rev().find(|e| e.seq == seq)
    }

    /// Why PID 1 has left the committed install with this sequence number, if it has.
    pub fn why_left(&self, seq: u32) -> Option<&Evidence> {
        let mut open = self.evidence.iter().rev().filter(|e| e.seq == seq && !e.settled);
        match keeps_failing(seq, &self.evidence) {
            true => open.next(),
            false => open.find(|e| e.left_the_slot()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_boot_is_what_both_variables_say() {
        let (yes, no) = (Some(true), Some(false));
        let all = [(yes, no), (no, yes), (no, no), (None, None), (None, yes)].map(|(on, setup)| {
            let state = SecureBoot::of(on, setup);
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<SecureBoot>(&text).unwrap(), state);
            state.to_string()
        });
        assert_eq!(all, ["on", "setup mode", "off", "absent", "setup mode"]);
    }

    #[test]
    fn reads_back_what_it_writes() {
        let text = r#"{"entry":"macula-000002+2-1.efi","seq":2,"slot":"B","trial":true,"tries_left":2,
            "version":"0.2.0","board":"x86-generic","root_hash":"00","boot_id":"b","disk":"/dev/vda",
            "esp":"/dev/vda1","root_a":"/dev/vda2","root_b":"/dev/vda3","state":"/dev/vda4","first_boot":false,
            "evidence":[{"boot_id":"a","seq":1,"slot":"A","stage":"verity","reason":"block 7","at_unix":5}]}"#;
        let info: BootInfo = serde_json::from_str(text).unwrap();
        let again: BootInfo = serde_json::from_str(&serde_json::to_string(&info).unwrap()).unwrap();
        assert_eq!(info, again);
        assert_eq!(info.inactive_root(), Path::new("/dev/vda2"));
        assert_eq!(info.evidence_of(1).unwrap().reason, "block 7");
        assert!(serde_json::from_str::<BootInfo>(&text.replace("macula-000002+2-1", "macula-2")).is_err());
    }
}
