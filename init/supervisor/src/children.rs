//! A started service as its supervisor holds it, and the tasks that watch it: its end, its lines, its notifications.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use services_api::report::{CheckReport, ProbeResult};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cgroup::Cgroups;
use crate::journal::Journal;
use crate::launch::{CHECK_UNIT, Launched};
use crate::logs::{LineSplitter, parse_line};
use crate::notify;
use crate::supervise::Event;

const PROBE_OUTPUT_MAX: u64 = 256 * 1024;
const CHECK_OUTPUT_MAX: u64 = 64 * 1024;
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// A service that runs.
pub struct Running {
    /// Numbers the starts of all units: what an earlier one has left in a queue is not about this one.
    pub start: u64,
    pub pid: u32,
    /// Signals go here: unlike a pid it never names another process.
    pidfd: Option<OwnedFd>,
    notify_task: JoinHandle<()>,
}

impl Running {
    /// Sets the watching tasks to work.
    pub fn watch(
        unit: &str,
        start: u64,
        launched: Launched,
        cgroups: Option<Cgroups>,
        journal: &Arc<Journal>,
        events: &mpsc::Sender<Event>,
    ) -> Self {
        let Launched { mut child, notify } = launched;
        let pid = child.id().unwrap_or(0);
        if let Some(out) = child.stdout.take() {
            tokio::spawn(collect_lines(unit.to_owned(), out, journal.clone()));
        }
        if let Some(err) = child.stderr.take() {
            tokio::spawn(collect_lines(unit.to_owned(), err, journal.clone()));
        }
        let notify_task = tokio::spawn(collect_notifications(unit.to_owned(), start, notify, events.clone()));
        let pidfd = open_pidfd(pid);
        tokio::spawn(wait_for(unit.to_owned(), start, child, cgroups, events.clone()));
        Self { start, pid, pidfd, notify_task }
    }

    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        let sent = match &self.pidfd {
            // SAFETY: plain system call on an open pidfd, without a pointer.
            Some(fd) => unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, 0, 0) },
            // SAFETY: plain system call.
            None => unsafe { libc::kill(self.pid as i32, signal) }.into(),
        };
        if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.notify_task.abort();
    }
}

fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    // SAFETY: plain system call; on success the number is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid as i32, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

async fn collect_lines(unit: String, mut from: impl AsyncRead + Unpin, journal: Arc<Journal>) {
    let mut splitter = LineSplitter::default();
    let mut buffer = [0u8; 4096];
    let keep = |line: &[u8]| {
        let (priority, text) = parse_line(line);
        if !text.is_empty() {
            journal.write(&unit, priority, &text);
        }
    };
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        splitter.feed(&buffer[..n], keep);
    }
    splitter.finish(keep);
}

async fn collect_notifications(
    unit: String,
    start: u64,
    socket: std::os::unix::net::UnixDatagram,
    events: mpsc::Sender<Event>,
) {
    let Ok(socket) = tokio::net::UnixDatagram::from_std(socket) else { return };
    let mut buffer = [0u8; notify::DATAGRAM_MAX];
    while let Ok(n) = socket.recv(&mut buffer).await {
        let notification = notify::parse(&buffer[..n]);
        if events.send(Event::Notified { unit: unit.clone(), start, notification }).await.is_err() {
            return;
        }
    }
}

async fn wait_for(
    unit: String,
    start: u64,
    mut child: Child,
    cgroups: Option<Cgroups>,
    events: mpsc::Sender<Event>,
) {
    let oom_kills = || cgroups.as_ref().map_or(0, |c| c.oom_kills(&unit));
    let oom_before = oom_kills();
    let mut how = child.wait().await.map_or_else(|e| format!("was lost: {e}"), describe_exit);
    if oom_kills() > oom_before {
        how += " (out of memory: limits.memory_max)";
    }
    let _ = events.send(Event::Exited { unit, start, how }).await;
}

fn describe_exit(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("a signal", |s| s.as_str());
            format!("killed by {name} ({signal})")
        }
        (None, Some(crate::stage::SANDBOX_FAILED)) => "exited: its sandbox could not be set up".into(),
        (None, code) => format!("exited with code {}", code.unwrap_or(-1)),
    }
}

/// What the probe wrote, once it has ended.
pub async fn read_probe(mut child: Child) -> Result<Vec<ProbeResult>> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        if let Some(pipe) = stdout {
            pipe.take(PROBE_OUTPUT_MAX).read_to_end(&mut out).await?;
        }
        if let Some(pipe) = stderr {
            pipe.take(PROBE_OUTPUT_MAX).read_to_end(&mut err).await?;
        }
        child.wait().await
    };
    let status = match tokio::time::timeout(PROBE_TIMEOUT, reading).await {
        Ok(status) => status?,
        Err(_) => {
            let _ = child.start_kill();
            bail!("the probe did not end within {} s", PROBE_TIMEOUT.as_secs());
        }
    };
    if !status.success() {
        bail!(
            "the probe {}: {}",
            describe_exit(status),
            notify::one_line(&String::from_utf8_lossy(&err), 500)
        );
    }
    serde_json::from_slice(&out).context("the probe's answer is not JSON")
}

/// How a check ends. Its last line is the reason, if it does not pass. Nothing of it is left.
pub async fn read_check(mut child: Child, timeout: Duration, cgroups: Option<Cgroups>) -> CheckReport {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading =
        async { tokio::join!(keep_start(stdout, &mut out), keep_start(stderr, &mut err), child.wait()).2 };
    let ended = tokio::time::timeout(timeout, reading).await;
    let _ = child.start_kill();
    if let Some(cgroups) = cgroups {
        let _ = cgroups.kill(CHECK_UNIT);
    }
    let how = match ended {
        Ok(Ok(status)) if status.success() => return CheckReport { passed: true, ..Default::default() },
        Ok(Ok(status)) => describe_exit(status),
        Ok(Err(e)) => format!("was lost: {e}"),
        Err(_) => format!("did not end within {} s", timeout.as_secs()),
    };
    let last = [err, out].iter().find_map(|text| last_line(text));
    CheckReport { passed: false, reason: last.map_or(how.clone(), |line| format!("{how}: {line}")) }
}

/// Keeps the first part of what comes and lets the rest go by, so that a talkative check does not hang on a full pipe.
async fn keep_start(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let _ = (&mut pipe).take(CHECK_OUTPUT_MAX).read_to_end(into).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
}

fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(notify::one_line(line.trim(), 200))
}
