//! The gate, run: looks at the node once a second until `os_slots::gate` has a verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use os_config::{Check, CheckWhat};
use os_identity::NodeId;
use os_slots::{CheckResult, GateConfig, GateInputs, GateVerdict, gate};
use services_api::report::{CheckReport, UnitReport};

use crate::links::{Links, from_json};
use crate::node::uptime_ms;
use crate::updater::Updater;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT_MS: u32 = 5_000;
/// Between two rounds of the owner's checks.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Runs the `http` checks.
const MACULACTL: &str = "/usr/bin/maculactl";
/// Log lines kept of a failed trial.
const LOG_LINES: u32 = 40;

/// Runs until there is a verdict other than waiting. `peers` are those that the node had before, as text; none means that
/// only local checks count. Time is counted from boot, so that a restart of this service gives no trial more of it.
pub async fn run(updater: &Arc<Updater>, had_peers: bool, peers: &[String]) -> GateVerdict {
    let config = updater.node.config();
    let wanted = &config.gate;
    let config = GateConfig {
        steady_ms: u64::from(wanted.steady_s) * 1000,
        deadline_ms: u64::from(wanted.timeout_s) * 1000,
    };
    let answered = Arc::new(AtomicBool::new(false));
    let pinger = tokio::spawn(ping_until_answered(updater.clone(), peers.to_vec(), answered.clone()));
    let checks = Arc::new(Mutex::new(wanted.checks.iter().map(not_run_yet).collect::<Vec<_>>()));
    let checker = check_again_and_again(updater.clone(), wanted.checks.clone(), checks.clone());
    let checker = tokio::spawn(checker);
    let mut steady = Steady::default();
    let mut state_ok = false;
    let verdict = loop {
        let units = updater.links.units().await.unwrap_or_else(|e| {
            tracing::warn!("the gate cannot see the units: {e:#}");
            Vec::new()
        });
        state_ok = state_ok || updater.records.state_is_intact(&updater.node.boot.boot_id);
        let inputs = GateInputs {
            had_peers,
            peer_answered: answered.load(Ordering::Relaxed),
            state_ok,
            checks: checks.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..steady.look(&units, uptime_ms())
        };
        match gate(&inputs, &config) {
            GateVerdict::Wait => updater.set_gate(waiting_for(&inputs)),
            verdict => break verdict,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    pinger.abort();
    checker.abort();
    updater.set_gate(match &verdict {
        GateVerdict::Fail(reason) => format!("failed: {reason}"),
        _ => "passed".into(),
    });
    verdict
}

/// The last lines of the required units that are not ready, or of all units.
pub async fn log_tail(links: &Links) -> Vec<String> {
    let units = links.units().await.unwrap_or_default();
    let mut names: Vec<String> =
        units.into_iter().filter(|u| u.required && u.state != "ready").map(|u| u.name).collect();
    if names.is_empty() {
        names.push(String::new());
    }
    let each = LOG_LINES / names.len().min(4) as u32;
    let mut tail = Vec::new();
    for name in names.iter().take(4) {
        let lines = async {
            let text = links.supervisor().await?.logs(name, each).await?;
            from_json::<Vec<services_api::report::LogLine>>(&text)
        };
        match lines.await {
            Ok(lines) => {
                tail.extend(lines.into_iter().map(|l| format!("{:>8} {}: {}", l.at_ms, l.unit, l.text)))
            }
            Err(e) => tail.push(format!("no logs: {e:#}")),
        }
    }
    tail
}

fn waiting_for(inputs: &GateInputs) -> String {
    if !inputs.not_ready.is_empty() {
        format!("waiting for {}", inputs.not_ready.join(", "))
    } else if !inputs.state_ok {
        "waiting for the state partition".into()
    } else if inputs.had_peers && !inputs.peer_answered {
        "waiting for a peer to answer".into()
    } else if let Some(check) = inputs.checks.iter().find(|check| check.passed_at_ms.is_none()) {
        format!("waiting for check {}: {}", check.name, check.reason)
    } else {
        "all good, waiting that it stays so".into()
    }
}

/// Since when all required units have been ready without a break.
#[derive(Default)]
struct Steady {
    since_ms: Option<u64>,
    /// What a restart would change: (name, pid, restarts).
    seen: Vec<(String, u32, u32)>,
}

impl Steady {
    fn look(&mut self, units: &[UnitReport], now_ms: u64) -> GateInputs {
        let required: Vec<&UnitReport> = units.iter().filter(|u| u.required).collect();
        let not_ready = required.iter().filter(|u| u.state != "ready");
        let mut not_ready: Vec<String> = not_ready.map(|u| format!("{} ({})", u.name, u.state)).collect();
        if required.is_empty() {
            not_ready.push("the supervisor".into());
        }
        let now_seen: Vec<_> = required.iter().map(|u| (u.name.clone(), u.pid, u.restarts)).collect();
        if !not_ready.is_empty() {
            self.since_ms = None;
        } else if self.since_ms.is_none() || now_seen != self.seen {
            self.since_ms = Some(now_ms);
        }
        self.seen = now_seen;
        GateInputs { elapsed_ms: now_ms, ready_since_ms: self.since_ms, not_ready, ..Default::default() }
    }
}

async fn ping_until_answered(updater: Arc<Updater>, remembered: Vec<String>, answered: Arc<AtomicBool>) {
    loop {
        let connected = updater.links.peers().await.unwrap_or_default();
        let connected = connected.into_iter().filter(|p| p.connected).map(|p| p.node);
        for peer in connected.chain(remembered.iter().cloned()) {
            if ping(&updater.links, &peer).await {
                return answered.store(true, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}

fn not_run_yet(check: &Check) -> CheckResult {
    CheckResult { name: check.name.clone(), passed_at_ms: None, reason: "it has not run yet".into() }
}

async fn check_again_and_again(
    updater: Arc<Updater>,
    checks: Vec<Check>,
    results: Arc<Mutex<Vec<CheckResult>>>,
) {
    loop {
        for (at, check) in checks.iter().enumerate() {
            let began = uptime_ms();
            let (passed_at_ms, reason) = match run_check(&updater.links, check).await {
                Ok(CheckReport { passed: true, .. }) => (Some(began), String::new()),
                Ok(report) => (None, report.reason),
                Err(e) => (None, format!("it could not be run: {e:#}")),
            };
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            if results[at].passed_at_ms.is_some() != passed_at_ms.is_some() {
                let outcome = if passed_at_ms.is_some() { "passes" } else { reason.as_str() };
                tracing::info!("check {}: {outcome}", check.name);
            }
            results[at] = CheckResult { name: check.name.clone(), passed_at_ms, reason };
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

async fn run_check(links: &Links, check: &Check) -> anyhow::Result<CheckReport> {
    let exec = match &check.what {
        CheckWhat::Exec(words) => words.clone(),
        CheckWhat::Http(url) => vec![MACULACTL.into(), "check-http".into(), url.clone()],
    };
    from_json(&links.supervisor().await?.check(&exec, check.timeout_s).await?)
}

async fn ping(links: &Links, peer: &str) -> bool {
    let Ok(node) = peer.parse::<NodeId>() else { return false };
    let Ok(mesh) = links.streams.mesh().await else { return false };
    match mesh.ping(node.as_bytes(), PING_TIMEOUT_MS).await {
        Ok(micros) => {
            tracing::info!("peer {peer} answered the gate's challenge in {micros} us");
            true
        }
        Err(e) => {
            tracing::debug!("peer {peer} does not answer: {e}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, state: &str, restarts: u32) -> UnitReport {
        UnitReport { name: name.into(), state: state.into(), required: true, restarts, ..Default::default() }
    }

    #[test]
    fn a_restart_between_two_looks_starts_the_steady_time_again() {
        let mut steady = Steady::default();
        let optional = UnitReport { required: false, ..unit("extra", "failed", 9) };
        let look = steady.look(&[unit("mesh", "starting", 0), optional.clone()], 1);
        assert_eq!((look.ready_since_ms, look.not_ready.len()), (None, 1));
        assert_eq!(steady.look(&[unit("mesh", "ready", 0), optional], 2).ready_since_ms, Some(2));
        assert_eq!(steady.look(&[unit("mesh", "ready", 0)], 3).ready_since_ms, Some(2));
        assert_eq!(steady.look(&[unit("mesh", "ready", 1)], 4).ready_since_ms, Some(4));
        assert_eq!(steady.look(&[], 5).ready_since_ms, None, "no news is not good news");
    }
}
