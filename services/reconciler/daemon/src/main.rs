//! Keeps the node's operating system as its owner wants it: looks up the head of the configured channel, asks `update`
//! what is, lets [`reconciler_plan`] decide and passes the decision on. It makes no choice itself and writes nothing.
//!
//! After a crash the next round looks at everything anew.

mod actual;
mod channel;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dht_proto::record_types::{CHANNEL_HEAD, channel_key};
use os_config::{Channel, Config};
use os_content_id::Mcid;
use reconciler_plan::{Action, Desired, describe, plan};
use services_api::dht::DhtProxy;
use services_api::report::OsReport;
use services_api::update::UpdateProxy;
use services_api::{bus, daemon};
use tokio::sync::Notify;

use crate::actual::{Attempts, actual};
use crate::channel::{Head, newest};

/// Until something was found out, rounds follow each other this fast: a node has just started and meets its peers.
const FIRST_ROUNDS: Duration = Duration::from_secs(5);
/// For so long after our start.
const FIRST_ROUNDS_FOR: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let listener = bus::listen("reconciler")?;
    let shared = Arc::new(Shared::default());
    daemon::ready();
    let serve = bus::serve(listener, &[bus::uid::UPDATE], |builder, _| {
        builder.serve_at("/io/macula/Reconciler", Reconciler { shared: shared.clone() })
    });
    tokio::select! { ended = serve => ended, () = rounds(&shared) => Ok(()) }
}

#[derive(Default)]
struct Shared {
    /// The last round's result as text.
    plan: Mutex<String>,
    refresh: Notify,
}

impl Shared {
    fn plan(&self) -> String {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs a change once, however often it is found again.
    fn set_plan(&self, text: String, line: &str) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if *plan != text {
            tracing::info!("{line}");
            daemon::status(line);
            *plan = text;
        }
    }
}

async fn rounds(shared: &Shared) {
    let mut round = Round::new();
    let started = Instant::now();
    loop {
        match round.run(shared).await {
            Ok(()) => {}
            Err(error) => {
                let line = format!("cannot plan: {error:#}");
                shared.set_plan(format!("plan     {line}\n"), &line);
            }
        }
        let is_early = started.elapsed() < FIRST_ROUNDS_FOR && round.head.is_none();
        let pause = if is_early { FIRST_ROUNDS.min(round.interval) } else { round.interval };
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = shared.refresh.notified() => {}
        }
    }
}

/// What one round leaves to the next.
struct Round {
    dht: bus::Link,
    update: bus::Link,
    head: Option<Head>,
    attempts: Attempts,
    interval: Duration,
    /// Why records were refused, as last logged.
    refused: Vec<String>,
    lookup_failed: bool,
    /// Metadata that could not be followed, as last logged.
    unfollowed: Option<Mcid>,
}

impl Round {
    fn new() -> Self {
        Self {
            dht: bus::Link::new("dht"),
            update: bus::Link::new("update"),
            head: None,
            attempts: Attempts::default(),
            interval: Duration::from_secs(60),
            refused: Vec::new(),
            lookup_failed: false,
            unfollowed: None,
        }
    }

    /// Observes, plans, acts.
    async fn run(&mut self, shared: &Shared) -> Result<()> {
        let config = Config::load().context("configuration")?;
        self.interval = Duration::from_secs(config.update.interval_s.max(1).into());
        let report = self.report().await?;
        let desired = self.desired(config.update.channel.as_ref(), &report.board).await;
        let actual = actual(&report, &mut self.attempts, Instant::now()).context("report of `update`")?;
        let actions = plan(&desired, &actual);
        let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
        shared.set_plan(describe(&desired, &actual, &actions), &lines.join("; "));
        for action in actions {
            self.apply(action).await?;
        }
        Ok(())
    }

    async fn desired(&mut self, channel: Option<&Channel>, board: &str) -> Desired {
        let Some(channel) = channel else {
            self.head = None;
            return Desired { source: None, release: None };
        };
        let records = match self.records(channel).await {
            Ok(records) => {
                self.lookup_failed = false;
                records
            }
            Err(error) => {
                if !std::mem::replace(&mut self.lookup_failed, true) {
                    tracing::warn!("cannot look up channel `{}`: {error:#}", channel.name);
                }
                Vec::new()
            }
        };
        let (head, refused) = newest(self.head.take(), &records, channel, daemon::now_ms());
        if refused != self.refused {
            refused
                .iter()
                .for_each(|why| tracing::warn!("ignored a record of channel `{}`: {why}", channel.name));
            self.refused = refused;
        }
        self.head = head;
        Desired {
            source: Some(format!("channel `{}` of {}", channel.name, channel.publisher)),
            release: self.head.as_ref().and_then(|head| head.release(board)).cloned(),
        }
    }

    async fn records(&self, channel: &Channel) -> Result<Vec<Vec<u8>>> {
        let key = channel_key(&channel.publisher, &channel.name);
        let dht = DhtProxy::new(&self.dht.get().await?).await?;
        Ok(dht.get_records(CHANNEL_HEAD, key.as_bytes()).await?)
    }

    async fn report(&self) -> Result<OsReport> {
        let update = UpdateProxy::new(&self.update.get().await?).await?;
        let json = update.status().await.context("`update` does not tell its status")?;
        serde_json::from_str(&json).context("the status that `update` tells cannot be read")
    }

    async fn apply(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Install { metadata, version, .. } => {
                // Counted first: an attempt that ends without an answer is one too.
                self.attempts.count(metadata, Instant::now());
                let update = UpdateProxy::new(&self.update.get().await?).await?;
                let asked = update.install(&metadata.to_bytes(), false).await;
                asked.with_context(|| format!("`update` does not install {version}"))
            }
            Action::Follow { metadata } => {
                let update = UpdateProxy::new(&self.update.get().await?).await?;
                match update.follow(&metadata.to_bytes()).await {
                    Ok(()) => self.attempts.follow(metadata),
                    Err(error) if self.unfollowed != Some(metadata) => {
                        tracing::warn!("the signers' metadata ({metadata}) is not followed yet: {error}");
                        self.unfollowed = Some(metadata);
                    }
                    Err(_) => {}
                }
                Ok(())
            }
            Action::Wait { .. } | Action::Nothing { .. } => Ok(()),
        }
    }
}

/// Up to a quarter more or less, so that the nodes of a channel do not ask in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness there is no jitter, which harms nobody here.
    let _ = getrandom::fill(&mut byte);
    pause * 3 / 4 + pause / 2 * u32::from(byte[0]) / 255
}

struct Reconciler {
    shared: Arc<Shared>,
}

#[zbus::interface(name = "io.macula.Reconciler1")]
impl Reconciler {
    fn plan(&self) -> String {
        match self.shared.plan() {
            text if text.is_empty() => "plan     not made yet\n".into(),
            text => text,
        }
    }

    fn refresh(&self) {
        self.shared.refresh.notify_one();
    }
}
