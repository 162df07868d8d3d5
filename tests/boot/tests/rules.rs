//! Rules of the boot that only a real one can show.
//!
//! Rule 1: with no trial pending a boot writes nothing to the partition table, the boot loader's partition or the roots.
//! Rule 4: a hang, a kernel panic and the death of PID 1 each lead to a bounded reboot, and the node then says what it was.
//! Rule 2: a committed release whose boots end like this again and again is left for the rescue system.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_layout::STATE;
use qemu_lab::{Node, NodeOptions};
use qemu_vm::WriteLog;
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

const BOOTS: usize = 10;
/// A hang waits for the watchdog's minute; emulated machines on a busy host are slow.
const BACK: Duration = Duration::from_secs(400);
/// What the faulty init obeys, the evidence that follows, and what its reason names. As many as a slot may have before it is
/// left.
const FAULTS: [(&str, &str, &str); 3] = [
    ("panic", "panic", "sysrq triggered crash"),
    ("exit", "panic", "Attempted to kill init"),
    ("hang", "watchdog", "nothing fed it"),
];

#[test]
fn rule_1_ten_settled_boots_write_to_the_state_partition_alone() -> Result<()> {
    let bench = Bench::new()?;
    let log = bench.lab.dir().join("quiet.writes");
    let options = NodeOptions { record_writes: Some(log.clone()), alone: true, ..NodeOptions::default() };
    let node = bench.lab.start("quiet", bench.image()?, &bench.lab.config("quiet"), options)?;
    with_console(&node, node.wait_ready())?;
    with_console(&node, node.wait_answer())?;
    node.vm.stop()?;
    let first = WriteLog::open(&log)?.entries().len();
    for _ in 0..BOOTS {
        node.vm.restart()?;
        with_console(&node, node.wait_ready())?;
        // The end of QEMU is what a power cut is to the guest, and leaves the log whole.
        node.vm.stop()?;
    }
    node.vm.restart()?;
    with_console(&node, node.wait_answer())?;
    node.vm.stop()?;
    let recorded = WriteLog::open(&log)?;
    let (before, after) = recorded.entries().split_at(first);
    let elsewhere = |writes: &[qemu_vm::LoggedWrite]| -> Vec<u64> {
        writes.iter().filter(|w| w.bytes > 0 && !in_state(w.offset, w.bytes)).map(|w| w.offset).collect()
    };
    ensure!(
        !elsewhere(before).is_empty(),
        "the first boot renews the partition table: is the log read right?"
    );
    ensure!(
        after.iter().any(|w| w.bytes > 0),
        "eleven boots leave at least their records in the state partition"
    );
    let strays = elsewhere(after);
    ensure!(strays.is_empty(), "settled boots wrote outside the state partition, at {strays:?}");
    say(&format!("{BOOTS} settled boots: {} writes, all in the state partition", after.len()));
    Ok(())
}

/// The state partition ends where the backup of the partition table begins.
fn in_state(offset: u64, bytes: u64) -> bool {
    const BACKUP_TABLE: u64 = 33 * image_layout::SECTOR_BYTES;
    offset >= STATE.start && offset + bytes <= qemu_lab::DISK - BACKUP_TABLE
}

#[test]
fn rule_4_each_fault_is_a_reboot_that_says_why_and_the_third_leads_to_rescue() -> Result<()> {
    let bench = Bench::new()?;
    let image = bench.releases.faulty.disk.as_deref().context("the faulty release has no disk image")?;
    let options = NodeOptions { alone: true, ..NodeOptions::default() };
    let node = bench.lab.start("faulty", image, &bench.lab.config("faulty"), options)?;
    with_console(&node, node.wait_ready())?;
    with_console(&node, node.wait_answer())?;
    for (fault, stage, reason) in FAULTS {
        with_console(&node, comes_back(&node, fault, stage, reason))?;
    }
    let status = node.status()?;
    let why = status["rescue"].as_str().unwrap_or("");
    ensure!(why.contains("slot A failed last (watchdog: "), "after {} failures: {status}", FAULTS.len());
    say(&format!("in rescue: {why}"));
    Ok(())
}

fn comes_back(node: &Node, fault: &str, stage: &str, reason: &str) -> Result<()> {
    let before = node.status()?["boot_id"].clone();
    // The answer may die with the machine.
    let _ = node.ctl(&["reboot", "--reason", &format!("fault: {fault}")]);
    let told = |s: &Value| s["boot_id"] != before && last_end(s).is_some();
    let status = node.wait_status(&format!("to be back after the {fault} and to tell"), BACK, told)?;
    let event = last_end(&status).context("no event")?;
    let text = event["text"].as_str().unwrap_or("");
    ensure!(text.contains(&format!(", {stage}: ")) && text.contains(reason), "{fault}: {event}");
    let lines: Vec<&str> =
        event["log_tail"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if stage == "panic" {
        // RAM keeps the log of a panic. (That of a hang is kept on trial alone, where it is written to the disk.)
        let named = lines.iter().any(|line| line.contains(&format!("fault by order: {fault}")));
        ensure!(named, "the log's last lines are kept: {lines:?}");
    }
    ensure!(status["slot"] == "A" && status["trial"].is_null(), "{status}");
    let is_last = fault == FAULTS[FAULTS.len() - 1].0;
    ensure!((status["rescue"] == "") != is_last, "after the {fault}: {status}");
    say(&format!("{fault}: {text}"));
    Ok(())
}

/// The last event that the boot before left, if it says how that ended. The rescue system's own are behind it.
fn last_end(status: &Value) -> Option<&Value> {
    let mut events = status["events"].as_array()?.iter().rev();
    events.find(|e| e["kind"] != "rescue").filter(|e| e["kind"] == "boot-failed")
}
