//! The hardware watchdogs: armed as soon as their driver is there, fed while all is well, never disarmed. If init hangs or
//! dies they reset the machine.
//!
//! Before a power-off, too, they stay armed: what hangs on the way must not hang for ever. A machine that is off has stopped
//! its watchdog's clock (Intel's TCO runs in no sleep state; an emulated machine is gone); should a board wake from it, it
//! boots, which is the lesser evil.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use init_plan::supervision::{FEED_EVERY, WATCHDOG};
use nix::libc;

use crate::console::{now, say};

nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);
nix::ioctl_read!(wdioc_getbootstatus, b'W', 2, libc::c_int);

/// A chipset may have several, of which not each can reset the machine (a strap may forbid it), so all are armed.
const NODES: [&str; 4] = ["/dev/watchdog0", "/dev/watchdog1", "/dev/watchdog2", "/dev/watchdog3"];
/// `WDIOF_CARDRESET` of linux/watchdog.h.
const CARD_RESET: libc::c_int = 0x20;

#[derive(Default)]
pub struct Watchdog {
    armed: [Option<File>; NODES.len()],
    fed: Duration,
    /// Whether one of them says that it started this boot.
    pub has_reset: bool,
}

impl Watchdog {
    /// Opens and arms the watchdogs that are there and not armed yet.
    pub fn arm(&mut self) {
        for (armed, node) in self.armed.iter_mut().zip(NODES).filter(|(armed, _)| armed.is_none()) {
            let Ok(device) = OpenOptions::new().write(true).open(node) else { continue };
            self.has_reset |= has_reset(&device);
            let mut seconds = WATCHDOG.as_secs() as libc::c_int;
            // SAFETY: the ioctl reads and writes one int.
            match unsafe { wdioc_settimeout(device.as_raw_fd(), &mut seconds) } {
                Ok(_) => say(&format!("{node} armed, {seconds} s")),
                Err(error) => {
                    say(&format!("{node} armed with its own time-out (setting one failed: {error})"))
                }
            }
            *armed = Some(device);
            self.fed = Duration::ZERO;
        }
        self.feed();
    }

    pub fn is_armed(&self) -> bool {
        self.armed.iter().any(Option::is_some)
    }

    /// Feeds them if they have not been fed for a while. Call as often as you like, but only while all is well.
    pub fn feed(&mut self) {
        let now = now();
        if now.saturating_sub(self.fed) >= FEED_EVERY || self.fed == Duration::ZERO {
            self.armed.iter_mut().flatten().for_each(|device| drop(device.write_all(b".")));
            self.fed = now;
        }
    }
}

/// Not every driver knows.
fn has_reset(device: &File) -> bool {
    let mut status: libc::c_int = 0;
    // SAFETY: the ioctl writes one int.
    let answer = unsafe { wdioc_getbootstatus(device.as_raw_fd(), &mut status) };
    answer.is_ok() && status & CARD_RESET != 0
}
