//! The hardware watchdog: armed as soon as its driver is there, fed to the end. If init hangs or dies it resets.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use init_plan::supervision::{FEED_EVERY, WATCHDOG};
use nix::libc;

use crate::console::{now, say};

nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);

const NODE: &str = "/dev/watchdog";

#[derive(Default)]
pub struct Watchdog {
    device: Option<File>,
    fed: Duration,
}

impl Watchdog {
    /// Opens and arms the watchdog if there is one and it is not armed yet.
    pub fn arm(&mut self) {
        if self.device.is_some() {
            return;
        }
        let Ok(device) = OpenOptions::new().write(true).open(NODE) else { return };
        let mut seconds = WATCHDOG.as_secs() as libc::c_int;
        // SAFETY: the ioctl reads and writes one int.
        match unsafe { wdioc_settimeout(device.as_raw_fd(), &mut seconds) } {
            Ok(_) => say(&format!("watchdog armed, {seconds} s")),
            Err(error) => say(&format!("watchdog armed with its own time-out (setting one failed: {error})")),
        }
        self.device = Some(device);
        self.feed();
    }

    pub fn is_armed(&self) -> bool {
        self.device.is_some()
    }

    /// Feeds it if it has not been fed for a while. Call as often as you like, but only while all is well.
    pub fn feed(&mut self) {
        let now = now();
        if let Some(device) = &mut self.device
            && (now.saturating_sub(self.fed) >= FEED_EVERY || self.fed == Duration::ZERO)
        {
            let _ = device.write_all(b".");
            self.fed = now;
        }
    }

    /// Before a power-off, so that it does not wake what should stay off. Before a reboot it stays armed.
    pub fn disarm(&mut self) {
        if let Some(mut device) = self.device.take() {
            let _ = device.write_all(b"V");
        }
    }
}
