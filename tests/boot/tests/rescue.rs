//! Both slots are gone, and the machine's clock is years behind: the node boots its rescue system, gets a release from its
//! neighbour and comes back by itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use image_layout::{ENTRIES_DIR, ROOT_A, ROOT_B};
use qemu_lab::{Node, NodeOptions};
use serde_json::Value;
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

/// What is overwritten of each root: its super block, hash tree and most files are gone.
const WIPED: u64 = 64 << 20;
/// How far the machine's clock is behind at each start: further than any floor, so the node knows that it is wrong.
const BEHIND_S: i64 = 7 * 365 * 86_400;

/// A node that took a release from its neighbour loses both roots, and then even its slot's UKI.
#[test]
fn a_node_whose_slots_are_zeroed_comes_back_by_itself() -> Result<()> {
    let bench = Bench::new()?;
    let a = bench.node("holder")?;
    let wrong = NodeOptions { clock_off_s: -BEHIND_S, ..NodeOptions::default() };
    let b = bench.boot_with("follower", &bench.following("follower"), wrong)?;
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
    right_time(&status)?;
    without_any_uki(&b)
}

/// Nothing was ever reckoned by the machine's clock, and the neighbour's has been followed.
fn right_time(status: &Value) -> Result<()> {
    let told = status["events"].as_array().context("no events")?;
    let host = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let earliest = told.iter().filter_map(|e| e["at_unix"].as_u64()).min().unwrap_or(0);
    ensure!(earliest > host - BEHIND_S as u64 / 2, "an event by the wrong clock: {status}");
    let mut set = told.iter().filter(|e| e["kind"] == "clock" && e["text"].as_str().is_some_and(is_behind));
    let set = set.next_back().with_context(|| format!("the clock was not set: {status}"))?;
    let off = set["at_unix"].as_u64().unwrap_or(0).abs_diff(host);
    ensure!(off < UPDATE.as_secs(), "the clock is {off} s off after it was set: {status}");
    say(&format!("clock: {}", set["text"]));
    Ok(())
}

fn is_behind(text: &str) -> bool {
    text.contains("s behind; set to what neighbours say")
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
