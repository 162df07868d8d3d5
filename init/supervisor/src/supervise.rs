//! The main loop: carries out what [`Machine`] decides, and tells it what happened.
//!
//! One thread, one loop, one owner of all state. Everything that waits (a child, a notify socket, a pipe, D-Bus) is a task
//! that sends an [`Event`] here. `alive` goes to PID 1 from this loop, so it stops exactly when this loop is stuck.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use init_plan::supervision::{SETTLED_AFTER, patience};
use init_plan::unit::{SUPERVISOR, Unit};
use init_plan::unit_order::RestartPolicy;
use services_api::report::{CheckReport, UnitReport};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::bus::{self, Command};
use crate::cgroup::Cgroups;
use crate::children::{Running, read_check, read_probe};
use crate::journal::{Journal, uptime};
use crate::launch::{self, Sockets};
use crate::machine::{Action, Machine, Tracked};
use crate::notify::Notification;
use crate::paths::Paths;
use crate::pid1::Pid1;
use crate::units::{self, UnitSet};
use crate::{apps, devices, usage};

const ALIVE_EVERY: Duration = Duration::from_secs(5);
const SELF_KILL_DELAY: Duration = Duration::from_millis(300);
/// Lines shown of a unit for which this boot ends.
const LAST_WORDS: usize = 10;
/// Services have 0: when the node runs out of memory, one of them goes first.
const OOM_SCORE: &str = "-900";

pub enum Event {
    /// `start`: see [`Running`].
    Exited {
        unit: String,
        start: u64,
        how: String,
    },
    Notified {
        unit: String,
        start: u64,
        notification: Notification,
    },
    /// An app's delegations are there, or why not.
    Delegated {
        unit: String,
        chain: Result<Vec<u8>>,
    },
    Command(Command),
    Stop(&'static str),
}

/// The release that this binary was built for.
const RELEASE: &str = match option_env!("MACULA_OS_VERSION") {
    Some(version) => version,
    None => "(development build)",
};

pub fn run(paths: Paths) -> Result<()> {
    services_api::daemon::init_logging();
    small_pages();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Supervisor::prepare(paths)?.run().await })
}

