//! The state partition: checked and repaired by init's own e2fsck, then read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use image_builder::tools;
use init_plan::ext4::{self, SUPERBLOCK_AT, SUPERBLOCK_BYTES};
use os_durable::{Form, Found};
use os_identity::NodeKey;
use os_slots::{Evidence, FailedReleases, Trial};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::Disk;

/// Files that are looked at, each with its previous copy where there is one.
pub const CONFIG: &str = "config.toml";
const KEY: &str = "identity/node.key";
const RECORDS: [&str; 10] = [
    "update/trial.json",
    "update/installing.json",
    "update/failed.json",
    "update/events.json",
    "update/slot-A.json",
    "update/slot-A.release",
    "update/slot-A.manifest",
    "update/slot-B.json",
    "update/slot-B.release",
    "update/slot-B.manifest",
];

/// What init's check of the file system comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checked {
    /// In order, perhaps after its journal was replayed; init says nothing.
    Clean,
    /// `e2fsck` changed something or had to be told to; init shows its output.
    Repaired,
    Lost(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    Absent,
    /// The node id that it makes.
    Whole(String),
    Damaged,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    pub checked: Checked,
    pub key: Key,
    /// `config.toml` as it is; `None` if there is none.
    pub config: Option<Vec<u8>>,
    pub trial: Option<Trial>,
    pub has_intent: bool,
    pub failed: FailedReleases,
    pub evidence: Vec<Evidence>,
    /// Records that are there and that nobody can read.
    pub damaged: Vec<String>,
    pub highest_seq: u32,
}

impl State {
    /// With nothing in it.
    pub fn empty(checked: Checked) -> Self {
        Self {
            checked,
            key: Key::Absent,
            config: None,
            trial: None,
            has_intent: false,
            failed: FailedReleases::default(),
            evidence: Vec::new(),
            damaged: Vec::new(),
            highest_seq: 0,
        }
    }
}

/// Copies the partition out, has it repaired as init would, and reads it.
pub fn read(
    disk: &Disk,
    start: u64,
    bytes: u64,
    base_data: &[std::ops::Range<u64>],
    e2fsck: &Path,
) -> Result<State> {
    let folder = scratch()?;
    let image = folder.path().join("state.img");
    let file = File::options().read(true).write(true).create_new(true).open(&image)?;
    disk.copy_range(start, bytes, base_data, &file)?;
    drop(file);
    let checked = check(e2fsck, &image)?;
    if matches!(checked, Checked::Lost(_)) {
        return Ok(State::empty(checked));
    }
    let files = folder.path().join("files");
    extract(&image, &files)?;
    read_files(&files, checked)
}

/// In memory where the host offers it: ten thousand of these are written.
fn scratch() -> Result<tempfile::TempDir> {
    let builder = || tempfile::Builder::new().prefix("macula-campaign-").to_owned();
    let shared = Path::new("/dev/shm");
    let made = if shared.is_dir() { builder().tempdir_in(shared) } else { builder().tempdir() };
    made.context("cannot make a temporary folder")
}

/// As `init/pid1/src/state.rs` does it: repair what is safe, then everything. On top of that: what was repaired must
/// hold before a full check.
fn check(e2fsck: &Path, image: &Path) -> Result<Checked> {
    let torn = reseal(image)?;
    let checked = match run(e2fsck, if torn { "-fp" } else { "-p" }, image)? {
        0 if !torn => Checked::Clean,
        0 => Checked::Repaired,
        1 => Checked::Repaired,
        2 => return Ok(Checked::Lost("e2fsck -p wants a reboot".into())),
        _ => match run(e2fsck, "-y", image)? {
            0 | 1 => Checked::Repaired,
            code => return Ok(Checked::Lost(format!("e2fsck -y ends with {code}"))),
        },
    };
    match run(e2fsck, "-fn", image)? {
        0 => Ok(checked),
        code => Ok(Checked::Lost(format!("after its repair e2fsck -fn still ends with {code}"))),
    }
}

fn reseal(image: &Path) -> Result<bool> {
    let partition = File::options().read(true).write(true).open(image)?;
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    partition.read_exact_at(&mut bytes, SUPERBLOCK_AT)?;
    let Some((at, seal)) = ext4::reseal(&bytes) else { return Ok(false) };
    partition.write_all_at(&seal, SUPERBLOCK_AT + at as u64)?;
    Ok(true)
}

