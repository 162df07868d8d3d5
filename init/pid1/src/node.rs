//! What init knows and holds: filled in as the boot goes on.

use std::fs;
use std::time::Duration;

use init_plan::cmdline::CommandLine;
use init_plan::last_boot::Running;
use init_plan::steps::Devices;
use os_clock::BootClock;
use os_slots::{Entry, Interrupted};

use crate::drivers::Drivers;
use crate::uevents::Uevents;
use crate::watchdog::Watchdog;

#[derive(Default)]
pub struct Node {
    pub watchdog: Watchdog,
    pub drivers: Drivers,
    /// Open from the start, so that no event of the root's first blocks is missed.
    pub uevents: Option<Uevents>,
    pub command_line: Option<CommandLine>,
    /// `None` in the rescue system, too.
    pub entry: Option<Entry>,
    pub devices: Option<Devices>,
    pub boot_id: String,
    pub first_boot: bool,
    /// Somebody at the machine has said that it is to forget its owner.
    pub forget_owner: bool,
    pub state_is_mounted: bool,
    /// PIN or passphrase of the state partition that was encrypted in this boot, until it is opened.
    pub secret: Option<String>,
    /// How the boot before this one ended, if it was without a word.
    pub interrupted: Option<Interrupted>,
    pub clock: BootClock,
    /// This boot's record on the state partition.
    pub running: Option<Running>,
    /// Until when, and when next, its log lines are renewed.
    pub tail_until: Duration,
    pub tail_next: Duration,
}

impl Node {
    pub fn new() -> Node {
        Node::default()
    }

    /// Once `/proc` is there.
    pub fn read_boot_id(&mut self) {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.boot_id = text.trim().to_owned();
    }
}
