//! The system's clock.

use std::io;

/// Sets it to so many seconds since 1970.
pub fn set(unix: u64) -> io::Result<()> {
    let tv_sec = unix.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let time = libc::timespec { tv_sec, tv_nsec: 0 };
    // SAFETY: the kernel reads a struct that outlives the call.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