fn run(e2fsck: &Path, how: &str, image: &Path) -> Result<i32> {
    let status = tools::at(e2fsck)
        .arg(how)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let status = status.with_context(|| format!("cannot run {}", e2fsck.display()))?;
    Ok(status.code().unwrap_or(8))
}

/// One debugfs for all files. What is not there is not made.
fn extract(image: &Path, to: &Path) -> Result<()> {
    for folder in ["identity", "update"] {
        fs::create_dir_all(to.join(folder))?;
    }
    let mut script = format!("rdump /boot {}\n", to.display());
    for name in [CONFIG, KEY].iter().chain(&RECORDS) {
        for name in [(*name).to_string(), format!("{name}.previous")] {
            script += &format!("dump /{name} {}\n", to.join(&name).display());
        }
    }
    let file = to.join("script");
    fs::write(&file, script)?;
    let mut command: Command = tools::command("debugfs")?;
    let output = command.arg("-f").arg(&file).arg(image).stdin(Stdio::null()).output();
    let output = output.context("cannot run debugfs (package e2fsprogs)")?;
    if !output.status.success() {
        bail!("debugfs: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn read_files(files: &Path, checked: Checked) -> Result<State> {
    let mut reader = Reader { files, damaged: Vec::new() };
    let config = match Form::Text.read(&files.join(CONFIG)) {
        Found::Newest(text) | Found::Previous(text) | Found::Unsealed(text) => Some(text),
        Found::Damaged => {
            reader.damaged.push(CONFIG.into());
            None
        }
        Found::Absent => None,
    };
    let key = read_key(&files.join(KEY));
    let (trial, intent) =
        (reader.json("update/trial.json"), reader.json::<serde_json::Value>("update/installing.json"));
    let failed: FailedReleases = reader.json("update/failed.json").unwrap_or_default();
    let slots =
        ["update/slot-A.json", "update/slot-B.json"].map(|name| reader.json::<serde_json::Value>(name));
    for name in RECORDS {
        reader.bytes(name);
    }
    let evidence = evidence(&files.join("boot"));
    let trial: Option<Trial> = trial;
    let seqs = slots.iter().flatten().filter_map(|s| s["seq"].as_u64()).map(|n| n as u32);
    let seqs = seqs.chain(trial.as_ref().map(|t| t.seq)).chain(failed.iter().map(|f| f.seq));
    let highest_seq = seqs.chain(evidence.iter().map(|e| e.seq)).max().unwrap_or(0);
    let mut damaged = reader.damaged;
    damaged.sort();
    damaged.dedup();
    let has_intent = intent.is_some();
    Ok(State { checked, key, config, trial, has_intent, failed, evidence, damaged, highest_seq })
}

fn read_key(path: &Path) -> Key {
    let bytes = match Form::Record.read(path) {
        Found::Newest(bytes) | Found::Previous(bytes) => bytes,
        Found::Unsealed(_) | Found::Damaged => return Key::Damaged,
        Found::Absent => return Key::Absent,
    };
    let hex = std::str::from_utf8(&bytes).unwrap_or_default();
    let seed: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok()).collect();
    match seed.and_then(|s| <[u8; 32]>::try_from(s).ok()) {
        Some(seed) => Key::Whole(NodeKey::from_seed(&seed).node_id().to_string()),
        None => Key::Damaged,
    }
}

fn evidence(folder: &Path) -> Vec<Evidence> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let texts = files.flatten().filter_map(|f| fs::read(f.path()).ok());
    texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect()
}

/// Reads records as the update service does, and remembers which are there and cannot be read.
struct Reader<'a> {
    files: &'a Path,
    damaged: Vec<String>,
}

impl Reader<'_> {
    fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        match Form::Record.read(&self.files.join(name)) {
            Found::Newest(bytes) | Found::Previous(bytes) => Some(bytes),
            Found::Absent => None,
            Found::Unsealed(_) | Found::Damaged => {
                self.damaged.push(name.to_string());
                None
            }
        }
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = serde_json::from_slice(&self.bytes(name)?);
        if value.is_err() {
            self.damaged.push(name.to_string());
        }
        value.ok()
    }
}
