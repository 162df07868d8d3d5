//! The first stage: from the kernel's start to the root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use init_plan::cmdline::{CommandLine, Root};
use init_plan::disks::{Disk, FindError, find};
use init_plan::failure::{Booted, OnFailure};
use init_plan::guid::Guid;
use init_plan::provision;
use init_plan::reset::{is_fresh, requested};
use init_plan::steps;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::console::{now, say};
use crate::machine::{self, StepFailed};
use crate::node::Node;
use crate::uevents::{Received, Uevents};
use crate::{console, disk, encryption, firmware, reset, state, sys};

const MODULES_LIST: &str = "/etc/macula/modules.toml";
const MODULES_FOLDER: &str = "/lib/modules";
/// How long the boot disk may take to appear: USB disks need several seconds.
const DISK_PATIENCE: Duration = Duration::from_secs(20);
/// A look at all disks happens at least this often; not every bus announces everything.
const LOOK_EVERY_MS: u16 = 250;

pub fn run(node: &mut Node) -> Result<(), StepFailed> {
    machine::run(&steps::first(), node)?;
    console::open();
    console::take_standard_streams();
    sys::power::take_ctrl_alt_del();
    node.read_boot_id();
    say(&format!("Macula OS, kernel {}", kernel_release()));
    node.uevents = Uevents::open().map_err(|error| say(&format!("no kernel events: {error}"))).ok();
    node.command_line = Some(at("kernel", read_command_line())?);
    at("modules", node.drivers.adopt(Path::new(MODULES_LIST), Path::new(MODULES_FOLDER)))?;
    node.drivers.plug_first();
    node.watchdog.arm();
    node.drivers.plug_always();
    machine::run(&steps::firmware(), node)?;
    let disk = find_boot_disk(node)?;
    say(&format!("boot disk {} found, {} drivers loaded", disk.name, node.drivers.count()));
    announce(node, &disk);
    prepare_disk(node, &disk)?;
    open_root(node)
}

fn find_boot_disk(node: &mut Node) -> Result<Disk, StepFailed> {
    let developer = node.command_line.as_ref().and_then(|line| line.developer.as_ref());
    let (booted, esp) = at("firmware", firmware::booted(developer))?;
    node.entry = match booted {
        Booted::Slot(entry) => Some(entry),
        Booted::Rescue => None,
    };
    at("disk", wait_for_disk(node, esp))
}

fn prepare_disk(node: &mut Node, disk: &Disk) -> Result<(), StepFailed> {
    let disk = at("encryption", encrypt_if_asked(disk))?;
    let disk = &at("reset", reset_if_asked(node, disk))?;
    // A node that was just reset has no owner to forget.
    let asked = node.command_line.as_ref().is_some_and(|line| line.ask_recover) && !is_fresh(disk);
    node.forget_owner = asked && reset::is_recovery_confirmed(node);
    node.first_boot = at("partition-table", disk::renew_table(disk))?;
    let mut devices = at("disk", disk::devices(&disk.name))?;
    devices.encryption = at("state", encryption::of(&devices.state))?;
    node.devices = Some(devices);
    Ok(())
}

/// On a fresh disk, what the owner's `/macula.toml` says about encryption. It may say something else in the next boot, if this
/// one fails. Returns the disk as its table is now.
fn encrypt_if_asked(disk: &Disk) -> Result<Disk> {
    if !is_fresh(disk) {
        return Ok(disk.clone());
    }
    let devices = disk::devices(&disk.name)?;
    let wish = match state::provision_text(&devices.esp) {
        Ok(text) => provision::encryption(&text)?,
        Err(error) => {
            say(&format!("the ESP's files cannot be read: {error:#}"));
            None
        }
    };
    if requested(disk).unwrap_or_default() == wish {
        return Ok(disk.clone());
    }
    disk::request_encryption(disk, wish)
}

/// A reset that the table asks for, or the boot menu and then a person. Returns the disk as its table is now.
fn reset_if_asked(node: &mut Node, mut disk: Disk) -> Result<Disk> {
    let asked_in_menu = node.command_line.as_ref().is_some_and(|line| line.ask_reset);
    let is_fixed = requested(&disk) == Some(None);
    if asked_in_menu && !is_fixed && reset::is_confirmed(node) {
        // As it is encrypted now; but when that is what a reset under way cannot do, not at all.
        let wish = match requested(&disk) {
            Some(_) => None,
            None => encryption::of(&disk::devices(&disk.name)?.state)?,
        };
        disk = disk::request_reset(&disk, wish).context("cannot mark the disk for a reset")?;
    }
    if let Some(wish) = requested(&disk) {
        let devices = disk::devices(&disk.name)?;
        reset::remake(node, &devices.state, wish)?;
    }
    Ok(disk)
}

fn open_root(node: &mut Node) -> Result<(), StepFailed> {
    let (Some(devices), Some(line)) = (&node.devices, &node.command_line) else {
        return at("disk", Err(Error::msg("the boot disk is not known")));
    };
    let plan = match (node.entry, &line.root) {
        (Some(entry), Root::Slot(verity)) => steps::root(devices, entry.slot(), verity),
        (None, Root::Rescue) => steps::rescue(devices),
        (_, root) => {
            let other = if *root == Root::Rescue { "a slot's" } else { "the rescue system's" };
            return at("firmware", Err(anyhow!("the firmware names {other} entry, this is another image")));
        }
    };
    machine::run(&plan, node)
}

/// Inserts drivers and looks at disks until the right one is there. Two right ones are an error at once.
fn wait_for_disk(node: &mut Node, esp: Guid) -> Result<Disk> {
    let deadline = now() + DISK_PATIENCE;
    loop {
        node.drivers.coldplug();
        node.watchdog.arm();
        node.watchdog.feed();
        let disks = disk::scan();
        match find(&disks, esp) {
            Ok(disk) => return Ok(disk.clone()),
            Err(FindError::Absent { .. }) if now() < deadline => wait_for_events(node),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until something happens, and takes all that has happened: the caller looks at everything again.
fn wait_for_events(node: &Node) {
    let Some(uevents) = &node.uevents else {
        return std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS.into()));
    };
    let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(uevents), PollFlags::POLLIN)];
    let _ = poll(&mut ready, PollTimeout::from(LOOK_EVERY_MS));
    while !matches!(uevents.receive(), Received::Nothing) {}
}

fn announce(node: &Node, disk: &Disk) {
    if let (None, Some(line)) = (node.entry, &node.command_line) {
        say(&format!("rescue system {} for {} on disk {}", line.version, line.board, disk.name));
    }
    if let (Some(entry), Some(line)) = (node.entry, &node.command_line) {
        let trial =
            entry.tries.map_or(String::new(), |tries| format!(", on trial, {} tries left", tries.left));
        let slot = entry.slot();
        say(&format!(
            "slot {slot} ({entry}) version {} for {} on disk {}{trial}",
            line.version, line.board, disk.name
        ));
    }
}

fn read_command_line() -> Result<CommandLine> {
    let text = fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    Ok(CommandLine::parse(&text)?)
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or("unknown".into(), |text| text.trim().to_owned())
}

/// Failures before the root is known to be at fault: boot again, and let the boot loader count.
fn at<T>(stage: &'static str, outcome: Result<T>) -> Result<T, StepFailed> {
    outcome.map_err(|error| StepFailed { stage, on_failure: OnFailure::Reboot, error })
}
