//! `cargo xtask test`: all that must pass before anything lands.

use std::process::Command;

use anyhow::{Context, Result, bail};
use qemu_lab::Releases;

use crate::host::{self, Need, TARGET};
use crate::{Tree, boot_tests, console, fuzz, images};

/// Crates that run on the machine that builds, not on a node.
pub const HOST_CRATES: [&str; 8] = [
    "hardware-schema",
    "image-layout",
    "image-builder",
    "xtask",
    "qemu-vm",
    "qemu-lab",
    "tests-boot",
    "tests-campaign",
];

#[derive(clap::Args)]
pub struct Options {
    /// Only these parts, in the order of the list. Without any: `lint`, `unit`, `image` and `boot`.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Passed on to the test program: a test's name or a part of it.
    #[arg(long)]
    only: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// rustfmt and clippy.
    Lint,
    /// In-file tests and the crate dependency list.
    Unit,
    /// The image builder's tests.
    Image,
    /// The real image in QEMU.
    Boot,
    /// An existing Macula client against our station. Only when it is named: it builds that client.
    Client,
    /// The HTTP gateway as aioquic and Chromium see it. Only when it is named: it fetches them.
    Gateway,
    /// Claimants at a node's real programs: who gets in, and what those read who do not. Only when it is named: it builds them once
    /// more.
    Pairing,
    /// The console in headless Chromium. Only when it is named: it fetches what drives it.
    Console,
    /// Licences, sources and known faults of every dependency (cargo deny). Only when it is named: it compiles that, and asks
    /// for the list of faults.
    Deny,
    /// Mesh processes behind NATs, in network namespaces, as root; when it is named, all pairs of the table in
    /// docs/guides/reaching.md.
    Network,
}

/// Not built here: only their lock files must fit what they are made of.
const OTHER_WORKSPACES: [&str; 2] = ["tests/macula-client", fuzz::FOLDER];

const ADVISORIES: &str = "https://github.com/rustsec/advisory-db";

/// Other people's HTTP/3, from PyPI.
const AIOQUIC: &str = "aioquic==1.7.2";

pub fn run(tree: &Tree, options: &Options) -> Result<()> {
    host::prepare(Need::Test)?;
    let named = [Part::Pairing, Part::Client, Part::Gateway, Part::Console, Part::Deny, Part::Network];
    let wanted = |part| options.parts.contains(&part) || (options.parts.is_empty() && !named.contains(&part));
    if wanted(Part::Lint) {
        cargo(tree, &["fmt", "--all", "--check"])?;
        for workspace in OTHER_WORKSPACES {
            check_lock(tree, workspace)?;
        }
        cargo(tree, &lint_arguments())?;
    }
    if wanted(Part::Unit) {
        cargo(tree, &node_test_arguments(options))?;
        check_dependencies(tree)?;
    }
    if wanted(Part::Image) {
        cargo(tree, &image_test_arguments(options))?;
    }
    if wanted(Part::Boot) {
        boot(tree, options)?;
    }
    if wanted(Part::Pairing) {
        pairing(tree, options)?;
    }
    if wanted(Part::Client) {
        client(tree, options)?;
    }
    if wanted(Part::Gateway) {
        gateway(tree, options)?;
    }
    if wanted(Part::Console) {
        console::test(tree, options.only.as_deref())?;
    }
    if wanted(Part::Deny) {
        deny(tree)?;
    }
    if wanted(Part::Network) {
        network(tree, options)?;
    }
    Ok(())
}

