//! `cargo xtask campaign fuzz`: coverage-guided fuzzing of whatever reads bytes from strangers (`tests/fuzz`).

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::Tree;
use crate::host::{self, Need};

/// The workspace of the fuzz targets.
pub const FOLDER: &str = "tests/fuzz";

#[derive(clap::Args)]
pub struct Fuzz {
    /// Only these, by the names of the files in tests/fuzz/fuzz_targets.
    targets: Vec<String>,
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Each target for a while. What breaks one is left in tests/fuzz/artifacts, and the way to repeat it is printed.
pub fn run(tree: &Tree, options: &Fuzz) -> Result<()> {
    host::prepare(Need::Build)?;
    prepare()?;
    let all = listed(tree)?;
    if let Some(unknown) = options.targets.iter().find(|target| !all.contains(target)) {
        bail!("there is no fuzz target {unknown}; there are: {}", all.join(", "));
    }
    let targets = if options.targets.is_empty() { &all } else { &options.targets };
    ensure!(fuzz(tree, "build").status()?.success(), "the fuzz targets do not compile");
    let mut broken = Vec::new();
    for target in targets {
        eprintln!("{target}, for {} s", options.seconds);
        let mut command = fuzz(tree, "run");
        command.args([target, "--"]).arg(format!("-max_total_time={}", options.seconds));
        if !command.args(["-print_final_stats=1", "-verbosity=0"]).status()?.success() {
            broken.push(target.as_str());
        }
    }
    ensure!(broken.is_empty(), "inputs were found that break {}", broken.join(", "));
    println!("{} targets, {} s each: nothing found", targets.len(), options.seconds);
    Ok(())
}

fn fuzz(tree: &Tree, verb: &str) -> Command {
    let mut command = host::cargo();
    command.args(["+nightly", "fuzz", verb, "--fuzz-dir", FOLDER]).current_dir(&tree.root);
    command
}

fn listed(tree: &Tree) -> Result<Vec<String>> {
    let output = fuzz(tree, "list").output().context("cannot run cargo fuzz")?;
    ensure!(output.status.success(), "cargo fuzz: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn prepare() -> Result<()> {
    let nightly = host::cargo().args(["+nightly", "--version"]).stdout(Stdio::null()).status();
    ensure!(
        nightly.is_ok_and(|status| status.success()),
        "fuzzing wants a nightly compiler; run: rustup toolchain install nightly"
    );
    host::cargo_tool("cargo-fuzz", "fuzz")
}
