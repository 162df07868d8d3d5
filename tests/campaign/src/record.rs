//! A node's life under QEMU with every write of its disk recorded: the base disk, the log, and where in the log each
//! operation lies.
//!
//! Nobody cuts the power here: the guest reboots by itself and the log goes on, so that replaying all of it gives the disk as
//! it is at the end. A recording is a folder; its description is written last, so that half a recording is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Lab, Node, NodeOptions, Releases, wait_until};
use qemu_vm::WriteLog;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::operation::{OPERATIONS, Operation};

/// Of the folder's files and of what [`Recording::make`] does; another one makes old recordings unused.
const FORMAT: u32 = 3;
/// Large enough to grow into, small enough to check ten thousand times.
const DISK: u64 = 2 << 30;
pub(crate) const READY: &str = "all units ready";
const CHANNEL: &str = "stable";
const UPDATE: Duration = Duration::from_secs(600);
/// An operation is over when the disk has been at rest for so long.
const REST: Duration = Duration::from_secs(6);
const REST_MAX: Duration = Duration::from_secs(60);
/// Before the code that a node without owner shows.
const CODE: &str = "Code ";
const CODE_LENGTH: usize = "7K3M-9QXT-2FAB".len();
/// What init says first of the release on trial.
const TRIAL_BEGINS: &str = "slot B (macula-000002";

/// Where an operation's requests are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub operation: Operation,
    pub start: usize,
    pub end: usize,
}

/// What is known about a recording beside its disk and log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub spans: Vec<Span>,
    /// The recorded node's id.
    pub node: String,
    /// When somebody first saw that id: from then on no cut may lose it.
    pub node_seen: usize,
    /// The text of its `macula.toml`.
    pub config: String,
}

pub struct Recording {
    pub dir: PathBuf,
    pub about: Description,
    pub log: WriteLog,
}

impl Recording {
    /// The recording of these releases in `folder`, made now if there is none that reaches to the end of `until`.
    /// `say` is told what happens.
    pub fn find_or_make(
        folder: &Path,
        releases: &Releases,
        until: Operation,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let key = key(releases)?;
        for operation in OPERATIONS.into_iter().filter(|o| *o >= until) {
            if let Ok(found) = Self::open(&folder.join(format!("{key}-{operation}"))) {
                return Ok(found);
            }
        }
        say(&format!("recording a node's life up to {until}, once for each build"));
        let dir = folder.join(format!("{key}-{until}"));
        make(&dir, releases, until, say).context("recording")?;
        Self::open(&dir)
    }

    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("about.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let about: Description = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let log = WriteLog::open(dir.join("writes.log"))?;
        let end = about.spans.last().map_or(0, |s| s.end);
        ensure!(end <= log.entries().len(), "{} holds fewer requests than it should", dir.display());
        Ok(Self { dir: dir.to_path_buf(), about, log })
    }

    /// The disk before the first request.
    pub fn base(&self) -> PathBuf {
        self.dir.join("base.img")
    }

    pub fn span(&self, operation: Operation) -> Option<Span> {
        self.about.spans.iter().copied().find(|s| s.operation == operation)
    }
}

/// The lab whose owner owns the recorded node, too.
pub fn lab(dir: &Path, releases: &Releases) -> Result<Lab> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Lab::in_dir(&releases.maculactl, dir)
}

/// A node that holds the second release for others.
pub fn holder<'lab>(lab: &'lab Lab, releases: &Releases) -> Result<Node<'lab>> {
    let image = releases.first.disk.as_deref().context("the first release has no disk image")?;
    let node = lab.start("holder", image, &lab.config("holder"), NodeOptions::default())?;
    node.wait_answer().with_context(|| node.tail())?;
    Ok(node)
}

pub fn publish(lab: &Lab, releases: &Releases, holder: &Node) -> Result<()> {
    releases.second.publish(&lab.owner, lab.dir(), &holder.address, CHANNEL).map(drop)
}

