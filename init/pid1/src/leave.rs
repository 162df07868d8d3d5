//! Ways out of a boot. Each writes down why, brings the disk to rest and ends in a reboot or a power-off.

use std::fs;
use std::path::Path;
use std::time::Duration;

use init_plan::failure::{OnFailure, Reaction, react, react_late};
use init_plan::steps::{CGROUP, Devices, STATE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use os_bootloader::esp;
use os_slots::{Entry, Evidence, RESCUE_ENTRY};

use crate::console::{now, say};
use crate::machine::StepFailed;
use crate::node::Node;
use crate::sys::power;
use crate::{evidence, firmware, last_boot};

/// How long killed processes get to disappear.
const REAP_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Reboot,
    Rescue,
    PowerOff,
}

/// The boot has failed: records it and goes where the rules say.
pub fn after_failure(node: &mut Node, failure: StepFailed) -> ! {
    let StepFailed { stage, on_failure, error } = failure;
    let reason = format!("{error:#}");
    say(&format!("FAILED at {stage}: {reason}"));
    record(node, stage, &reason);
    let reaction = choose(node, on_failure);
    follow(node, reaction)
}

/// The boot before this one has failed without a word to `/state`, as `failure` says, which is new. Does not return if this
/// boot would promise no more.
pub fn after_late_news(node: &mut Node, failure: &Evidence) {
    let (Some(entry), Some(devices)) = (node.entry, &node.devices) else { return };
    let reaction = react_late(failure, entry, &entries(devices), &evidence::read_all());
    if let Some(reaction) = reaction {
        say(&format!("{entry} keeps failing"));
        follow(node, reaction)
    }
}

fn follow(node: &mut Node, reaction: Reaction) -> ! {
    let pause = match reaction {
        Reaction::OtherSlot { entry, pause } => match firmware::set_one_shot(&entry) {
            Ok(()) => {
                say(&format!("leaving for the other slot: {entry}"));
                pause
            }
            Err(error) => {
                say(&format!("the boot loader cannot be told to start {entry}: {error:#}"));
                pause
            }
        },
        Reaction::Rescue { pause } => {
            say("no sound release to go to: leaving for the rescue system");
            point_at_rescue();
            pause
        }
        Reaction::Again { pause } => {
            say("no other release to go to; starting again");
            pause
        }
    };
    settle(node);
    say(&format!("rebooting in {} s", pause.as_secs()));
    wait(node, pause);
    power::reboot_now()
}

/// An orderly end; services have been stopped.
pub fn end(node: &mut Node, end: End, reason: &str) -> ! {
    settle(node);
    match end {
        End::Reboot => {
            say(&format!("rebooting: {reason}"));
            power::reboot_now()
        }
        End::Rescue => {
            say(&format!("rebooting into the rescue system: {reason}"));
            point_at_rescue();
            power::reboot_now()
        }
        End::PowerOff => {
            say(&format!("powering off: {reason}"));
            power::power_off_now()
        }
    }
}

fn point_at_rescue() {
    if let Err(error) = firmware::set_one_shot(RESCUE_ENTRY) {
        say(&format!("the boot loader cannot be told to start the rescue system: {error:#}"));
    }
}

fn record(node: &Node, stage: &str, reason: &str) {
    let (true, Some(entry)) = (node.state_is_mounted, node.entry) else {
        return say("the reason stays on the console: the state partition is not there to keep it");
    };
    match evidence::write(&node.boot_id, entry, stage, reason) {
        Ok(()) => say(&format!("evidence written to /state/boot for {entry}")),
        Err(error) => say(&format!("the evidence could not be written: {error:#}")),
    }
}

fn choose(node: &Node, on_failure: OnFailure) -> Reaction {
    let (Some(entry), Some(devices)) = (node.entry, &node.devices) else {
        return react(OnFailure::Reboot, Entry::committed(0), &[], &[]);
    };
    let known = if node.state_is_mounted { evidence::read_all() } else { Vec::new() };
    react(on_failure, entry, &entries(devices), &known)
}

/// What the ESP holds; nothing when it cannot be read.
pub fn entries(devices: &Devices) -> Vec<Entry> {
    esp::list_entries(Path::new(&devices.esp)).unwrap_or_else(|error| {
        say(&format!("the ESP's entries cannot be read: {error}"));
        Vec::new()
    })
}

/// Ends every other process and brings the state partition to rest.
fn settle(node: &mut Node) {
    last_boot::forget_running(node);
    let _ = fs::write(format!("{CGROUP}/cgroup.kill"), "1");
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let deadline = now() + REAP_PATIENCE;
    while now() < deadline && reap_one() {
        node.watchdog.feed();
    }
    nix::unistd::sync();
    if node.state_is_mounted && umount2(STATE, MntFlags::empty()).is_err() {
        let none: Option<&str> = None;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(error) = mount(none, STATE, none, flags, none) {
            say(&format!(
                "the state partition does not come to rest ({error}); its journal will be replayed"
            ));
        }
        nix::unistd::sync();
    }
    node.state_is_mounted = false;
}

/// Whether there may be more children to reap.
fn reap_one() -> bool {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => {
            std::thread::sleep(Duration::from_millis(20));
            true
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

fn wait(node: &mut Node, pause: Duration) {
    let deadline = now() + pause;
    while now() < deadline {
        node.watchdog.feed();
        std::thread::sleep(Duration::from_millis(200));
    }
}
