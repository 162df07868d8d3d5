//! What a boot means, given what was being tried.

use serde::{Deserialize, Serialize};

use crate::{BootInfo, Entry, FailedRelease, FailedReleases, Slot};

/// The trial record, `/state/update/trial.json`: written before the entry is armed, cleared after it is committed
/// or has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub seq: u32,
    pub slot: Slot,
    /// Text form of the release's MCID.
    pub release_mcid: String,
    pub version: String,
    /// What was running when it was installed.
    pub from_seq: u32,
    pub from_version: String,
    /// Whether at least one peer was connected then: only such a node must find one again.
    pub had_peers: bool,
    /// Those peers' node ids, hex; any of them may answer the gate's challenge.
    #[serde(default)]
    pub peers: Vec<String>,
    pub installed_at_unix: u64,
    /// How often the node has rebooted to start this trial; bounds the loop if the boot loader never picks it.
    #[serde(default)]
    pub reboots: u32,
    /// How often all its tries were used up without a word from any of them.
    #[serde(default)]
    pub silent_rounds: u32,
}

/// How often a node reboots for a trial that the boot loader does not choose.
pub const REBOOTS_MAX: u32 = 3;

/// How long the committed slot must have run before a trial whose boots all ended without a word gets its tries back,
/// milliseconds, by the rounds before: power that fails every minute must not use up a good release, and a release whose
/// kernel hangs must come to an end.
pub const SILENT_PAUSES_MS: [u64; 2] = [60_000, SETTLED_MS];

/// How long all required units must have been ready without a break until a boot has settled, milliseconds: what failed
/// before it no longer speaks against the install.
pub const SETTLED_MS: u64 = 600_000;

/// What this boot means and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootVerdict {
    /// Nothing is on trial: this boot writes nothing.
    NoTrial,
    /// The release on trial is running: run the gate. `recorded` is false when the trial record is lost or is
    /// another install's; then the gate judges by local checks alone.
    OnTrial { recorded: bool },
    /// The running entry is committed but its trial record is still there: the power went between the two. Clear it.
    Committed,
    /// Payload and record were written but the entry was not armed before the power went: finish the install.
    NeverArmed,
    /// Armed, but something else is running, and no boot of it has failed: reboot into it.
    NeverBooted { entry: Entry },
    /// Every try was used up and none left evidence: power cuts, or a kernel that ends before it can leave any. When the committed
    /// slot has run for `pause_ms` without a break, give the entry its tries back and reboot into it.
    Silent { entry: Entry, pause_ms: u64 },
    /// The trial is over. `entry`, if it is still there and could be chosen again, is to be marked bad; `running`
    /// says that it is the very one that is running, so that a reboot must follow.
    TrialFailed { entry: Option<Entry>, running: bool, reason: String, log_tail: Vec<String> },
    /// No trial, but what is committed is not what runs: PID 1 left it because of `reason`, at once or after too many
    /// failures, and started the other slot. Mark `entry` bad once this boot has proved itself.
    FellBack { entry: Entry, reason: String, log_tail: Vec<String> },
}

/// Judges this boot by what the firmware says it booted (`info`), the entries on the ESP, the trial record and the
/// failures already recorded.
pub fn after_boot(
    entries: &[Entry],
    info: &BootInfo,
    trial: Option<&Trial>,
    failed: &FailedReleases,
) -> BootVerdict {
    match trial {
        Some(t) if t.seq == info.seq => own_trial(entries, info, t, failed),
        _ if info.trial => BootVerdict::OnTrial { recorded: false },
        Some(t) => other_slots_trial(entries, info, t, failed),
        None => fallback(entries, info).unwrap_or(BootVerdict::NoTrial),
    }
}

fn own_trial(entries: &[Entry], info: &BootInfo, trial: &Trial, failed: &FailedReleases) -> BootVerdict {
    let entry = entries.iter().copied().find(|e| e.seq == info.seq);
    let over = |reason: String, log_tail: Vec<String>| BootVerdict::TrialFailed {
        entry: entry.filter(|e| !e.is_exhausted()),
        running: true,
        reason,
        log_tail,
    };
    if let Some(f) = recorded_failure(trial, failed) {
        // The gate said no and recorded it, but the power went before the entry was marked.
        return over(f.reason.clone(), f.log_tail.clone());
    }
    match entry {
        Some(e) if e.is_committed() => BootVerdict::Committed,
        _ if info.trial => BootVerdict::OnTrial { recorded: true },
        // A boot loader that cannot rename would try this entry for ever.
        _ => over("the boot loader did not count this boot, so the trial would never end".into(), Vec::new()),
    }
}

