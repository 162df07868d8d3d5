//! A person with a phone before a new node: what is on the screen is opened in a browser, and that alone makes the owner.
//! `cargo xtask test console` runs it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{NodeOptions, screen, wait_until};
use qemu_vm::free_tcp_port;
use tests_boot::{Bench, say, with_console};

const PATIENCE: Duration = Duration::from_secs(180);
/// Nobody owns it.
const CONFIG: &str = "version = 1\nname = \"newcomer\"\n";
/// What the network of the browser's card gives to the only machine on it.
const ADDRESS: &str = "10.0.2.15";

#[test]
#[ignore = "needs Chromium: cargo xtask test console"]
fn a_phone_that_scans_the_screen_makes_an_owner() -> Result<()> {
    let bench = Bench::new()?;
    let port = free_tcp_port()?;
    let options = NodeOptions { screen: true, alone: true, web: Some(port), ..NodeOptions::default() };
    let node = bench.lab.start("newcomer", bench.image()?, CONFIG, options)?;
    node.wait_ready().with_context(|| node.tail())?;
    let picture = bench.lab.dir().join("screen.ppm");
    // Until the node has an address the code has none, and is for `maculactl`.
    let begins = format!("HTTPS://{ADDRESS}:4433/");
    let code = wait_until("a code that a phone can open", PATIENCE, || {
        Ok(screen::look(&node.vm, &picture)?.filter(|code| code.starts_with(&begins)))
    });
    let code = with_console(&node, code)?;
    say(&format!("on the screen: {code}"));

    let said = with_console(&node, browse(&code, port))?;
    let owner = said["owner"].as_str().context("the page names no owner")?;
    say(&format!("the browser's key is the owner's: {owner}"));
    ensure!(screen::look(&node.vm, &picture)?.is_none(), "the code is still on the screen");
    ensure!(node.status().is_err(), "somebody else than the phone has a say");
    Ok(())
}

/// What the page comes to: the last line of the script.
fn browse(code: &str, port: u16) -> Result<serde_json::Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../pairing/tests/page.cjs");
    let mut command = Command::new("node");
    command.args([script, "pair", code]).env("MACULA_WAY", format!("MAP {ADDRESS} 127.0.0.1:{port}"));
    let output = command.output().context("cannot run node")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.trim().lines().last().unwrap_or_default()).context("no JSON from the script")
}
