//! What a disk leads to, read as firmware, boot loader, init and the update service read it, one after the other, with the
//! code that they use themselves where it is ours.
//!
//! The model stops at the first thing that would stop a node, and says what was found. It knows nothing about cuts.

mod boot;
mod state;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use os_slots::{BootInfo, BootVerdict, after_boot};
use qemu_lab::{ReleaseFiles, Releases};
use serde::Serialize;

use crate::disk::{Disk, REGIONS};
pub use boot::Booted;
pub use state::{CONFIG, Checked, Key, State};

/// A release that may be on the disk.
pub(crate) struct Known {
    pub version: String,
    pub uki: os_content_id::Hash,
    pub uki_bytes: u64,
    pub root: Vec<u8>,
}

/// What the model knows besides the disk.
pub struct Model {
    known: Vec<Known>,
    /// The boot loader and its configuration, which nothing ever writes.
    loader: boot::Loader,
    /// Where the base disk holds data, so that partitions are copied without reading holes.
    base_data: Vec<std::ops::Range<u64>>,
    e2fsck: PathBuf,
    /// By the fingerprints of everything.
    judged: Mutex<HashMap<[u128; REGIONS.len()], Judgement>>,
    states: Mutex<HashMap<(u128, u64), State>>,
    boots: Mutex<HashMap<[u128; REGIONS.len() - 1], Result<Booted, String>>>,
}

/// What becomes of a node with this disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// What starts, or why nothing does.
    pub booted: Result<Booted, String>,
    pub state: Option<State>,
    /// What the update service makes of it.
    pub next: Option<Next>,
}

/// `os_slots::BootVerdict`, as far as the campaign tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// Nothing is on trial.
    Settled,
    OnTrial {
        recorded: bool,
    },
    /// Committed, and the record still there: cleared now.
    ClearsRecord,
    /// The record is there and the entry is not: the install begins again.
    NeverArmed,
    /// Armed and not tried: reboots into it.
    RebootsIntoTrial,
    /// Anything that says the trial is over and lost.
    Failed(String),
}

impl Model {
    /// `e2fsck`: the one that init runs, or as near as can be had.
    pub fn new(releases: &Releases, base: &std::fs::File, e2fsck: PathBuf) -> Result<Self> {
        let known = [&releases.first, &releases.second].map(known).into_iter().collect::<Result<_>>()?;
        let bytes = base.metadata()?.len();
        let base_data = image_builder::sparse::data_ranges(base, bytes).context("the base disk's holes")?;
        let (judged, states, boots) = Default::default();
        let loader =
            boot::Loader::of(&Disk::new(base)?).map_err(anyhow::Error::msg).context("the base disk")?;
        Ok(Self { known, loader, base_data, e2fsck, judged, states, boots })
    }

    pub fn judge(&self, disk: &Disk) -> Result<Judgement> {
        let key = REGIONS.map(|r| disk.fingerprint(r));
        if let Some(known) = lock(&self.judged).get(&key) {
            return Ok(known.clone());
        }
        let judgement = self.judge_anew(disk)?;
        lock(&self.judged).insert(key, judgement.clone());
        Ok(judgement)
    }

    fn judge_anew(&self, disk: &Disk) -> Result<Judgement> {
        let booted = match self.boot(disk)? {
            Ok(booted) => booted,
            Err(why) => return Ok(Judgement { booted: Err(why), state: None, next: None }),
        };
        let state = match booted.resets {
            true => State::empty(Checked::Clean),
            false => self.state(disk, booted.state_start, booted.state_bytes)?,
        };
        let next = next(&booted, &state);
        Ok(Judgement { booted: Ok(booted), state: Some(state), next: Some(next) })
    }

    /// Firmware to init's choice of partitions: does not look at the state.
    fn boot(&self, disk: &Disk) -> Result<Result<Booted, String>> {
        // The backup table is behind the state partition, so a damaged primary one leads there.
        let key = [REGIONS[0], REGIONS[1], REGIONS[2], REGIONS[3]].map(|r| disk.fingerprint(r));
        if boot::primary_table_is_whole(disk) {
            if let Some(known) = lock(&self.boots).get(&key) {
                return Ok(known.clone());
            }
            let booted = boot::boot(disk, &self.known, &self.loader);
            lock(&self.boots).insert(key, booted.clone());
            return Ok(booted);
        }
        Ok(boot::boot(disk, &self.known, &self.loader))
    }

    fn state(&self, disk: &Disk, start: u64, bytes: u64) -> Result<State> {
        let key = (disk.fingerprint(crate::disk::Region::State), bytes);
        if let Some(known) = lock(&self.states).get(&key) {
            return Ok(known.clone());
        }
        let state = state::read(disk, start, bytes, &self.base_data, &self.e2fsck)?;
        lock(&self.states).insert(key, state.clone());
        Ok(state)
    }
}

fn known(release: &ReleaseFiles) -> Result<Known> {
    let read = |name: &str| {
        let path = release.artifacts.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let uki = read("uki.efi")?;
    Ok(Known {
        version: release.version.clone(),
        uki: os_content_id::hash(&uki),
        uki_bytes: uki.len() as u64,
        root: read("root.img")?,
    })
}

fn next(booted: &Booted, state: &State) -> Next {
    let info = boot_info(booted, state);
    match after_boot(&booted.entries, &info, state.trial.as_ref(), &state.failed) {
        BootVerdict::NoTrial => Next::Settled,
        BootVerdict::OnTrial { recorded } => Next::OnTrial { recorded },
        BootVerdict::Committed => Next::ClearsRecord,
        BootVerdict::NeverArmed => Next::NeverArmed,
        BootVerdict::NeverBooted { .. } => Next::RebootsIntoTrial,
        BootVerdict::Silent { .. } => Next::Failed("its tries were used up without a word".into()),
        BootVerdict::TrialFailed { reason, .. } => Next::Failed(reason),
        BootVerdict::FellBack { reason, .. } => Next::Failed(reason),
    }
}

/// As init writes `boot.json`.
fn boot_info(booted: &Booted, state: &State) -> BootInfo {
    BootInfo {
        version: booted.version.clone(),
        first_boot: booted.first_boot,
        evidence: state.evidence.clone(),
        ..BootInfo::of(booted.entry)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