/// Named after what went in: another build is another recording.
fn key(releases: &Releases) -> Result<String> {
    let mut hash = Sha256::new_with_prefix(FORMAT.to_le_bytes());
    for release in [&releases.first, &releases.second] {
        for file in ["artifacts.json", "uki.efi"] {
            let path = release.artifacts.join(file);
            hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

fn make(dir: &Path, releases: &Releases, until: Operation, say: &dyn Fn(&str)) -> Result<()> {
    let lab = lab(dir, releases)?;
    let image = releases.first.disk.as_deref().context("the first release has no disk image")?;
    let config = lab.config_following("recorded", CHANNEL);
    let disk = lab.disk("recorded", image, &config)?;
    fs::OpenOptions::new().write(true).open(&disk)?.set_len(DISK)?;
    image_builder::sparse::copy(&disk, &dir.join("base.img"))?;
    let log = dir.join("writes.log");
    let options = NodeOptions { record_writes: Some(log.clone()), ..NodeOptions::default() };
    let node = lab.start_on("recorded", disk.clone(), options)?;
    let mut tape = Tape { log, node: &node, spans: Vec::new(), say };
    let life = live(&mut tape, &lab, releases, until);
    let (id, node_seen) = life.with_context(|| format!("console of the recorded node:\n{}", node.tail()))?;
    let spans = tape.spans;
    node.vm.stop()?;
    fs::remove_file(&disk)?;
    let about = Description { spans, node: id, node_seen, config };
    fs::write(dir.join("about.new"), serde_json::to_vec_pretty(&about)?)?;
    Ok(fs::rename(dir.join("about.new"), dir.join("about.json"))?)
}

/// Everything that the node goes through. Returns its id and when it was first seen.
fn live(tape: &mut Tape, lab: &Lab, releases: &Releases, until: Operation) -> Result<(String, usize)> {
    tape.node.wait_ready()?;
    let id = tape.node.wait_answer()?["node"].as_str().context("the node has no id")?.to_string();
    let node_seen = tape.position()?;
    tape.rests(Operation::FirstBoot)?;
    if until > Operation::FirstBoot {
        let _holder = update(tape, lab, releases)?;
        later(tape, lab, releases, until)?;
    }
    Ok((id, node_seen))
}

/// Up to the trial's first boot. The neighbour must stay for the gate.
fn update<'lab>(tape: &mut Tape, lab: &'lab Lab, releases: &Releases) -> Result<Node<'lab>> {
    let holder = holder(lab, releases)?;
    tape.node.wait_peers(1)?;
    let mark = tape.node.vm.serial().mark();
    publish(lab, releases, &holder)?;
    tape.node.vm.serial().wait_for_after(mark, TRIAL_BEGINS, UPDATE)?;
    tape.ends(Operation::Update)?;
    Ok(holder)
}

fn later(tape: &mut Tape, lab: &Lab, releases: &Releases, until: Operation) -> Result<()> {
    let (node, version) = (tape.node, releases.second.version.as_str());
    for operation in OPERATIONS.into_iter().filter(|o| (Operation::Commit..=until).contains(o)) {
        match operation {
            Operation::FirstBoot | Operation::Update => continue,
            Operation::Commit => {
                let committed = |s: &Value| s["version"] == version && s["trial"].is_null();
                node.wait_status("to commit the release", UPDATE, committed)?;
            }
            Operation::Rollback => {
                node.ctl(&["rollback"])?;
                node.wait_status("to be back in the old slot", UPDATE, |s| s["slot"] == "A")?;
            }
            Operation::ConfigSet => drop(node.ctl(&["config", "set", "gate.steady_s", "6"])?),
            Operation::Reset => {
                let mark = node.vm.serial().mark();
                node.ctl(&["reset", "--yes"])?;
                // Nobody owns it then, so only its console speaks.
                node.vm.serial().wait_for_after(mark, "first boot: disk", UPDATE)?;
                node.vm.serial().wait_for_after(mark, READY, UPDATE)?;
            }
            Operation::Pair => {
                node.vm.serial().wait_for(CODE, UPDATE)?;
                let said = node.vm.serial().contents();
                let (_, code) = said.rsplit_once(CODE).context("the node shows no code")?;
                let code: String = code.chars().take(CODE_LENGTH).collect();
                lab.owner.run(&["--node", &node.address, "pair", &code, "--name", "recorded"])?;
                node.wait_answer()?;
            }
        }
        tape.rests(operation)?;
    }
    Ok(())
}

/// The log while it grows.
struct Tape<'a> {
    log: PathBuf,
    node: &'a Node<'a>,
    spans: Vec<Span>,
    say: &'a dyn Fn(&str),
}

impl Tape<'_> {
    fn position(&self) -> Result<usize> {
        Ok(WriteLog::recorded(&self.log)?)
    }

    /// The operation ends here.
    fn ends(&mut self, operation: Operation) -> Result<()> {
        let start = self.spans.last().map_or(0, |s| s.end);
        let end = self.position()?;
        (self.say)(&format!("{operation}: {} requests", end - start));
        self.spans.push(Span { operation, start, end });
        Ok(())
    }

    /// The operation ends when nothing is written any more (or only what services write now and then).
    fn rests(&mut self, operation: Operation) -> Result<()> {
        let (mut before, begun) = (self.position()?, std::time::Instant::now());
        wait_until("the disk to rest", REST_MAX * 2, || {
            std::thread::sleep(REST);
            let now = self.position()?;
            let rests = now == before || begun.elapsed() > REST_MAX;
            before = now;
            Ok(rests.then_some(()))
        })?;
        self.ends(operation)
    }
}
