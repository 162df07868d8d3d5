//! The service's state, and the three things that can be asked of it: status, install, rollback.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use os_bootloader::{Bootloader, DeviceFile, Uefi};
use os_content_id::Mcid;
use os_release::{Bundle, Release, ReleaseError};
use os_slots::{Entry, FailedRelease};
use services_api::bus;
use services_api::report::{FailedReport, FollowsReport, InstallReport, OsReport, TrialReport};
use tokio::sync::{OnceCell, watch};

use crate::assemble::Progress;
use crate::clock::Clock;
use crate::configuration;
use crate::health;
use crate::install::{Accepted, Install, Monitor};
use crate::links::{ContentSource, Links, reboot};
use crate::node::{Node, now_unix, uptime_ms};
use crate::records::Records;

/// How often an install asks who delivered what.
const ASK_FROM_EVERY: Duration = Duration::from_secs(1);
/// Between the end of an install and the reboot, so that whoever watches hears of it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What this boot is busy with; an install may begin only when settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// What booted is not judged yet.
    Starting,
    Settled,
    OnTrial,
    /// All boots of a release on trial ended without a word; it gets another round in a while.
    Pausing,
    /// Another slot was left; this one has to prove itself first.
    FellBack,
    Installing,
    /// The rescue system is being written.
    Renewing,
    Rebooting,
}

/// How the last install that was ordered in this boot ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// Installs that have ended in this boot.
    pub count: u64,
    pub error: Option<String>,
}

/// What the owner may decide about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// As a rollback, without the reboot.
    GiveUpRunning,
    MarkBad(Entry),
    /// Takes back a mark that was set in this boot.
    Restore(Entry),
}

pub struct Updater {
    pub node: Node,
    pub records: Records,
    pub links: Links,
    pub clock: Clock,
    standing: Mutex<Standing>,
    installing: Mutex<Option<InstallReport>>,
    finished: watch::Sender<Finished>,
    gate: Mutex<String>,
    space_complaint: Mutex<Option<String>>,
    node_id: OnceCell<String>,
    /// One at a time on the ESP.
    esp: Mutex<()>,
    /// One change of the configuration at a time.
    /// How often `macula-pair.txt` was written.
    pub pair_file: tokio::sync::Mutex<crate::pair_file::Budget>,
    pub config_turn: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Updater {
    pub fn new(mut node: Node, links: Links) -> Result<Self> {
        let records = Records::open(&node.state_dir)?;
        if node.boot.rescue.is_some() {
            node.version = lowest_in_rescue(&node, &records);
        }
        Ok(Self {
            clock: Clock::open(&node.state_dir, node.boot.clock),
            node,
            records,
            links,
            standing: Mutex::new(Standing::Starting),
            installing: Mutex::default(),
            finished: watch::Sender::default(),
            gate: Mutex::default(),
            space_complaint: Mutex::default(),
            node_id: OnceCell::new(),
            esp: Mutex::default(),
            pair_file: tokio::sync::Mutex::default(),
            config_turn: tokio::sync::Mutex::default(),
        })
    }

    pub fn set_standing(&self, standing: Standing) {
        *lock(&self.standing) = standing;
    }

    pub fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    pub fn installing(&self) -> Option<InstallReport> {
        lock(&self.installing).clone()
    }

    /// Changes each time an install ends.
    pub fn finished(&self) -> watch::Receiver<Finished> {
        self.finished.subscribe()
    }

    fn finish(&self, error: Option<&anyhow::Error>) {
        self.finished.send_modify(|f| {
            f.count += 1;
            f.error = error.map(|e| format!("{e:#}"));
        });
    }

    /// That the state partition is full, in words, while it is.
    pub fn space_complaint(&self) -> Option<String> {
        lock(&self.space_complaint).clone()
    }

    pub fn set_space_complaint(&self, complaint: Option<String>) {
        *lock(&self.space_complaint) = complaint;
    }

    pub fn set_gate(&self, text: impl Into<String>) {
        *lock(&self.gate) = text.into();
    }

    /// Works on the ESP, off the main loop.
    pub async fn esp<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Bootloader) -> os_bootloader::Result<T> + Send + 'static,
    {
        let updater = self.clone();
        tokio::task::spawn_blocking(move || {
            let _one = lock(&updater.esp);
            let mut esp = Uefi::open(DeviceFile::open(&updater.node.esp())?)?;
            Ok(work(&mut esp)?)
        })
        .await?
    }

