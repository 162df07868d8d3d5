//! Nodes that mDNS cannot bring together, and whose clocks are a year apart, meet through a seed, and a stranger gets nowhere with the owner's orders.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, NodeOptions, wait_until};
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

/// The only Ethernet link of a machine; the loopback link is 1.
const LINK: u32 = 2;
/// How far the newcomer's clock is ahead: wrong, but not absurd. The nodes know each other all the same.
const AHEAD_S: i64 = 400 * 86_400;
const ADDRESS: Duration = Duration::from_secs(90);

#[test]
fn nodes_meet_through_a_seed_and_strangers_are_refused() -> Result<()> {
    let bench = Bench::new()?;
    let a = bench.boot("seed", &format!("{}[mesh]\nmdns = false\n", bench.lab.config("seed")))?;
    let id = a.status()?["node"].as_str().context("no node id")?.to_string();
    let address = with_console(&a, link_local(&a))?;
    let seed = format!("{id}@[{address}%{LINK}]:4433");
    let config = format!("{}[mesh]\nmdns = false\nseeds = [\"{seed}\"]\n", bench.lab.config("newcomer"));
    let ahead = NodeOptions { clock_off_s: AHEAD_S, ..NodeOptions::default() };
    let b = bench.boot_with("newcomer", &config, ahead)?;
    let peers = with_console(&b, b.wait_peers(1))?;
    ensure!(peers[0]["node"] == id.as_str(), "{peers:?}");
    say(&format!("met through {seed}"));
    let told = |s: &Value| s["warnings"].to_string().contains("s ahead of what neighbours say");
    with_console(&b, b.wait_status("to say that its clock is disputed", ADDRESS, told))?;
    say("their clocks are 400 days apart, and the newcomer says so");
    with_console(&a, stranger_is_refused(&bench, &a))
}

fn link_local(node: &Node) -> Result<String> {
    wait_until("an IPv6 link-local address", ADDRESS, || {
        let links = node.ctl(&["links"])?;
        let addresses = links.as_array().into_iter().flatten().flat_map(|l| l["addresses"].as_array());
        let mut texts = addresses.flatten().filter_map(|a| a.as_str()?.split('/').next());
        Ok(texts.find(|a| a.starts_with("fe80:")).map(String::from))
    })
}

/// Whoever reaches the node and is not its owner may talk to its mesh, and to nothing that looks into it or changes it.
fn stranger_is_refused(bench: &Bench, node: &Node) -> Result<()> {
    let key = bench.lab.dir().join("stranger.key");
    std::fs::write(&key, format!("{}\n", "42".repeat(32)))?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    for order in [&["status"][..], &["reboot"], &["dht", "table"], &["content", "status"], &["peers"]] {
        let arguments = [&["--node", &node.address], order].concat();
        let refusal = match bench.lab.owner.run_as(&key, &arguments) {
            Ok(answer) => anyhow::bail!("a stranger's {order:?} was answered: {answer}"),
            Err(refusal) => refusal.to_string(),
        };
        ensure!(refusal.contains("not its owner"), "{order:?}: {refusal}");
    }
    say("a stranger is refused whatever he asks");
    ensure!(node.status()?["uptime_s"].as_u64().is_some(), "the owner is still answered");
    stranger_becomes_a_delegate(bench, node, &key)
}

/// With the owner's delegation the stranger may do what it says and no more, until the owner takes it back. All of it is on record.
fn stranger_becomes_a_delegate(bench: &Bench, node: &Node, key: &Path) -> Result<()> {
    let owner = &bench.lab.owner;
    let file = |name: &str| bench.lab.dir().join(name).display().to_string();
    let (ucan, revocation) = (file("stranger.ucan"), file("stranger.revocation"));
    let stranger = owner.run_as(key, &["key", "show"])?.trim().to_string();
    let id = node.status()?["node"].as_str().context("no node id")?.to_string();
    let with = format!("macula:{id}");
    let token =
        owner.run(&["ucan", "issue", "--to", &stranger, "--can", "macula/os/status", "--with", &with])?;
    std::fs::write(&ucan, token)?;
    let act = |order| owner.run_as(key, &["--node", &node.address, "--ucan", &ucan, order]);
    act("status").context("a delegate is refused")?;
    let refused = act("reboot").err().context("a delegate did more than it may")?.to_string();
    ensure!(refused.contains("does not grant macula/os/reboot"), "{refused}");
    owner.run(&["ucan", "revoke", &ucan, "--out", &revocation])?;
    owner.run(&["--node", &node.address, "ucan", "announce", &revocation])?;
    let refused = act("status").err().context("a delegation was taken back and still counts")?.to_string();
    ensure!(refused.contains("was revoked by"), "{refused}");
    let records = node.ctl(&["audit", "show"])?.to_string();
    for kind in ["access-granted", "access-refused"] {
        ensure!(records.contains(kind), "{kind} is not in the audit log: {records}");
    }
    owner.run(&["--node", &node.address, "audit", "verify"])?;
    say("a delegate may what it was given until it is taken back, and the audit log says so");
    Ok(())
}
