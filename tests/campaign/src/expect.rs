//! What must hold of a node's disk after any cut. Each sentence that comes out of here is something lost.
//!
//! Most of it is "as before the operation or as after it", which the model itself reads from the two ends of the recording.

use anyhow::{Result, bail};
use os_slots::plan_install;

use crate::model::{Booted, CONFIG, Checked, Judgement, Key, Next, State};
use crate::operation::Operation;
use crate::record::Description;

/// The state partition where an operation begins and where it ends.
#[derive(Debug, Clone)]
pub struct Ends {
    pub operation: Operation,
    pub before: State,
    pub after: State,
}

impl Ends {
    /// Both ends must boot: a recording in which they do not is of no use.
    pub fn new(operation: Operation, before: Judgement, after: Judgement) -> Result<Self> {
        let state = |judgement: Judgement| match judgement {
            Judgement { booted: Ok(_), state: Some(state), .. } => Ok(state),
            Judgement { booted, .. } => bail!("{operation}: the recording itself does not boot: {booted:?}"),
        };
        Ok(Self { operation, before: state(before)?, after: state(after)? })
    }
}

/// What is wrong; empty when nothing is lost. `at` is the request of the recording at which the power went.
pub fn findings(ends: &Ends, at: usize, judgement: &Judgement, about: &Description) -> Vec<String> {
    let operation = ends.operation;
    let (booted, state, next) = match judgement {
        Judgement { booted: Ok(booted), state: Some(state), next: Some(next) } => (booted, state, next),
        Judgement { booted: Err(why), .. } => return vec![format!("nothing boots: {why}")],
        _ => return vec!["the model did not get to the state partition".into()],
    };
    let mut found = Vec::new();
    if !operation.may_run().contains(&booted.entry.seq) {
        found.push(format!("{} runs, which this operation must not lead to", booted.entry));
    }
    if let Checked::Lost(why) = &state.checked {
        found.push(format!("the state file system is lost: {why}"));
        return found;
    }
    found.extend(config(ends, booted, state, about));
    found.extend(key(ends, at, state, about));
    found.extend(state.damaged.iter().map(|name| format!("/state/{name} is there and cannot be read")));
    found.extend(records(operation, booted, state, next));
    found.extend(between(ends, state));
    found
}

/// A reset leaves the old node or a new one.
fn between(ends: &Ends, state: &State) -> Option<String> {
    let old = (state.key == ends.before.key, state.config == ends.before.config);
    let is_between = ends.operation == Operation::Reset && old.0 != old.1;
    is_between.then(|| "the node is neither the old one nor a new one: key and configuration disagree".into())
}

/// The old text or the new one; before there is any, the one on the ESP.
fn config(ends: &Ends, booted: &Booted, state: &State, about: &Description) -> Option<String> {
    if state.damaged.iter().any(|name| name == CONFIG) {
        return None;
    }
    match (&state.config, &booted.provision) {
        (Some(_), _) if [&ends.before.config, &ends.after.config].contains(&&state.config) => None,
        (Some(config), _) => Some(format!("config.toml is neither text ({} bytes)", config.len())),
        (None, None) if ends.after.config.is_none() => None,
        // Nobody's node has none until it is paired.
        (None, None) if ends.operation == Operation::Pair && ends.before.config.is_none() => None,
        (None, _) if ends.before.config.is_some() => Some("config.toml is gone".into()),
        (None, Some(provision)) if provision == about.config.as_bytes() => None,
        (None, Some(_)) => Some("macula.toml on the ESP is damaged and there is no config.toml yet".into()),
        (None, None) => Some("there is neither config.toml nor macula.toml".into()),
    }
}

/// The old one or the new one. Once somebody has seen the node's id it is the node's for good.
fn key(ends: &Ends, at: usize, state: &State, about: &Description) -> Option<String> {
    match &state.key {
        Key::Damaged => Some("the key is damaged".into()),
        Key::Absent if ends.before.key == Key::Absent && at >= about.node_seen => {
            Some("the key is gone".into())
        }
        key if *key == ends.before.key || *key == ends.after.key => None,
        Key::Absent if ends.operation == Operation::Reset => None,
        Key::Absent => Some("the key is gone".into()),
        Key::Whole(node) => Some(format!("the key is another node's: {node}")),
    }
}

fn records(operation: Operation, booted: &Booted, state: &State, next: &Next) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(trial) = state.trial.as_ref().filter(|t| t.seq != 2 || t.slot != os_slots::slot_of_seq(2)) {
        found.push(format!("the trial record names install {} in slot {}", trial.seq, trial.slot));
    }
    if operation.finishes_in_new_release() && state.failed.iter().next().is_some() {
        found.push("a power cut was recorded as the release's failure".into());
    }
    if !fits(operation, booted, next) {
        found.push(format!("{} runs and the update service takes it for {next:?}", booted.entry));
    }
    if let Err(why) = finishes(operation, booted, state, next) {
        found.push(format!("the update would not finish: {why}"));
    }
    found
}

/// Which meanings an operation may leave a boot with.
fn fits(operation: Operation, booted: &Booted, next: &Next) -> bool {
    let new = booted.entry.seq == 2;
    match (operation, next) {
        (
            Operation::FirstBoot
            | Operation::Rollback
            | Operation::ConfigSet
            | Operation::Reset
            | Operation::Pair,
            Next::Settled,
        ) => true,
        (Operation::Update, Next::Settled | Next::NeverArmed | Next::RebootsIntoTrial) => !new,
        (Operation::Update | Operation::Commit, Next::OnTrial { recorded }) => new && *recorded,
        (Operation::Commit, Next::Settled | Next::ClearsRecord) => new,
        _ => false,
    }
}

