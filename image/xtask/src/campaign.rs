//! `cargo xtask campaign NAME`: long, seeded searches for a way to lose something.

use std::path::PathBuf;

use anyhow::{Result, bail};
use image_builder::tools;
use tests_campaign::campaign::{self, Plan};
use tests_campaign::cuts::Cut;
use tests_campaign::operation::Operation;
use tests_campaign::report::Report;

use crate::fuzz::{self, Fuzz};
use crate::host::{self, Need};
use crate::{Tree, images, table};

#[derive(clap::Subcommand)]
pub enum Campaign {
    /// Cut the power at any write of a node's life: judge each disk with a model, really boot some of them.
    ///
    /// The first run of a build records one node in QEMU (three to six minutes); later ones use that recording. The exit code says
    /// whether anything was lost or model and machine disagreed; the table's last line says how to repeat each such cut.
    PowerCut(PowerCut),
    /// Feed every decoder of what strangers send with bytes that a fuzzer makes up. Needs a nightly compiler.
    Fuzz(Fuzz),
}

#[derive(clap::Args)]
pub struct PowerCut {
    /// Equal seeds give equal cuts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cuts to judge, over all operations.
    #[arg(long, default_value_t = 1000)]
    cuts: usize,
    /// How many of them are really booted; about twenty seconds each.
    #[arg(long, default_value_t = 0)]
    boot: usize,
    /// Machines that boot at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only this cut, as a report names it (`update:torn 77/3`).
    #[arg(long)]
    only: Option<Cut>,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(tree: &Tree, campaign: &Campaign) -> Result<()> {
    match campaign {
        Campaign::PowerCut(options) => power_cut(tree, options),
        Campaign::Fuzz(options) => fuzz::run(tree, options),
    }
}

fn power_cut(tree: &Tree, options: &PowerCut) -> Result<()> {
    host::prepare(Need::Boot)?;
    let releases = images::releases(tree)?;
    let plan = Plan {
        seed: options.seed,
        cuts: options.cuts,
        boots: options.boot,
        jobs: options.jobs,
        until: Operation::Pair,
        only: options.only.clone(),
        folder: tree.out().join("campaign"),
        e2fsck: e2fsck(tree)?,
    };
    let report = campaign::run(&plan, &releases, &|line| eprintln!("  {line}"))?;
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print(&report),
    }
    match report.troubles.len() {
        0 => Ok(()),
        count => bail!("{count} of {} cuts are in trouble", report.judged()),
    }
}

fn print(report: &Report) {
    let (heading, rows) = report.table();
    table::print(&heading, &rows);
    println!("{} cuts judged, {} really booted, seed {}", report.judged(), report.booted(), report.seed);
    for trouble in &report.troubles {
        println!("{}\n    {}", trouble.cut, trouble.what.join("\n    "));
        println!("    again: cargo xtask campaign power-cut --only '{}' --boot 1", trouble.cut);
    }
}

/// The image's own, which the build unpacked; otherwise the host's, which may be another version.
fn e2fsck(tree: &Tree) -> Result<PathBuf> {
    let unpacked = std::fs::read_dir(tree.cache().join("unpacked")).into_iter().flatten().flatten();
    let own = unpacked.map(|folder| folder.path().join("usr/sbin/e2fsck.static")).find(|path| path.is_file());
    match own.or_else(|| tools::find("e2fsck")) {
        Some(path) => Ok(path),
        None => bail!("there is no e2fsck (package e2fsprogs)"),
    }
}
