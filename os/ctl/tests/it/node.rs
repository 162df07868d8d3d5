//! The real binary against a node's control protocols over real QUIC, answered in this process.

use std::path::Path;

use dht_proto::Record;
use dht_proto::record_types::ChannelHead;
use os_content_id::Mcid;
use services_api::report::{EventReport, InstallReport, OsReport};

use crate::owner::Owner;
use crate::test_node::TestNode;

fn write_artifacts(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let root: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(dir.join("root.img"), &root).unwrap();
    std::fs::write(dir.join("uki.efi"), vec![3; 300_000]).unwrap();
    let json = serde_json::json!({
        "board": "x86-generic",
        "version": "0.2.0",
        "root": { "file": "root.img", "size": 700_000, "verity_root": "5a".repeat(32) },
        "uki": { "file": "uki.efi", "size": 300_000 },
    });
    std::fs::write(dir.join("artifacts.json"), json.to_string()).unwrap();
}

#[test]
fn reports_come_as_text_and_json() {
    let owner = Owner::new();
    let node = TestNode::start(1, &owner.id);
    let status = owner.json(&node.address, "status");
    assert_eq!(status["name"], "kitchen");
    assert!(owner.ok(&node.address, "status").contains("version   0.1.0, slot A, install 1\n"));
    let units = owner.ok(&node.address, "units");
    assert!(units.lines().next().unwrap().starts_with("NAME") && units.contains("mesh"), "{units}");
    assert!(!units.contains('\x1b'), "no colours without a terminal");
    assert!(owner.ok(&node.address, "units --color always").contains("\x1b[32mready\x1b[0m"));
    assert!(!owner.ok(&node.address, "units --color never").contains('\x1b'));
    assert_eq!(owner.json(&node.address, "logs mesh -n 5")[0]["text"], "mesh 5");
    assert_eq!(owner.json(&node.address, "peers"), serde_json::json!([]));
    owner.ok(&node.address, "units kill mesh --signal 9");
    owner.ok(&node.address, "reboot --reason tests");
    assert_eq!(
        node.calls(),
        ["status", "status", "units", "units", "units", "logs", "peers", "kill mesh 9", "reboot tests"]
    );
    let error = owner.error(&node.address, "units restart nonsense");
    assert_eq!(error, "maculactl: no unit `nonsense`");
    let error = owner.error(&node.address, "plan");
    assert!(error.contains("does not know the method `plan`"), "{error}");
}

#[test]
fn a_stranger_and_another_node_are_told_apart() {
    let (owner, stranger) = (Owner::new(), Owner::new());
    let node = TestNode::start(1, &owner.id);
    let error = stranger.error(&node.address, "status");
    assert!(error.contains("not its owner") && error.contains(&stranger.id), "{error}");
    node.state.lock().unwrap().starting = true;
    let error = owner.error(&node.address, "status");
    assert!(error.contains("`control/1` is not up"), "{error}");
    node.state.lock().unwrap().starting = false;

    owner.ok(&node.address, "status");
    let pinned = format!("{}@{}", node.id, node.address);
    owner.ok(&pinned, "status");
    let (address, first) = (node.address.clone(), node.id.clone());
    drop(node);
    let other = TestNode::start_at(2, &owner.id, &address);
    let error = owner.error(&address, "status");
    assert!(error.contains(&first) && error.contains(&other.id) && error.contains("known forget"), "{error}");
    assert!(owner.error(&pinned, "status").contains(&format!("is {}, not {first}", other.id)));
    assert!(other.calls().is_empty(), "nothing may be asked of the wrong node");
    owner.ok("", &format!("known forget {address}"));
    owner.ok(&address, "status");
    assert_eq!(owner.json("", "known")[0]["node"], other.id);
}

#[test]
fn nobody_at_an_address_and_no_address_say_what_to_do() {
    let owner = Owner::new();
    assert!(
        owner
            .error("127.0.0.1:9", "status --timeout 1")
            .contains("no node answered at 127.0.0.1:9 within 1 s")
    );
    assert!(owner.error("", "status").contains("--node NAME or ADDR"));
    assert!(owner.error("127.0.0.1", "status --key none").contains("maculactl key new"));
    assert!(owner.error("", "status --local").contains("cannot reach service `update`"));
}

