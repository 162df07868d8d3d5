//! The second stage: the running system, to its end.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use init_plan::cmdline::Root;
use init_plan::failure::{OnFailure, condemned, why_rescue};
use init_plan::reset::Wish;
use init_plan::steps::{self, Devices};
use init_plan::supervision::{Message, Next, STAGE_UNITS};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use os_slots::{BootInfo, Entry, standing_in_rescue};

use crate::console::{now, say};
use crate::leave::{self, End};
use crate::machine::{self, StepFailed};
use crate::node::Node;
use crate::supervisor::Supervisor;
use crate::uevents::Received;
use crate::{disk, encryption, evidence, firmware, last_boot, state};

const MODULES_LIST: &str = "/usr/lib/modules/modules.toml";
const MODULES_FOLDER: &str = "/usr/lib/modules";
/// The loop turns at least this often; what has a deadline is never later than that.
const TICK_MS: u16 = 1000;
/// How long services get to stop before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Kernel events taken per round.
const EVENTS_MAX: usize = 256;

pub fn run(node: &mut Node) -> Result<Infallible, StepFailed> {
    let signals = take_signals()?;
    prepare(node)?;
    load_drivers(node);
    let mut system = System { node, supervisor: Supervisor::default(), ending: None };
    system.start_supervisor()?;
    loop {
        system.wait(&signals);
        system.take_signals(&signals)?;
        system.take_events()?;
        system.take_messages()?;
        system.look_after_supervisor()?;
        last_boot::renew_tail(system.node);
        system.go_on_ending();
    }
}

/// All signals arrive through a descriptor from here on. Children start with none blocked.
fn take_signals() -> Result<SignalFd, StepFailed> {
    let all = SigSet::all();
    let descriptor = all
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    descriptor.map_err(|error| fail("system", OnFailure::Reboot, anyhow!("cannot take signals: {error}")))
}

fn prepare(node: &mut Node) -> Result<(), StepFailed> {
    let unknown = || fail("system", OnFailure::Reboot, anyhow!("the boot disk is not known"));
    let devices = node.devices.clone().ok_or_else(unknown)?;
    let info = boot_info(node, &devices).ok_or_else(unknown)?;
    match &info.rescue {
        Some(why) => say(&format!("rescue: {why}")),
        None if condemned(&info.evidence).contains(&info.seq) => {
            say(&format!("{} is known to be corrupt (see /state/boot); running it all the same", info.entry));
        }
        None => {}
    }
    let text = serde_json::to_string_pretty(&info).context("boot.json");
    let text = text.map_err(|error| fail("system", OnFailure::Reboot, error))?;
    machine::run(&steps::system(&devices, info.slot, &state::hostname(), text), node)?;
    if info.rescue.is_none() {
        say(&format!("root is up: {}", devices.root(info.slot)));
    }
    Ok(())
}

fn boot_info(node: &Node, devices: &Devices) -> Option<BootInfo> {
    let line = node.command_line.as_ref()?;
    let evidence = evidence::read_all();
    let (entry, rescue, root_hash) = match (node.entry, &line.root) {
        (Some(entry), Root::Slot(verity)) => (entry, None, verity.root_hash.clone()),
        _ => (standing_in_rescue(&leave::entries(devices)), Some(why_rescue(&evidence)), String::new()),
    };
    Some(BootInfo {
        rescue,
        version: line.version.clone(),
        board: line.board.clone(),
        root_hash,
        boot_id: node.boot_id.clone(),
        disk: devices.disk.clone().into(),
        esp: devices.esp.clone().into(),
        root_a: devices.root_a.clone().into(),
        root_b: devices.root_b.clone().into(),
        state: devices.state.clone().into(),
        encryption: devices.encryption.map(|kind| kind.to_string()),
        tpm: encryption::has_tpm(),
        first_boot: node.first_boot,
        forget_owner: node.forget_owner,
        evidence,
        interrupted: node.interrupted.clone(),
        clock: node.clock,
        secure_boot: firmware::secure_boot(),
        ..BootInfo::of(entry)
    })
}

/// The root's own, larger set of drivers. Without it the node still runs on the initramfs's.
fn load_drivers(node: &mut Node) {
    if let Err(error) = node.drivers.adopt(Path::new(MODULES_LIST), Path::new(MODULES_FOLDER)) {
        say(&format!("no drivers from the root: {error:#}"));
    }
    node.drivers.plug_always();
    node.drivers.coldplug();
    #[cfg(feature = "fault-injection")]
    crate::fault::play_access_point();
    node.watchdog.arm();
    if !node.watchdog.is_armed() {
        say("no hardware watchdog: a hang will need somebody's hand");
    }
}

struct System<'a> {
    node: &'a mut Node,
    supervisor: Supervisor,
    /// Once services were asked to stop: how it ends, why, and when at the latest.
    ending: Option<(End, String, Duration)>,
}