    pub async fn entries(self: &Arc<Self>) -> Result<Vec<Entry>> {
        self.esp(|esp| esp.entries()).await
    }

    pub async fn status(self: &Arc<Self>) -> OsReport {
        let boot = &self.node.boot;
        let node = self.node_id.get_or_try_init(|| self.links.node_id()).await;
        let entries = self.entries().await.unwrap_or_else(|e| {
            tracing::warn!("the entries of the boot loader cannot be read: {e:#}");
            Vec::new()
        });
        let installed = self.records.installed(boot.slot, boot.seq);
        let release = installed.map(|i| i.release).unwrap_or_default();
        let trial = boot.trial && !matches!(self.standing(), Standing::Settled | Standing::Renewing);
        let config = self.node.config();
        let follows = |channel: &os_config::Channel| FollowsReport {
            channel: channel.name.clone(),
            publisher: channel.publisher.to_string(),
        };
        OsReport {
            node: node.cloned().unwrap_or_default(),
            name: self.node.config().name.clone(),
            board: boot.board.clone(),
            version: self.node.version.to_string(),
            slot: boot.slot.to_string(),
            seq: boot.seq,
            entries: entries.iter().map(Entry::to_string).collect(),
            uptime_s: uptime_ms() / 1000,
            boot_id: boot.boot_id.clone(),
            trial: trial.then(|| TrialReport {
                version: boot.version.clone(),
                release: release.clone(),
                slot: boot.slot.to_string(),
                tries_left: boot.tries_left.unwrap_or(0),
                gate: lock(&self.gate).clone(),
            }),
            installing: lock(&self.installing).clone(),
            events: self.records.events(),
            warnings: self.warnings(),
            failed_releases: self.records.failed().iter().map(failed_report).collect(),
            release,
            rescue: boot.rescue.clone().unwrap_or_default(),
            rescue_version: self.rescue_version(),
            secure_boot: boot.secure_boot.to_string(),
            encryption: boot.encryption.clone().unwrap_or_default(),
            temperature_c: health::temperature_c(Path::new(health::SYS)),
            disk_wear_percent: health::disk_wear_percent(Path::new(health::SYS), &boot.disk),
            follows: config.update.channel.as_ref().map(follows),
            release_keys: Some(config.update.release_keys.len() as u32),
        }
    }

