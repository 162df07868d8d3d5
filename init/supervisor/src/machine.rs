//! Which unit is in which state and what is to be done about it. Pure: events and the time go in, actions and the next
//! deadline come out, as in `quinn-proto`; `supervise` does what the actions say.
//!
//! A unit starts once each unit that it comes after is ready *or has been given up* (failed, or missed its ready timeout
//! once). Waiting for ever would be wrong: on a trial whose mesh never comes up, `update` must still start, because it is
//! the one that ends the trial.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use init_plan::unit::Unit;
use init_plan::unit_order::{Ended, RestartPolicy, RestartState, on_exit};

use crate::notify::Notification;
use crate::units::BrokenUnit;

/// A killed process that the kernel has not given up is killed again this often.
const KILL_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer with [`Machine::spawned`] or [`Machine::exited`].
    Spawn(String),
    /// SIGTERM to the main process.
    Terminate(String),
    /// SIGKILL to everything in the unit's cgroup.
    Kill(String),
    /// For the log and the console.
    Say(String),
    /// Every required unit is ready, for the first time.
    AllReady,
    /// Every required unit has been ready for long enough, without a break. Said once.
    Settled,
    /// A required unit stays down: this boot has failed, for this reason. Said once.
    GiveUp { unit: String, reason: String },
    /// Every unit has stopped, as was asked.
    AllStopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// For units that it comes after.
    Waiting,
    /// Until it is started again.
    Backoff {
        until: Duration,
    },
    Starting {
        since: Duration,
    },
    Ready {
        since: Duration,
        fed: Duration,
    },
    /// Has been told to; killed at `kill_at`.
    Stopping {
        kill_at: Duration,
        start_again: bool,
    },
    Stopped,
    /// Until somebody asks for it.
    Idle,
    /// Its file is not usable.
    Broken,
}

/// What is known of one unit, for whoever asks.
#[derive(Debug, Clone)]
pub struct Tracked {
    pub required: bool,
    pub pid: u32,
    /// Since when it has been in its state.
    pub since: Duration,
    pub restarts: u32,
    pub status: String,
    pub last_exit: String,
    phase: Phase,
    /// Until it is ready again.
    failed: bool,
    /// Nobody waits for it any more.
    given_up: bool,
    /// Since when it has not been ready for as long as a unit must be to be forgiven its past.
    ill_since: Duration,
    /// Why we killed it, until it is gone.
    doomed: Option<(Ended, String)>,
    after: Vec<String>,
    ready_timeout: Duration,
    watchdog: Option<Duration>,
    stop_timeout: Duration,
    /// Ready from its start on.
    foreign: bool,
    past: RestartState,
}

impl Tracked {
    /// The state's name in reports.
    pub fn state(&self) -> &'static str {
        match &self.phase {
            Phase::Broken => "failed",
            Phase::Waiting | Phase::Backoff { .. } | Phase::Starting { .. } if self.failed => "failed",
            Phase::Waiting | Phase::Starting { .. } => "starting",
            Phase::Backoff { .. } | Phase::Stopping { start_again: true, .. } => "restarting",
            Phase::Ready { .. } => "ready",
            Phase::Stopping { .. } | Phase::Stopped => "stopped",
            Phase::Idle => "idle",
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Ready { .. } | Phase::Stopping { .. })
    }

    fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Idle | Phase::Broken)
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        let before = self.state();
        self.phase = phase;
        if self.state() != before {
            self.since = now;
        }
    }

    /// It has stopped being ready.
    fn falls_ill(&mut self, policy: &RestartPolicy, now: Duration) {
        if let Phase::Ready { since, .. } = self.phase
            && now.saturating_sub(since) >= policy.steady
        {
            self.ill_since = now;
        }
    }

    /// When it will have been down for too long.
    fn overdue_at(&self, patience: Duration) -> Option<Duration> {
        let ill = self.required && !self.is_ready() && self.phase != Phase::Stopped;
        ill.then(|| self.ill_since.saturating_add(patience))
    }

    fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Backoff { until } => Some(until),
            Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Starting { since } if self.doomed.is_none() => Some(since + self.ready_timeout),
            Phase::Ready { fed, .. } if self.doomed.is_none() => self.watchdog.map(|w| fed + w),
            _ => None,
        }
    }
}

