//! `cargo xtask run`: the main job, end to end, before one's eyes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_lab::{Lab, Node, NodeOptions, ReleaseFiles, wait_until};
use serde_json::Value;

use crate::host::{self, Need};
use crate::{Tree, images, table};

const CHANNEL: &str = "stable";
const UPDATE: Duration = Duration::from_secs(900);

#[derive(clap::Args)]
pub struct Options {
    /// Show the nodes' consoles as they boot.
    #[arg(long)]
    verbose: bool,
}

#[derive(clap::Args)]
pub struct QemuOptions {
    /// MiB of memory.
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// Show a screen (needs a display) beside the serial console.
    #[arg(long)]
    screen: bool,
}

pub fn interactive(tree: &Tree, options: &QemuOptions) -> Result<()> {
    host::prepare(Need::Boot)?;
    let releases = images::releases(tree)?;
    let lab = Lab::new(&releases.maculactl)?;
    let disk = lab.disk("qemu", image_of(&releases.first)?, &lab.config("qemu"))?;
    let mut vm = qemu_vm::Vm::builder("qemu").disk(&disk).uefi().memory_mib(options.memory).watchdog();
    vm = vm.forward_udp(4433);
    if options.screen {
        vm = vm.screen();
    }
    Ok(vm.interactive(|ports| {
        eprintln!("One node, its serial console here; Ctrl-A X leaves. From another terminal, as its owner:");
        for (_, port) in ports {
            eprintln!("    {} --node 127.0.0.1:{port} status", lab.owner.command_line());
        }
    })?)
}

pub fn run(tree: &Tree, options: &Options) -> Result<()> {
    let mut log = Phases::default();
    log.phase("tools", || host::prepare(Need::Boot).map(|()| String::new()))?;
    let releases = log.keep("images", || images::releases(tree))?;
    log.note(format!("{} and {}", releases.first.version, releases.second.version));

    let lab = Lab::new(&releases.maculactl)?;
    let (a, b) = log.keep("boot two nodes", || boot_two(&lab, &releases.first, options))?;
    log.note(format!("both run {}", releases.first.version));
    log.phase("meet", || {
        let peers = b.wait_peers(1)?;
        Ok(format!("{} met {} over {}", b.name, a.name, peers[0]["address"].as_str().unwrap_or("?")))
    })?;
    log.phase("publish", || {
        releases.second.publish(&lab.owner, lab.dir(), &a.address, CHANNEL)?;
        Ok(format!("{} on {} only, channel {CHANNEL}", releases.second.version, a.name))
    })?;
    update(&mut log, &b, &releases.second)?;
    log.phase("reach it again", || {
        let peers = b.wait_peers(1)?;
        Ok(format!("{} talks to {} peer", b.name, peers.len()))
    })?;
    drop((a, b));
    println!();
    log.print();
    Ok(())
}

fn image_of(files: &ReleaseFiles) -> Result<&std::path::Path> {
    files.disk.as_deref().context("the first release has no disk image")
}

fn boot_two<'lab>(
    lab: &'lab Lab,
    first: &ReleaseFiles,
    options: &Options,
) -> Result<(Node<'lab>, Node<'lab>)> {
    let image = image_of(first)?;
    let start = |name: &'static str, config: String| {
        let on_line: Option<qemu_lab::OnLine> = match options.verbose {
            true => Some(Box::new(move |line| eprintln!("{name}| {}", line.text))),
            false => None,
        };
        lab.start(name, image, &config, NodeOptions { on_line, ..NodeOptions::default() })
    };
    let a = start("node-a", lab.config("node-a"))?;
    let b = start("node-b", lab.config_following("node-b", CHANNEL))?;
    for node in [&a, &b] {
        let ready = node.wait_ready().with_context(|| node.tail())?;
        eprintln!("  {}: {ready}", node.name);
        let status = node.wait_answer()?;
        eprintln!("  {}: {}", node.name, status["node"].as_str().unwrap_or("?"));
    }
    Ok((a, b))
}

/// Watches the update as its owner does, by asking for the status again and again.
fn update(log: &mut Phases, node: &Node, release: &ReleaseFiles) -> Result<()> {
    let version = release.version.as_str();
    log.phase("fetch", || {
        let mut bytes = String::new();
        let mut shown = String::new();
        wait_until(&format!("{} to fetch {version}", node.name), UPDATE, || {
            if node.vm.serial().contents().contains(&format!("trial of {version}")) {
                return Ok(Some(()));
            }
            let status = node.status()?;
            if let Some(text) = show_progress(&status, &mut bytes)
                && text != shown
            {
                eprintln!("  {text}");
                shown = text;
            }
            Ok((status["version"] == version).then_some(()))
        })?;
        Ok(bytes)
    })?;
    log.phase("boot on trial", || {
        let status = node.wait_status("to run it", UPDATE, |s| s["version"] == version)?;
        Ok(format!("slot {}, {}", status["slot"].as_str().unwrap_or("?"), status["entries"]))
    })?;
    log.phase("commit", || {
        let committed = |s: &Value| s["version"] == version && s["trial"].is_null();
        let status = node.wait_status("to commit it", UPDATE, committed)?;
        let events = status["events"].as_array().cloned().unwrap_or_default();
        Ok(events.last().and_then(|e| e["text"].as_str()).unwrap_or("committed").to_string())
    })
}

/// One line about an install under way; keeps the newest count of bytes by provider in `bytes`.
fn show_progress(status: &Value, bytes: &mut String) -> Option<String> {
    let install = status.get("installing").filter(|i| !i.is_null())?;
    let mib = |v: &Value| format!("{:.1}", v.as_u64().unwrap_or(0) as f64 / f64::from(1 << 20));
    let from: Vec<String> = install["from"].as_array().into_iter().flatten().map(|f| by(f, &mib)).collect();
    if !from.is_empty() {
        *bytes = format!("{}; reused {} MiB of its own slot", from.join(", "), mib(&install["bytes_reused"]));
    }
    let phase = install["phase"].as_str().unwrap_or("?");
    Some(format!("{phase}: {} of {} MiB", mib(&install["bytes_done"]), mib(&install["bytes_total"])))
}

fn by(from: &Value, mib: &impl Fn(&Value) -> String) -> String {
    let who = from[0].as_str().unwrap_or("?");
    let short = who.len().saturating_sub(8);
    format!("{} MiB from ...{}", mib(&from[1]), who.get(short..).unwrap_or(who))
}

/// What happened, how long it took, and what there is to say of it.
#[derive(Default)]
struct Phases(Vec<(String, Duration, String)>);

impl Phases {
    fn phase(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        let note = self.keep(name, work)?;
        self.note(note);
        Ok(())
    }

    fn keep<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("{name} ...");
        let begun = Instant::now();
        let value = work().with_context(|| format!("in phase `{name}`"))?;
        self.0.push((name.to_string(), begun.elapsed(), String::new()));
        Ok(value)
    }

    fn note(&mut self, note: String) {
        if let Some(last) = self.0.last_mut() {
            last.2 = note;
        }
    }

    fn print(&self) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|(n, t, d)| vec![n.clone(), format!("{:.1}", t.as_secs_f64()), d.clone()])
            .collect();
        table::print(&["phase", "seconds", ""], &rows);
    }
}
