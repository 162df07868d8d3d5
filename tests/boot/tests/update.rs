//! A node fetches a release from the only other node that has it, tries it, and commits it; then a flipped byte in the
//! committed root sends it to the other slot.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use image_layout::ROOT_B;
use qemu_lab::Node;
use tests_boot::{Bench, CHANNEL, UPDATE, events, say, with_console};

#[test]
fn a_release_is_fetched_from_a_neighbour_tried_and_committed() -> Result<()> {
    let bench = Bench::new()?;
    let (a, b) = (bench.node("holder")?, bench.follower("follower")?);
    let second = &bench.releases.second;
    let peers = with_console(&b, b.wait_peers(1))?;
    let holder = a.status()?["node"].clone();
    ensure!(peers[0]["node"] == holder, "{peers:?}");
    second.publish(&bench.lab.owner, bench.lab.dir(), &a.address, CHANNEL)?;
    say("published on the holder");

    let committed = |s: &serde_json::Value| s["version"] == second.version.as_str() && s["trial"].is_null();
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
    say("committed in slot B");
    with_console(&b, flipped_byte(&b, &second.artifacts.join("root.img")))
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
    let back = |s: &serde_json::Value| s["slot"] == "A";
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