fn gateway(tree: &Tree, options: &Options) -> Result<()> {
    host::prepare(Need::Browser)?;
    let venv = tree.out().join("aioquic");
    let python = venv.join("bin/python");
    if !python.exists() {
        finish(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    finish(Command::new(&python).args(["-m", "pip", "install", "--quiet", AIOQUIC]))?;
    let program = ["test", "--release", "--locked", "--target", TARGET, "-p", "mesh-daemon"];
    let arguments = [&program[..], &["--test", "it", "--", "--ignored", "--test-threads", "1"]].concat();
    let arguments = [&arguments[..], &[options.only.as_deref().unwrap_or("gateway_clients::")]].concat();
    finish(host::cargo().args(arguments).current_dir(&tree.root).env("MACULA_AIOQUIC", &python))
}

/// Other workspaces take their own dependencies along; those get into no image.
fn deny(tree: &Tree) -> Result<()> {
    host::cargo_tool("cargo-deny", "deny")?;
    let reached = Command::new("git").args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"]).output();
    let mut checks = vec!["deny", "--locked", "check", "bans", "licenses", "sources"];
    match reached.is_ok_and(|output| output.status.success()) {
        true => checks.push("advisories"),
        false => eprintln!("{ADVISORIES} is out of reach: known faults are NOT looked for"),
    }
    cargo(tree, &checks)
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed: {status}") }
}

fn lint_arguments() -> Vec<&'static str> {
    vec![
        "clippy",
        "--quiet",
        "--release",
        "--locked",
        "--target",
        TARGET,
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]
}

/// With the profile and target of the image, so that crates are built once for both.
fn node_test_arguments(options: &Options) -> Vec<&str> {
    let mut arguments = vec!["test", "--release", "--locked", "--target", TARGET, "--workspace"];
    for package in HOST_CRATES {
        arguments.extend(["--exclude", package]);
    }
    with_filter(arguments, options, &[])
}

fn image_test_arguments(options: &Options) -> Vec<&str> {
    let mut arguments = vec!["test", "--release", "--locked"];
    for package in HOST_CRATES.iter().filter(|p| **p != "tests-boot") {
        arguments.extend(["-p", package]);
    }
    with_filter(arguments, options, &[])
}

/// An existing client against our station by itself, and against whole nodes, whose programs are built first.
fn client(tree: &Tree, options: &Options) -> Result<()> {
    let programs = ["services-identity", "mesh-daemon", "dht-daemon", "content-daemon", "os-ctl"];
    let mut build = vec!["build", "--release", "--locked", "--target", TARGET];
    build.extend(programs.iter().flat_map(|package| ["-p", package]));
    cargo(tree, &build)?;
    let manifest = "tests/macula-client/Cargo.toml";
    let test = with_filter(vec!["test", "--release", "--locked", "--manifest-path", manifest], options, &[]);
    let mut command = host::cargo();
    command.args(test).env("MACULA_PROGRAMS", tree.root.join("target").join(TARGET).join("release"));
    check(&mut command, tree)
}

/// The test program finds the others beside its folder.
fn pairing(tree: &Tree, options: &Options) -> Result<()> {
    let programs = ["services-identity", "mesh-daemon", "pairing-daemon", "os-ctl"];
    let packages = programs.iter().flat_map(|package| ["-p", package]);
    let build: Vec<_> =
        ["build", "--release", "--locked", "--target", TARGET].into_iter().chain(packages).collect();
    cargo(tree, &build)?;
    let program = ["-p", "tests-pairing", "--test", "pairing"];
    let test = [&["test", "--release", "--locked", "--target", TARGET][..], &program].concat();
    cargo(tree, &with_filter(test, options, &["--ignored", "--test-threads", "2"]))
}

fn boot(tree: &Tree, options: &Options) -> Result<()> {
    let releases = images::test_releases(tree)?;
    let file = tree.out().join("releases.json");
    releases.save(&file)?;
    boot_tests::run(tree, options.only.as_deref(), Releases::variable(&file))
}

/// The program finds `mesh` beside itself.
fn network(tree: &Tree, options: &Options) -> Result<()> {
    let packages = ["-p", "mesh-daemon", "-p", "tests-network"];
    cargo(tree, &[&["build", "--release", "--locked", "--target", TARGET], &packages[..]].concat())?;
    let program = tree.root.join("target").join(TARGET).join("release/reaching");
    let few = options.parts.is_empty().then_some("--short");
    let status = Command::new(&program).args(few).args(options.only.as_deref()).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    if status.success() { Ok(()) } else { bail!("not every pair was reached as it must be") }
}

fn with_filter<'a>(mut arguments: Vec<&'a str>, options: &'a Options, more: &[&'a str]) -> Vec<&'a str> {
    arguments.push("--");
    arguments.extend(more);
    arguments.extend(options.only.as_deref());
    arguments
}

/// Every arrow between our crates is in a committed file: a new one shows up in review as one line.
fn check_dependencies(tree: &Tree) -> Result<()> {
    let file = tree.root.join("docs/crate-dependencies.txt");
    let found = dependencies(tree)?;
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    if found == committed {
        return Ok(());
    }
    if std::env::var_os("CI").is_none() {
        std::fs::write(&file, found)?;
    }
    bail!("the arrows between crates have changed: look at `git diff {}` and commit it", file.display())
}

fn dependencies(tree: &Tree) -> Result<String> {
    let mut command = host::cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps", "--locked"]).current_dir(&tree.root);
    let output = command.output().context("cannot run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let list = |v: &serde_json::Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    for package in list(&metadata, "packages") {
        let ours = list(&package, "dependencies")
            .into_iter()
            .filter(|d| d["path"].is_string() && d["kind"].is_null());
        let mut names: Vec<_> = ours.filter_map(|d| d["name"].as_str().map(String::from)).collect();
        names.sort();
        lines.push(
            format!("{}: {}", package["name"].as_str().unwrap_or("?"), names.join(" "))
                .trim_end()
                .to_string(),
        );
    }
    lines.sort();
    Ok(lines.join("\n") + "\n")
}

fn check_lock(tree: &Tree, workspace: &str) -> Result<()> {
    let manifest = format!("{workspace}/Cargo.toml");
    let update = ["update", "--quiet", "--workspace", "--manifest-path", &manifest];
    cargo(tree, &[&update[..], &["--locked"]].concat())
        .with_context(|| format!("commit what `cargo {}` does", update.join(" ")))
}

fn cargo(tree: &Tree, arguments: &[&str]) -> Result<()> {
    check(host::cargo().args(arguments), tree)
}

fn check(command: &mut Command, tree: &Tree) -> Result<()> {
    let words = command.get_args().map(|a| a.to_string_lossy());
    let line = format!("cargo {}", words.collect::<Vec<_>>().join(" "));
    eprintln!("{line}");
    let status = command.current_dir(&tree.root).status().context("cannot run cargo")?;
    if status.success() { Ok(()) } else { bail!("failed: {line}") }
}