/// Huge pages make a service's few hundred kilobytes of heap into tens of megabytes (measured: 41 MB for `dht`, 7 MB
/// without). What is set here holds for every process started from here.
fn small_pages() {
    // SAFETY: plain system call without a pointer. A kernel without huge pages refuses, and is right.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

struct Supervisor {
    paths: Paths,
    units: BTreeMap<String, Unit>,
    machine: Machine,
    sockets: Sockets,
    cgroups: Option<Cgroups>,
    journal: Arc<Journal>,
    running: BTreeMap<String, Running>,
    /// Held while a check of the gate runs.
    checking: Arc<tokio::sync::Mutex<()>>,
    starts: u64,
    pid1: Option<Pid1>,
    began: Duration,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
}

impl Supervisor {
    fn prepare(paths: Paths) -> Result<Self> {
        let began = uptime();
        let journal = Journal::open(paths.console.clone())?;
        let UnitSet { units, broken } = units::load(&paths.units)?;
        let (cgroups, problems) = Cgroups::prepare(&paths.cgroup);
        problems.iter().for_each(|p| journal.complain(p));
        // A host may not let us.
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let sockets = Sockets::bind(&paths, &units)?;
        if let Err(e) = devices::prepare(&paths) {
            journal.complain(&format!("{e:#}"));
        }
        let pid1 = Pid1::from_environment()?;
        let mut machine = Machine::new(&units, &broken, RestartPolicy::default(), began);
        match devices::read_boot_info(&paths.boot_info()) {
            Ok(boot) => {
                machine.set_patience(patience(&boot, &paths.config()));
                machine.set_settled_after(SETTLED_AFTER);
            }
            Err(e) if pid1.is_some() => journal.complain(&format!("{e:#}")),
            Err(_) => {}
        }
        let (events, inbox) = mpsc::channel(256);
        let units = units.into_iter().map(|u| (u.name.clone(), u)).collect();
        let running = BTreeMap::new();
        Ok(Self {
            paths,
            units,
            machine,
            sockets,
            cgroups,
            journal,
            running,
            checking: Arc::default(),
            starts: 0,
            pid1,
            began,
            events,
            inbox,
        })
    }

    async fn run(mut self) -> Result<()> {
        self.serve_bus();
        self.listen_for_signals()?;
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.act() {
                return Ok(());
            }
            let deadline = self.machine.next_deadline();
            tokio::select! {
                event = self.inbox.recv() => if let Some(event) = event { self.handle(event) },
                word = from_pid1(self.pid1.as_ref()) => self.heed(word),
                () = sleep_until(deadline) => self.machine.handle_timeout(uptime()),
                _ = alive.tick() => self.report_alive(),
            }
        }
    }

    /// Carries out what is to be done; true when all is over.
    fn act(&mut self) -> bool {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Spawn(unit) => self.start(&unit),
                Action::Terminate(unit) => drop(self.signal(&unit, libc::SIGTERM)),
                Action::Kill(unit) => self.kill_all(&unit),
                Action::Say(line) => self.journal.say(&line),
                Action::AllReady => self.say_ready(),
                Action::Settled => self.report_settled(),
                Action::GiveUp { unit, reason } => self.give_up(&unit, &reason),
                Action::AllStopped => return true,
            }
        }
        false
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Exited { unit, start, how } if self.is_current(&unit, start) => self.forget(&unit, &how),
            Event::Notified { unit, start, notification } if self.is_current(&unit, start) => {
                self.machine.notified(&unit, notification, uptime());
            }
            Event::Exited { .. } | Event::Notified { .. } => {}
            Event::Delegated { unit, chain } => self.start_app(&unit, chain),
            Event::Command(command) => self.obey(command),
            Event::Stop(who) => self.stop(who),
        }
    }

    fn is_current(&self, unit: &str, start: u64) -> bool {
        self.running.get(unit).is_some_and(|r| r.start == start)
    }

    fn stop(&mut self, who: &str) {
        self.journal.say(&format!("stopping all units: {who}"));
        self.machine.stop(uptime());
    }

    fn start(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        let Some(rights) = unit.app.clone() else { return self.launch(name, None) };
        let (events, unit) = (self.events.clone(), name.to_owned());
        tokio::spawn(async move {
            let chain = apps::delegations(&unit, &rights).await;
            let _ = events.send(Event::Delegated { unit, chain }).await;
        });
    }

    fn start_app(&mut self, name: &str, chain: Result<Vec<u8>>) {
        let Some(unit) = self.units.get(name) else { return };
        if !self.machine.wants(name) {
            return self.machine.exited(name, "was stopped before it ran", uptime());
        }
        match chain.and_then(|chain| apps::lay_down(&self.paths, unit, &chain)) {
            Ok(grants) => self.launch(name, Some(grants)),
            Err(e) => self.machine.exited(name, &format!("cannot be started: {e:#}"), uptime()),
        }
    }

    /// `grants`: an app's delegations.
    fn launch(&mut self, name: &str, grants: Option<PathBuf>) {
        let Some(unit) = self.units.get(name) else { return };
        match launch::start(&self.paths, self.cgroups.as_ref(), &self.sockets, unit, grants) {
            Ok(launched) => {
                self.starts += 1;
                let (cgroups, journal) = (self.cgroups.clone(), &self.journal);
                let running = Running::watch(name, self.starts, launched, cgroups, journal, &self.events);
                let pid = running.pid;
                self.running.insert(name.to_owned(), running);
                self.machine.spawned(name, pid, uptime());
            }
            Err(e) => self.machine.exited(name, &format!("cannot be started: {e:#}"), uptime()),
        }
    }

    fn forget(&mut self, unit: &str, how: &str) {
        self.running.remove(unit);
        // Nothing of it may be left when it starts again.
        self.kill_all(unit);
        self.machine.exited(unit, how, uptime());
    }

    fn kill_all(&self, unit: &str) {
        let _ = self.signal(unit, libc::SIGKILL);
        if let Some(cgroups) = &self.cgroups {
            let _ = cgroups.kill(unit);
        }
    }

    fn signal(&self, unit: &str, signal: i32) -> Result<()> {
        let running = self.running.get(unit).with_context(|| format!("unit {unit} is not running"))?;
        running.signal(signal).with_context(|| format!("signal {signal} to unit {unit}"))
    }

    /// The boot bench reads the second line.
    fn say_ready(&self) {
        self.journal.say(&format!("this is Macula OS {RELEASE}"));
        let now = uptime();
        let own = now.saturating_sub(self.began).as_secs_f32();
        self.journal.say(&format!("all units ready in {own:.1} s (kernel {:.1} s)", now.as_secs_f32()));
    }

    /// PID 1 ends this boot. Should the word be lost, the silence that follows does the same.
    fn give_up(&mut self, unit: &str, reason: &str) {
        self.journal.complain(reason);
        for line in self.journal.last(unit, LAST_WORDS) {
            self.journal.complain(&format!("{unit}'s last words: {line}"));
        }
        let (pid1, reason) = (self.pid1.take(), reason.to_owned());
        tokio::spawn(async move {
            // Those lines go to the kernel's log through another thread, and PID 1 keeps that log's tail.
            tokio::time::sleep(SELF_KILL_DELAY).await;
            let _ = pid1.as_ref().map(|pid1| pid1.failed(&reason));
            std::future::pending::<()>().await;
        });
    }

    fn report_alive(&self) {
        if let Some(Err(e)) = self.pid1.as_ref().map(Pid1::alive) {
            self.journal.complain(&format!("cannot tell PID 1 that we are alive: {e}"));
        }
    }

    /// PID 1 may forget earlier failures of this install.
    fn report_settled(&self) {
        if let Some(Err(e)) = self.pid1.as_ref().map(Pid1::settled) {
            self.journal.complain(&format!("cannot tell PID 1 that this boot has settled: {e}"));
        }
    }

    fn heed(&mut self, word: std::io::Result<Option<String>>) {
        match word {
            Ok(Some(word)) if word == "stop" => self.stop("PID 1 says so"),
            Ok(Some(word)) => {
                self.journal.complain(&format!("PID 1 says {word:?}, which means nothing here"))
            }
            Ok(None) => {
                self.pid1 = None;
                self.stop("PID 1 has closed its socket");
            }
            Err(e) => {
                self.pid1 = None;
                self.stop(&format!("cannot hear PID 1: {e}"));
            }
        }
    }

    fn serve_bus(&self) {
        let (paths, events, journal) = (self.paths.clone(), self.events.clone(), self.journal.clone());
        tokio::spawn(async move {
            loop {
                if let Err(e) = bus::serve(&paths, events.clone(), journal.logs.clone()).await {
                    journal.complain(&format!("D-Bus: {e:#}"));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    fn listen_for_signals(&self) -> Result<()> {
        for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
            let (mut signals, events) = (signal(kind)?, self.events.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    let _ = events.send(Event::Stop(name)).await;
                }
            });
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Units(reply) => drop(reply.send(Ok(self.report()))),
            Command::Kill { unit, signal, reply } => drop(reply.send(self.kill(&unit, signal))),
            Command::Restart { unit, reply } => drop(reply.send(self.restart(&unit))),
            Command::Start { unit, reply } => drop(reply.send(self.ask_for(&unit))),
            Command::Power { word, reason, reply } => drop(reply.send(self.power(word, &reason))),
            Command::Check { exec, timeout, reply } => self.check(exec, timeout, reply),
            Command::Probe { unit, reply } => match self.start_probe(&unit) {
                Ok(child) => drop(tokio::spawn(async move { drop(reply.send(read_probe(child).await)) })),
                Err(e) => drop(reply.send(Err(e))),
            },
        }
    }

    fn kill(&self, unit: &str, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            bail!("{signal} is not a signal");
        }
        self.journal.say(&format!("signal {signal} to {unit}, as asked over D-Bus"));
        if unit == SUPERVISOR {
            // Later, so that whoever asked gets an answer.
            tokio::spawn(async move {
                tokio::time::sleep(SELF_KILL_DELAY).await;
                // SAFETY: plain system call.
                unsafe { libc::kill(libc::getpid(), signal) };
            });
            return Ok(());
        }
        self.signal(unit, signal)
    }

    fn restart(&mut self, unit: &str) -> Result<()> {
        if !self.units.contains_key(unit) {
            bail!("no unit {unit:?} can be restarted");
        }
        self.journal.say(&format!("restarting {unit}, as asked over D-Bus"));
        self.machine.restart(unit, uptime());
        Ok(())
    }

    fn ask_for(&mut self, name: &str) -> Result<()> {
        let unit = self.units.get(name).filter(|unit| unit.on_demand);
        unit.with_context(|| format!("no unit {name:?} starts when it is asked for"))?;
        self.machine.ask_for(name, uptime());
        Ok(())
    }

    fn power(&self, word: &str, reason: &str) -> Result<()> {
        let pid1 = self.pid1.as_ref().ok_or_else(|| anyhow!("there is no PID 1 to ask for {word}"))?;
        self.journal.say(&format!("{word}: {reason}"));
        pid1.power(word, reason).with_context(|| format!("cannot ask PID 1 for {word}"))
    }

    fn start_probe(&self, unit: &str) -> Result<Child> {
        let unit = self.units.get(unit).ok_or_else(|| anyhow!("no unit {unit:?} can be probed"))?;
        launch::start_probe(&self.paths, self.cgroups.as_ref(), unit)
    }

    /// One at a time: the next would find the same cgroup.
    fn check(&self, exec: Vec<String>, timeout: Duration, reply: bus::Reply<CheckReport>) {
        let (paths, cgroups, turn) = (self.paths.clone(), self.cgroups.clone(), self.checking.clone());
        tokio::spawn(async move {
            let Ok(_turn) = turn.try_lock() else {
                return drop(reply.send(Err(anyhow!("another check is running"))));
            };
            let report = match launch::start_check(&paths, cgroups.as_ref(), exec) {
                Ok(child) => read_check(child, timeout, cgroups).await,
                Err(e) => CheckReport { passed: false, reason: format!("cannot be started: {e:#}") },
            };
            let _ = reply.send(Ok(report));
        });
    }

    fn report(&self) -> Vec<UnitReport> {
        let now = uptime();
        let own = usage::of(&[std::process::id()]);
        let mut reports = vec![UnitReport {
            name: SUPERVISOR.into(),
            state: "ready".into(),
            required: true,
            pid: std::process::id(),
            since_s: now.saturating_sub(self.began).as_secs(),
            memory_bytes: self.memory(SUPERVISOR),
            rss_bytes: own.rss_bytes,
            pss_bytes: own.pss_bytes,
            ..Default::default()
        }];
        reports.extend(self.machine.units().map(|(name, tracked)| self.report_unit(name, tracked, now)));
        reports
    }

    fn report_unit(&self, name: &str, tracked: &Tracked, now: Duration) -> UnitReport {
        let mut pids = self.cgroups.as_ref().map(|c| c.processes(name)).unwrap_or_default();
        if pids.is_empty() && tracked.is_running() {
            pids.push(tracked.pid);
        }
        let usage = usage::of(&pids);
        UnitReport {
            name: name.into(),
            state: tracked.state().into(),
            required: tracked.required,
            pid: tracked.pid,
            since_s: now.saturating_sub(tracked.since).as_secs(),
            restarts: tracked.restarts,
            memory_bytes: self.memory(name),
            rss_bytes: usage.rss_bytes,
            pss_bytes: usage.pss_bytes,
            status: tracked.status.clone(),
            last_exit: tracked.last_exit.clone(),
        }
    }

    fn memory(&self, unit: &str) -> u64 {
        self.cgroups.as_ref().map_or(0, |c| c.memory_current(unit))
    }
}

async fn sleep_until(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_sub(uptime())).await,
        None => std::future::pending().await,
    }
}

async fn from_pid1(pid1: Option<&Pid1>) -> std::io::Result<Option<String>> {
    match pid1 {
        Some(pid1) => pid1.receive().await,
        None => std::future::pending().await,
    }
}
