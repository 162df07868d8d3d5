//! `cargo xtask bench NAME`: figures, each beside a reference from the same run.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qemu_lab::{Lab, NodeOptions, screen};
use serde::{Deserialize, Serialize};

use crate::host::{self, Need};
use crate::{Tree, images, table};

#[derive(clap::Args)]
pub struct Options {
    #[arg(value_enum)]
    name: Name,
    /// A JSON list of `{metric, value, unit, reference, ratio}`.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// The image, the root and each program.
    Size,
    /// Kernel start to all units ready, beside the same kernel with an init that prints and powers off.
    Boot,
    /// A new node: power on to a QR code that a reader reads on its screen, and from there to its owner's first order.
    FirstBoot,
    /// Each service's memory, idle, in the guest.
    Memory,
    /// Calls, topics, handshakes and idle peers, beside bare QUIC.
    Mesh,
}

/// One figure. `ratio` is `value / reference`, where there is a reference.
#[derive(Serialize)]
struct Figure {
    metric: String,
    value: f64,
    unit: String,
    reference: Option<f64>,
    ratio: Option<f64>,
}

impl Figure {
    fn new(metric: impl Into<String>, value: f64, unit: impl Into<String>, reference: Option<f64>) -> Self {
        let ratio = reference.filter(|r| *r > 0.0).map(|r| value / r);
        Self { metric: metric.into(), value, unit: unit.into(), reference, ratio }
    }
}

