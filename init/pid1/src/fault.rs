//! Faults by order, for the boot tests: `maculactl reboot --reason "fault: hang"`, `panic` or `exit`. And, where there is a second
//! radio, an access point on it, for those of Wi-Fi.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::console::say;

const SECOND_RADIO: &str = "/sys/class/net/wlan1/phy80211";
const ACCESS_POINT: [&str; 2] = ["/usr/sbin/hostapd", "/usr/lib/macula/access-point.conf"];

/// Starts the access point as soon as there is a radio for it.
pub fn play_access_point() {
    std::thread::spawn(|| {
        while !Path::new(SECOND_RADIO).exists() {
            std::thread::sleep(Duration::from_secs(1));
        }
        match Command::new(ACCESS_POINT[0]).arg(ACCESS_POINT[1]).spawn() {
            Ok(_) => say("an access point on wlan1"),
            Err(e) => say(&format!("no access point on wlan1: {e}")),
        }
    });
}

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
