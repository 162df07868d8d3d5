//! An encrypted state: opened by the machine's own TPM, by the recovery key when that is another one, by a PIN.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_layout::STATE;
use qemu_lab::{Node, NodeOptions};
use qemu_vm::Mark;
use tests_boot::{Bench, say, with_console};

const STEP: Duration = Duration::from_secs(240);
const PIN: &str = "246810";

#[test]
fn an_encrypted_state_opens_for_its_machine_and_its_owner_alone() -> Result<()> {
    let bench = Bench::new()?;
    let config = bench.lab.config("vault") + "[state]\nencryption = \"tpm\"\n";
    let tpm = |name: &str| bench.lab.dir().join(name);
    let options = NodeOptions { tpm: Some(tpm("tpm")), ..NodeOptions::default() };
    let node = bench.lab.start("vault", bench.image()?, &config, options)?;
    let id = with_console(&node, encrypted(&node, bench.lab.owner.did()))?;
    let key = node.ctl(&["recovery-key"])?;
    let key = key.as_str().context("no recovery key")?;

    restart(&node)?;
    ensure!(with_console(&node, identity(&node))? == id, "another node came up");
    say("after a power cut its own TPM opens it, by itself");

    node.vm.change_tpm(Some(tpm("other")));
    restart(&node)?;
    with_console(&node, opened_with_the_recovery_key(&node, key))?;
    ensure!(with_console(&node, identity(&node))? == id, "another node came up");
    say("with another machine's TPM only the recovery key opens it");

    node.ctl(&["reset", "--yes", "--encryption", "tpm-pin"])?;
    with_console(&node, reset_to_a_pin(&node))?;
    restart(&node)?;
    with_console(&node, opened_with_the_pin(&node))?;
    ensure!(node.status().is_err(), "the owner of the old node still has a say");
    say("reset to a PIN: asked for at each boot, and a wrong one does not do");
    Ok(())
}

fn restart(node: &Node) -> Result<()> {
    node.vm.power_cut()?;
    Ok(node.vm.restart()?)
}

/// The node's id, when it is ready and answers.
fn identity(node: &Node) -> Result<String> {
    node.wait_ready()?;
    let status = node.wait_answer()?;
    ensure!(status["encryption"] == "tpm", "{status}");
    Ok(status["node"].as_str().context("no node id")?.to_owned())
}

/// What lies on the disk is a LUKS header and noise.
fn encrypted(node: &Node, owner: &str) -> Result<String> {
    let id = identity(node)?;
    let mut bytes = vec![0; STATE.bytes as usize];
    File::open(&node.disk)?.read_exact_at(&mut bytes, STATE.start)?;
    ensure!(bytes.starts_with(b"LUKS\xba\xbe\0\x02"), "the state partition is not encrypted");
    for clear in ["config.toml", owner, &id] {
        let found = bytes.windows(clear.len()).any(|window| window == clear.as_bytes());
        ensure!(!found, "{clear} is on the disk in clear");
    }
    say("the first boot has encrypted the state");
    Ok(id)
}

fn opened_with_the_recovery_key(node: &Node, key: &str) -> Result<()> {
    let serial = node.vm.serial();
    serial.wait_for("the TPM does not open the state partition", STEP)?;
    let refused = type_secret(node, "recovery key", "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc")?;
    serial.wait_for("that did not open it", STEP)?;
    type_secret_after(refused, node, "recovery key", &key.to_uppercase())?;
    serial.wait_for("state opened", STEP)?;
    Ok(())
}

fn reset_to_a_pin(node: &Node) -> Result<()> {
    let asked = type_secret(node, "new PIN", PIN)?;
    type_secret(node, "new PIN, once more", PIN)?;
    for line in ["it is opened by: tpm-pin", "all units ready"] {
        node.vm.serial().wait_for_after(asked, line, STEP)?;
    }
    Ok(())
}

fn opened_with_the_pin(node: &Node) -> Result<()> {
    let refused = type_secret(node, "PIN (or recovery key)", "135790")?;
    node.vm.serial().wait_for("that did not open it", STEP)?;
    type_secret_after(refused, node, "PIN (or recovery key)", PIN)?;
    node.vm.serial().wait_for("state opened", STEP)?;
    node.wait_ready()?;
    Ok(())
}

/// Answers a question on the console, which must not show the answer. Returns the moment before.
fn type_secret(node: &Node, what: &str, secret: &str) -> Result<Mark> {
    type_secret_after(node.vm.serial().run(), node, what, secret)
}

fn type_secret_after(mark: Mark, node: &Node, what: &str, secret: &str) -> Result<Mark> {
    let serial = node.vm.serial();
    serial.wait_for_after(mark, &format!("type the {what} and press Enter"), STEP)?;
    // The terminal is told to hide what is typed just before the question, and forgets what came earlier.
    std::thread::sleep(Duration::from_millis(300));
    let before = serial.mark();
    node.vm.send(&format!("{secret}\n"))?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(!serial.tail().contains(secret), "the console shows what is typed");
    Ok(before)
}
