//! Where lines go: into the rings, and to the console unless they are for debugging.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use init_plan::unit::SUPERVISOR;

use crate::console::Console;
use crate::logs::{ERROR, INFO, LINE_MAX, Logs};
use crate::notify::one_line;

pub struct Journal {
    pub logs: Arc<Mutex<Logs>>,
    console: Mutex<Console>,
}

impl Journal {
    pub fn open(console: Option<PathBuf>) -> std::io::Result<Arc<Self>> {
        let console = Mutex::new(Console::open(console)?);
        Ok(Arc::new(Self { logs: Arc::new(Mutex::new(Logs::begin(new_run()))), console }))
    }

    pub fn write(&self, unit: &str, priority: u8, text: &str) {
        let now = uptime();
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push(now.as_millis() as u64, unit, priority, text);
        if priority <= INFO {
            let who = if unit == SUPERVISOR { "macula" } else { unit };
            self.console.lock().unwrap_or_else(PoisonError::into_inner).line(now, who, text);
        }
    }

    /// The last lines of one unit.
    pub fn last(&self, unit: &str, lines: usize) -> Vec<String> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.last(unit, lines).into_iter().map(|line| line.text).collect()
    }

    pub fn say(&self, text: &str) {
        self.write(SUPERVISOR, INFO, &one_line(text, LINE_MAX));
    }

    pub fn complain(&self, text: &str) {
        self.write(SUPERVISOR, ERROR, &one_line(text, LINE_MAX));
    }
}

/// A name that no other run has.
fn new_run() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    uuid.map_or_else(|_| format!("{:?}-{}", uptime(), std::process::id()), |text| text.trim().to_owned())
}

/// Time since the kernel started, suspends included.
pub fn uptime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
