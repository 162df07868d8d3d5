//! The gate between trial and commit.
//!
//! A trial commits when all required units are ready and stay so, the state is intact, the owner's own checks pass once more
//! after that, and the mesh is as reachable as before: if the node had peers, at least one answers a fresh challenge. A node that had none is judged by local
//! checks alone and never rolls back just for being offline.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateConfig {
    /// How long everything must stay good without a break, milliseconds.
    pub steady_ms: u64,
    /// When the trial fails if it has not committed, milliseconds after the gate began.
    pub deadline_ms: u64,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self { steady_ms: 15_000, deadline_ms: 180_000 }
    }
}

/// One look at the node. All times in milliseconds since the gate began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateInputs {
    pub elapsed_ms: u64,
    /// Since when all required units have been ready without a break or restart; `None` while one is not.
    pub ready_since_ms: Option<u64>,
    /// Required units that are not ready now, for the reason.
    pub not_ready: Vec<String>,
    /// Whether the state partition is mounted, writable and reads back.
    pub state_ok: bool,
    pub had_peers: bool,
    /// Whether a peer has answered a challenge made during this boot.
    pub peer_answered: bool,
    /// The owner's own checks.
    pub checks: Vec<CheckResult>,
}

/// The latest run of one of the owner's checks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckResult {
    pub name: String,
    /// When it began, if it passed; milliseconds as in [`GateInputs`].
    pub passed_at_ms: Option<u64>,
    /// Why it did not pass.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateVerdict {
    Wait,
    Commit,
    /// One sentence for the owner.
    Fail(String),
}

/// Judges one look. The caller looks again until the verdict is not `Wait`.
pub fn gate(inputs: &GateInputs, config: &GateConfig) -> GateVerdict {
    let steady =
        inputs.ready_since_ms.is_some_and(|t| inputs.elapsed_ms.saturating_sub(t) >= config.steady_ms);
    let reachable = !inputs.had_peers || inputs.peer_answered;
    let checked = inputs.checks.iter().all(|check| passed_when_steady(check, inputs, config));
    if steady && inputs.state_ok && reachable && checked {
        return GateVerdict::Commit;
    }
    if inputs.elapsed_ms < config.deadline_ms {
        return GateVerdict::Wait;
    }
    GateVerdict::Fail(what_is_missing(inputs, config))
}

/// What was good while units were still starting may be bad by now.
fn passed_when_steady(check: &CheckResult, inputs: &GateInputs, config: &GateConfig) -> bool {
    let steady_at = inputs.ready_since_ms.map(|since| since.saturating_add(config.steady_ms));
    check.passed_at_ms.zip(steady_at).is_some_and(|(passed, steady)| passed >= steady)
}

fn what_is_missing(inputs: &GateInputs, config: &GateConfig) -> String {
    let within = format!("within {} s", config.deadline_ms / 1000);
    if !inputs.not_ready.is_empty() {
        return format!("required units not ready {within}: {}", inputs.not_ready.join(", "));
    }
    if !inputs.state_ok {
        return format!("the state partition was not intact {within}");
    }
    if inputs.had_peers && !inputs.peer_answered {
        return format!("the node had peers before the update and none answered {within}");
    }
    if let Some(check) = inputs.checks.iter().find(|check| check.passed_at_ms.is_none()) {
        return format!("check {} did not pass {within}: {}", check.name, check.reason);
    }
    format!("required units did not stay ready for {} s {within}", config.steady_ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: GateConfig = GateConfig { steady_ms: 10, deadline_ms: 100 };

    fn good() -> GateInputs {
        GateInputs {
            elapsed_ms: 30,
            ready_since_ms: Some(20),
            state_ok: true,
            had_peers: true,
            peer_answered: true,
            ..Default::default()
        }
    }

    #[test]
    fn commits_only_after_staying_good() {
        assert_eq!(gate(&good(), &CONFIG), GateVerdict::Commit);
        assert_eq!(gate(&GateInputs { ready_since_ms: Some(21), ..good() }, &CONFIG), GateVerdict::Wait);
        assert_eq!(gate(&GateInputs { ready_since_ms: None, ..good() }, &CONFIG), GateVerdict::Wait);
        assert_eq!(gate(&GateInputs { state_ok: false, ..good() }, &CONFIG), GateVerdict::Wait);
    }

    #[test]
    fn a_node_that_had_peers_must_reach_one_and_a_lonely_one_need_not() {
        let silent = GateInputs { peer_answered: false, ..good() };
        assert_eq!(gate(&silent, &CONFIG), GateVerdict::Wait);
        let late = GateInputs { elapsed_ms: 100, ..silent };
        assert!(matches!(gate(&late, &CONFIG), GateVerdict::Fail(r) if r.contains("peers")));
        let lonely = GateInputs { had_peers: false, ..late };
        assert_eq!(gate(&lonely, &CONFIG), GateVerdict::Commit);
    }

    #[test]
    fn the_owners_checks_must_pass_after_the_steady_time() {
        let check =
            |passed_at_ms| CheckResult { name: "web".into(), passed_at_ms, reason: "it answered 503".into() };
        for (passed_at_ms, elapsed_ms, expected) in [
            (Some(30), 30, GateVerdict::Commit),
            (Some(35), 99, GateVerdict::Commit),
            // Before that, it does not count yet.
            (Some(29), 31, GateVerdict::Wait),
            (None, 99, GateVerdict::Wait),
            (None, 100, GateVerdict::Fail("check web did not pass within 0 s: it answered 503".into())),
        ] {
            let inputs = GateInputs { elapsed_ms, checks: vec![check(passed_at_ms)], ..good() };
            assert_eq!(gate(&inputs, &CONFIG), expected, "{passed_at_ms:?} at {elapsed_ms}");
        }
        let one_of_two = vec![check(Some(30)), CheckResult { name: "db".into(), ..check(None) }];
        let inputs = GateInputs { elapsed_ms: 100, checks: one_of_two, ..good() };
        assert!(matches!(gate(&inputs, &CONFIG), GateVerdict::Fail(r) if r.contains("check db")));
    }

    #[test]
    fn says_what_failed() {
        let down = GateInputs {
            elapsed_ms: 100,
            ready_since_ms: None,
            not_ready: vec!["mesh".into(), "dht".into()],
            ..good()
        };
        assert!(matches!(gate(&down, &CONFIG), GateVerdict::Fail(r) if r.ends_with("mesh, dht")));
        let flapping = GateInputs { elapsed_ms: 100, ready_since_ms: Some(95), ..good() };
        assert!(matches!(gate(&flapping, &CONFIG), GateVerdict::Fail(r) if r.contains("stay")));
    }
}
