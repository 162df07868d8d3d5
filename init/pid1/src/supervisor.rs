//! The supervisor's process and the line to it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use init_plan::steps::CGROUP;
use init_plan::supervision::{MESSAGE_BYTES_MAX, Message, Watch};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;

use crate::console::{now, say};

const BINARY: &str = "/usr/bin/supervisor";
/// Messages taken per round, so that a flood cannot keep init from its other work.
const MESSAGES_MAX: usize = 32;

#[derive(Default)]
pub struct Supervisor {
    pub watch: Watch,
    process: Option<Pid>,
    line: Option<OwnedFd>,
}

impl Supervisor {
    /// Starts it in its own cgroup, with one end of a new line.
    pub fn start(&mut self) -> Result<()> {
        self.watch.started(now());
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let procs = format!("{CGROUP}/supervisor/cgroup.procs");
        let cgroup =
            OpenOptions::new().write(true).open(&procs).with_context(|| format!("cannot open {procs}"))?;
        let line = theirs.as_raw_fd();
        let mut command = Command::new(BINARY);
        command.env_clear().env("PATH", "/usr/bin").env("MACULA_PID1_FD", line.to_string());
        command.current_dir("/").stdin(Stdio::null());
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(move || become_supervisor(cgroup.as_raw_fd(), line)) };
        let child = command.spawn().with_context(|| format!("cannot start {BINARY}"))?;
        // Reaped by its number like every other child.
        self.process = Some(Pid::from_raw(child.id() as i32));
        self.line = Some(ours);
        Ok(())
    }

    pub fn is_process(&self, pid: Pid) -> bool {
        self.process == Some(pid)
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Forgets the process, and kills whatever it has left behind.
    pub fn bury(&mut self) {
        (self.process, self.line) = (None, None);
        if let Err(error) = std::fs::write(format!("{CGROUP}/cgroup.kill"), "1") {
            say(&format!("services of the dead supervisor are not killed: {error}"));
        }
    }

    /// Kills it together with all services; its end arrives as a signal.
    pub fn kill(&self) {
        let _ = std::fs::write(format!("{CGROUP}/cgroup.kill"), "1");
    }

    pub fn ask_to_stop(&self) {
        if let Some(line) = &self.line {
            let _ = send(line.as_raw_fd(), b"stop", MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
        }
    }

    /// Messages that have come. A line that is closed or broken is dropped; the process's end follows or silence
    /// will tell.
    pub fn messages(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut datagram = [0; MESSAGE_BYTES_MAX + 1];
        while let Some(line) = &self.line
            && messages.len() < MESSAGES_MAX
        {
            match recv(line.as_raw_fd(), &mut datagram, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.line = None,
                Ok(length) => match Message::parse(&datagram[..length]) {
                    Ok(message) => messages.push(message),
                    Err(error) => say(&format!("supervisor: {error}")),
                },
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => break,
                Err(_) => self.line = None,
            }
        }
        messages
    }

    pub fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }
}

/// Between fork and exec.
fn become_supervisor(cgroup: i32, line: i32) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    // SAFETY: plain system calls on descriptors that are open in the child.
    unsafe {
        if libc::write(cgroup, c"0".as_ptr().cast(), 1) != 1 {
            return Err(io::Error::last_os_error());
        }
        libc::setsid();
        if libc::fcntl(line, libc::F_SETFD, FdFlag::empty().bits()) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