#[test]
fn content_goes_up_and_down_and_lies_leave_no_file() {
    let owner = Owner::new();
    let node = TestNode::start(1, &owner.id);
    let bytes: Vec<u8> = (0..900_000u32).map(|i| (i % 253) as u8).collect();
    std::fs::write(owner.path("big.bin"), &bytes).unwrap();
    std::fs::write(owner.path("small.bin"), b"small").unwrap();
    let big = owner.ok(&node.address, "content put big.bin");
    let small = owner.ok(&node.address, "content put small.bin");
    assert_eq!(small.trim(), Mcid::of_raw(b"small").to_string());
    owner.ok(&node.address, &format!("content get {} -o copy", big.trim()));
    assert_eq!(std::fs::read(owner.path("copy")).unwrap(), bytes);
    owner.ok(&node.address, &format!("content get {} -o copy2", small.trim()));

    node.state.lock().unwrap().flip_a_byte = true;
    let error = owner.error(&node.address, &format!("content get {} -o bad", big.trim()));
    assert!(error.contains("is not the content of"), "{error}");
    node.state.lock().unwrap().flip_a_byte = false;
    node.state.lock().unwrap().cut_short = true;
    let error = owner.error(&node.address, &format!("content get {} -o bad", big.trim()));
    assert!(error.contains("early"), "{error}");
    let left = std::fs::read_dir(owner.home.path()).unwrap();
    let left: Vec<_> =
        left.map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().contains("bad")).collect();
    assert!(left.is_empty(), "{left:?}");

    node.state.lock().unwrap().refuse_puts = true;
    std::fs::write(owner.path("huge.bin"), vec![1; 30_000_000]).unwrap();
    let error = owner.error(&node.address, "content put huge.bin");
    assert!(error.contains("the state partition is full"), "{error}");
}

#[test]
fn a_release_is_published_and_publishing_again_sends_nothing_twice() {
    let owner = Owner::new();
    let node = TestNode::start(1, &owner.id);
    write_artifacts(&owner.path("out"));
    owner.ok("", "release create --artifacts out --min-version 0.1.0 --notes test");
    let publish = "release publish --artifacts out --channel stable";
    let error = owner.error(&node.address, publish);
    assert!(error.contains("root has 0 of 1 signatures") && error.contains(&owner.id), "{error}");
    let signed = owner.json("", "release sign");
    assert_eq!(signed["roles"][0]["signed"][0], owner.id);
    assert!(signed["missing"].is_null(), "{signed}");

    let first = owner.json(&node.address, publish);
    assert_eq!(owner.json("", "release pack --out r.cbor")["metadata"], first["metadata"]);
    assert!(first["uploaded_bytes"].as_u64().unwrap() > 1_000_000);
    let second = owner.json(&node.address, publish);
    assert!(second["uploaded_bytes"].as_u64().unwrap() < 10_000);
    // Renewed without the artifacts.
    owner.ok("", "release refresh --lifetime 2d");
    let third = owner.json(&node.address, "release publish --channel stable");
    assert!(third["metadata"] != first["metadata"] && third["uploaded_bytes"].as_u64().unwrap() < 10_000);
    owner.ok("", "release refresh --lifetime 1s");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let error = owner.error(&node.address, "release publish --channel stable");
    assert!(error.contains("timestamp expired") && error.contains("release refresh"), "{error}");

    owner.ok(&node.address, "update --channel stable");
    let install = format!("install {} false", third["metadata"].as_str().unwrap());
    assert!(node.calls().contains(&install), "{:?}", node.calls());
    let error = owner.error(&node.address, "update --channel edge");
    assert!(error.contains("no valid head of channel `edge`"), "{error}");

    let state = node.state.lock().unwrap();
    for artifact in signed["releases"][0]["artifacts"].as_array().unwrap() {
        assert!(state.stored.contains_key(artifact["mcid"].as_str().unwrap()));
    }
    let records: Vec<_> = state.records.iter().map(|r| Record::from_bytes(r).unwrap()).collect();
    assert_eq!(records.len(), 3);
    assert!(records[1].precedence(&records[0]).is_gt());
    for (record, published) in records.iter().zip([&first, &second, &third]) {
        assert_eq!(record.verify(services_api::daemon::now_ms()), Ok(()));
        assert_eq!(record.statement.signer.to_string(), owner.id);
        let head = ChannelHead::parse(&record.statement.payload).unwrap();
        assert_eq!(Mcid::try_from(head.metadata.as_slice()).unwrap().to_string(), published["metadata"]);
        assert_eq!(head.boards.len(), 1);
    }
}