fn recorded_failure<'a>(trial: &Trial, failed: &'a FailedReleases) -> Option<&'a FailedRelease> {
    failed.find(&trial.release_mcid).filter(|f| f.seq == trial.seq)
}

fn other_slots_trial(
    entries: &[Entry],
    info: &BootInfo,
    trial: &Trial,
    failed: &FailedReleases,
) -> BootVerdict {
    let entry = entries.iter().copied().find(|e| e.seq == trial.seq);
    let evidence = info.evidence_of(trial.seq);
    let over = |entry: Option<Entry>, default: String| BootVerdict::TrialFailed {
        entry,
        running: false,
        reason: evidence.map_or(default, |e| format!("{}: {}", e.stage, e.reason)),
        log_tail: evidence.map(|e| e.log_tail.clone()).unwrap_or_default(),
    };
    if let (Some(entry), Some(f)) = (entry, recorded_failure(trial, failed)) {
        // Recorded, but the power went before the entry was marked or the trial's record cleared.
        return BootVerdict::TrialFailed {
            entry: Some(entry).filter(|e| !e.is_exhausted()),
            running: false,
            reason: f.reason.clone(),
            log_tail: f.log_tail.clone(),
        };
    }
    match entry {
        None => BootVerdict::NeverArmed,
        Some(e) if e.is_exhausted() && evidence.is_some() => over(None, String::new()),
        Some(entry) if entry.is_exhausted() => match SILENT_PAUSES_MS.get(trial.silent_rounds as usize) {
            Some(&pause_ms) => BootVerdict::Silent { entry, pause_ms },
            None => over(
                None,
                format!("{} times its tries were used up and left no evidence", trial.silent_rounds + 1),
            ),
        },
        Some(e) if e.is_committed() => {
            fallback(entries, info).unwrap_or_else(|| over(None, "another slot was chosen by hand".into()))
        }
        Some(e) if evidence.is_some() => over(Some(e), String::new()),
        Some(e) if trial.reboots >= REBOOTS_MAX => {
            over(Some(e), format!("the boot loader did not choose it in {REBOOTS_MAX} reboots"))
        }
        Some(entry) => BootVerdict::NeverBooted { entry },
    }
}