pub fn run(tree: &Tree, options: &Options) -> Result<()> {
    // What reads a screen is for tests.
    host::prepare(if matches!(options.name, Name::FirstBoot) { Need::Test } else { Need::Boot })?;
    let figures = match options.name {
        Name::Size => size(tree)?,
        Name::Boot => boot(tree)?,
        Name::FirstBoot => first_boot(tree)?,
        Name::Memory => memory(tree)?,
        Name::Mesh => mesh(tree)?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(());
    }
    let number = |n: Option<f64>| n.map_or(String::new(), |n| format!("{n:.2}"));
    let row = |f: &Figure| {
        vec![f.metric.clone(), number(Some(f.value)), f.unit.clone(), number(f.reference), number(f.ratio)]
    };
    table::print(
        &["metric", "value", "unit", "reference", "ratio"],
        &figures.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(())
}

/// One line of JSON per figure comes from the benchmark, which starts mesh processes on this machine.
fn mesh(tree: &Tree) -> Result<Vec<Figure>> {
    #[derive(Deserialize)]
    struct Line {
        metric: String,
        value: f64,
        unit: String,
        reference: Option<f64>,
    }
    let mut command = host::cargo();
    command.args([
        "bench",
        "--quiet",
        "--locked",
        "--target",
        host::TARGET,
        "-p",
        "mesh-daemon",
        "--bench",
        "mesh",
    ]);
    let output =
        command.current_dir(&tree.root).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the benchmark failed");
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let figure = |line| {
        let line: Line = serde_json::from_str(line)?;
        Ok(Figure::new(line.metric, line.value, line.unit, line.reference))
    };
    lines.map(figure).collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The reference of image and root is the sum of the files that went into them, as they are on the build host.
fn size(tree: &Tree) -> Result<Vec<Figure>> {
    let releases = images::releases(tree)?;
    let folder = &releases.first.artifacts;
    let disk = releases.first.disk.context("the first release has no disk image")?;
    let compressed = disk.with_extension("img.zst");
    let size = |p: &std::path::Path| Ok::<u64, anyhow::Error>(std::fs::metadata(p)?.len());
    let mut figures = vec![
        Figure::new("image compressed", mib(size(&compressed)?), "MiB", Some(mib(size(&disk)?))),
        Figure::new("root with hash tree", mib(size(&folder.join("root.img"))?), "MiB", None),
        Figure::new("UKI", mib(size(&folder.join("uki.efi"))?), "MiB", None),
    ];
    let programs = releases.maculactl.parent().context("programs have no folder")?;
    let mut total = 0;
    for program in image_builder::PROGRAMS {
        let bytes = size(&programs.join(program))?;
        total += bytes;
        figures.push(Figure::new(format!("program {program}"), mib(bytes), "MiB", None));
    }
    figures.push(Figure::new("programs together", mib(total), "MiB", None));
    Ok(figures)
}

/// Both kernels say their own time: init's lines carry it, and the supervisor's ready line, too.
fn boot(tree: &Tree) -> Result<Vec<Figure>> {
    let releases = images::releases(tree)?;
    let bare = bare::kernel_to_init(tree)?;
    let lab = Lab::new(&releases.maculactl)?;
    let image = releases.first.disk.as_deref().context("the first release has no disk image")?;
    let node = lab.start("bench", image, &lab.config("bench"), NodeOptions::default())?;
    node.wait_ready().with_context(|| node.tail())?;
    let first = ready_seconds(&node.vm.serial().contents())?;
    node.vm.power_cut()?;
    node.vm.restart()?;
    let line = node.wait_ready().with_context(|| node.tail())?;
    let second = ready_seconds(&line)?;
    Ok(vec![
        Figure::new("first boot: kernel start to all units ready", first, "s", Some(bare)),
        Figure::new("later boot: kernel start to all units ready", second, "s", Some(bare)),
    ])
}

/// By this machine's clock, firmware and boot loader in it on both sides. The screen is looked at all the time.
fn first_boot(tree: &Tree) -> Result<Vec<Figure>> {
    const PATIENCE: Duration = Duration::from_secs(300);
    let releases = images::releases(tree)?;
    let bare = bare::power_on_to_init(tree)?;
    let lab = Lab::new(&releases.maculactl)?;
    let image = releases.first.disk.as_deref().context("the first release has no disk image")?;
    let disk = lab.disk("bench", image, "version = 1\nname = \"bench\"\n")?;
    let begun = Instant::now();
    let options = NodeOptions { screen: true, ..NodeOptions::default() };
    let node = lab.start_on("bench", disk, options)?;
    let picture = lab.dir().join("screen.ppm");
    let code = loop {
        // Before there is a screen there is nothing to look at.
        if let Ok(Some(code)) = screen::look(&node.vm, &picture) {
            break code;
        }
        ensure!(begun.elapsed() < PATIENCE, "no code on the screen: {}", node.tail());
        std::thread::sleep(Duration::from_millis(100));
    };
    let shown = begun.elapsed();
    let begun = Instant::now();
    lab.owner.run(&["--node", &node.address, "pair", &code, "--name", "kitchen"])?;
    let paired = begun.elapsed();
    while node.status().is_err() {
        ensure!(begun.elapsed() < PATIENCE, "the node does not answer its owner: {}", node.tail());
    }
    let obeys = begun.elapsed();
    let figure = |what: &str, took: Duration| Figure::new(what, took.as_secs_f64(), "s", Some(bare));
    Ok(vec![
        figure("power on to a code on the screen", shown),
        figure("code read to paired", paired),
        figure("code read to the owner's first order", obeys),
    ])
}

/// `macula: all units ready in 3.2 s (kernel 5.1 s)`.
fn ready_seconds(console: &str) -> Result<f64> {
    let line = console.lines().rev().find(|l| l.contains("all units ready")).context("no ready line")?;
    let (_, rest) = line.rsplit_once("(kernel ").context("the ready line has no kernel time")?;
    let seconds = rest.split_whitespace().next().context("the ready line has no kernel time")?;
    seconds.parse().with_context(|| format!("{seconds} is not a number"))
}

/// RSS and PSS of each service on a node that has met a neighbour and then idled. Reference of the four: their budget.
fn memory(tree: &Tree) -> Result<Vec<Figure>> {
    const BUDGET_MIB: f64 = 64.0;
    const IDLE: Duration = Duration::from_secs(30);
    let releases = images::releases(tree)?;
    let lab = Lab::new(&releases.maculactl)?;
    let image = releases.first.disk.as_deref().context("the first release has no disk image")?;
    let node = lab.start("bench", image, &lab.config("bench"), NodeOptions::default())?;
    let neighbour = lab.start("neighbour", image, &lab.config("neighbour"), NodeOptions::default())?;
    node.wait_ready().with_context(|| node.tail())?;
    neighbour.wait_ready().with_context(|| neighbour.tail())?;
    node.wait_peers(1)?;
    std::thread::sleep(IDLE);
    let mut figures = Vec::new();
    let (mut all, mut four) = (0.0, 0.0);
    for unit in node.units()? {
        let name = unit["name"].as_str().unwrap_or("?").to_string();
        let rss = mib(unit["rss_bytes"].as_u64().unwrap_or(0));
        all += rss;
        if ["mesh", "dht", "content", "reconciler"].contains(&name.as_str()) {
            four += rss;
        }
        figures.push(Figure::new(format!("RSS {name}"), rss, "MiB", None));
    }
    figures.push(Figure::new("RSS all units", all, "MiB", None));
    figures.push(Figure::new("RSS mesh+dht+content+reconciler", four, "MiB", Some(BUDGET_MIB)));
    Ok(figures)
}

/// The floor that any operating system with this kernel stands on.
mod bare {
    use std::time::{Duration, Instant};

    use anyhow::{Context, Result};
    use qemu_vm::Vm;

    use crate::{Tree, images};

    /// What the bare init prints.
    const WORD: &str = "bare-init-up";

    /// Seconds from kernel start to the first line of an init that only prints and powers off, booted through the same firmware,
    /// boot loader and stub as the image.
    pub fn kernel_to_init(tree: &Tree) -> Result<f64> {
        boot(tree).map(|(kernel, _)| kernel)
    }

    /// Seconds from power on to that line, by this machine's clock.
    pub fn power_on_to_init(tree: &Tree) -> Result<f64> {
        boot(tree).map(|(_, all)| all)
    }

    fn boot(tree: &Tree) -> Result<(f64, f64)> {
        let disk = images::bare(tree)?;
        let begun = Instant::now();
        let vm = Vm::builder("bare").disk(&disk).uefi().no_reboot().start()?;
        let line = vm
            .serial()
            .wait_for(WORD, Duration::from_secs(180))
            .with_context(|| format!("after {} s: {}", begun.elapsed().as_secs(), vm.serial().tail()))?;
        let all = begun.elapsed().as_secs_f64();
        let seconds = line.rsplit_once(WORD).and_then(|(_, s)| s.split_whitespace().next());
        let kernel = seconds.and_then(|s| s.parse().ok()).context("the bare init printed no time")?;
        Ok((kernel, all))
    }
}
