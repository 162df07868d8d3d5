//! A support bundle of a node that has secrets everywhere, and of one that hardly answers.

use std::collections::BTreeMap;
use std::io::Read;

use crate::owner::Owner;
use crate::test_node::TestNode;

const SECRET: &str = "correct-horse-battery";

fn unpack(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(bytes).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    files
}

#[test]
fn no_secret_gets_into_a_bundle_and_what_is_missing_is_said() {
    let owner = Owner::new();
    let node = TestNode::start(51, &owner.id);
    {
        let mut state = node.state.lock().unwrap();
        state.config = format!(
            "name = \"attic\"\nfuture = \"{SECRET}\" # {SECRET}\n[mesh]\nport = 4433\n\
             [[network.wifi]]\nssid = \"home\"\npassphrase = \"{SECRET}\"\n"
        );
        state.logs("wifi", &format!("joining home with passphrase=\"{SECRET}\""));
        state.logs("pairing", &format!("macula:pair?k=abc&s={SECRET}&a=10.0.0.1"));
        state.logs("mesh", "3 peers");
    }
    let said = owner.json(&node.address, "diagnose --out bundle.tar.zst");
    let bytes = std::fs::read(owner.path("bundle.tar.zst")).unwrap();
    let files = unpack(&bytes);
    for (name, text) in &files {
        assert!(!text.contains(SECRET), "{name}: {text}");
    }
    assert!(files["config.toml"].contains("port = 4433"), "{}", files["config.toml"]);
    assert!(files["logs.txt"].contains("3 peers") && files["logs.txt"].contains("(hidden)"));
    assert!(files["status.json"].contains("kitchen") && files.contains_key("README.txt"));
    // The test's node knows neither.
    assert!(!files.contains_key("plan.txt") && !files.contains_key("links.json"));
    let parts: serde_json::Value = serde_json::from_str(&files["parts.json"]).unwrap();
    let missing = |parts: &serde_json::Value, file: &str| {
        let part = parts.as_array().unwrap().iter().find(|p| p["file"] == file).unwrap();
        part["missing"].as_str().unwrap().to_owned()
    };
    assert!(missing(&parts, "plan.txt").contains("does not know the method `plan`"));
    assert_eq!((missing(&parts, "config.toml").as_str(), &said["parts"]), ("", &parts));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(owner.path("bundle.tar.zst")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o077, 0, "for its owner alone");
    let text = owner.ok(&node.address, "diagnose --out again.tar.zst");
    assert!(text.contains("again.tar.zst") && text.contains("plan.txt"), "{text}");
}

#[test]
fn a_node_whose_services_are_not_up_yet_still_gives_what_it_can() {
    let owner = Owner::new();
    let node = TestNode::start(52, &owner.id);
    owner.ok(&node.address, "status");
    node.state.lock().unwrap().starting = true;
    owner.ok(&node.address, "diagnose --out bundle.tar.zst");
    let files = unpack(&std::fs::read(owner.path("bundle.tar.zst")).unwrap());
    assert!(files.contains_key("peers.json") && !files.contains_key("status.json"));
    assert!(files["parts.json"].contains("is not up"), "{}", files["parts.json"]);
}
