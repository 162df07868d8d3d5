//! Both slots are gone: the node boots its rescue system, gets a release from its neighbour and comes back by itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_layout::{ENTRIES_DIR, ROOT_A, ROOT_B};
use qemu_lab::Node;
use serde_json::Value;
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

/// What is overwritten of each root: its super block, hash tree and most files are gone.
const WIPED: u64 = 64 << 20;

/// A node that took a release from its neighbour loses both roots, and then even its slot's UKI.
#[test]
fn a_node_whose_slots_are_zeroed_comes_back_by_itself() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    let id = b.status()?["node"].clone();
    let second = &bench.releases.second;
    with_console(&b, b.wait_peers(1))?;
    b.vm.power_cut()?;
    zero_roots(&b.disk)?;
    second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    b.vm.restart()?;
    let in_rescue = |s: &Value| s["rescue"].as_str().is_some_and(|r| r.contains("slot A failed last (root"));
    let status = with_console(&b, b.wait_status("to be in rescue", UPDATE, in_rescue))?;
    say(&format!("in rescue: {}", status["rescue"]));
    ensure!(status["node"] == id, "rescue keeps the node's key: {status}");

    let back =
        |s: &Value| s["version"] == second.version.as_str() && s["rescue"] == "" && s["trial"].is_null();
    let status = with_console(&b, b.wait_status("to be back in a slot", UPDATE, back))?;
    ensure!(status["node"] == id && status["slot"] == "B", "{status}");
    ensure!(events(&status).iter().any(|e| e.starts_with("rescue")), "it says what happened: {status}");
    say("back in slot B");
    without_any_uki(&b)
}

/// The boot loader is left with nothing that it could load but the rescue system: it runs, and answers.
fn without_any_uki(node: &Node) -> Result<()> {
    node.vm.power_cut()?;
    let entries = image_builder::esp::list(&node.disk, ENTRIES_DIR)?;
    for entry in entries.iter().filter(|e| !e.contains("rescue")) {
        image_builder::esp_write_file(&node.disk, &format!("{ENTRIES_DIR}/{entry}"), &[0; 65536])?;
    }
    node.vm.restart()?;
    let in_rescue = |s: &Value| s["rescue"].as_str().is_some_and(|r| !r.is_empty());
    let status = with_console(node, node.wait_status("to be in rescue again", UPDATE, in_rescue))?;
    say(&format!("in rescue again: {}", status["rescue"]));
    Ok(())
}

fn zero_roots(disk: &Path) -> Result<()> {
    let disk: File = OpenOptions::new().write(true).open(disk).context("the node's disk")?;
    let zeros = vec![0; 1 << 20];
    for root in [ROOT_A, ROOT_B] {
        for offset in (0..WIPED).step_by(zeros.len()) {
            disk.write_all_at(&zeros, root.start + offset)?;
        }
    }
    Ok(())
}
