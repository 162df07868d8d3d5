//! In which order units start and stop, and when a unit that exited is started again. Pure: names and times in,
//! orders and decisions out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use thiserror::Error;

use crate::unit::Unit;

/// Who starts after whom, by name.
pub type Graph = BTreeMap<String, Vec<String>>;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum OrderError {
    #[error("unit {unit} starts after {missing}, which does not exist")]
    Missing { unit: String, missing: String },
    /// Each starts after the next; the last is the first again.
    #[error("units wait for each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
}

/// The graph of a set of units.
pub fn graph<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Graph {
    units.into_iter().map(|u| (u.name.clone(), u.after.clone())).collect()
}

/// An order in which every unit comes after those it names; by name where there is a choice.
pub fn start_order(graph: &Graph) -> Result<Vec<String>, OrderError> {
    check_names(graph)?;
    let mut order: Vec<String> = Vec::with_capacity(graph.len());
    let mut started: BTreeSet<&str> = BTreeSet::new();
    while order.len() < graph.len() {
        let next = graph.iter().find(|(name, after)| {
            !started.contains(name.as_str()) && after.iter().all(|a| started.contains(a.as_str()))
        });
        let Some((name, _)) = next else { return Err(OrderError::Cycle(find_cycle(graph, &started))) };
        started.insert(name);
        order.push(name.clone());
    }
    Ok(order)
}

/// The reverse: whoever is used by others stops last.
pub fn stop_order(graph: &Graph) -> Result<Vec<String>, OrderError> {
    let mut order = start_order(graph)?;
    order.reverse();
    Ok(order)
}

fn check_names(graph: &Graph) -> Result<(), OrderError> {
    for (unit, after) in graph {
        if let Some(missing) = after.iter().find(|a| !graph.contains_key(*a)) {
            return Err(OrderError::Missing { unit: unit.clone(), missing: missing.clone() });
        }
    }
    Ok(())
}

/// Follows unstarted dependencies until one comes up twice. Called only when no unit can start, so that each
/// unstarted unit has an unstarted dependency.
fn find_cycle(graph: &Graph, started: &BTreeSet<&str>) -> Vec<String> {
    let unstarted = |name: &&String| !started.contains(name.as_str());
    let mut path: Vec<&String> = Vec::new();
    let mut at = graph.keys().find(unstarted);
    while let Some(name) = at {
        if let Some(from) = path.iter().position(|p| *p == name) {
            return path[from..].iter().map(|n| n.to_string()).chain([name.clone()]).collect();
        }
        path.push(name);
        at = graph.get(name).and_then(|after| after.iter().find(unstarted));
    }
    path.into_iter().cloned().collect()
}

/// When to start again and when to call it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPolicy {
    pub delay_first: Duration,
    /// The delay doubles up to this.
    pub delay_max: Duration,
    /// A unit that stayed ready this long is forgiven everything.
    pub steady: Duration,
    /// More restarts than this within `window` make the unit failed.
    pub restarts_max: usize,
    pub window: Duration,
    /// So many starts in a row that ran into the ready timeout make it failed too; they take long, so they
    /// would never add up within the window.
    pub ready_timeouts_max: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            delay_first: Duration::from_millis(200),
            delay_max: Duration::from_secs(10),
            steady: Duration::from_secs(60),
            restarts_max: 5,
            window: Duration::from_secs(120),
            ready_timeouts_max: 2,
        }
    }
}

/// What is remembered of one unit's past. All times are from one monotonic clock, its zero does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartState {
    /// Exits without a steady time between them.
    exits: u32,
    /// Times of the latest exits, oldest first, never more than `restarts_max + 1`.
    recent: VecDeque<Duration>,
    ready_timeouts: u32,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was ready since then.
    AfterReady { ready_at: Duration },
    /// It exited before it was ready.
    BeforeReady,
    /// It was killed because it was not ready in time.
    ReadyTimeout,
}

/// A unit is always tried again, with back-off: a node that gives up on its own mesh cannot be reached any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartAction {
    pub after: Duration,
    /// The unit counts as failed until it is ready again.
    pub failed: bool,
}

