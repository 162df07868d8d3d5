//! Pairing in a browser: the text of the QR code is opened in headless Chromium, on a node with its real programs.
//! `cargo xtask test console` runs it.

use std::path::PathBuf;
use std::time::Duration;

use pairing_proto::PairCode;
use tests_pairing::node::Node;

/// What the page comes to: the last line of the script.
async fn browse(arguments: &[&str]) -> serde_json::Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page.cjs");
    let mut command = tokio::process::Command::new("node");
    command.arg(script).args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(240), command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    eprint!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    serde_json::from_str(text.trim().lines().last().unwrap()).unwrap()
}

/// The files that the gateway of a node serves are those that the caller has built.
fn files() {
    let files = std::env::var_os("MACULA_CONSOLE_FILES").expect("run this with `cargo xtask test console`");
    // SAFETY: one test runs at a time, and none of its threads reads the environment yet.
    unsafe { std::env::set_var("MACULA_CONSOLE", PathBuf::from(files)) };
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "needs Chromium: cargo xtask test console"]
async fn the_code_alone_makes_an_owner() {
    files();
    let node = Node::start().await;
    let code = node.pair_code().await;
    let done = browse(&["pair", &code.qr()]).await;
    let config = node.config();
    assert_eq!(done["owner"].as_str(), Some(config.owner.unwrap().to_string().as_str()), "{done}");
    assert_eq!((config.name.as_str(), config.realm.as_str()), ("porch", "acme"));
    // Without another publisher: the owner's own releases.
    let channel = config.update.channel.unwrap();
    assert_eq!((channel.name.as_str(), config.update.release_keys), ("stable", vec![channel.publisher]));
    assert_eq!(config.owner, Some(channel.publisher));

    // The same code, once more: the node has an owner by now.
    node.settled().await;
    let again = browse(&["refused", &code.qr(), "has an owner already"]).await;
    assert_eq!(again["said"], true);
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "needs Chromium: cargo xtask test console"]
async fn a_wrong_code_is_refused_in_words() {
    files();
    let node = Node::start().await;
    let code = node.pair_code().await;
    let wrong = PairCode { secret: "0000-0000-0000".parse().unwrap(), ..code.clone() };
    let said = browse(&["refused", &wrong.qr(), "does not know this code"]).await;
    assert_eq!(said["said"], true);
    let elsewhere = PairCode { fingerprint: "0".repeat(26).parse().unwrap(), ..code };
    let said = browse(&["refused", &elsewhere.qr(), "not the node that shows this code"]).await;
    assert_eq!(said["said"], true);
    assert_eq!(node.config().owner, None);
}
