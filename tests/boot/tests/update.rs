//! Debian's `rauc` orders a node to install a release; it fetches it from the only other node that has it, tries it, and
//! commits it, all that on a disk without a free byte; `rauc` shows it and marks slots; then a flipped byte in the committed root sends it to the other slot.
//! (Nodes that follow a channel: `refusals` and `rollback`.)

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use image_layout::ROOT_B;
use qemu_lab::{Node, wait_until};
use serde_json::Value;
use tests_boot::{Bench, CHANNEL, Rauc, UPDATE, events, fill_state, say, with_console};

#[test]
fn a_release_is_fetched_from_a_neighbour_tried_and_committed() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.node("follower")?);
    let second = &bench.releases.second;
    with_console(&b, full_disk(&bench, &b))?;
    let peers = with_console(&b, b.wait_peers(1))?;
    let holder = a.status()?["node"].clone();
    ensure!(peers[0]["node"] == holder, "{peers:?}");
    let release = second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    say("published on the holder");
    let rauc = Rauc::start(&bench, &b)?;
    let installed = wait_until("rauc to install the release", UPDATE, || {
        rauc.run(&["install", &format!("mcid:{release}")]).map(Some)
    });
    let said = with_console(&b, installed)?;
    ensure!(said.contains("100% Installing done.") && said.contains("succeeded"), "{said}");
    say("installed by rauc");

    let committed = |s: &Value| s["version"] == second.version.as_str() && s["trial"].is_null();
    let status = with_console(&b, b.wait_status("to run and commit the release", UPDATE, committed))?;
    ensure!(status["slot"] == "B" && status["seq"] == 2, "{status}");
    ensure!(status["entries"][0] == "macula-000002.efi", "a committed entry carries no counter: {status}");
    ensure!(events(&status).iter().any(|e| e.starts_with("committed")), "{:?}", events(&status));
    ensure!(
        events(&status).iter().any(|e| e.contains(holder.as_str().unwrap_or("?"))),
        "the record says from whom the bytes came: {:?}",
        events(&status)
    );
    ensure!(
        a.status()?["version"] == bench.releases.first.version.as_str(),
        "the holder was only told to hold"
    );
    ensure!(complains(&status), "the disk is still full: {status}");
    ensure!(events(&status).iter().any(|e| e.starts_with("state-full")), "{:?}", events(&status));
    say("committed in slot B");
    with_console(&b, rauc_marks(&rauc, &b))?;
    with_console(&b, flipped_byte(&b, &second.artifacts.join("root.img")))
}

/// Without a free byte in the state partition every unit is up, the owner is told, and content is refused in plain words.
fn full_disk(bench: &Bench, node: &Node) -> Result<()> {
    // The answer may die with the machine.
    let _ = node.ctl(&["poweroff"]);
    node.vm.wait_exit(UPDATE)?;
    fill_state(&node.disk)?;
    node.vm.restart()?;
    node.wait_ready()?;
    node.wait_status("to say that its disk is full", UPDATE, complains)?;
    let down: Vec<Value> =
        node.units()?.into_iter().filter(|u| u["state"] != "ready" && u["state"] != "idle").collect();
    ensure!(down.is_empty(), "on a full disk these are not ready: {down:?}");
    let status = bench.lab.owner.run(&["--node", &node.address, "status"])?;
    ensure!(status.contains("state is full: 0 of"), "{status}");
    let content = bench.lab.dir().join("content");
    std::fs::write(&content, [7; 100_000])?;
    let refusal = node.ctl(&["content", "put", content.to_str().context("not UTF-8")?]);
    let refusal = format!("{:#}", refusal.err().context("content was stored on a full disk")?);
    ensure!(refusal.contains("the disk is full") && refusal.contains("remove"), "{refusal}");
    say(&format!("on a full disk: {}", refusal.lines().last().unwrap_or_default().trim()));
    Ok(())
}

fn complains(status: &Value) -> bool {
    let warnings = status["warnings"].as_array();
    warnings.into_iter().flatten().any(|w| w.as_str().is_some_and(|w| w.contains("state is full")))
}

/// To the other slot and back, without a reboot.
fn rauc_marks(rauc: &Rauc, node: &Node) -> Result<()> {
    let status = rauc.status()?;
    ensure!(status["booted"] == "B" && status["boot_primary"] == "rootfs.1", "{status}");
    let entries = || Ok::<_, anyhow::Error>(node.status()?["entries"].clone());
    let before = entries()?;
    rauc.run(&["status", "mark-active", "other"])?;
    ensure!(entries()?[0] == "macula-000001.efi", "{}", entries()?);
    let status = rauc.status()?;
    ensure!(status["boot_primary"] == "rootfs.0", "{status}");
    rauc.run(&["status", "mark-good", "booted"])?;
    ensure!(entries()? == before, "{}", entries()?);
    say("rauc marked the running slot bad, and good again");
    Ok(())
}

/// One byte of `/usr/bin/mesh` on the disk of the node that is switched off.
fn flipped_byte(node: &Node, root: &Path) -> Result<()> {
    node.vm.power_cut()?;
    let offset = ROOT_B.start + extent_of(root, "/usr/bin/mesh")?;
    let disk = OpenOptions::new().read(true).write(true).open(&node.disk)?;
    let mut byte = [0];
    disk.read_exact_at(&mut byte, offset)?;
    disk.write_all_at(&[byte[0] ^ 0x10], offset)?;
    say("flipped one byte of the committed root");
    node.vm.restart()?;
    let back = |s: &Value| s["slot"] == "A";
    let status = node.wait_status("to come back on the other slot", UPDATE, back)?;
    let said = events(&status);
    ensure!(said.iter().any(|e| e.contains("corrupt")), "it says why: {said:?}");
    say("came back on slot A, saying why");
    Ok(())
}

/// Where a file's first compressed byte lies in the root, asked of erofs-utils.
fn extent_of(root: &Path, file: &str) -> Result<u64> {
    let output = Command::new("dump.erofs")
        .args([&format!("--path={file}"), "-e"])
        .arg(root)
        .output()
        .context("cannot run dump.erofs (package erofs-utils)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `   0:        0..   65536 |   65536 :    4096..   36864 |   32768`
    let line = text.lines().find(|l| l.trim_start().starts_with("0:")).with_context(|| text.clone())?;
    let physical =
        line.split('|').nth(1).and_then(|p| p.split(':').nth(1)).and_then(|p| p.split("..").next());
    let address: u64 = physical.context("no physical address")?.trim().parse()?;
    Ok(address + 1000)
}
