//! `io.macula.Supervisor1` on `/run/macula/supervisor.sock`. Handlers only pass a command to the main loop, which owns
//! all state, and wait for its answer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use init_plan::reset::Wish;
use init_plan::unit::SUPERVISOR;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use os_durable::Form;
use services_api::bus::{failed, uid};
use services_api::report::{CheckReport, ProbeResult, UnitReport};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use zbus::fdo;

use crate::logs::Logs;
use crate::paths::Paths;
use crate::supervise::Event;

const PATH: &str = "/io/macula/Supervisor";
/// Root is always allowed.
const ALLOWED: [u32; 3] = [uid::UPDATE, uid::CONSOLE, uid::NETWORK];
/// In the state folder.
const CONFIG: &str = "config.toml";
const CONFIG_MAX: usize = 64 * 1024;
/// More lines than this are not sent at once.
const LINES_MAX: u32 = 5000;
const CHECK_TIMEOUT_S_MAX: u32 = 60;
/// Callers' connections give a method 60 s.
const LOG_WAIT_MAX: Duration = Duration::from_secs(25);
/// Lines that come together should travel together.
const LOG_GATHER: Duration = Duration::from_millis(100);
/// Further callers get their answer at once.
const LOG_WAITERS_MAX: usize = 32;

pub type Reply<T> = oneshot::Sender<Result<T>>;

pub enum Command {
    Units(Reply<Vec<UnitReport>>),
    Kill {
        unit: String,
        signal: i32,
        reply: Reply<()>,
    },
    Restart {
        unit: String,
        reply: Reply<()>,
    },
    Start {
        unit: String,
        reply: Reply<()>,
    },
    Probe {
        unit: String,
        reply: Reply<Vec<ProbeResult>>,
    },
    Check {
        exec: Vec<String>,
        timeout: Duration,
        reply: Reply<CheckReport>,
    },
    /// `word` is `reboot`, `rescue`, `poweroff` or `reset`.
    Power {
        word: &'static str,
        reason: String,
        reply: Reply<()>,
    },
}

/// Serves for ever.
pub async fn serve(paths: &Paths, events: mpsc::Sender<Event>, logs: Arc<Mutex<Logs>>) -> Result<()> {
    let path = paths.socket(SUPERVISOR);
    let _ = std::fs::remove_file(&path);
    let std = std::os::unix::net::UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    crate::launch::open_to_all(&path)?;
    std.set_nonblocking(true)?;
    let listener = UnixListener::from_std(std)?;
    let waiters = Arc::new(Semaphore::new(LOG_WAITERS_MAX));
    services_api::bus::serve(listener, &ALLOWED, |builder, uid| {
        let config = paths.state.join(CONFIG);
        let waiters = waiters.clone();
        builder
            .serve_at(PATH, Supervisor { config, events: events.clone(), logs: logs.clone(), waiters, uid })
    })
    .await
}

/// `network` may have a unit started, and nothing else.
fn may_look(client: u32) -> fdo::Result<()> {
    match client {
        uid::NETWORK => Err(fdo::Error::AccessDenied(format!("uid {client} may not see this"))),
        _ => Ok(()),
    }
}

/// The console only looks.
fn may_order(client: u32) -> fdo::Result<()> {
    services_api::bus::not_for_the_console(client)?;
    may_look(client)
}

/// For what only the owner may order: `update` speaks for it.
fn only_for_update(client: u32) -> fdo::Result<()> {
    match client {
        uid::ROOT | uid::UPDATE => Ok(()),
        _ => Err(fdo::Error::AccessDenied(format!("uid {client} may not order this"))),
    }
}

struct Supervisor {
    config: PathBuf,
    events: mpsc::Sender<Event>,
    logs: Arc<Mutex<Logs>>,
    /// Of all clients together.
    waiters: Arc<Semaphore>,
    /// The client's.
    uid: u32,
}

impl Supervisor {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> fdo::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Command(command(reply))).await.map_err(failed)?;
        let answer = tokio::time::timeout(Duration::from_secs(50), answer).await.map_err(failed)?;
        answer.unwrap_or_else(|_| Err(anyhow!("the supervisor is stopping"))).map_err(failed)
    }
}

#[zbus::interface(name = "io.macula.Supervisor1")]
impl Supervisor {
    async fn units(&self) -> fdo::Result<String> {
        may_look(self.uid)?;
        let units = self.ask(Command::Units).await?;
        serde_json::to_string(&units).map_err(failed)
    }