/// Whether what the update service does next leads to the new release.
fn finishes(
    operation: Operation,
    booted: &Booted,
    state: &State,
    next: &Next,
) -> std::result::Result<(), String> {
    if !operation.finishes_in_new_release() || booted.entry.seq == 2 {
        return Ok(());
    }
    match next {
        // The number it would take, and whether the way is free.
        Next::Settled | Next::NeverArmed => {
            let plan = plan_install(&booted.entries, booted.entry.seq, state.highest_seq);
            plan.map(drop).map_err(|e| e.to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use os_slots::Entry;

    use super::*;

    fn state(key: Key, config: &str) -> State {
        let config = (!config.is_empty()).then(|| config.as_bytes().to_vec());
        State { key, config, ..State::empty(Checked::Clean) }
    }

    fn running(entry: &str, next: Next, state: State) -> Judgement {
        let entry: Entry = entry.parse().unwrap();
        let booted = Booted {
            entry,
            version: "0.1.0".into(),
            entries: vec![entry],
            first_boot: false,
            resets: false,
            table_from_backup: false,
            provision: None,
            state_start: 0,
            state_bytes: 0,
        };
        Judgement { booted: Ok(booted), state: Some(state), next: Some(next) }
    }

    fn about() -> Description {
        Description { spans: Vec::new(), node: "n".into(), node_seen: 50, config: "config".into() }
    }

    fn check(operation: Operation, judgement: &Judgement) -> Vec<String> {
        let whole = || state(Key::Whole("n".into()), "config");
        let before = if operation == Operation::FirstBoot { state(Key::Absent, "") } else { whole() };
        findings(&Ends { operation, before, after: whole() }, 60, judgement, &about())
    }

    #[test]
    fn what_is_whole_gives_no_finding_and_each_loss_gives_one() {
        let whole = || state(Key::Whole("n".into()), "config");
        let one = "macula-000001.efi";
        assert!(check(Operation::Update, &running(one, Next::Settled, whole())).is_empty());
        let with = |change: fn(&mut State)| {
            let mut state = whole();
            change(&mut state);
            check(Operation::Update, &running(one, Next::Settled, state))
        };
        for (finding, word) in [
            (with(|s| s.checked = Checked::Lost("x".into())), "file system"),
            (with(|s| s.key = Key::Absent), "key is gone"),
            (with(|s| s.key = Key::Damaged), "key is damaged"),
            (with(|s| s.key = Key::Whole("m".into())), "another node"),
            (with(|s| s.config = None), "config.toml is gone"),
            (with(|s| s.config = Some(b"conf".to_vec())), "neither text"),
            (with(|s| s.damaged.push("update/trial.json".into())), "cannot be read"),
        ] {
            assert!(finding.len() == 1 && finding[0].contains(word), "{word}: {finding:?}");
        }
    }

    #[test]
    fn what_runs_must_fit_the_operation() {
        let whole = || state(Key::Whole("n".into()), "config");
        let trial = |recorded| running("macula-000002+2-1.efi", Next::OnTrial { recorded }, whole());
        assert!(check(Operation::Update, &trial(true)).is_empty());
        assert!(!check(Operation::Update, &trial(false)).is_empty(), "its record is lost");
        assert!(!check(Operation::FirstBoot, &trial(true)).is_empty(), "nothing was installed");
        let failed = running("macula-000001.efi", Next::Failed("x".into()), whole());
        assert!(!check(Operation::Update, &failed).is_empty());
    }

    #[test]
    fn a_reset_leaves_the_old_node_or_a_new_one() {
        let (before, after) = (state(Key::Whole("n".into()), "config"), state(Key::Whole("new".into()), ""));
        let ends = Ends { operation: Operation::Reset, before, after };
        let check = |key: Key, config: &str| {
            findings(&ends, 60, &running("macula-000001.efi", Next::Settled, state(key, config)), &about())
        };
        assert!(check(Key::Whole("n".into()), "config").is_empty());
        assert!(check(Key::Absent, "").is_empty() && check(Key::Whole("new".into()), "").is_empty());
        assert!(!check(Key::Whole("n".into()), "").is_empty());
        assert!(!check(Key::Absent, "config").is_empty());
        assert!(!check(Key::Whole("other".into()), "").is_empty());
    }

    #[test]
    fn a_pairing_leaves_a_node_without_owner_or_with_the_new_one() {
        let (before, after) = (state(Key::Whole("new".into()), ""), state(Key::Whole("new".into()), "owned"));
        let ends = Ends { operation: Operation::Pair, before, after };
        let check = |config: &str| {
            let state = state(Key::Whole("new".into()), config);
            findings(&ends, 60, &running("macula-000001.efi", Next::Settled, state), &about())
        };
        assert!(check("").is_empty() && check("owned").is_empty());
        assert!(!check("own").is_empty());
    }

    #[test]
    fn a_key_may_be_missing_until_it_was_seen() {
        let judgement = running("macula-000001.efi", Next::Settled, state(Key::Absent, "config"));
        let (before, after) = (state(Key::Absent, ""), state(Key::Whole("n".into()), "config"));
        let ends = Ends { operation: Operation::FirstBoot, before, after };
        assert!(findings(&ends, 49, &judgement, &about()).is_empty());
        assert_eq!(findings(&ends, 50, &judgement, &about()), ["the key is gone"]);
    }
}
