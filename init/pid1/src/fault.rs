//! Faults by order, for the boot tests: `maculactl reboot --reason "fault: hang"`, `panic` or `exit`.

use std::time::Duration;

use crate::console::say;

/// Does what the reason says, if it names a fault.
pub fn obey(reason: &str) {
    let Some(fault) = reason.strip_prefix("fault: ") else { return };
    say(&format!("fault by order: {fault}"));
    match fault {
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        "panic" => drop(std::fs::write("/proc/sysrq-trigger", "c")),
        "exit" => std::process::exit(1),
        _ => {}
    }
}