    /// Of the rescue system on the ESP; empty when no release has renewed it.
    fn rescue_version(&self) -> String {
        match &self.node.boot.rescue {
            Some(_) => self.node.boot.version.clone(),
            None => self.records.rescue().version.unwrap_or_default(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let encryption = self.node.boot.encryption.as_deref();
        let complaint = configuration::encryption_complaint(&self.node.config(), encryption);
        self.space_complaint().into_iter().chain(self.clock.complaint()).chain(complaint).collect()
    }

    /// Fetches and checks a release and begins to install it. Returns when it is accepted or with why it is not.
    pub async fn install(self: &Arc<Self>, mcid: Mcid, again: bool) -> Result<()> {
        self.take_turn()?;
        let accepted = self.accept(mcid, again).await;
        match accepted {
            Ok(release) => {
                self.start(release);
                Ok(())
            }
            Err(e) => {
                *lock(&self.installing) = None;
                self.set_standing(Standing::Settled);
                self.records.event("refused", format!("{mcid}: {e:#}"));
                self.finish(Some(&e));
                // What is wrong with a release stays wrong. One that cannot be had now may be had later.
                if e.is::<ReleaseError>() {
                    self.records.clear_intent()?;
                }
                Err(e)
            }
        }
    }

    fn take_turn(&self) -> Result<()> {
        let mut standing = lock(&self.standing);
        match *standing {
            Standing::Settled => {
                *standing = Standing::Installing;
                Ok(())
            }
            Standing::Starting => bail!("this boot is not judged yet, try again in a moment"),
            Standing::OnTrial | Standing::Pausing => {
                bail!("a release is on trial; another can follow when it is committed or has failed")
            }
            Standing::FellBack => bail!("this slot is a fallback that has to prove itself first"),
            Standing::Installing => bail!("another install runs"),
            Standing::Renewing => bail!("the rescue system is being renewed, try again in a moment"),
            Standing::Rebooting => bail!("the node is about to reboot"),
        }
    }

    /// Keeps installs out, if none runs and nothing else does. Ends with [`Standing::Settled`].
    pub(crate) fn begin_renewing(&self) -> bool {
        let mut standing = lock(&self.standing);
        let is_free = *standing == Standing::Settled;
        if is_free {
            *standing = Standing::Renewing;
        }
        is_free
    }

    pub(crate) fn show_phase(&self, mcid: &Mcid, phase: &str) {
        let mut installing = lock(&self.installing);
        let report = installing.get_or_insert_with(InstallReport::default);
        (report.release, report.phase) = (mcid.to_string(), phase.into());
    }

    fn start(self: &Arc<Self>, release: Accepted) {
        let (updater, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let name = release.named.release.version.to_string();
        if let Some(report) = lock(&self.installing).as_mut() {
            (report.version, report.release) = (name.clone(), release.named.mcid.to_string());
        }
        let work = move || {
            let result = updater.run_install(&release, &runtime);
            runtime.block_on(updater.installed(&name, result));
        };
        if let Err(e) = std::thread::Builder::new().name("install".into()).spawn(work) {
            self.give_up(&anyhow!(e).context("cannot start the install"));
        }
    }

    fn run_install(&self, accepted: &Accepted, runtime: &tokio::runtime::Handle) -> Result<Entry> {
        let source = ContentSource { links: &self.links, runtime: runtime.clone() };
        let peers = || runtime.block_on(self.connected_peers());
        let contents: Vec<_> = accepted.named.release.artifacts.iter().map(|a| a.mcid).collect();
        let mut monitor =
            Shown { updater: self, source: &source, contents: contents.clone(), asked: Instant::now() };
        let install =
            Install { node: &self.node, records: &self.records, accepted, source: &source, peers: &peers };
        let result = install.run(&mut monitor);
        for (provider, why) in source.dropped(&contents) {
            self.records.event("provider-dropped", format!("{provider}: {why}"));
        }
        result
    }

    /// Without the owner: a person who watches the update now need not be there when the gate looks for peers.
    pub(crate) async fn connected_peers(&self) -> Vec<String> {
        let peers = self.links.peers().await.unwrap_or_else(|e| {
            tracing::warn!("mesh does not say who its peers are: {e:#}");
            Vec::new()
        });
        let owner = self.node.config().owner.map(|o| o.to_string());
        let nodes = peers.into_iter().filter(|p| p.connected).map(|p| p.node);
        nodes.filter(|n| Some(n) != owner.as_ref()).take(16).collect()
    }

    async fn installed(self: &Arc<Self>, version: &str, result: Result<Entry>) {
        match result {
            Ok(entry) => {
                self.set_standing(Standing::Rebooting);
                self.show("reboot");
                let sum = lock(&self.installing).as_ref().map(summary).unwrap_or_default();
                self.records
                    .event("installed", format!("{version} in slot {} as {entry}: {sum}", entry.slot()));
                self.finish(None);
                tokio::time::sleep(FAREWELL).await;
                if let Err(e) = reboot(&self.links, &format!("trial of {version}")).await {
                    tracing::error!("{e:#}");
                }
            }
            Err(e) => self.give_up(&e.context(format!("install of {version}"))),
        }
    }

    fn give_up(&self, error: &anyhow::Error) {
        self.records.event("install-failed", format!("{error:#}"));
        if let Err(e) = self.records.clear_intent() {
            tracing::warn!("{e:#}");
        }
        *lock(&self.installing) = None;
        self.set_standing(Standing::Settled);
        self.finish(Some(error));
    }

    fn show(&self, phase: &str) {
        if let Some(report) = lock(&self.installing).as_mut() {
            report.phase = phase.into();
        }
    }

    /// Leaves the running release for the other slot's committed one.
    pub async fn rollback(self: &Arc<Self>) -> Result<()> {
        if matches!(self.standing(), Standing::Installing | Standing::Renewing | Standing::Rebooting) {
            bail!("an install is running or about to reboot, or the rescue system is being renewed");
        }
        self.give_up_running().await?;
        self.set_standing(Standing::Rebooting);
        reboot(&self.links, "rollback by order").await
    }

    /// Makes the other slot's committed release the one that boots next. What is left is remembered as failed, so that a
    /// channel does not bring it back by itself.
    async fn give_up_running(self: &Arc<Self>) -> Result<()> {
        let boot = &self.node.boot;
        let entries = self.entries().await?;
        let other = entries.iter().find(|e| e.slot() != boot.slot && e.is_committed());
        let other = *other.context("the other slot holds no committed release to go back to")?;
        let running = entries.iter().copied().find(|e| e.seq == boot.seq);
        let running = running.context("the running entry is not on the ESP")?;
        self.condemn(running, "rolled back by the owner").await?;
        self.records.event("rolled-back", format!("{} by order, to {other}", boot.version));
        Ok(())
    }

    /// Remembers what an entry holds as failed, then marks the entry bad.
    pub(crate) async fn condemn(self: &Arc<Self>, entry: Entry, reason: &str) -> Result<()> {
        if let Some(installed) = self.records.installed(entry.slot(), entry.seq) {
            self.records.record_failure(FailedRelease {
                mcid: installed.release,
                version: installed.version,
                seq: entry.seq,
                reason: reason.into(),
                log_tail: Vec::new(),
                at_unix: now_unix(),
            })?;
        }
        self.esp(move |esp| esp.mark_bad(entry)).await.map(drop)
    }

    /// What the owner decided about a slot, without a reboot. Not while anything else is going on.
    pub async fn mark(self: &Arc<Self>, change: Change) -> Result<()> {
        self.take_turn()?;
        let done = match change {
            Change::GiveUpRunning => self.give_up_running().await,
            Change::MarkBad(entry) => self.condemn(entry, "marked bad by the owner").await,
            Change::Restore(entry) => self.esp(move |esp| esp.commit(entry)).await.map(drop),
        };
        self.set_standing(Standing::Settled);
        done
    }

    /// The newest release for this board in a metadata bundle, to be looked at: nothing is verified.
    pub async fn look_at(&self, mcid: &Mcid) -> Result<Release> {
        let content = self.links.content().await?;
        let bytes = content.get(&mcid.to_bytes()).await.context("the release cannot be fetched")?;
        let statements = Bundle::decode(&bytes)?.statements;
        let releases = statements.iter().filter_map(|bytes| Release::decode(bytes).ok());
        let own = releases.filter(|r| r.board == self.node.boot.board);
        own.max_by(|a, b| a.version.cmp(&b.version)).context("no release in it is for this board")
    }
}

/// What rescue must not go below: the release that was committed last (the rescue system may be newer, after a rollback) or,
/// if that is not known, what the rescue system came with.
fn lowest_in_rescue(node: &Node, records: &Records) -> os_release::Version {
    let committed = records.version_in(node.boot.slot, node.boot.seq);
    committed.and_then(|version| version.parse().ok()).unwrap_or_else(|| node.version.clone())
}

fn failed_report(f: &FailedRelease) -> FailedReport {
    FailedReport {
        release: f.mcid.clone(),
        version: f.version.clone(),
        reason: f.reason.clone(),
        log_tail: f.log_tail.clone(),
        at_unix: f.at_unix,
    }
}

/// Keeps the [`InstallReport`] up to date.
struct Shown<'a> {
    updater: &'a Updater,
    source: &'a ContentSource<'a>,
    /// What is being fetched.
    contents: Vec<Mcid>,
    asked: Instant,
}

impl Shown<'_> {
    fn edit(&self, change: impl FnOnce(&mut InstallReport)) {
        if let Some(report) = lock(&self.updater.installing).as_mut() {
            change(report);
        }
    }

    /// Asks the content service who delivered how much.
    fn refresh_from(&mut self) {
        let mut from: Vec<(String, u64)> = Vec::new();
        for mcid in &self.contents {
            let transfers = self.source.transfers(mcid).unwrap_or_default();
            for (who, bytes) in transfers.into_iter().flat_map(|t| t.from) {
                match from.iter_mut().find(|(known, _)| *known == who) {
                    Some((_, sum)) => *sum += bytes,
                    None => from.push((who, bytes)),
                }
            }
        }
        self.asked = Instant::now();
        self.edit(|r| r.from = from);
    }
}

impl Progress for Shown<'_> {
    fn reused(&mut self, bytes: u64) {
        self.edit(|r| {
            r.bytes_done += bytes;
            r.bytes_reused += bytes;
        });
    }

