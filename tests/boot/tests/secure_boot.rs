//! Firmware that gets the fleet's keys refuses a UKI that nobody signed, and starts the signed one beside it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, NodeOptions};
use tests_boot::{Bench, say, with_console};

/// An install that the firmware will not have, with one try.
const UNSIGNED: &str = "EFI/Linux/macula-000002+1.efi";
const STEP: Duration = Duration::from_secs(120);

#[test]
fn with_the_keys_enrolled_only_a_signed_uki_boots() -> Result<()> {
    let bench = Bench::new()?;
    let signed = bench.releases.signed.as_ref().context("no signed release was built")?;
    let image = signed.disk.as_deref().context("the signed release has no disk image")?;
    let disk = bench.lab.disk("secure", image, &bench.lab.config("secure"))?;
    let unsigned = std::fs::read(bench.releases.second.artifacts.join("uki.efi"))?;
    bench.lab.write_to_esp(&disk, UNSIGNED, &unsigned)?;
    let options = NodeOptions { secure_boot: true, ..NodeOptions::default() };
    let node = bench.lab.start_on("secure", disk, options)?;
    with_console(&node, boot_chain(&node))?;
    let status = with_console(&node, node.wait_answer())?;
    ensure!(status["slot"] == "A" && status["seq"] == 1, "{status}");
    ensure!(status["secure_boot"] == "on", "{status}");
    ensure!(status["entries"][1] == "macula-000002+0-1.efi", "the try was not counted: {status}");
    Ok(())
}

fn boot_chain(node: &Node) -> Result<()> {
    for line in [
        "Secure Boot keys successfully enrolled",
        "macula-000002+0-1.efi: Access denied",
        "UEFI Secure Boot is enabled",
    ] {
        node.vm.serial().wait_for(line, STEP)?;
        say(line);
    }
    node.wait_ready()?;
    say("all units are ready on a locked-down kernel");
    Ok(())
}