#[test]
fn an_update_is_watched_until_it_ends() {
    let owner = Owner::new();
    let node = TestNode::start(1, &owner.id);
    let event = |kind: &str| EventReport {
        at_unix: 1,
        kind: kind.into(),
        text: "0.2.0".into(),
        ..Default::default()
    };
    let installing = OsReport {
        installing: Some(InstallReport { phase: "fetch".into(), ..InstallReport::default() }),
        ..OsReport::default()
    };
    let done = |kind| OsReport { events: vec![event(kind)], ..OsReport::default() };
    let idle = OsReport::default();
    node.state.lock().unwrap().statuses = vec![idle.clone(), installing, done("committed")];
    let update = format!("update --watch --release {}", Mcid::of_raw(b"release"));
    let text = owner.ok(&node.address, &update);
    assert!(text.contains(" fetch ") && text.ends_with("committed: 0.2.0\n"), "{text}");
    let install = format!("install {} false", Mcid::of_raw(b"release"));
    assert!(node.calls().contains(&install), "{:?}", node.calls());
    node.state.lock().unwrap().statuses = vec![idle, done("refused")];
    assert_eq!(owner.error(&node.address, &format!("{update} --again")), "maculactl: refused: 0.2.0");
    assert!(owner.error(&node.address, "update").contains("--channel NAME"));
}

/// Three keys, two of which must sign; then one is lost and replaced. Nobody is connected to anything.
#[test]
fn the_keys_ceremony_needs_no_network() {
    let owner = Owner::new();
    write_artifacts(&owner.path("out"));
    let ids: Vec<String> = ["a", "b", "c", "d"].iter().map(|name| owner.new_key(name)).collect();
    let new =
        format!("release root new --key-id {} --key-id {} --key-id {} --threshold 2", ids[0], ids[1], ids[2]);
    owner.ok("", &new);
    assert!(owner.error("", &new).contains("has a root already"));
    owner.ok("", "release create --artifacts out");
    let waits = owner.json("", "release sign --key a");
    assert!(waits["missing"].as_str().unwrap().contains("root has 1 of 2 signatures"), "{waits}");
    assert!(owner.json("", "release sign --key b")["missing"].is_null());

    let lost = format!("release root rotate --remove {} --add {}", ids[2], ids[3]);
    owner.ok("", &lost);
    assert!(owner.error("", "release root rotate").contains("root 2 still waits for signatures"));
    owner.ok("", "release sign --key c");
    owner.ok("", "release sign --key a");
    assert!(owner.json("", "release show")["missing"].as_str().unwrap().contains("root"), "c does not count");
    assert!(owner.json("", "release sign --key b")["missing"].is_null());
    owner.ok("", "release withdraw 0.2.0");
    owner.ok("", "release sign --key d");
    assert!(owner.json("", "release sign --key b")["missing"].is_null());
    assert!(owner.error("", "release withdraw 0.2.0").contains("holds no release 0.2.0"));
}

#[test]
fn procedures_are_called_and_their_answers_printed() {
    let owner = Owner::new();
    let node = TestNode::start(31, &owner.id);
    let at = node.address.as_str();
    assert_eq!(owner.ok(at, "rpc call test/upper_v1 --data light"), "LIGHT");
    assert_eq!(
        owner.ok(at, "rpc call test/words_v1 --many --data a_b --json"),
        "{\"text\":\"a\"}\n{\"text\":\"b\"}\n"
    );
    std::fs::write(owner.path("lines"), "one\ntwo\n").unwrap();
    let both = owner.ok(at, "rpc call test/echo_v1 --lines --many --file lines --json");
    assert_eq!(both, "{\"text\":\"ONE\"}\n{\"text\":\"TWO\"}\n");
    let error = owner.error(at, "rpc call test/nothing_v1");
    assert!(error.contains("nobody serves `test/nothing_v1` here"), "{error}");
    let error = owner.error(at, "rpc call test/words_v1 --data a_b");
    assert!(error.contains("more messages than this procedure takes"), "{error}");
}

#[test]
fn a_topic_is_listened_to_across_broken_connections() {
    let owner = Owner::new();
    let node = TestNode::start(32, &owner.id);
    let heard = owner.ok(&node.address, "pubsub listen test/weather -n 4");
    assert_eq!(heard, "event 1\nevent 2\nbetween two connections\nevent 4\n");
    let error = owner.error(&node.address, "pubsub listen test/secrets");
    assert!(error.contains("not for you"), "{error}");
}
