//! Several nodes at once: followed, and in one table.

use std::thread::sleep;
use std::time::Duration;

use services_api::report::{EventReport, PeerReport};

use crate::owner::{Owner, next};
use crate::test_node::TestNode;

fn named(seed: u8, owner: &Owner, name: &str) -> TestNode {
    let node = TestNode::start(seed, &owner.id);
    node.state.lock().unwrap().name = name.into();
    node
}

#[test]
fn logs_of_two_nodes_are_followed_across_a_reboot() {
    let owner = Owner::new();
    let (attic, cellar) = (named(41, &owner, "attic"), named(42, &owner, "cellar"));
    for n in 1..=30 {
        attic.state.lock().unwrap().logs("mesh", &format!("old {n}"));
    }
    let line = format!("logs -f -n 2 --node {} --node {}", attic.address, cellar.address);
    let running = owner.spawn("", &line);
    let first = next(&running.said, 2);
    assert!(first[0].starts_with("attic ") && first[0].ends_with("mesh  old 29"), "{first:?}");
    assert!(first[1].ends_with("old 30"), "{first:?}");
    cellar.state.lock().unwrap().logs("dht", "from below");
    assert_eq!(next(&running.said, 1), ["cellar  [     1.000] dht  from below"]);
    // Faster than anybody asks.
    for n in 31..=60 {
        attic.state.lock().unwrap().logs("mesh", &format!("old {n}"));
    }
    let burst = next(&running.said, 30);
    assert!((31..=60).zip(&burst).all(|(n, line)| line.ends_with(&format!("old {n}"))), "{burst:?}");

    let address = attic.address.clone();
    drop(attic);
    let attic = TestNode::start_at(41, &owner.id, &address);
    {
        let mut state = attic.state.lock().unwrap();
        (state.name, state.run) = ("attic".into(), "the next boot".into());
        state.logs("mesh", "up again");
        state.logs("mesh", "and well");
    }
    let again = next(&running.said, 2);
    assert!(again[0].ends_with("up again") && again[1].ends_with("and well"), "{again:?}");
    sleep(Duration::from_millis(1500));
    assert!(running.said.try_recv().is_err(), "nothing comes twice");
    let notices: Vec<String> = running.notices.try_iter().collect();
    let all = notices.join("\n");
    assert!(all.contains("attic: is away") && all.contains("attic: is back"), "{all}");
    assert!(all.contains("attic: has started anew") && !all.contains("cellar: is away"), "{all}");
}

#[test]
fn one_node_that_is_not_there_is_an_error_and_one_of_two_is_waited_for() {
    let owner = Owner::new();
    let error = owner.error("127.0.0.1:9", "logs -f --timeout 1");
    assert!(error.contains("no node answered at 127.0.0.1:9"), "{error}");
    let node = named(43, &owner, "attic");
    node.state.lock().unwrap().logs("mesh", "here");
    let line = format!("logs -f --json --timeout 1 --node 127.0.0.1:9 --node {}", node.address);
    let running = owner.spawn("", &line);
    let heard: serde_json::Value = serde_json::from_str(&next(&running.said, 1)[0]).unwrap();
    assert_eq!((&heard["node"], &heard["text"]), (&"attic".into(), &"here".into()));
    let away = next(&running.notices, 2).join("\n");
    assert!(away.contains("127.0.0.1:9: is away"), "{away}");
}

#[test]
fn events_are_told_as_they_happen() {
    let owner = Owner::new();
    let node = named(44, &owner, "attic");
    let happens = |number: u64, kind: &str| {
        let event = EventReport {
            number,
            kind: kind.into(),
            text: "0.2.0".into(),
            at_unix: number,
            ..Default::default()
        };
        node.state.lock().unwrap().events.push(event);
    };
    happens(1, "installed");
    let running = owner.spawn(&node.address, "events -f");
    assert_eq!(next(&running.said, 1), ["1970-01-01 00:00:01 installed       0.2.0"]);
    happens(4, "committed");
    assert_eq!(next(&running.said, 1), ["1970-01-01 00:00:04 committed       0.2.0"]);
}

#[test]
fn a_realm_is_one_table_with_those_that_do_not_answer() {
    let owner = Owner::new();
    let (attic, cellar) = (named(45, &owner, "attic"), named(46, &owner, "cellar"));
    let foreign = TestNode::start(47, "did:key:somebody");
    owner.ok(&attic.address, "status");
    let peer = |node: &TestNode| PeerReport {
        node: node.id.clone(),
        connected: true,
        direction: "incoming".into(),
        addresses: vec![node.address.clone()],
        ..PeerReport::default()
    };
    attic.state.lock().unwrap().peers = vec![peer(&cellar), peer(&foreign)];
    cellar.state.lock().unwrap().peers = vec![peer(&attic)];
    let table = owner.ok("127.0.0.1:9", "nodes --timeout 1");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert!(lines[1].starts_with("attic ") && lines[2].starts_with("cellar "), "{table}");
    let rows = owner.json("", "nodes");
    let states: Vec<(&str, &str)> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["name"].as_str().unwrap(), r["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("attic", "up"), ("cellar", "up"), ("", "foreign")]);
    assert_eq!(rows[0]["peers"], 2);
    let known = owner.json("", "known");
    assert_eq!(known.as_array().unwrap().len(), 1, "what peers tell is not remembered: {known}");
    assert_eq!(
        owner.error("", "logs --node 1.2.3.4 --node 1.2.3.5 -f --key none").split(':').next(),
        Some("maculactl")
    );
    assert!(owner.error("", "reboot --node 1.2.3.4 --node 1.2.3.5").contains("--node once"));
}

/// In the shell itself.
#[test]
fn bash_completes_verbs_and_known_nodes() {
    let owner = Owner::new();
    let node = named(48, &owner, "attic");
    owner.ok(&node.address, "status");
    std::fs::write(owner.path("script"), owner.ok("", "completions bash")).unwrap();
    let complete = |words: &str, current: &str, before: &str| {
        let line = format!(
            "PATH={}:$PATH; source ./script; COMP_WORDS=({words} '{current}'); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _maculactl maculactl '{current}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            std::path::Path::new(env!("CARGO_BIN_EXE_maculactl")).parent().unwrap().display()
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", &line]).current_dir(owner.home.path());
        let output = bash.env("XDG_CONFIG_HOME", owner.home.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("maculactl --node", "127", "--node"), node.address);
    assert_eq!(complete("maculactl", "diag", "maculactl"), "diagnose");
}

#[test]
fn nothing_known_says_what_to_do() {
    let owner = Owner::new();
    assert!(owner.error("", "nodes").contains("--node ADDR"));
    assert!(owner.error("", "events --all").contains("--node ADDR"));
}