/// Decides what follows an exit at `now`.
pub fn on_exit(
    state: &mut RestartState,
    policy: &RestartPolicy,
    now: Duration,
    ended: Ended,
) -> RestartAction {
    if let Ended::AfterReady { ready_at } = ended
        && now.saturating_sub(ready_at) >= policy.steady
    {
        *state = RestartState::default();
    }
    state.ready_timeouts =
        if ended == Ended::ReadyTimeout { state.ready_timeouts.saturating_add(1) } else { 0 };
    state.recent.push_back(now);
    while state.recent.len() > policy.restarts_max + 1
        || state.recent.front().is_some_and(|t| now.saturating_sub(*t) > policy.window)
    {
        state.recent.pop_front();
    }
    let failed =
        state.recent.len() > policy.restarts_max || state.ready_timeouts >= policy.ready_timeouts_max;
    let doublings = state.exits.min(16);
    state.exits = state.exits.saturating_add(1);
    let after = policy.delay_first.saturating_mul(1 << doublings).min(policy.delay_max);
    RestartAction { after, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(lines: &[(&str, &[&str])]) -> Graph {
        lines
            .iter()
            .map(|(n, after)| (n.to_string(), after.iter().map(|a| a.to_string()).collect()))
            .collect()
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn starts_what_is_needed_first_and_stops_it_last() {
        let graph = graph_of(&[("c", &["a", "b"]), ("a", &[]), ("b", &["z"]), ("z", &[])]);
        assert_eq!(start_order(&graph).unwrap(), ["a", "z", "b", "c"]);
        assert_eq!(stop_order(&graph).unwrap(), ["c", "b", "z", "a"]);
        assert!(start_order(&Graph::new()).unwrap().is_empty());
    }

    #[test]
    fn names_what_is_missing() {
        let error = start_order(&graph_of(&[("a", &["ghost"])])).unwrap_err();
        assert_eq!(error.to_string(), "unit a starts after ghost, which does not exist");
    }

    #[test]
    fn names_the_cycle_and_nobody_else() {
        let graph = graph_of(&[
            ("a", &["b"]),
            ("b", &["c"]),
            ("c", &["d"]),
            ("d", &["b"]),
            ("e", &[]),
            ("f", &["e"]),
        ]);
        let error = start_order(&graph).unwrap_err();
        assert_eq!(error.to_string(), "units wait for each other: b -> c -> d -> b");
        let own = start_order(&graph_of(&[("a", &["a"])])).unwrap_err();
        assert_eq!(own, OrderError::Cycle(vec!["a".into(), "a".into()]));
    }

    #[test]
    fn backs_off_and_calls_a_crash_loop_failed() {
        let (policy, mut state, mut now) = (RestartPolicy::default(), RestartState::default(), secs(100));
        let mut delays = Vec::new();
        for round in 0..8 {
            let action = on_exit(&mut state, &policy, now, Ended::BeforeReady);
            assert_eq!(action.failed, round >= 5, "round {round}");
            delays.push(action.after.as_millis());
            now += action.after;
        }
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn forgives_after_a_steady_minute_only() {
        let (policy, mut state) = (RestartPolicy::default(), RestartState::default());
        for now in [0, 1, 2, 3] {
            on_exit(&mut state, &policy, secs(now), Ended::BeforeReady);
        }
        let early = on_exit(&mut state.clone(), &policy, secs(69), Ended::AfterReady { ready_at: secs(10) });
        assert_eq!(early.after, Duration::from_millis(3200));
        let steady = on_exit(&mut state, &policy, secs(70), Ended::AfterReady { ready_at: secs(10) });
        assert_eq!(steady, RestartAction { after: Duration::from_millis(200), failed: false });
    }

    #[test]
    fn rare_exits_are_not_a_failure_but_hanging_twice_is() {
        let (policy, mut state) = (RestartPolicy::default(), RestartState::default());
        for round in 0..20u64 {
            let ended = Ended::AfterReady { ready_at: secs(30 * round) };
            assert!(!on_exit(&mut state, &policy, secs(30 * round + 25), ended).failed, "round {round}");
        }
        let mut state = RestartState::default();
        assert!(!on_exit(&mut state, &policy, secs(30), Ended::ReadyTimeout).failed);
        assert!(on_exit(&mut state, &policy, secs(61), Ended::ReadyTimeout).failed);
        assert!(!on_exit(&mut state, &policy, secs(62), Ended::BeforeReady).failed);
    }
}
