//! Lines for the person at the console. A thread of its own does the writing: a slow serial line must never hold the
//! supervisor up. Lines that do not fit the queue are dropped here; they are still in the logs.
//!
//! What is shown also goes to the kernel's log, whose tail is what PID 1 (or, after a panic, the RAM) keeps of a boot that
//! ends badly.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use crate::notify::one_line;

const KERNELS: &str = "/dev/console";
/// The kernel's consoles, the one behind `/dev/console` last.
const ACTIVE: &str = "/sys/class/tty/console/active";
const KERNEL_LOG: &str = "/dev/kmsg";
const QUEUE: usize = 256;
const LINE_MAX: usize = 240;
/// So many lines of one unit within `WINDOW`; the rest are in the logs only.
const BURST: u32 = 40;
const WINDOW: Duration = Duration::from_secs(10);

pub struct Console {
    queue: SyncSender<String>,
    /// By unit: start of the current window and lines in it.
    shown: BTreeMap<String, (Duration, u32)>,
}

impl Console {
    pub fn open(path: Option<PathBuf>) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel::<String>(QUEUE);
        std::thread::Builder::new().name("console".into()).stack_size(64 * 1024).spawn(move || {
            for line in lines {
                write_line(path.as_ref(), &line);
            }
        })?;
        Ok(Self { queue, shown: BTreeMap::new() })
    }

    pub fn line(&mut self, now: Duration, who: &str, text: &str) {
        let more = match self.count(now, who) {
            n if n < BURST => "",
            BURST => " [more lines follow in the logs]",
            _ => return,
        };
        let _ = self.queue.try_send(format!("{who}: {}{more}\n", one_line(text, LINE_MAX)));
    }

    /// How many lines of `who` were shown before this one in its window.
    fn count(&mut self, now: Duration, who: &str) -> u32 {
        let (start, count) = self.shown.entry(who.into()).or_insert((now, 0));
        if now.saturating_sub(*start) > WINDOW {
            (*start, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count - 1
    }
}

/// Opened for each line: the console may be hung up and come back.
fn write_line(path: Option<&PathBuf>, line: &str) {
    let Some(path) = path else {
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    };
    if let Ok(mut log) = OpenOptions::new().append(true).open(KERNEL_LOG) {
        // Information (6): the kernel itself shows it on no console.
        let _ = log.write_all(format!("<6>{line}").as_bytes());
    }
    for console in all(path) {
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        if let Ok(mut file) = OpenOptions::new().append(true).custom_flags(flags).open(console) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// The screen among the kernel's consoles, where `/dev/console` is something else.
pub fn screen(path: &Path) -> Option<PathBuf> {
    let all = all(path);
    let is_screen = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("tty").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let (last, before) = all.split_last()?;
    before.iter().find(is_screen).filter(|_| !is_screen(&last)).cloned()
}

/// `/dev/console` is only the last of the kernel's consoles, often a serial line; a person may be at the screen. Screens come
/// first: a stuck serial line must not keep the line from them.
fn all(path: &Path) -> Vec<PathBuf> {
    let (true, Ok(active)) = (path == Path::new(KERNELS), std::fs::read_to_string(ACTIVE)) else {
        return vec![path.into()];
    };
    active.split_whitespace().map(|name| Path::new("/dev").join(name)).collect()
}
