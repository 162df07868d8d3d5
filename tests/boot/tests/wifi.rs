//! A node with a radio: whoever pairs it sees the networks that it sees, a wrong passphrase is said, and with the right one it is in.
//! The radios are the kernel's (`mac80211_hwsim`), the access point is hostapd; all of the node's part is what an image has.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, NodeOptions, wait_until};
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

const PATIENCE: Duration = Duration::from_secs(180);
const CONFIG: &str = "version = 1\nname = \"newcomer\"\n";
/// As the faulty image has it (`image/xtask/src/images.rs`). Its name cannot be a file's.
const SSID: &str = "attic & roof";
const PASSPHRASE: &str = "correct horse";

#[test]
fn a_node_joins_the_wifi_that_it_was_given() -> Result<()> {
    let bench = Bench::new()?;
    let image = bench.releases.faulty.disk.as_deref().context("the faulty release has no disk image")?;
    let options = NodeOptions { radios: true, ..NodeOptions::default() };
    let node = bench.lab.start("newcomer", image, CONFIG, options)?;
    node.wait_ready().with_context(|| node.tail())?;
    let line = node.vm.serial().wait_for("Code ", PATIENCE)?;
    let code: String = line.split_once("Code ").context("no code")?.1.chars().take(14).collect();
    node.vm.serial().wait_for("an access point on wlan1", PATIENCE)?;

    let wrong = bench.lab.dir().join("wrong");
    std::fs::write(&wrong, "battery staple\n")?;
    let wrong = wrong.to_str().context("a path is not UTF-8")?;
    let pair = ["pair", &code, "--wifi-ssid", SSID, "--wifi-passphrase-file", wrong, "--country", "DE"];
    let paired = bench.lab.owner.json(&node.address, &pair).with_context(|| node.tail())?;
    let seen = paired["networks"].as_array().into_iter().flatten();
    let attic = seen.clone().find(|network| network["ssid"] == SSID);
    let attic = attic.with_context(|| format!("{SSID} is not among the networks: {paired}"))?;
    ensure!(attic["secured"] == true && attic["dbm"].as_i64().is_some_and(|dbm| dbm < 0), "{attic}");
    ensure!(!paired["notes"].to_string().contains("Wi-Fi"), "{paired}");
    say(&format!("whoever pairs sees {}", paired["networks"]));

    with_console(&node, node.wait_answer())?;
    let refused = |wifi: &Value| wifi["note"].as_str().is_some_and(|note| note.contains("passphrase"));
    let wifi = with_console(&node, wait_wifi(&node, "to say that the passphrase is wrong", refused))?;
    say(&format!("with a wrong passphrase: {}", wifi["note"]));

    let value = format!("[{{ ssid = \"{SSID}\", passphrase = \"{PASSPHRASE}\" }}]");
    node.ctl(&["config", "set", "network.wifi", &value])?;
    let wifi = with_console(&node, wait_wifi(&node, "to be in the Wi-Fi", |wifi| wifi["ssid"] == SSID))?;
    say(&format!("with the right one it is in: {wifi}"));
    with_console(&node, has_address(&node))?;
    let shown = bench.lab.owner.run(&["--node", &node.address, "links"])?;
    ensure!(shown.contains(&format!("in {SSID} (")), "{shown}");
    let logs = node.ctl(&["logs"])?.to_string();
    ensure!(!logs.contains(PASSPHRASE) && !logs.contains("battery staple"), "a passphrase is in the logs");
    Ok(())
}

fn wlan(node: &Node) -> Result<Value> {
    let links = node.ctl(&["links"])?;
    let wlan = links.as_array().into_iter().flatten().find(|link| link["name"] == "wlan0");
    wlan.cloned().with_context(|| format!("there is no wlan0: {links}"))
}

fn wait_wifi(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(&format!("the node {what}"), PATIENCE, || {
        let wifi = wlan(node)?["wifi"].clone();
        if is(&wifi) { Ok(Some(wifi)) } else { anyhow::bail!("{wifi}") }
    })
}

/// Nobody answers DHCP there, so it claims an address by itself, over the air.
fn has_address(node: &Node) -> Result<()> {
    let address = wait_until("an IPv4 address on the radio", PATIENCE, || {
        let addresses = wlan(node)?["addresses"].clone();
        let mut texts = addresses.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(texts.find(|address| address.starts_with("169.254.")).map(str::to_owned))
    })?;
    say(&format!("and has the address {address}"));
    Ok(())
}
