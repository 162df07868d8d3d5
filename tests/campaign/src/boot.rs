//! Real boots of cuts: the disk is built, a machine with fresh firmware variables boots it, and what its console says is
//! compared with the model's judgement. Some go on until the update is done.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_lab::{Lab, Node, NodeOptions, Releases};
use serde::Serialize;

use crate::model::{Checked, Judgement, Key};
use crate::record::{self, READY, Recording};
use crate::replay::{Placed, Replay};
use crate::report::Case;

/// Bounds a boot on a busy, emulated machine.
const BOOT: Duration = Duration::from_secs(240);
const FINISH: Duration = Duration::from_secs(600);
/// The screen's heading: the name that the configuration gives, and what runs. It may come after all units are ready.
const HEADING: &str = "  Macula OS ";
const NAMED: &str = "recorded  Macula OS ";
const NAME: Duration = Duration::from_secs(30);
/// The firmware's word when it starts the boot loader.
const FIRMWARE_DONE: &str = "BdsDxe: starting";
/// A kernel that hangs under emulation is reset and costs a try that the model does not know of; then it boots again.
const TRIES: u32 = 3;

#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Index of the case.
    pub case: usize,
    pub to_the_end: bool,
}

/// What the console said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub entry: String,
    pub version: String,
    pub first_boot: bool,
    pub state_repaired: bool,
    pub node: String,
    /// The node calls itself what its configuration says.
    pub configured: bool,
    pub ready: bool,
    pub finished: bool,
    /// Init's words about what failed.
    pub failures: Vec<String>,
    pub disagreements: Vec<String>,
}

pub struct Bench<'a> {
    lab: Lab,
    recording: &'a Recording,
    replay: &'a Replay,
    releases: &'a Releases,
    scratch: PathBuf,
}

impl<'a> Bench<'a> {
    pub fn new(recording: &'a Recording, replay: &'a Replay, releases: &'a Releases) -> Result<Self> {
        let lab = record::lab(&recording.dir, releases)?;
        // Ports come again with other nodes behind them.
        let _ = fs::remove_file(recording.dir.join("owner/macula/known_nodes.toml"));
        let scratch = recording.dir.clone();
        Ok(Self { lab, recording, replay, releases, scratch })
    }

    /// Boots the jobs' cases, `machines` at a time.
    pub fn run(
        &self,
        jobs: &[Job],
        machines: usize,
        cases: &mut [Case],
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let holder = match jobs.iter().any(|j| j.to_the_end) {
            true => {
                say("starting the neighbour that holds the release");
                let holder = record::holder(&self.lab, self.releases)?;
                record::publish(&self.lab, self.releases, &holder)?;
                Some(holder)
            }
            false => None,
        };
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let shown: &[Case] = cases;
        let work = || -> Result<()> {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let case = &shown[job.case];
                let observed = self.boot(job, &case.placed, &case.judgement);
                let observed = observed.with_context(|| format!("booting {}", case.placed.cut))?;
                say(&summary(&case.placed, &observed));
                results.lock().unwrap_or_else(PoisonError::into_inner).push((job.case, observed));
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..machines.max(1)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
        })?;
        drop(holder);
        for (index, observed) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            cases[index].observed = Some(observed);
        }
        Ok(())
    }

    fn boot(&self, job: &Job, placed: &Placed, judgement: &Judgement) -> Result<Observed> {
        let mut observed = Observed::default();
        for _ in 0..TRIES {
            let hung;
            (observed, hung) = self.boot_once(job, placed)?;
            observed.disagreements = disagreements(&observed, judgement, &self.recording.about.node, job);
            if !hung || observed.disagreements.is_empty() {
                break;
            }
        }
        Ok(observed)
    }

    /// What was seen, and whether the kernel hung before init.
    fn boot_once(&self, job: &Job, placed: &Placed) -> Result<(Observed, bool)> {
        let name = format!("cut{}", job.case);
        let disk = self.scratch.join(format!("{name}.img"));
        let variables = self.scratch.join(format!("{name}.vars"));
        let _ = fs::remove_file(&variables);
        self.replay.build(self.recording, placed, &disk)?;
        let mut node = self.lab.start_on(
            &name,
            disk.clone(),
            NodeOptions { alone: !job.to_the_end, ..NodeOptions::default() },
        )?;
        let ready = node.vm.serial().wait_for(READY, BOOT).is_ok();
        let _ = node.vm.serial().wait_for(HEADING, NAME);
        let mut observed = Observed { ready, ..Observed::default() };
        let hung = read_console(&node, &mut observed);
        if job.to_the_end && ready {
            node.address = format!("{}@{}", observed.node, node.address);
            observed.finished = self.finishes(&node);
            if !observed.finished {
                observed.failures.push(node.tail());
            }
        }
        node.vm.power_cut()?;
        drop(node);
        for file in [disk, variables, self.scratch.join(format!("{name}.log"))] {
            let _ = fs::remove_file(file);
        }
        Ok((observed, hung))
    }

    fn finishes(&self, node: &Node) -> bool {
        let version = self.releases.second.version.as_str();
        let done = |s: &serde_json::Value| s["version"] == version && s["trial"].is_null();
        let status = node.wait_status("to finish the update", FINISH, done);
        status.is_ok_and(|s| s["failed_releases"].as_array().is_none_or(Vec::is_empty))
    }
}

