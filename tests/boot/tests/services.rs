//! A node boots, every unit gets ready, none has more than its due, and each comes back when it is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, wait_until};
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

const SERVICES: [&str; 8] =
    ["identity", "network", "mesh", "dht", "content", "update", "reconciler", "console"];
const MAY_USE_THE_NETWORK: [&str; 2] = ["mesh", "network"];
const SETTLE: Duration = Duration::from_secs(90);

#[test]
fn units_are_ready_confined_and_come_back_after_kill_9() -> Result<()> {
    let bench = Bench::new()?;
    let node = bench.node("solo")?;
    with_console(&node, all_are_ready(&node))?;
    with_console(&node, confined(&node))?;
    with_console(&node, console_answers(&node))?;
    for service in SERVICES {
        with_console(&node, comes_back(&node, service))?;
    }
    with_console(&node, supervisor_comes_back(&node))
}

fn all_are_ready(node: &Node) -> Result<()> {
    let units = node.units()?;
    for service in SERVICES {
        ensure!(state(&units, service) == "ready", "{service} is {}", state(&units, service));
    }
    let status = node.status()?;
    ensure!(status["slot"] == "A" && status["seq"] == 1, "a fresh image boots slot A: {status}");
    ensure!(status["secure_boot"] != "on", "firmware without keys: {status}");
    ensure!(status["node"].as_str().is_some_and(|n| n.starts_with("did:key:z6Mk")), "{status}");
    Ok(())
}

/// Somebody at the serial line asks the node what it is, and is told, but has no say.
fn console_answers(node: &Node) -> Result<()> {
    for (typed, answer) in [("status\n", "macula-000001.efi"), ("reboot\n", "`reboot` is not known here")] {
        let here = node.vm.serial().mark();
        node.vm.send(typed)?;
        node.vm.serial().wait_for_after(here, answer, SETTLE)?;
    }
    say("the console answers");
    Ok(())
}

/// What a process in the unit's sandbox really could do, tried on the node.
fn confined(node: &Node) -> Result<()> {
    for service in SERVICES {
        let results = node.ctl(&["units", "probe", service])?;
        let results = results.as_array().context("a probe gives a list")?;
        let tried = |word: &str| {
            results
                .iter()
                .filter(|r| r["attempt"].as_str().is_some_and(|a| a.contains(word)))
                .collect::<Vec<_>>()
        };
        let sockets = [tried("AF_INET"), tried("AF_PACKET")].concat();
        ensure!(sockets.len() >= 2, "the probe of {service} tried no network sockets: {results:?}");
        let internet = tried("AF_INET").iter().any(|r| r["allowed"] == true);
        ensure!(
            internet == MAY_USE_THE_NETWORK.contains(&service),
            "{service} and network sockets: {sockets:?}"
        );
        for forbidden in tried("mount") {
            ensure!(forbidden["allowed"] == false, "{service}: {forbidden}");
        }
    }
    say("only mesh and network can open a network socket");
    Ok(())
}

fn comes_back(node: &Node, service: &str) -> Result<()> {
    let before = unit(&node.units()?, service)?["pid"].as_u64();
    kill(node, service)?;
    wait_until(&format!("{service} to come back"), SETTLE, || {
        let unit = unit(&node.units()?, service)?;
        Ok((unit["state"] == "ready" && unit["pid"].as_u64() != before).then_some(()))
    })?;
    say(&format!("{service} came back"));
    Ok(())
}

/// The order travels through these, so its answer may die with them.
const CARRY_THE_ANSWER: [&str; 3] = ["mesh", "update", "supervisor"];

fn kill(node: &Node, unit: &str) -> Result<()> {
    match node.ctl(&["units", "kill", unit, "--signal", "9"]) {
        Err(_) if CARRY_THE_ANSWER.contains(&unit) => Ok(()),
        other => other.map(drop),
    }
}

fn supervisor_comes_back(node: &Node) -> Result<()> {
    let before = unit(&node.units()?, "supervisor")?["pid"].as_u64();
    let boot = node.status()?["boot_id"].clone();
    kill(node, "supervisor")?;
    wait_until("everything to come back after the supervisor's death", SETTLE * 2, || {
        let units = node.units()?;
        let fresh = unit(&units, "supervisor")?["pid"].as_u64() != before;
        Ok((fresh && SERVICES.iter().all(|s| state(&units, s) == "ready")).then_some(()))
    })?;
    ensure!(node.status()?["boot_id"] == boot, "the node rebooted");
    say("the supervisor came back, and everything with it");
    Ok(())
}

fn unit(units: &[Value], name: &str) -> Result<Value> {
    units.iter().find(|u| u["name"] == name).cloned().with_context(|| format!("there is no unit {name}"))
}

fn state(units: &[Value], name: &str) -> String {
    units
        .iter()
        .find(|u| u["name"] == name)
        .and_then(|u| u["state"].as_str())
        .unwrap_or("missing")
        .to_string()
}
