//! `init`: the only process that lives from the kernel's first to its last moment.
//!
//! Started from the initramfs it finds the disk that the firmware booted from, opens the slot's root through
//! dm-verity, mounts the state partition, changes root and stays: it reaps, feeds the hardware watchdog, loads
//! drivers for new devices and keeps the supervisor running. It never executes a new image of itself, so a corrupt
//! root cannot take PID 1 with it, and it never reads anything that came over a network.
//!
//! Whatever fails ends in a reboot, into the other slot when this one is unusable. A crash of this program leaves
//! what a power cut would: each write to the disk is ordered for that.

mod console;
mod disk;
mod drivers;
mod evidence;
mod firmware;
mod initramfs;
mod leave;
mod machine;
mod node;
mod reset;
mod state;
mod supervisor;
mod switch_root;
mod sys;
mod system;
mod uevents;
mod verity;
mod watchdog;

use std::convert::Infallible;
use std::time::Duration;

use node::Node;

fn main() {
    if std::process::id() != 1 {
        eprintln!("init must be started by the kernel, as process 1");
        std::process::exit(1);
    }
    std::panic::set_hook(Box::new(|panic| {
        console::say(&format!("PANIC in init: {panic}; rebooting in 5 s"));
        std::thread::sleep(Duration::from_secs(5));
        sys::power::reboot_now();
    }));
    let mut node = Node::new();
    let Err(failure) = run(&mut node);
    leave::after_failure(&mut node, failure)
}

fn run(node: &mut Node) -> Result<Infallible, machine::StepFailed> {
    initramfs::run(node)?;
    system::run(node)
}
