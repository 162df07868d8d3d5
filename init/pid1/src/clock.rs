//! The clock's floor at boot: a machine without a battery, or with an empty one, must not believe that it is 1970, nor one
//! whose clock holds nonsense that it is 2090.
//!
//! `update` owns the file, so it is opened like a stranger's: no link is followed, nothing is waited for.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use init_plan::steps::STATE;
use os_clock::BootClock;

use crate::console::say;
use crate::sys::clock;

/// The file and its previous copy, should the newer one be torn.
const COPIES: [&str; 2] = ["", ".previous"];
const BYTES_MAX: u64 = 256;

/// What is certain about the time. A system's clock that cannot be right is set to the floor.
pub fn settle(built_unix: u64) -> BootClock {
    let saved = COPIES.map(|copy| read(&Path::new(STATE).join(format!("{}{copy}", os_clock::FILE))));
    let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let floor = os_clock::floor(&[built_unix, saved[0], saved[1]]);
    let judged = BootClock::judge(system, floor);
    if judged.lost {
        let off = if system < floor { "behind" } else { "ahead of" };
        match clock::set(floor) {
            Ok(()) => say(&format!("the clock was {} s {off} what is certain; set", system.abs_diff(floor))),
            Err(error) => say(&format!("the clock is {off} what is certain and cannot be set: {error}")),
        }
    }
    judged
}

fn read(path: &Path) -> u64 {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut bytes = Vec::new();
    let read = OpenOptions::new().read(true).custom_flags(flags).open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        file.take(BYTES_MAX).read_to_end(&mut bytes)
    });
    read.map_or(0, |_| os_clock::parse_saved(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_file_is_read() {
        let dir = std::env::temp_dir().join(format!("macula-clock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("clock");
        std::fs::write(&file, "0a1b\n1800000000").unwrap();
        assert_eq!(read(&file), 1_800_000_000);
        let (link, fifo) = (dir.join("link"), dir.join("fifo"));
        let _ = std::os::unix::fs::symlink(&file, &link);
        let _ = nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR);
        for bad in [link, fifo, dir.clone(), dir.join("none")] {
            assert_eq!(read(&bad), 0, "{}", bad.display());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
