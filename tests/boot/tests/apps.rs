//! An app on a node: confined, reached by identity from outside, back after it or mesh was killed, and given nothing that it did not
//! list. The example of `docs/guides/apps.md`, as it is there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_lab::{Node, NodeOptions, wait_until};
use serde_json::Value;
use tests_boot::{Bench, say, with_console};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn an_app_serves_publishes_and_stores_and_no_more() -> Result<()> {
    let bench = Bench::new()?;
    let image = bench.releases.faulty.disk.as_deref().context("the faulty release has no disk image")?;
    let node = bench.lab.start("apps", image, &bench.lab.config("apps"), NodeOptions::default())?;
    node.wait_ready().with_context(|| node.tail())?;
    node.wait_answer().with_context(|| node.tail())?;
    with_console(&node, ready(&node))?;
    let mcid = with_console(&node, greets(&bench, &node))?;
    with_console(&node, stored(&bench, &node, &mcid))?;
    with_console(&node, publishes(&bench, &node))?;
    with_console(&node, confined(&node))?;
    for unit in ["hello", "mesh", "content"] {
        // The order travels through mesh, so its answer may die with it.
        let _ = node.ctl(&["units", "kill", unit, "--signal", "9"]);
        with_console(&node, greets(&bench, &node))?;
        say(&format!("greets again after {unit} was killed"));
    }
    with_console(&node, on_record(&node))
}

fn ready(node: &Node) -> Result<()> {
    wait_until("hello to be ready", PATIENCE, || {
        let units = node.units()?;
        let hello = units.iter().find(|u| u["name"] == "hello").context("there is no unit hello")?;
        Ok((hello["state"] == "ready").then_some(()))
    })
}

/// Returns the MCID of the greeting.
fn greets(bench: &Bench, node: &Node) -> Result<String> {
    let call = ["rpc", "call", "hello/greet_v1", "--data", "Ann"];
    let arguments = [&["--node", &node.address], &call[..]].concat();
    let answer = wait_until("a greeting", PATIENCE, || Ok(bench.lab.owner.run(&arguments).ok()))?;
    let (greeting, mcid) = answer.trim().rsplit_once(' ').context("no MCID")?;
    ensure!(greeting == format!("Hello, Ann! Greetings to {}.", bench.lab.owner.did()), "{answer}");
    Ok(mcid.into())
}

fn stored(bench: &Bench, node: &Node, mcid: &str) -> Result<()> {
    let file = bench.lab.dir().join("greeting");
    node.ctl(&["content", "get", mcid, "--out", file.to_str().context("a path is not UTF-8")?])?;
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.starts_with("Hello, Ann!"), "{text}");
    say("its greeting is content of the node");
    Ok(())
}

fn publishes(bench: &Bench, node: &Node) -> Result<()> {
    let mut listener =
        bench.lab.owner.start(&node.address, &["pubsub", "listen", "hello/greeted", "-n", "1"])?;
    // A subscription begins when the node has seen it; until then greetings pass it by.
    let heard = wait_until("the topic's event", PATIENCE, || {
        greets(bench, node)?;
        Ok(listener.try_wait()?)
    })?;
    ensure!(heard.success(), "listening failed: {heard}");
    say("its topic is heard");
    Ok(())
}

fn confined(node: &Node) -> Result<()> {
    let results = node.ctl(&["units", "probe", "hello"])?;
    for attempt in results.as_array().context("a probe gives a list")? {
        let what = attempt["attempt"].as_str().unwrap_or_default();
        let closed = ["AF_INET", "AF_PACKET", "mount"].iter().any(|word| what.contains(word));
        ensure!(!closed || attempt["allowed"] == false, "hello: {attempt}");
    }
    say("it has no network of its own");
    Ok(())
}

/// What it used is in the audit log, with the delegation by which it may.
fn on_record(node: &Node) -> Result<()> {
    let log = node.ctl(&["audit", "show"])?;
    let lines: Vec<String> = log.as_array().into_iter().flatten().map(Value::to_string).collect();
    for ability in ["macula/mesh/serve", "macula/mesh/publish", "macula/content/put"] {
        ensure!(lines.iter().any(|l| l.contains(ability) && l.contains("granted")), "{ability}: {lines:#?}");
    }
    Ok(())
}