    fn fetched(&mut self, bytes: u64) {
        self.edit(|r| r.bytes_done += bytes);
        if self.asked.elapsed() >= ASK_FROM_EVERY {
            self.refresh_from();
        }
    }
}

impl Monitor for Shown<'_> {
    fn phase(&mut self, phase: &str, bytes_total: u64) {
        self.refresh_from();
        self.edit(|r| {
            r.phase = phase.into();
            r.bytes_total = bytes_total;
        });
    }
}

fn summary(report: &InstallReport) -> String {
    let from: Vec<String> = report.from.iter().map(|(who, bytes)| format!(", {bytes} from {who}")).collect();
    format!("{} bytes, {} of them found here{}", report.bytes_total, report.bytes_reused, from.concat())
}

/// `io.macula.Update1`.
pub struct Server {
    pub updater: Arc<Updater>,
    /// The client's.
    pub uid: u32,
}

#[zbus::interface(name = "io.macula.Update1")]
impl Server {
    async fn status(&self) -> zbus::fdo::Result<String> {
        serde_json::to_string(&self.updater.status().await).map_err(bus::failed)
    }

    fn config(&self) -> zbus::fdo::Result<String> {
        configuration::show(&self.updater, None).map_err(bus::failed)
    }

    async fn install(&self, release: Vec<u8>, again: bool) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        self.updater.install(bus::mcid(&release)?, again).await.map_err(bus::failed)
    }

    async fn follow(&self, metadata: Vec<u8>) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        self.updater.follow(bus::mcid(&metadata)?).await.map_err(bus::failed)
    }

    async fn rollback(&self) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        self.updater.rollback().await.map_err(bus::failed)
    }
}

/// What `mesh` may do here: no more than this, since it is the one that strangers talk to.
pub struct AccessServer {
    pub updater: Arc<Updater>,
}

#[zbus::interface(name = "io.macula.Audit1")]
impl AccessServer {
    fn note_access(&self, verdict: String, text: String) -> zbus::fdo::Result<()> {
        let kind = match verdict.as_str() {
            "granted" => "access-granted",
            "refused" => "access-refused",
            _ => return Err(zbus::fdo::Error::InvalidArgs(format!("`{verdict}` is no verdict"))),
        };
        self.updater.records.audit_only(kind, &text).map_err(bus::failed)
    }
}
