//! The end of the machine's session. Nothing here returns.

use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};

/// Reboots at once; what is not synced is lost.
pub fn reboot_now() -> ! {
    end(RebootMode::RB_AUTOBOOT)
}

pub fn power_off_now() -> ! {
    end(RebootMode::RB_POWER_OFF)
}

/// Ctrl-Alt-Del becomes a signal to us instead of a reset.
pub fn take_ctrl_alt_del() {
    let _ = set_cad_enabled(false);
}

fn end(mode: RebootMode) -> ! {
    loop {
        let _ = reboot(mode);
        // It does not fail for process 1. Should it, the watchdog, no longer fed, is what is left.
        std::thread::sleep(Duration::from_secs(1));
    }
}
