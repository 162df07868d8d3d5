//! The rescue system follows the releases: once a release is committed and its boot has settled, its rescue UKI is fetched
//! and takes the place of the one on the ESP. Once per release, never by an older one, and never while an install runs.
//!
//! A boot without news writes nothing. What a cut leaves, by the moment: while fetching, a part that the next boot goes on
//! with; while writing, a file that the boot loader passes over; after the switch and before the record, a rescue system that the
//! next boot finds to be in place already. At every moment the old one or the new one starts.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use os_bootloader::{Bootloader, BootloaderError};
use os_content_id::{ChunkList, Mcid};
use os_release::{Artifact, Bundle, Release, Role, Version};
use os_slots::SETTLED_MS;
use services_api::report::UnitReport;

use crate::assemble::{Progress, Target};
use crate::chunk_sink::{CheckSink, ChunkSink};
use crate::install::manifest_of;
use crate::links::ContentSource;
use crate::records::RescueSystem;
use crate::space::{ROOM, Space};
use crate::updater::{Standing, Updater};
use crate::{seed, uki};

/// Largest rescue system, as the image's layout has it.
const BYTES_MAX: u64 = 128 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between tries to fetch it; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

/// This release's rescue system can never take its place.
#[derive(Debug)]
struct Unfit(String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

fn unfit(error: Error) -> Error {
    Unfit(format!("{error:#}")).into()
}

/// What the running release brings along.
#[derive(Clone)]
struct Wanted {
    release: Release,
    artifact: Artifact,
}

/// Runs until the rescue system is the running release's, or cannot or need not be.
pub async fn keep_up(updater: Arc<Updater>) {
    let Some(wanted) = wanted(&updater) else { return };
    until_settled(&updater).await;
    let mut pause = PAUSE_FIRST;
    while let Err(e) = renew(&updater, &wanted).await {
        if is_final(&e) {
            return give_up(&updater, &wanted, &e);
        }
        tracing::warn!("the rescue system of {} is not in place yet: {e:#}", wanted.release.version);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_final(e: &Error) -> bool {
    use BootloaderError::{NoSpace, TooLarge};
    e.is::<Unfit>() || matches!(e.downcast_ref(), Some(NoSpace { .. } | TooLarge { .. }))
}

fn give_up(updater: &Updater, wanted: &Wanted, e: &Error) {
    let text = format!("the rescue system of {} is not taken: {e:#}", wanted.release.version);
    updater.records.event("rescue-kept", text);
    let kept = RescueSystem { unfit: Some(wanted.artifact.mcid.to_string()), ..updater.records.rescue() };
    if let Err(e) = updater.records.set_rescue(&kept) {
        tracing::warn!("{e:#}");
    }
}

/// The rescue system of the release that runs committed, if it is news.
fn wanted(updater: &Updater) -> Option<Wanted> {
    let (boot, records) = (&updater.node.boot, &updater.records);
    let installed = records.installed(boot.slot, boot.seq)?;
    let bundle = Bundle::decode(&records.seed_files(boot.slot)?.release).ok()?;
    let statement = bundle.statements.iter().find(|s| Mcid::of_raw(s).to_string() == installed.release)?;
    let release = Release::decode(statement).ok()?;
    let artifact = release.artifact(Role::Rescue)?.clone();
    is_news(&records.rescue(), &release.version, &artifact.mcid).then_some(Wanted { release, artifact })
}

/// Not an older one: after a rollback the newer rescue system stays, which has proved itself as much.
fn is_news(known: &RescueSystem, version: &Version, mcid: &Mcid) -> bool {
    let present = known.version.as_deref().and_then(|text| Version::parse(text).ok());
    let is_unfit = known.unfit.as_ref() == Some(&mcid.to_string());
    !is_unfit && present.is_none_or(|present| version.cmp_precedence(&present).is_gt())
}

/// Until all required units have been ready for as long as PID 1 wants it, too.
async fn until_settled(updater: &Updater) {
    while !have_settled(&updater.links.units().await.unwrap_or_default()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn have_settled(units: &[UnitReport]) -> bool {
    let mut required = units.iter().filter(|u| u.required).peekable();
    required.peek().is_some() && required.all(|u| u.state == "ready" && u.since_s >= SETTLED_MS / 1000)
}

async fn renew(updater: &Arc<Updater>, wanted: &Wanted) -> Result<()> {
    let size = wanted.artifact.size;
    if size > BYTES_MAX {
        return Err(unfit(Error::msg(format!("it is {size} bytes, more than the {BYTES_MAX} allowed"))));
    }
    let (list, part) = fetch(updater, wanted).await?;
    let running = File::open(updater.records.uki(updater.node.boot.slot)).context("the kept UKI")?;
    uki::check_rescue(&part, &wanted.release, &running).map_err(unfit)?;
    let turn = turn(updater).await;
    let done = put_in_place(updater, &list, part).await;
    if done.is_ok() {
        record(updater, wanted, &list)?;
    }
    drop(turn);
    done?;
    // Neighbours need it, too.
    seed::offer_rescue(updater).await.unwrap_or_else(|e| tracing::info!("not offered: {e:#}"));
    Ok(())
}

/// Puts it together in a file, so that a cut costs no chunk and the ESP gets it in one go.
async fn fetch(updater: &Arc<Updater>, wanted: &Wanted) -> Result<(ChunkList, File)> {
    let (updater, artifact) = (updater.clone(), wanted.artifact.clone());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let source = ContentSource { links: &updater.links, runtime };
        let list = manifest_of(&source, &artifact)?;
        let [path, kept] = updater.records.rescue_files();
        let there = fs::metadata(&path).map_or(0, |part| part.len());
        let space = Space::of(&updater.node.state_dir)?;
        if space.free.saturating_add(there) < artifact.size.saturating_add(ROOM) {
            bail!("state has no room for it: {} MiB are free", space.free >> 20);
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if let Ok(mut kept) = File::open(kept) {
            let mut sink = ChunkSink::new(&list, &file);
            std::io::copy(&mut kept, &mut sink).and_then(|_| sink.finish())?;
        }
        Target { file: &file, list: &list }.assemble(None, &source, &mut Unseen)?;
        file.set_len(artifact.size)?;
        file.sync_all().context("flushing the rescue system")?;
        Ok((list, file))
    })
    .await?
}

/// Nobody waits for it.
struct Unseen;

impl Progress for Unseen {
    fn reused(&mut self, _: u64) {}
    fn fetched(&mut self, _: u64) {}
}

/// While it lasts no install begins.
struct Turn(Arc<Updater>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set_standing(Standing::Settled);
    }
}

async fn turn(updater: &Arc<Updater>) -> Turn {
    while !updater.begin_renewing() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Turn(updater.clone())
}

/// Stage, read back, switch; nothing when it is there already.
async fn put_in_place(updater: &Arc<Updater>, list: &ChunkList, mut part: File) -> Result<()> {
    let list = list.clone();
    let work = move |esp: &mut dyn Bootloader| {
        if is_in_place(esp, &list) {
            return Ok(Ok(()));
        }
        let size = list.manifest().size;
        let staged = part.seek(SeekFrom::Start(0)).map_err(Error::from).and_then(|_| {
            esp.stage_rescue(size, &mut part)?;
            let mut check = CheckSink::new(&list);
            esp.read_staged_rescue(&mut check).context("reading the rescue system back")?;
            check.finish().context("the rescue system on the ESP is not what was written")
        });
        match staged {
            Ok(()) => esp.switch_rescue().map(Ok),
            Err(e) => esp.remove_staged_rescue().map(|()| Err(e)),
        }
    };
    updater.esp(work).await?
}

fn is_in_place(esp: &mut dyn Bootloader, list: &ChunkList) -> bool {
    let mut check = CheckSink::new(list);
    esp.read_rescue(&mut check).is_ok() && check.finish().is_ok()
}

fn record(updater: &Updater, wanted: &Wanted, list: &ChunkList) -> Result<()> {
    let records = &updater.records;
    let [part, kept] = records.rescue_files();
    fs::rename(part, kept).context("keeping the rescue system")?;
    records.set_rescue_manifest(&list.encode())?;
    let version = wanted.release.version.to_string();
    records.event("rescue-renewed", format!("the rescue system is {version} now"));
    records.set_rescue(&RescueSystem { version: Some(version), unfit: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_rescue_system_is_news_and_an_unfit_one_but_once() {
        let (mcid, version) = (Mcid::of_raw(b"rescue"), |text: &str| Version::parse(text).unwrap());
        let known = |version: Option<&str>, unfit: Option<&Mcid>| RescueSystem {
            version: version.map(str::to_owned),
            unfit: unfit.map(Mcid::to_string),
        };
        assert!(is_news(&known(None, None), &version("0.1.0"), &mcid), "as flashed");
        assert!(is_news(&known(Some("0.1.9"), None), &version("0.2.0"), &mcid));
        assert!(is_news(&known(Some("0.1.9"), Some(&Mcid::of_raw(b"other"))), &version("0.2.0"), &mcid));
        for stays in [
            known(Some("0.2.0"), None),
            known(Some("0.3.0"), None),
            known(Some("0.1.9"), Some(&mcid)),
            known(None, Some(&mcid)),
        ] {
            assert!(!is_news(&stays, &version("0.2.0"), &mcid), "{stays:?}");
        }
    }
}
