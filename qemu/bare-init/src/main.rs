//! An init that only prints how long the kernel took to reach it, and powers off: the floor that the boot bench
//! measures Macula OS against.

use std::io::Write;

fn main() {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call. CLOCK_BOOTTIME starts with the kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    println!("\nbare-init-up {}.{:03} s", now.tv_sec, now.tv_nsec / 1_000_000);
    let _ = std::io::stdout().flush();
    // SAFETY: plain system calls; PID 1 may do this, anybody else gets EPERM.
    unsafe {
        libc::tcdrain(1);
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    loop {
        std::thread::park();
    }
}
