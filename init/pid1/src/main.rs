//! `init`: the only process that lives from the kernel's first to its last moment.
//!
//! Started from the initramfs it finds the disk that the firmware booted from, opens the slot's root through
//! dm-verity, mounts the state partition, changes root and stays: it reaps, feeds the hardware watchdog, loads
//! drivers for new devices and keeps the supervisor running. It never executes a new image of itself, so a corrupt
//! root cannot take PID 1 with it, and it never reads anything that came over a network.
//!
//! Whatever fails ends in a reboot, into the other slot when this one is unusable. A crash of this program leaves
//! what a power cut would (each write to the disk is ordered for that) and a panic of the kernel, whose last words the next
//! boot finds.

mod clock;
mod console;
mod disk;
mod drivers;
mod encryption;
mod evidence;
#[cfg(feature = "fault-injection")]
mod fault;
mod firmware;
mod initramfs;
mod last_boot;
mod leave;
mod machine;
mod node;
mod reset;
mod state;
mod supervisor;
mod switch_root;
mod sys;
mod system;
mod tool;
mod uevents;
mod verity;
mod watchdog;

use std::convert::Infallible;

use node::Node;

fn main() {
    if std::process::id() != 1 {
        eprintln!("init must be started by the kernel, as process 1");
        std::process::exit(1);
    }
    std::panic::set_hook(Box::new(|panic| {
        // The end of process 1 is the kernel's panic: it keeps its log for the next boot, waits and reboots (panic=).
        console::say(&format!("PANIC in init: {panic}"));
        std::process::exit(101);
    }));
    let mut node = Node::new();
    let Err(failure) = run(&mut node);
    leave::after_failure(&mut node, failure)
}

fn run(node: &mut Node) -> Result<Infallible, machine::StepFailed> {
    initramfs::run(node)?;
    system::run(node)
}