    async fn kill(&self, unit: String, signal: i32) -> fdo::Result<()> {
        may_order(self.uid)?;
        self.ask(|reply| Command::Kill { unit, signal, reply }).await
    }

    async fn restart(&self, unit: String) -> fdo::Result<()> {
        may_order(self.uid)?;
        self.ask(|reply| Command::Restart { unit, reply }).await
    }

    /// The one order of `network`: for the unit that joins Wi-Fi networks.
    async fn start(&self, unit: String) -> fdo::Result<()> {
        services_api::bus::not_for_the_console(self.uid)?;
        self.ask(|reply| Command::Start { unit, reply }).await
    }

    fn logs(&self, unit: &str, max_lines: u32) -> fdo::Result<String> {
        may_look(self.uid)?;
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = logs.last(unit, max_lines.min(LINES_MAX) as usize);
        serde_json::to_string(&lines).map_err(failed)
    }

    async fn logs_since(
        &self,
        unit: String,
        run: String,
        after: u64,
        max_lines: u32,
        wait_ms: u32,
    ) -> fdo::Result<String> {
        may_look(self.uid)?;
        let waiter = self.waiters.try_acquire();
        let wait = if waiter.is_ok() { Duration::from_millis(wait_ms.into()) } else { Duration::ZERO };
        let deadline = Instant::now() + wait.min(LOG_WAIT_MAX);
        let mut newest = self.logs.lock().unwrap_or_else(PoisonError::into_inner).newest();
        loop {
            let page = {
                let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
                logs.since(&unit, &run, after, max_lines.min(LINES_MAX) as usize)
            };
            let moved = !page.lines.is_empty() || page.run != run;
            if moved || !matches!(tokio::time::timeout_at(deadline, newest.changed()).await, Ok(Ok(()))) {
                return serde_json::to_string(&page).map_err(failed);
            }
            tokio::time::sleep(LOG_GATHER).await;
        }
    }

    async fn probe(&self, unit: String) -> fdo::Result<String> {
        may_order(self.uid)?;
        let results = self.ask(|reply| Command::Probe { unit, reply }).await?;
        serde_json::to_string(&results).map_err(failed)
    }

    async fn check(&self, exec: Vec<String>, timeout_s: u32) -> fdo::Result<String> {
        may_order(self.uid)?;
        let timeout = Duration::from_secs(timeout_s.clamp(1, CHECK_TIMEOUT_S_MAX).into());
        let report = self.ask(|reply| Command::Check { exec, timeout, reply }).await?;
        serde_json::to_string(&report).map_err(failed)
    }

    async fn reboot(&self, reason: String) -> fdo::Result<()> {
        may_order(self.uid)?;
        self.ask(|reply| Command::Power { word: "reboot", reason, reply }).await
    }

    async fn rescue(&self, reason: String) -> fdo::Result<()> {
        may_order(self.uid)?;
        self.ask(|reply| Command::Power { word: "rescue", reason, reply }).await
    }

    async fn poweroff(&self, reason: String) -> fdo::Result<()> {
        may_order(self.uid)?;
        self.ask(|reply| Command::Power { word: "poweroff", reason, reply }).await
    }

    async fn factory_reset(&self, encryption: String, reason: String) -> fdo::Result<()> {
        only_for_update(self.uid)?;
        let reason = match Wish::parse(&encryption) {
            Ok(_) => format!("{encryption} {reason}"),
            Err(error) => return Err(fdo::Error::InvalidArgs(error.to_string())),
        };
        self.ask(|reply| Command::Power { word: "reset", reason, reply }).await
    }

    /// `update` decides what time it is (`os_clock`), and could not set it.
    fn set_clock(&self, unix: u64) -> fdo::Result<()> {
        only_for_update(self.uid)?;
        if unix > os_clock::LATEST {
            return Err(fdo::Error::InvalidArgs(format!("{unix} is too late to be the time")));
        }
        let time = TimeSpec::new(unix as i64, 0);
        clock_settime(ClockId::CLOCK_REALTIME, time).context("cannot set the clock").map_err(failed)
    }

    /// Root's file in root's folder: `update` decides what it says, and could not write it.
    fn write_config(&self, text: String) -> fdo::Result<()> {
        only_for_update(self.uid)?;
        if text.len() > CONFIG_MAX {
            return Err(fdo::Error::InvalidArgs(format!("config.toml is at most {CONFIG_MAX} bytes")));
        }
        let written = Form::Text.mirror(&self.config, text.as_bytes()).map(drop);
        written.with_context(|| format!("cannot write {}", self.config.display())).map_err(failed)
    }
}