fn fallback(entries: &[Entry], info: &BootInfo) -> Option<BootVerdict> {
    let entry = crate::committed(entries).filter(|e| e.seq > info.seq)?;
    let evidence = info.why_left(entry.seq)?;
    Some(BootVerdict::FellBack {
        entry,
        reason: format!("{}: {}", evidence.stage, evidence.reason),
        log_tail: evidence.log_tail.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Evidence, FailedRelease, slot_of_seq};

    fn list(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn booted(name: &str, evidence: &[u32]) -> BootInfo {
        let evidence = evidence.iter().map(|&seq| Evidence {
            boot_id: "x".into(),
            seq,
            slot: slot_of_seq(seq),
            stage: "verity".into(),
            reason: "block 9 is corrupted".into(),
            log_tail: vec!["line".into()],
            at_unix: 1,
            settled: false,
        });
        BootInfo {
            version: "0.1.0".into(),
            board: "x86-generic".into(),
            boot_id: "y".into(),
            evidence: evidence.collect(),
            ..BootInfo::of(name.parse().unwrap())
        }
    }

    fn trial(seq: u32) -> Trial {
        Trial {
            seq,
            slot: slot_of_seq(seq),
            release_mcid: "m".into(),
            version: "0.2.0".into(),
            from_seq: seq - 1,
            from_version: "0.1.0".into(),
            had_peers: true,
            peers: vec![],
            installed_at_unix: 0,
            reboots: 0,
            silent_rounds: 0,
        }
    }

    fn the_gate_said_no() -> FailedReleases {
        let mut failed = FailedReleases::default();
        failed.record(FailedRelease {
            mcid: "m".into(),
            version: "0.2.0".into(),
            seq: 2,
            reason: "mesh was not ready".into(),
            log_tail: vec!["line".into()],
            at_unix: 0,
        });
        failed
    }

    fn judge(entries: &[&str], info: &BootInfo, trial: Option<&Trial>) -> BootVerdict {
        after_boot(&list(entries), info, trial, &FailedReleases::default())
    }

    #[test]
    fn rule_1_without_a_trial_nothing_follows() {
        let info = booted("macula-000001.efi", &[]);
        assert_eq!(judge(&["macula-000001.efi"], &info, None), BootVerdict::NoTrial);
        // An old failure's mark stays until the next install and changes nothing.
        let old = booted("macula-000001.efi", &[2]);
        assert_eq!(judge(&["macula-000001.efi", "macula-000002+0-3.efi"], &old, None), BootVerdict::NoTrial);
    }

    #[test]
    fn rule_6_what_booted_is_what_the_firmware_says() {
        // The same files: what they mean follows from the firmware's word alone.
        let entries = ["macula-000001.efi", "macula-000002+2-1.efi"];
        let on_trial = judge(&entries, &booted("macula-000002+2-1.efi", &[]), Some(&trial(2)));
        assert_eq!(on_trial, BootVerdict::OnTrial { recorded: true });
        let old = judge(&entries, &booted("macula-000001.efi", &[]), Some(&trial(2)));
        assert!(matches!(old, BootVerdict::NeverBooted { .. }), "{old:?}");
        let old = judge(&entries, &booted("macula-000001.efi", &[]), None);
        assert_eq!(old, BootVerdict::NoTrial);
    }

    fn with_stage(mut info: BootInfo, stage: &str) -> BootInfo {
        info.evidence.iter_mut().for_each(|e| (e.stage, e.reason) = (stage.into(), "why".into()));
        info
    }

    #[test]
    fn rule_4_panics_and_hangs_on_trial_count_when_the_tries_are_used_up() {
        for stage in ["panic", "watchdog", "units"] {
            // While there are tries, the release is tried again.
            let again = with_stage(booted("macula-000002+1-2.efi", &[2]), stage);
            let entries = ["macula-000001.efi", "macula-000002+1-2.efi"];
            assert_eq!(judge(&entries, &again, Some(&trial(2))), BootVerdict::OnTrial { recorded: true });
            // Then it is remembered with the reason, and not given its tries back as after power cuts.
            let back = with_stage(booted("macula-000001.efi", &[2]), stage);
            let end = judge(&["macula-000001.efi", "macula-000002+0-3.efi"], &back, Some(&trial(2)));
            let BootVerdict::TrialFailed { entry: None, running: false, reason, log_tail } = end else {
                panic!("{end:?}")
            };
            assert_eq!((reason, log_tail.len()), (format!("{stage}: why"), 1));
        }
    }

    #[test]
    fn an_old_slot_that_was_chosen_by_hand_does_not_blame_the_new_one_for_a_panic() {
        let entries = ["macula-000001.efi", "macula-000002.efi"];
        let chosen = with_stage(booted("macula-000001.efi", &[2]), "panic");
        assert_eq!(judge(&entries, &chosen, None), BootVerdict::NoTrial);
        let left = with_stage(booted("macula-000001.efi", &[2]), "root");
        assert!(matches!(judge(&entries, &left, None), BootVerdict::FellBack { .. }));
    }

    #[test]
    fn rule_2_a_committed_slot_that_kept_failing_was_left_until_its_failures_are_settled() {
        let entries = ["macula-000001.efi", "macula-000002.efi"];
        let judge = |info: &BootInfo| judge(&entries, info, None);
        for stage in ["panic", "watchdog", "units"] {
            let often = with_stage(booted("macula-000001.efi", &[2; crate::FAILURES_MAX]), stage);
            let BootVerdict::FellBack { entry, reason, .. } = judge(&often) else { panic!("{stage}") };
            assert_eq!((entry.seq, reason), (2, format!("{stage}: why")));
            let mut settled = often;
            settled.evidence[0].settled = true;
            assert_eq!(judge(&settled), BootVerdict::NoTrial);
        }
        let mut settled = with_stage(booted("macula-000001.efi", &[2]), "supervisor");
        assert!(matches!(judge(&settled), BootVerdict::FellBack { .. }));
        settled.evidence[0].settled = true;
        assert_eq!(judge(&settled), BootVerdict::NoTrial);
    }

    #[test]
    fn a_counted_boot_is_on_trial_with_or_without_its_record() {
        let info = booted("macula-000002+2-1.efi", &[]);
        let entries = ["macula-000001.efi", "macula-000002+2-1.efi"];
        assert_eq!(judge(&entries, &info, Some(&trial(2))), BootVerdict::OnTrial { recorded: true });
        assert_eq!(judge(&entries, &info, None), BootVerdict::OnTrial { recorded: false });
        assert_eq!(judge(&entries, &info, Some(&trial(4))), BootVerdict::OnTrial { recorded: false });
    }

    #[test]
    fn power_cut_between_commit_and_clearing_the_record() {
        let info = booted("macula-000002.efi", &[]);
        assert_eq!(
            judge(&["macula-000001.efi", "macula-000002.efi"], &info, Some(&trial(2))),
            BootVerdict::Committed
        );
    }

    #[test]
    fn power_cut_between_record_and_arming() {
        let info = booted("macula-000001.efi", &[]);
        assert_eq!(judge(&["macula-000001.efi"], &info, Some(&trial(2))), BootVerdict::NeverArmed);
    }

    #[test]
    fn power_cut_between_arming_and_reboot_is_bounded() {
        let info = booted("macula-000001.efi", &[]);
        let entries = ["macula-000001.efi", "macula-000002+3.efi"];
        let mut t = trial(2);
        assert!(matches!(judge(&entries, &info, Some(&t)), BootVerdict::NeverBooted { .. }));
        t.reboots = REBOOTS_MAX;
        assert!(matches!(
            judge(&entries, &info, Some(&t)),
            BootVerdict::TrialFailed { entry: Some(_), running: false, .. }
        ));
    }

    #[test]
    fn tries_used_up_is_a_failed_trial_with_the_evidence() {
        let entries = ["macula-000001.efi", "macula-000002+0-3.efi"];
        let told = judge(&entries, &booted("macula-000001.efi", &[2]), Some(&trial(2)));
        let BootVerdict::TrialFailed { entry: None, running: false, reason, log_tail } = told else {
            panic!("{told:?}")
        };
        assert_eq!((reason.as_str(), log_tail.len()), ("verity: block 9 is corrupted", 1));
    }

    #[test]
    fn tries_used_up_without_a_word_are_given_back_a_bounded_number_of_times() {
        let entries = ["macula-000001.efi", "macula-000002+0-3.efi"];
        let info = booted("macula-000001.efi", &[]);
        let mut t = trial(2);
        let mut pauses = Vec::new();
        while let BootVerdict::Silent { entry, pause_ms } = judge(&entries, &info, Some(&t)) {
            assert_eq!(entry.to_string(), entries[1]);
            pauses.push(pause_ms);
            t.silent_rounds += 1;
        }
        assert_eq!(pauses, SILENT_PAUSES_MS);
        let end = judge(&entries, &info, Some(&t));
        assert!(
            matches!(end, BootVerdict::TrialFailed { entry: None, reason, .. } if reason.contains("3 times"))
        );
    }

    #[test]
    fn power_cut_between_marking_bad_and_clearing_the_record_keeps_the_reason() {
        let failed = the_gate_said_no();
        let info = booted("macula-000001.efi", &[]);
        for (name, marked) in [("macula-000002+0-3.efi", true), ("macula-000002+2-1.efi", false)] {
            let verdict = after_boot(&list(&["macula-000001.efi", name]), &info, Some(&trial(2)), &failed);
            let BootVerdict::TrialFailed { entry, running: false, reason, log_tail } = verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!((entry.is_none(), reason.as_str(), log_tail.len()), (marked, "mesh was not ready", 1));
        }
    }

    #[test]
    fn evidence_ends_a_trial_before_its_tries_are_used_up() {
        let verdict = judge(
            &["macula-000001.efi", "macula-000002+2-1.efi"],
            &booted("macula-000001.efi", &[2]),
            Some(&trial(2)),
        );
        assert!(matches!(verdict, BootVerdict::TrialFailed { entry: Some(_), running: false, .. }));
    }

    #[test]
    fn an_uncounted_boot_of_a_trial_is_refused() {
        let mut info = booted("macula-000002+3.efi", &[]);
        info.trial = false;
        let verdict = judge(&["macula-000001.efi", "macula-000002+3.efi"], &info, Some(&trial(2)));
        assert!(
            matches!(verdict, BootVerdict::TrialFailed { running: true, reason, .. } if reason.contains("count"))
        );
    }

    #[test]
    fn a_recorded_gate_failure_is_not_given_another_chance() {
        let failed = the_gate_said_no();
        let info = booted("macula-000002+1-2.efi", &[]);
        let entries = list(&["macula-000001.efi", "macula-000002+1-2.efi"]);
        let verdict = after_boot(&entries, &info, Some(&trial(2)), &failed);
        assert!(
            matches!(verdict, BootVerdict::TrialFailed { running: true, reason, .. } if reason.contains("mesh"))
        );
        // A later try of the same release, ordered by the owner, has another number and is judged afresh.
        let info = booted("macula-000004+2-1.efi", &[]);
        let entries = list(&["macula-000001.efi", "macula-000004+2-1.efi"]);
        let again = after_boot(&entries, &info, Some(&trial(4)), &failed);
        assert_eq!(again, BootVerdict::OnTrial { recorded: true });
    }

    #[test]
    fn a_corrupt_committed_slot_is_left_only_with_evidence() {
        let entries = ["macula-000001.efi", "macula-000002.efi"];
        let fell = judge(&entries, &booted("macula-000001.efi", &[2]), None);
        assert!(matches!(&fell, BootVerdict::FellBack { entry, .. } if entry.seq == 2), "{fell:?}");
        assert_eq!(judge(&entries, &booted("macula-000001.efi", &[1]), None), BootVerdict::NoTrial);
        assert_eq!(judge(&entries, &booted("macula-000002.efi", &[1]), None), BootVerdict::NoTrial);
    }
}
