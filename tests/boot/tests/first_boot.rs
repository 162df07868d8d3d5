//! A new node shows a code on its screen; somebody else's QR reader reads it from the picture, and that alone makes the owner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qemu_lab::{Node, NodeOptions, screen, wait_until};
use tests_boot::{Bench, say, with_console};

const PATIENCE: Duration = Duration::from_secs(180);
/// Nobody owns it.
const CONFIG: &str = "version = 1\nname = \"newcomer\"\n";

#[test]
fn the_code_on_the_screen_makes_an_owner_once() -> Result<()> {
    let bench = Bench::new()?;
    let options = NodeOptions { screen: true, ..NodeOptions::default() };
    let node = bench.lab.start("newcomer", bench.image()?, CONFIG, options)?;
    node.wait_ready().with_context(|| node.tail())?;
    let picture = bench.lab.dir().join("screen.ppm");
    let code = with_console(&node, screen::read_code(&node.vm, &picture, PATIENCE))?;
    say(&format!("on the screen: {code}"));
    keep(&picture)?;
    with_console(&node, same_on_the_serial_line(&node, &code))?;
    ensure!(node.status().is_err(), "nobody owns it, and somebody has a say");

    let pair = ["--node", &node.address, "pair", &code, "--name", "kitchen", "--wifi-ssid", "attic"];
    let said = bench.lab.owner.run(&pair).with_context(|| node.tail())?;
    say(said.lines().next().unwrap_or_default());
    ensure!(said.contains("this node has no Wi-Fi"), "{said}");
    let status = with_console(&node, node.wait_answer())?;
    ensure!(status["name"] == "kitchen", "{status}");
    let units = node.units()?;
    let wifi = units.iter().find(|unit| unit["name"] == "wifi").context("there is no unit wifi")?;
    ensure!(wifi["state"] == "idle" && wifi["pid"] == 0, "without a radio nothing of Wi-Fi runs: {wifi}");
    with_console(&node, code_is_gone(&node, &picture))?;

    // The same code again, by somebody who photographed the screen.
    let key = bench.lab.dir().join("second.key");
    std::fs::write(&key, format!("{}\n", "42".repeat(32)))?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let again = bench.lab.owner.run_as(&key, &["--node", &node.address, "pair", &code]);
    let refusal = again.err().context("a used code made a second owner")?.to_string();
    say(&format!("the second who comes reads: {}", refusal.lines().last().unwrap_or_default()));
    node.status().map(drop)
}

/// In groups of four, to be typed.
fn same_on_the_serial_line(node: &Node, code: &str) -> Result<()> {
    let line = node.vm.serial().wait_for("Code ", PATIENCE)?;
    let (_, typed) = line.split_once("Code ").context("no code")?;
    let typed: String = typed.chars().take(14).filter(|c| *c != '-').collect();
    ensure!(code.to_uppercase().contains(&typed), "the serial line says {typed}, the screen {code}");
    Ok(())
}

fn code_is_gone(node: &Node, picture: &Path) -> Result<()> {
    wait_until("the code to leave the screen", PATIENCE, || {
        Ok(screen::look(&node.vm, picture)?.is_none().then_some(()))
    })?;
    say("it is on the screen no more");
    Ok(())
}

/// For whoever wants to look: `MACULA_PICTURES` names a folder.
fn keep(picture: &Path) -> Result<()> {
    let Some(folder) = std::env::var_os("MACULA_PICTURES").map(PathBuf::from) else { return Ok(()) };
    if !folder.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    std::fs::copy(picture, folder.join("first-boot.ppm")).context("cannot keep the picture").map(drop)
}
