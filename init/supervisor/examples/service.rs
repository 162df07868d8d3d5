//! The smallest service: says that it is ready and answers every connection with one line about itself,
//! `<pid> <highest open descriptor> <uid> <state directory>`.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

fn main() -> std::io::Result<()> {
    // SAFETY: the supervisor passed the listening socket as fd 3.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(3) });
    listener.set_nonblocking(false)?;
    // SAFETY: F_GETFD has no effect but its answer.
    let highest_fd =
        (0..1024).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).max().unwrap_or(-1);
    let state = std::env::var("STATE_DIRECTORY").unwrap_or_default();
    std::fs::write(format!("{state}/was-here"), "yes")?;
    eprintln!("<6>hello from {}", std::process::id());
    sd_notify::notify(&[sd_notify::NotifyState::Status("answering"), sd_notify::NotifyState::Ready])?;
    loop {
        let (mut client, _) = listener.accept()?;
        // SAFETY: plain system call.
        let uid = unsafe { libc::getuid() };
        writeln!(client, "{} {highest_fd} {uid} {state}", std::process::id())?;
    }
}