pub struct Machine {
    units: BTreeMap<String, Tracked>,
    policy: RestartPolicy,
    actions: VecDeque<Action>,
    /// How long a required unit may be down; `None`: for ever.
    patience: Option<Duration>,
    /// How long all required units must be ready for the boot to have settled; `None`: it never has.
    settled_after: Option<Duration>,
    stopping: bool,
    said_ready: bool,
    said_settled: bool,
    said_given_up: bool,
    said_stopped: bool,
}

impl Machine {
    pub fn new(units: &[Unit], broken: &[BrokenUnit], policy: RestartPolicy, now: Duration) -> Self {
        let tracked = units.iter().map(|u| (u.name.clone(), track(u, now)));
        let broken_ones = broken.iter().map(|b| (b.name.clone(), track_broken(b, now)));
        let mut machine = Self {
            units: tracked.chain(broken_ones).collect(),
            policy,
            actions: VecDeque::new(),
            patience: None,
            settled_after: None,
            stopping: false,
            said_ready: false,
            said_settled: false,
            said_given_up: false,
            said_stopped: false,
        };
        for b in broken {
            machine.say(format!("unit {} failed: {}", b.name, b.problem));
        }
        machine.settle(now);
        machine
    }

    /// From now on a required unit that is down for so long ends the boot.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// From now on the boot counts as settled when all required units have been ready for so long.
    pub fn set_settled_after(&mut self, settled_after: Duration) {
        self.settled_after = Some(settled_after);
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Machine::handle_timeout`] wants to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let of_units = self.units.values().filter_map(Tracked::deadline).min();
        of_units.into_iter().chain(self.overdue().map(|(_, at)| at)).chain(self.settled_at()).min()
    }

    /// When this boot will have settled, if all stays as it is.
    fn settled_at(&self) -> Option<Duration> {
        let after = self.settled_after.filter(|_| !self.stopping && !self.said_settled)?;
        let mut ready_since = Duration::ZERO;
        for unit in self.units.values().filter(|u| u.required) {
            let Phase::Ready { since, .. } = unit.phase else { return None };
            ready_since = ready_since.max(since);
        }
        Some(ready_since.saturating_add(after))
    }

    /// The required unit that will be overdue first, and when.
    fn overdue(&self) -> Option<(&String, Duration)> {
        let patience = self.patience.filter(|_| !self.stopping && !self.said_given_up)?;
        let due = self.units.iter().filter_map(|(name, u)| Some((name, u.overdue_at(patience)?)));
        due.min_by_key(|(_, at)| *at)
    }

    pub fn units(&self) -> impl Iterator<Item = (&String, &Tracked)> {
        self.units.iter()
    }

    /// Whether a unit that was to be spawned still is.
    pub fn wants(&self, unit: &str) -> bool {
        let tracked = self.units.get(unit);
        tracked.is_some_and(|u| u.doomed.is_none() && matches!(u.phase, Phase::Starting { .. }))
    }

    pub fn spawned(&mut self, unit: &str, pid: u32, now: Duration) {
        let Some(u) = self.units.get_mut(unit) else { return };
        u.pid = pid;
        if u.foreign {
            self.notified(unit, Notification { ready: true, ..Notification::default() }, now);
        }
    }

    pub fn notified(&mut self, unit: &str, notification: Notification, now: Duration) {
        let Some(u) = self.units.get_mut(unit) else { return };
        if let Some(status) = notification.status {
            u.status = status;
        }
        if notification.ready && u.doomed.is_none() && matches!(u.phase, Phase::Starting { .. }) {
            u.enter(Phase::Ready { since: now, fed: now }, now);
            u.failed = false;
        }
        if let (true, Phase::Ready { fed, .. }) = (notification.watchdog, &mut u.phase) {
            *fed = now;
        }
        self.settle(now);
    }

    /// The main process is gone, or could not be started; `how` says it in words.
    pub fn exited(&mut self, unit: &str, how: &str, now: Duration) {
        let Some(u) = self.units.get_mut(unit) else { return };
        u.pid = 0;
        u.status.clear();
        u.falls_ill(&self.policy, now);
        let ended = match (u.doomed.take(), &u.phase) {
            (Some((ended, why)), _) => {
                u.last_exit = format!("{why}, {how}");
                ended
            }
            (None, phase) => {
                u.last_exit = how.to_owned();
                match phase {
                    Phase::Ready { since, .. } => Ended::AfterReady { ready_at: *since },
                    _ => Ended::BeforeReady,
                }
            }
        };
        match u.phase {
            _ if self.stopping => u.enter(Phase::Stopped, now),
            Phase::Stopping { start_again: true, .. } => {
                u.restarts = u.restarts.saturating_add(1);
                u.enter(Phase::Waiting, now);
            }
            Phase::Starting { .. } | Phase::Ready { .. } => self.schedule_restart(unit, ended, now),
            _ => {}
        }
        self.settle(now);
    }

    /// Starts a unit that nobody has asked for before, or at once one that is to start later.
    pub fn ask_for(&mut self, unit: &str, now: Duration) {
        let Some(u) = self.units.get_mut(unit) else { return };
        if !self.stopping && matches!(u.phase, Phase::Idle | Phase::Backoff { .. }) {
            u.past = RestartState::default();
            u.enter(Phase::Waiting, now);
            self.settle(now);
        }
    }

    /// Stops a unit if it runs and starts it with a clean past.
    pub fn restart(&mut self, unit: &str, now: Duration) {
        let Some(u) = self.units.get_mut(unit) else { return };
        if self.stopping || u.phase == Phase::Broken {
            return;
        }
        u.past = RestartState::default();
        u.failed = false;
        match u.phase {
            Phase::Starting { .. } | Phase::Ready { .. } => {
                u.falls_ill(&self.policy, now);
                u.enter(Phase::Stopping { kill_at: now + u.stop_timeout, start_again: true }, now);
                self.actions.push_back(Action::Terminate(unit.to_owned()));
            }
            Phase::Backoff { .. } => u.enter(Phase::Waiting, now),
            _ => {}
        }
        self.settle(now);
    }

    /// Stops all units, those that others come after last.
    pub fn stop(&mut self, now: Duration) {
        self.stopping = true;
        for u in self.units.values_mut() {
            match &mut u.phase {
                Phase::Waiting | Phase::Backoff { .. } | Phase::Idle => u.enter(Phase::Stopped, now),
                Phase::Stopping { start_again, .. } => *start_again = false,
                _ => {}
            }
        }
        self.settle(now);
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        let due: Vec<String> = self
            .units
            .iter()
            .filter(|(_, u)| u.deadline().is_some_and(|d| d <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.unit_timeout(&name, now);
        }
        self.give_up_if_overdue(now);
        if self.settled_at().is_some_and(|at| at <= now) {
            self.said_settled = true;
            self.actions.push_back(Action::Settled);
        }
        self.settle(now);
    }

    fn give_up_if_overdue(&mut self, now: Duration) {
        let Some((unit, _)) = self.overdue().filter(|(_, at)| *at <= now) else { return };
        let unit = unit.clone();
        let Some(u) = self.units.get(&unit) else { return };
        let down = now.saturating_sub(u.ill_since).as_secs();
        let why = if u.last_exit.is_empty() { u.status.as_str() } else { u.last_exit.as_str() };
        let reason = match why {
            "" => format!("required unit {unit} has not been ready for {down} s"),
            why => format!("required unit {unit} has not been ready for {down} s: {why}"),
        };
        self.said_given_up = true;
        self.actions.push_back(Action::GiveUp { unit, reason });
    }

    fn unit_timeout(&mut self, name: &str, now: Duration) {
        let Some(u) = self.units.get_mut(name) else { return };
        match &mut u.phase {
            Phase::Backoff { .. } => self.spawn(name, now),
            Phase::Starting { .. } => {
                let why = format!("not ready within {} s", u.ready_timeout.as_secs());
                u.doomed = Some((Ended::ReadyTimeout, why));
                u.given_up = true;
                self.actions.push_back(Action::Kill(name.to_owned()));
            }
            Phase::Ready { since, .. } => {
                let why = format!("no watchdog message for {} s", u.watchdog.unwrap_or_default().as_secs());
                u.doomed = Some((Ended::AfterReady { ready_at: *since }, why));
                self.actions.push_back(Action::Kill(name.to_owned()));
            }
            Phase::Stopping { kill_at, .. } => {
                *kill_at = now + KILL_AGAIN;
                self.actions.push_back(Action::Kill(name.to_owned()));
            }
            Phase::Waiting | Phase::Stopped | Phase::Idle | Phase::Broken => {}
        }
    }

    fn schedule_restart(&mut self, name: &str, ended: Ended, now: Duration) {
        let Some(u) = self.units.get_mut(name) else { return };
        let action = on_exit(&mut u.past, &self.policy, now, ended);
        u.restarts = u.restarts.saturating_add(1);
        let newly_failed = action.failed && !u.failed;
        u.failed |= action.failed;
        u.given_up |= action.failed;
        u.enter(Phase::Backoff { until: now + action.after }, now);
        let line = if newly_failed {
            format!(
                "unit {name} failed: {}; it is tried again every {} s",
                u.last_exit,
                self.policy.delay_max.as_secs()
            )
        } else {
            format!("unit {name} {}, starts again in {:.1} s", u.last_exit, action.after.as_secs_f32())
        };
        self.say(line);
    }

    fn spawn(&mut self, name: &str, now: Duration) {
        let Some(u) = self.units.get_mut(name) else { return };
        u.enter(Phase::Starting { since: now }, now);
        self.actions.push_back(Action::Spawn(name.to_owned()));
    }

    /// Does whatever has become possible.
    fn settle(&mut self, now: Duration) {
        if self.stopping {
            self.settle_stop(now);
            return;
        }
        let may_start: Vec<String> = self
            .units
            .iter()
            .filter(|(_, u)| u.phase == Phase::Waiting && u.after.iter().all(|a| self.is_settled(a)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in may_start {
            self.spawn(&name, now);
        }
        if !self.said_ready && self.units.values().all(|u| u.is_ready() || !u.required) {
            self.said_ready = true;
            self.actions.push_back(Action::AllReady);
        }
    }

    fn is_settled(&self, name: &str) -> bool {
        self.units.get(name).is_none_or(|u| u.is_ready() || u.given_up || u.phase == Phase::Idle)
    }

    fn settle_stop(&mut self, now: Duration) {
        let free: Vec<String> = self.units.keys().filter(|name| self.nobody_needs(name)).cloned().collect();
        for name in free {
            let Some(u) = self.units.get_mut(&name) else { continue };
            if matches!(u.phase, Phase::Starting { .. } | Phase::Ready { .. }) {
                u.enter(Phase::Stopping { kill_at: now + u.stop_timeout, start_again: false }, now);
                self.actions.push_back(Action::Terminate(name));
            }
        }
        if !self.said_stopped && self.units.values().all(Tracked::is_down) {
            self.said_stopped = true;
            self.actions.push_back(Action::AllStopped);
        }
    }

    fn nobody_needs(&self, name: &str) -> bool {
        self.units.values().all(|u| u.is_down() || !u.after.iter().any(|a| a == name))
    }

    fn say(&mut self, line: String) {
        self.actions.push_back(Action::Say(line));
    }
}

fn track(unit: &Unit, now: Duration) -> Tracked {
    Tracked {
        required: unit.required,
        pid: 0,
        since: now,
        restarts: 0,
        status: String::new(),
        last_exit: String::new(),
        phase: if unit.on_demand { Phase::Idle } else { Phase::Waiting },
        failed: false,
        given_up: false,
        ill_since: now,
        doomed: None,
        after: unit.after.clone(),
        ready_timeout: unit.ready_timeout,
        watchdog: unit.watchdog,
        stop_timeout: unit.stop_timeout,
        foreign: unit.foreign,
        past: RestartState::default(),
    }
}

fn track_broken(broken: &BrokenUnit, now: Duration) -> Tracked {
    Tracked {
        required: true,
        pid: 0,
        since: now,
        restarts: 0,
        status: broken.problem.clone(),
        last_exit: String::new(),
        phase: Phase::Broken,
        failed: true,
        given_up: true,
        ill_since: now,
        doomed: None,
        after: Vec::new(),
        ready_timeout: Duration::MAX,
        watchdog: None,
        stop_timeout: Duration::ZERO,
        foreign: false,
        past: RestartState::default(),
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
