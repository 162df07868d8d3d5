//! The line to PID 1: a `SOCK_SEQPACKET` socket whose number is in `MACULA_PID1_FD`. Datagrams are short text, `alive`,
//! `settled`, `reboot <reason>`, `rescue <reason>`, `poweroff <reason>`, `reset <encryption> <reason>` and `failed <reason>` upwards,
//! `stop` downwards.
//! Without it (on a host) the supervisor runs alone.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::unix::AsyncFd;

use crate::notify::one_line;

pub const FD_VARIABLE: &str = "MACULA_PID1_FD";
const DATAGRAM_MAX: usize = 512;

pub struct Pid1 {
    socket: AsyncFd<OwnedFd>,
}

impl Pid1 {
    /// Takes the socket from the environment; `None` when there is none.
    pub fn from_environment() -> Result<Option<Self>> {
        let Ok(text) = std::env::var(FD_VARIABLE) else { return Ok(None) };
        let number: RawFd =
            text.parse().ok().filter(|n| *n > 2).with_context(|| format!("{FD_VARIABLE}={text:?}"))?;
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            bail!("{FD_VARIABLE}={number}, but no such file descriptor is open");
        }
        // SAFETY: it is open, and PID 1 gave it to this process for this purpose alone.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // SAFETY: an `OwnedFd` names the same open file until it is dropped, which unregisters it first.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Some(Self { socket }))
    }

    pub fn alive(&self) -> io::Result<()> {
        self.send("alive")
    }

    /// All required units have been ready for long enough.
    pub fn settled(&self) -> io::Result<()> {
        self.send("settled")
    }

    /// `word` is `reboot`, `rescue`, `poweroff` or `reset`.
    pub fn power(&self, word: &str, reason: &str) -> io::Result<()> {
        self.send(&format!("{word} {}", one_line(reason, 200)))
    }

    /// This boot has failed.
    pub fn failed(&self, reason: &str) -> io::Result<()> {
        self.send(&format!("failed {}", one_line(reason, 400)))
    }

    fn send(&self, text: &str) -> io::Result<()> {
        send(self.socket.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// The next datagram; `None` when PID 1 has closed its end.
    pub async fn receive(&self) -> io::Result<Option<String>> {
        let mut buffer = [0u8; DATAGRAM_MAX];
        loop {
            let mut guard = self.socket.readable().await?;
            let got = guard.try_io(|s| Ok(recv(s.as_raw_fd(), &mut buffer, MsgFlags::empty())?));
            match got {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(n)) => return Ok(Some(one_line(&String::from_utf8_lossy(&buffer[..n]), DATAGRAM_MAX))),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => continue,
            }
        }
    }
}