impl System<'_> {
    fn wait(&self, signals: &SignalFd) {
        let mut ready = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        ready.extend(
            self.node.uevents.as_ref().map(|uevents| PollFd::new(uevents.as_fd(), PollFlags::POLLIN)),
        );
        ready.extend(self.supervisor.line().map(|line| PollFd::new(line, PollFlags::POLLIN)));
        let _ = poll(&mut ready, PollTimeout::from(TICK_MS));
    }

    fn take_signals(&mut self, signals: &SignalFd) -> Result<(), StepFailed> {
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGINT) => self.begin_ending(End::Reboot, "Ctrl-Alt-Del or SIGINT"),
                Ok(Signal::SIGTERM) => self.begin_ending(End::Reboot, "SIGTERM"),
                Ok(Signal::SIGPWR | Signal::SIGUSR2) => self.begin_ending(End::PowerOff, "SIGPWR or SIGUSR2"),
                _ => {}
            }
        }
        self.reap()
    }

    /// Every child, ours or orphaned.
    fn reap(&mut self) -> Result<(), StepFailed> {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal {signal}")),
                Ok(WaitStatus::StillAlive) | Err(_) => return Ok(()),
                Ok(_) => continue,
            };
            if self.supervisor.is_process(pid) {
                say(&format!("supervisor ended ({how})"));
                self.supervisor.bury();
                self.after_supervisor_end(&how)?;
            }
        }
    }

    fn after_supervisor_end(&mut self, how: &str) -> Result<(), StepFailed> {
        if self.ending.is_some() {
            return Ok(());
        }
        match self.supervisor.watch.ended(now()) {
            Next::StartAt(_) => Ok(()),
            Next::GiveUp => {
                let reason = anyhow!("the supervisor does not stay up; it last ended with {how}");
                Err(fail("supervisor", self.after_services_fail(), reason))
            }
        }
    }

    /// On trial there is a release that did better; otherwise another boot is the best there is.
    fn after_services_fail(&self) -> OnFailure {
        let on_trial = self.node.entry.is_some_and(|entry| !entry.is_committed());
        if on_trial { OnFailure::OtherSlot } else { OnFailure::Reboot }
    }

    fn start_supervisor(&mut self) -> Result<(), StepFailed> {
        match self.supervisor.start() {
            Ok(()) => {
                say("supervisor started");
                Ok(())
            }
            Err(error) => {
                say(&format!("supervisor: {error:#}"));
                self.after_supervisor_end(&format!("{error:#}"))
            }
        }
    }

    fn take_events(&mut self) -> Result<(), StepFailed> {
        let mut aliases = Vec::new();
        let mut look_again = false;
        for _ in 0..EVENTS_MAX {
            let Some(uevents) = &self.node.uevents else { break };
            match uevents.receive() {
                Received::Event(event) => {
                    if let Some(block) = event.verity_error {
                        let reason =
                            anyhow!("the root is corrupt: dm-verity refused block {block} (type,number)");
                        return Err(fail("verity", OnFailure::OtherSlot, reason));
                    }
                    aliases.extend(event.modalias.filter(|_| event.action == "add"));
                }
                Received::Overflow => look_again = true,
                Received::Nothing => break,
            }
        }
        aliases.into_iter().for_each(|alias| self.node.drivers.hotplug(alias));
        if look_again {
            self.node.drivers.coldplug();
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), StepFailed> {
        for message in self.supervisor.messages() {
            match message {
                Message::Alive => self.supervisor.watch.alive(now()),
                Message::Settled => self.settled(),
                Message::Reboot(reason) => {
                    #[cfg(feature = "fault-injection")]
                    crate::fault::obey(&reason);
                    self.begin_ending(End::Reboot, &reason);
                }
                Message::Rescue(reason) => self.begin_ending(End::Rescue, &reason),
                Message::PowerOff(reason) => self.begin_ending(End::PowerOff, &reason),
                Message::Reset { encryption, reason } => self.begin_reset(encryption, &reason),
                Message::Failed(reason) if self.ending.is_none() => {
                    return Err(fail(STAGE_UNITS, self.after_services_fail(), anyhow!(reason)));
                }
                Message::Failed(_) => {}
            }
        }
        Ok(())
    }

    /// This install works: its earlier failures no longer count. (On trial it may have been committed since it was started.)
    fn settled(&self) {
        let (Some(entry), Some(devices)) = (self.node.entry, &self.node.devices) else { return };
        let committed = Entry::committed(entry.seq);
        if entry == committed || leave::entries(devices).contains(&committed) {
            evidence::settle(entry.seq);
        }
    }

    /// The mark first: from then on every boot, also one after a cut, makes the reset.
    fn begin_reset(&mut self, wish: Wish, reason: &str) {
        let Some(devices) = &self.node.devices else { return };
        match disk::request_reset_at(&devices.disk, wish.or_as_it_is(devices.encryption)) {
            Ok(()) => self.begin_ending(End::Reboot, &format!("factory reset: {reason}")),
            Err(error) => say(&format!("no factory reset: {error:#}")),
        }
    }

    fn look_after_supervisor(&mut self) -> Result<(), StepFailed> {
        let now = now();
        if self.ending.is_some() || self.supervisor.watch.may_feed(now) {
            self.node.watchdog.feed();
        }
        if self.ending.is_some() {
            return Ok(());
        }
        if self.supervisor.watch.is_stuck(now) && self.supervisor.is_running() {
            say("supervisor is silent; killing it and its services");
            self.supervisor.kill();
        }
        if self.supervisor.watch.due(now) { self.start_supervisor() } else { Ok(()) }
    }

    fn begin_ending(&mut self, end: End, reason: &str) {
        if self.ending.is_none() {
            say(&format!("stopping services: {reason}"));
            self.supervisor.ask_to_stop();
            self.ending = Some((end, reason.to_owned(), now() + STOP_PATIENCE));
        }
    }

    fn go_on_ending(&mut self) {
        if let Some((end, reason, deadline)) = &self.ending
            && (!self.supervisor.is_running() || now() >= *deadline)
        {
            if self.supervisor.is_running() {
                say("services did not stop in time and are killed");
            }
            leave::end(self.node, *end, reason);
        }
    }
}

fn fail(stage: &'static str, on_failure: OnFailure, error: Error) -> StepFailed {
    StepFailed { stage, on_failure, error }
}
