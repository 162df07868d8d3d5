//! What PID 1 found out about the time, for services that must not trust the system's clock alone.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use os_clock::BootClock;
use serde::Deserialize;

use crate::bus;

/// The part of `boot.json` that is read here.
#[derive(Deserialize)]
struct Boot {
    #[serde(default)]
    clock: BootClock,
}

/// As PID 1 says; nothing is certain where it says nothing (tests on a host).
pub fn at_boot() -> BootClock {
    at_boot_in(&bus::run_dir())
}

/// Seconds since 1970 that have certainly passed: the floor at boot and the life of this process.
pub fn certain_unix() -> u64 {
    static SINCE: OnceLock<(u64, Instant)> = OnceLock::new();
    let (floor, since) = SINCE.get_or_init(|| (at_boot().floor_unix, Instant::now()));
    floor + since.elapsed().as_secs()
}

fn at_boot_in(run_dir: &Path) -> BootClock {
    let text = std::fs::read(run_dir.join("boot.json")).unwrap_or_default();
    serde_json::from_slice::<Boot>(&text).map(|boot| boot.clock).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_says_what_is_certain() {
        let dir = std::env::temp_dir().join(format!("macula-boot-clock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(at_boot_in(&dir), BootClock::default());
        let of = |text: &str| {
            std::fs::write(dir.join("boot.json"), text).unwrap();
            at_boot_in(&dir)
        };
        assert_eq!(of(r#"{"seq":1}"#), BootClock::default(), "an older init says nothing");
        let clock = r#"{"seq":1,"clock":{"floor_unix":7,"lost":true}}"#;
        assert_eq!(of(clock), BootClock { floor_unix: 7, lost: true });
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
