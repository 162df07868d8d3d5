//! Factory reset: by order, cut at bad moments, and from the boot menu. What is left is the old node or a new one. The menu
//! starts the rescue system, too.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qemu_lab::{Node, NodeOptions};
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

const BOOT: Duration = Duration::from_secs(240);
/// What init says when it begins and when it has made the new state.
const ERASING: &str = "factory reset: erasing";
const EMPTY: &str = "factory reset: state is empty";
/// Their places in the boot menu.
const RESET: &str = "2";
const RECOVER: &str = "3";
const RESCUE: &str = "4";
/// The machine's clock in the menu's test: wrong, but not absurd. Owner and node know each other all the same.
const AHEAD_S: i64 = 400 * 86_400;
const FIRST_BOOT: &str = "first boot: disk";

#[test]
fn a_reset_by_order_makes_a_new_node_whatever_is_cut() -> Result<()> {
    let bench = Bench::new()?;
    let node = bench.node("resetter")?;
    let before = with_console(&node, configured(&node))?;
    let refusal = bench.lab.owner.run(&["--node", &node.address, "reset"]);
    ensure!(refusal.is_err_and(|e| e.to_string().contains("--yes")), "a reset must be meant");
    node.ctl(&["reset", "--yes"])?;
    with_console(&node, cuts(&node))?;
    ensure!(node.status().is_err(), "the owner of the old node still has a say");
    let after = with_console(&node, provisioned_anew(&bench, &node))?;
    ensure!(before != after, "the new node has the old one's key: {after}");
    say("the owner put a new macula.toml on the ESP: a new node answers");
    Ok(())
}

/// `config set` is taken, checked, shown and survives; returns the node's id.
fn configured(node: &Node) -> Result<String> {
    node.ctl(&["config", "set", "gate.steady_s", "7"])?;
    ensure!(node.ctl(&["config", "get", "gate.steady_s"])? == "7");
    let refusal = node.ctl(&["config", "set", "gate.steady_s", "9999"]);
    ensure!(
        refusal.is_err_and(|e| format!("{e:#}").contains("gate.timeout_s")),
        "an invalid whole was taken"
    );
    // The mesh starts again with this one, and the answer must come through all the same.
    node.ctl(&["config", "set", "mesh.mdns", "false"])?;
    std::thread::sleep(Duration::from_secs(3));
    let status = node.wait_answer()?;
    let text = node.ctl(&["config", "show"])?;
    ensure!(
        text.as_str().is_some_and(|t| t.contains("steady_s = 7") && t.contains("mdns = false")),
        "{text}"
    );
    say("configuration changed over the mesh");
    Ok(status["node"].as_str().context("no node id")?.to_string())
}

/// Power cuts in the midst of the reset, and right after it.
fn cuts(node: &Node) -> Result<()> {
    let serial = node.vm.serial();
    serial.wait_for(ERASING, BOOT)?;
    for moment in [ERASING, EMPTY] {
        node.vm.power_cut()?;
        node.vm.restart()?;
        let (which, _) = serial.wait_for_any(&[moment, "supervisor started"], BOOT)?;
        say(if which == 0 { "cut in the reset: it starts over" } else { "the reset was done already" });
    }
    serial.wait_for("supervisor started", BOOT)?;
    node.wait_ready()?;
    Ok(())
}

/// Switched off, given a configuration on its ESP, and on again.
fn provisioned_anew(bench: &Bench, node: &Node) -> Result<String> {
    node.vm.power_cut()?;
    image_builder::esp_write_file(&node.disk, "macula.toml", bench.lab.config("renewed").as_bytes())?;
    node.vm.restart()?;
    node.wait_ready()?;
    bench.lab.owner.run(&["known", "forget", &node.address])?;
    let status = node.wait_answer()?;
    ensure!(status["name"] == "renewed" && status["slot"] == "A", "{status}");
    Ok(status["node"].as_str().context("no node id")?.to_string())
}

#[test]
fn the_boot_menu_starts_rescue_and_resets_only_when_somebody_confirms() -> Result<()> {
    let bench = Bench::new()?;
    let config = bench.lab.config("menu");
    let ahead = NodeOptions { clock_off_s: AHEAD_S, ..NodeOptions::default() };
    let node = bench.lab.start("menu", bench.image()?, &config, ahead)?;
    with_console(&node, choose_reset(&node, "no"))?;
    node.wait_ready()?;
    let status = with_console(&node, node.wait_answer())?;
    ensure!(status["entries"][0] == "macula-000001.efi" && status["slot"] == "A", "{status}");
    say("not confirmed: the node starts as usual");

    node.vm.power_cut()?;
    node.vm.restart()?;
    with_console(&node, choose(&node, RESCUE))?;
    let by_hand = |s: &Value| s["rescue"].as_str().is_some_and(|why| why.contains("by hand"));
    let rescue = with_console(&node, node.wait_status("to be in rescue", BOOT, by_hand))?;
    ensure!(rescue["node"] == status["node"], "rescue keeps the node's key: {rescue}");
    say("chosen in the menu: the rescue system runs");

    node.vm.power_cut()?;
    node.vm.restart()?;
    with_console(&node, choose_and_say(&node, RECOVER, "yes"))?;
    node.vm.serial().wait_for("confirmed: the owner is forgotten", BOOT)?;
    node.wait_ready()?;
    let begun = Instant::now();
    while node.status().is_ok() {
        ensure!(begun.elapsed() < BOOT, "the owner that was to be forgotten still has a say");
        std::thread::sleep(Duration::from_secs(1));
    }
    say("recovered: the node has forgotten its owner, and nothing else");

    node.vm.power_cut()?;
    node.vm.restart()?;
    with_console(&node, choose_reset(&node, "yes"))?;
    node.vm.serial().wait_for(EMPTY, BOOT)?;
    node.vm.serial().wait_for(FIRST_BOOT, BOOT)?;
    node.wait_ready()?;
    ensure!(node.status().is_err(), "the old owner still has a say");
    say("confirmed: a new node without an owner");
    Ok(())
}

fn choose_reset(node: &Node, answer: &str) -> Result<()> {
    choose_and_say(node, RESET, answer)?;
    let serial = node.vm.serial();
    serial.wait_for(if answer == "yes" { "confirmed: resetting" } else { "not confirmed" }, BOOT)?;
    Ok(())
}

fn choose_and_say(node: &Node, entry: &str, answer: &str) -> Result<()> {
    choose(node, entry)?;
    node.vm.serial().wait_for("Type `yes`", BOOT)?;
    node.vm.send(&format!("{answer}\n"))?;
    Ok(())
}

/// Holds a key down while the machine starts (the boot loader looks for a tenth of a second), and chooses an entry of the menu.
fn choose(node: &Node, entry: &str) -> Result<()> {
    let serial = node.vm.serial();
    let run = serial.run();
    let begun = Instant::now();
    while serial.wait_for_after(run, "(factory reset", Duration::from_millis(40)).is_err() {
        if begun.elapsed() > BOOT {
            bail!("the boot menu did not come");
        }
        node.vm.send(" ")?;
    }
    node.vm.send(entry)?;
    std::thread::sleep(Duration::from_millis(500));
    node.vm.send("\r")?;
    Ok(())
}
