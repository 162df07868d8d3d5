//! The console's files: hand-written ones, and the node's own code for the browser.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use qemu_lab::Releases;

use crate::host::{self, TARGET};
use crate::{Tree, images};

const WASM_TARGET: &str = "wasm32-unknown-unknown";
/// Where they are in the root.
const FOLDER: &str = "usr/share/macula/console";
/// What a browser loads at most for all of it, in bytes.
const MAX_WEIGHT: usize = 300 * 1024;
/// What drives the browser in the tests, from npm.
const DRIVERS: [&str; 2] = ["playwright-core@1.65.1", "axe-core@4.14.1"];

/// The files by name, as a node serves them: pages as they are, what they load compressed.
pub fn files(tree: &Tree) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, bytes) in plain(tree)? {
        if name.ends_with(".html") || name.ends_with(".svg") {
            files.insert(name, bytes);
        } else {
            files.insert(format!("{name}.gz"), gzip(&bytes)?);
        }
    }
    Ok(files)
}

fn plain(tree: &Tree) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = tree.root.join("services/console/web");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.insert(name, bytes);
    }
    files.insert("macula.wasm".to_owned(), std::fs::read(wasm(tree)?)?);
    Ok(files)
}

/// As files of the root.
pub fn overlay(tree: &Tree) -> Result<BTreeMap<String, Vec<u8>>> {
    Ok(files(tree)?.into_iter().map(|(name, bytes)| (format!("{FOLDER}/{name}"), bytes)).collect())
}

fn wasm(tree: &Tree) -> Result<PathBuf> {
    host::rust_target(WASM_TARGET)?;
    let mut command = host::cargo();
    command.args(["rustc", "--quiet", "--locked", "--profile", "wasm", "--crate-type", "cdylib"]);
    command.args(["--target", WASM_TARGET, "-p", "console-wasm"]).current_dir(&tree.root);
    ensure!(command.status().context("cannot run cargo")?.success(), "the console's code does not compile");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(tree.root.join(target).join(WASM_TARGET).join("wasm/console_wasm.wasm"))
}

/// Without name and time, so that the same bytes become the same bytes.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .args(["-9", "--no-name", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gzip")?;
    let mut input = child.stdin.take().context("gzip takes nothing")?;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("gzip was not fed"))??;
    if output.status.success() { Ok(output.stdout) } else { bail!("gzip failed: {}", output.status) }
}

/// Lays the files into a folder, prints what they weigh, and refuses too much of it.
fn stage(tree: &Tree) -> Result<PathBuf> {
    let folder = tree.out().join("console");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let (files, plain) = (files(tree)?, plain(tree)?);
    for (name, bytes) in &files {
        std::fs::write(folder.join(name), bytes)?;
    }
    for (name, bytes) in &plain {
        let sent = files.get(name).or(files.get(&format!("{name}.gz"))).map_or(0, Vec::len);
        println!("{sent:>8} of {:>8}  {name}", bytes.len());
    }
    let weight = |files: &BTreeMap<String, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
    let (all, unpacked) = (weight(&files), weight(&plain));
    println!("{all:>8} of {unpacked:>8}  bytes sent of all, at most {MAX_WEIGHT}");
    ensure!(all <= MAX_WEIGHT, "a browser loads {all} bytes for the console, more than {MAX_WEIGHT}");
    Ok(folder)
}

/// The console in headless Chromium, against real processes.
pub fn test(tree: &Tree, only: Option<&str>) -> Result<()> {
    host::prepare(host::Need::Console)?;
    let folder = stage(tree)?;
    let drivers = tree.out().join("console-drivers");
    install(&drivers)?;
    let programs =
        ["mesh-daemon", "services-identity", "dht-daemon", "content-daemon", "pairing-daemon", "os-ctl"];
    let mut build = host::cargo();
    build
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(programs.iter().flat_map(|p| ["-p", p]));
    ensure!(build.current_dir(&tree.root).status()?.success(), "the programs do not compile");
    for (package, program, filter) in [("mesh-daemon", "it", "console::"), ("tests-pairing", "page", "")] {
        let mut test = host::cargo();
        test.args(["test", "--release", "--locked", "--target", TARGET, "-p", package, "--test", program])
            .args(["--", "--ignored", "--nocapture", "--test-threads", "1", only.unwrap_or(filter)])
            .current_dir(&tree.root)
            .env("MACULA_CONSOLE_FILES", &folder)
            .env("NODE_PATH", drivers.join("node_modules"))
            .env("MACULA_PICTURES", tree.out().join("console-pictures"));
        ensure!(test.status()?.success(), "the console's test failed");
    }
    phone(tree, only, &drivers)
}

/// A phone before a booted image: a browser that knows what is on the screen.
fn phone(tree: &Tree, only: Option<&str>, drivers: &Path) -> Result<()> {
    host::prepare(host::Need::Test)?;
    let releases = tree.out().join("releases.json");
    images::test_releases(tree)?.save(&releases)?;
    let (variable, releases) = Releases::variable(&releases);
    let mut test = host::cargo();
    test.args(["test", "--release", "--locked", "-p", "tests-boot", "--test", "phone", "--", "--ignored"])
        .arg("--nocapture")
        .args(only)
        .current_dir(&tree.root)
        .env(variable, releases)
        .env("NODE_PATH", drivers.join("node_modules"))
        .env("MACULA_PICTURES", tree.out().join("console-pictures"));
    ensure!(test.status()?.success(), "the console's test failed");
    Ok(())
}

fn install(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .arg(folder)
        .args(DRIVERS);
    ensure!(
        npm.status().context("cannot run npm")?.success(),
        "npm could not install {}",
        DRIVERS.join(" and ")
    );
    Ok(())
}