/// Fills in what the first boot's lines say.
fn read_console(node: &Node, observed: &mut Observed) -> bool {
    let lines = node.vm.serial().contents();
    let mut starts = 0;
    for line in lines.lines() {
        let init = line.split_once("macula-init: ").map(|(_, said)| said);
        match init {
            None if line.contains(FIRMWARE_DONE) && observed.entry.is_empty() => starts += 1,
            None if line.starts_with("identity: node ") && observed.node.is_empty() => {
                observed.node = line.trim_start_matches("identity: node ").trim().to_string();
            }
            None => observed.configured |= line.contains(NAMED),
            // Of a second boot nothing is wanted.
            Some(said) if said.starts_with("Macula OS, kernel") && !observed.entry.is_empty() => break,
            Some(said) => hear(said, observed),
        }
    }
    starts > 1
}

fn hear(said: &str, observed: &mut Observed) {
    if let Some((entry, rest)) = said.strip_prefix("slot ").and_then(|s| s.split_once('(')?.1.split_once(')'))
    {
        observed.entry = entry.to_string();
        observed.version = rest.split_whitespace().nth(1).unwrap_or_default().to_string();
    }
    observed.first_boot |= said.starts_with("first boot: disk");
    observed.state_repaired |= said.starts_with("e2fsck") || said.starts_with("state: its superblock");
    if said.starts_with("FAILED") || said.contains("going on without") {
        observed.failures.push(said.to_string());
    }
}

fn disagreements(observed: &Observed, judgement: &Judgement, recorded: &str, job: &Job) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, model: String, machine: String| {
        if model != machine {
            found.push(format!("{what}: the model says {model}, the machine {machine}"));
        }
    };
    let (Ok(booted), Some(state)) = (&judgement.booted, &judgement.state) else {
        differ("boots", "no".into(), if observed.ready { "yes" } else { "no" }.into());
        return found;
    };
    differ("entry", booted.entry.to_string(), observed.entry.clone());
    differ("version", booted.version.clone(), observed.version.clone());
    differ("first boot", booted.first_boot.to_string(), observed.first_boot.to_string());
    differ(
        "state repaired",
        (state.checked == Checked::Repaired).to_string(),
        observed.state_repaired.to_string(),
    );
    let configured = state.config.is_some() || booted.provision.is_some();
    differ("configured", configured.to_string(), observed.configured.to_string());
    differ("ready", "true".into(), observed.ready.to_string());
    differ("failures", String::new(), observed.failures.join("; "));
    match &state.key {
        Key::Whole(node) => differ("node", node.clone(), observed.node.clone()),
        // A key that nobody had seen yet is made anew.
        _ => differ(
            "a new node",
            "true".into(),
            (!observed.node.is_empty() && observed.node != recorded).to_string(),
        ),
    }
    if job.to_the_end {
        differ("update finishes", "true".into(), observed.finished.to_string());
    }
    found
}

fn summary(placed: &Placed, observed: &Observed) -> String {
    let end = if observed.finished { ", update finished" } else { "" };
    let repaired = if observed.state_repaired { ", state repaired" } else { "" };
    let verdict = if observed.disagreements.is_empty() { "agrees" } else { "DISAGREES" };
    format!("booted {}: {}{repaired}{end}: {verdict}", placed.cut, observed.entry)
}
