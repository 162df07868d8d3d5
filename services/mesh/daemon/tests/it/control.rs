//! A real mesh process, and curl with signed orders: what is done, what is refused, what is watched.

use std::time::Duration;

use crate::support::curl::{ask, curl};
use crate::support::orders::{epoch, header, now, order, owner};
use crate::support::owned::{listening, machine, token};
use crate::support::{Machine, Procedure};
use os_identity::NodeKey;
use os_ucan::Did;
use os_ucan::TokenId;
use os_ucan::invocation::Order;
use os_ucan::revocation::Revocation;
use serde_json::{Value, json};
use services_api::control::protocol;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use zbus::Connection;

const WAIT: Duration = Duration::from_secs(30);
const RESTART: &str = "/control/os/restart";

async fn node(seed: u8) -> (Machine, Connection, Vec<u8>) {
    let node = machine(seed, &[], "").await;
    let served = node.serve_protocol(protocol::OS, "", "macula/os", Procedure::Control).await;
    let epoch = epoch(&node).await;
    (node, served, epoch)
}

async fn post(node: &Machine, path: &str, body: &str, headers: &[&str]) -> (u16, Value) {
    let mut arguments = vec!["--data-binary", body];
    headers.iter().for_each(|header| arguments.extend(["--header", header]));
    let (status, _, body) = ask(node, path, &arguments).await;
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "current_thread")]
async fn the_owners_order_is_followed_once() {
    let (node, _served, epoch) = node(81).await;
    let me = node.key.node_id();
    let body = r#"{"unit":"dht"}"#;
    let good = order(me, &epoch, "/macula/os/restart", RESTART, body);
    let signed = header(&good, &owner(), &[]);
    assert_eq!(post(&node, RESTART, body, &[&signed]).await, (200, json!("did restart")));
    let (status, again) = post(&node, RESTART, body, &[&signed]).await;
    assert_eq!(status, 409, "{again}");
    let own = format!("origin: https://[::1]:{}", node.port);
    let same_origin = header(&order(me, &epoch, "/macula/os/restart", RESTART, body), &owner(), &[]);
    assert_eq!(post(&node, RESTART, body, &[&same_origin, &own]).await.0, 200);
    // Rolling back is updating, as it is over the native protocol.
    let path = "/control/os/rollback";
    let rollback = header(&order(me, &epoch, "/macula/os/update", path, ""), &owner(), &[]);
    assert_eq!(post(&node, path, "", &[&rollback]).await, (200, json!("did rollback")));
    // What mesh itself answers.
    let path = "/control/mesh/peers";
    let peers = header(&order(me, &epoch, "/macula/mesh/peers", path, ""), &owner(), &[]);
    assert_eq!(post(&node, path, "", &[&peers]).await, (200, json!([])));
    let path = "/control/mesh/fly";
    let fly = header(&order(me, &epoch, "/macula/mesh/fly", path, ""), &owner(), &[]);
    let (status, unknown) = post(&node, path, "", &[&fly]).await;
    assert!(status == 422 && unknown["detail"].as_str().unwrap().contains("does not know"), "{unknown}");
}

#[tokio::test(flavor = "current_thread")]
async fn every_other_order_is_refused() {
    let (node, _served, epoch) = node(82).await;
    let (me, body) = (node.key.node_id(), r#"{"unit":"dht"}"#);
    let good = || order(me, &epoch, "/macula/os/restart", RESTART, body);
    let stranger = NodeKey::from_seed(&[99; 32]);
    let other = stranger.node_id();
    let by_owner = |order: Order| header(&order, &owner(), &[]);
    let flipped = by_owner(good()).replace("Macula g", "Macula h");
    for (case, header, body, status) in [
        ("another key", header(&good(), &stranger, &[]), body, 403),
        ("another body", by_owner(good()), r#"{"unit":"mesh"}"#, 401),
        ("expired", by_owner(Order { expires: Some(now() - 120), ..good() }), body, 401),
        ("good for too long", by_owner(Order { expires: Some(now() + 600), ..good() }), body, 401),
        ("for ever", by_owner(Order { expires: None, ..good() }), body, 401),
        ("another node", by_owner(order(other, &epoch, "/macula/os/restart", RESTART, body)), body, 401),
        (
            "another method",
            by_owner(order(me, &epoch, "/macula/os/kill", "/control/os/kill", body)),
            body,
            401,
        ),
        ("another start", by_owner(order(me, &[7; 16], "/macula/os/restart", RESTART, body)), body, 401),
        (
            "another subject",
            by_owner(Order { subject: Did::from(other), audience: Some(me.into()), ..good() }),
            body,
            401,
        ),
        ("not as it was signed", flipped, body, 401),
        (
            "a bearer token",
            format!("authorization: Bearer {}", token(me, "macula/http/call", "*")),
            body,
            401,
        ),
        ("nothing", "accept: */*".to_owned(), body, 401),
    ] {
        let (found, problem) = post(&node, RESTART, body, &[&header]).await;
        assert_eq!(found, status, "{case}: {problem}");
        assert!(!problem["next"].as_str().unwrap().is_empty());
        if status == 401 {
            assert!(problem["epoch"].is_string() && problem["time"].is_u64(), "{case}: {problem}");
        }
    }
    let foreign = "origin: https://example.org";
    let (status, problem) = post(&node, RESTART, body, &[&by_owner(good()), foreign]).await;
    assert!(status == 403 && problem["detail"].as_str().unwrap().contains("another origin"), "{problem}");
    let preflight = ["--request", "OPTIONS", "--include", "--header", foreign];
    let (status, _, head) = ask(&node, RESTART, &preflight).await;
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(status == 204 && !head.contains("access-control"), "{head}");

    let large = format!("{{\"unit\":\"{}\"}}", "a".repeat(130 * 1024));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &large).unwrap();
    let at = format!("@{}", file.path().display());
    let (status, ..) = post(&node, RESTART, &at, &[&by_owner(good())]).await;
    assert_eq!(status, 413);
    assert_eq!(ask(&node, RESTART, &[]).await.0, 405, "nothing is ordered with GET");
    assert_eq!(post(&node, "/control/content/put", "", &[]).await.0, 404, "bytes would follow");
    // What was refused was not followed, and does not count as seen.
    assert_eq!(post(&node, RESTART, body, &[&by_owner(good())]).await.0, 200);
}

#[tokio::test(flavor = "current_thread")]
async fn delegates_do_what_was_delegated_until_it_is_taken_back() {
    let (node, _served, epoch) = node(83).await;
    let (me, friend) = (node.key.node_id(), NodeKey::from_seed(&[98; 32]));
    let granted = token(friend.node_id(), "macula/os/status", &format!("macula:{me}")).into_bytes();
    let ask = async |method: &str, tokens: &[Vec<u8>]| {
        let path = format!("/control/os/{method}");
        let signed = header(&order(me, &epoch, &format!("/macula/os/{method}"), &path, ""), &friend, tokens);
        post(&node, &path, "", &[&signed]).await
    };
    let tokens = [granted.clone()];
    assert_eq!(ask("status", &tokens).await, (200, json!("did status")));
    let (status, problem) = ask("reboot", &tokens).await;
    assert!(status == 403 && problem["next"].as_str().unwrap().contains("macula/os/reboot"), "{problem}");
    assert_eq!(ask("status", &[]).await.0, 403);
    let statement = Revocation::issue(TokenId::of(&granted), 1, &owner()).to_bytes();
    node.mesh().await.revoked(&statement).await.unwrap();
    let (status, problem) = ask("status", &tokens).await;
    assert!(status == 403 && problem["detail"].as_str().unwrap().contains("revoked"), "{problem}");
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<(String, Value)> {
    let mut name = String::new();
    loop {
        let line =
            tokio::time::timeout(WAIT, lines.next_line()).await.expect("the stream goes on").unwrap()?;
        if let Some(event) = line.strip_prefix("event: ") {
            name = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            return Some((name, serde_json::from_str(data).unwrap()));
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_watched_comes_as_it_changes_and_ends_with_the_right_to_it() {
    let (node, _served, epoch) = node(84).await;
    let (me, friend) = (node.key.node_id(), NodeKey::from_seed(&[97; 32]));
    let watch = |body: &str, key: &NodeKey, tokens: &[Vec<u8>]| {
        let signed = header(&order(me, &epoch, "/macula/live", "/control/live", body), key, tokens);
        curl(&node, "/control/live", &["--no-buffer", "--data-binary", body, "--header", &signed])
            .spawn()
            .unwrap()
    };
    let mut process = watch(r#"{"watch":["peers","status"]}"#, &owner(), &[]);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert_eq!(
        next(&mut lines).await,
        Some(("peers".into(), json!({}))),
        "a map, so that one peer can come and go"
    );
    assert_eq!(next(&mut lines).await, Some(("status".into(), json!("did status"))));
    let other = Machine::start(85, &[&node]).await;
    let (name, peers) = next(&mut lines).await.unwrap();
    assert_eq!(name, "peers-patch", "{peers}");
    assert!(peers[other.key.node_id().to_string()].is_object(), "{peers}");
    process.kill().await.unwrap();

    let granted = token(friend.node_id(), "macula/os/status", &format!("macula:{me}")).into_bytes();
    let mut process = watch(r#"{"watch":["status","peers"]}"#, &friend, std::slice::from_ref(&granted));
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut lines).await.unwrap().0, "status");
    let (name, refused) = next(&mut lines).await.unwrap();
    assert_eq!((name.as_str(), &refused["what"]), ("refused", &json!("peers")), "{refused}");
    let statement = Revocation::issue(TokenId::of(&granted), 1, &owner()).to_bytes();
    node.mesh().await.revoked(&statement).await.unwrap();
    assert_eq!(next(&mut lines).await.unwrap().0, "refused");
    assert_eq!(next(&mut lines).await, None, "nothing is left to watch");

    let body = r#"{"watch":["status"]}"#;
    let signed = header(&order(me, &epoch, "/macula/live", "/control/live", body), &friend, &[]);
    assert_eq!(post(&node, "/control/live", body, &[&signed]).await.0, 403);
    let body = r#"{"watch":["secrets"]}"#;
    let signed = header(&order(me, &epoch, "/macula/live", "/control/live", body), &owner(), &[]);
    assert_eq!(post(&node, "/control/live", body, &[&signed]).await.0, 400);
}

#[tokio::test(flavor = "current_thread")]
async fn another_node_is_asked_in_this_ones_name() {
    let (node, _served, epoch) = node(86).await;
    let far = Machine::owned(87, &[&node], Some(&owner())).await;
    let _far_served = far.serve_protocol(protocol::OS, "", "macula/os", Procedure::Control).await;
    let (me, there) = (node.key.node_id(), far.key.node_id());
    let path = format!("/control/os/status?node={there}");
    let forward = token(me, "macula/os/status", &format!("macula:{there}"));
    let forward = format!("macula-forward: {forward}");
    let ask = async |key: &NodeKey, headers: &[&str]| {
        let asked =
            Order { audience: Some(me.into()), ..order(there, &epoch, "/macula/os/status", &path, "") };
        let signed = header(&asked, key, &[]);
        post(&node, &path, "", &[&[signed.as_str()], headers].concat()).await
    };
    let mut answer = ask(&owner(), &[&forward]).await;
    for _ in 0..100 {
        if answer.0 != 502 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = ask(&owner(), &[&forward]).await;
    }
    assert_eq!(answer, (200, json!("did status")));
    assert_ne!(ask(&owner(), &[]).await.0, 200, "without a delegation to this node");
    assert_eq!(ask(&NodeKey::from_seed(&[96; 32]), &[&forward]).await.0, 403, "not for others");
}

#[tokio::test(flavor = "current_thread")]
async fn the_consoles_files() {
    let mut node = machine(88, &[], "").await;
    assert_eq!(ask(&node, "/", &[]).await.0, 404, "an image without one");
    let dir = node.dir().join("console");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("index.html"), "<!doctype html>").unwrap();
    std::fs::write(dir.join("secret.html"), "no").unwrap();
    node.kill_and_restart().await;
    listening(&node).await;
    let (status, _, page) = ask(&node, "/", &["--include"]).await;
    let page = String::from_utf8(page).unwrap();
    assert!(status == 200 && page.ends_with("<!doctype html>"), "{page}");
    assert!(
        page.to_lowercase().contains("content-security-policy: default-src 'none'; script-src 'self'"),
        "{page}"
    );
    let tag = page.lines().find_map(|l| l.to_lowercase().strip_prefix("etag: ").map(str::to_owned)).unwrap();
    let known = format!("if-none-match: {tag}");
    assert_eq!(ask(&node, "/", &["--header", &known]).await.0, 304);
    for path in ["/console/secret.html", "/console/app.js", "/console/../index.html", "/index.html"] {
        assert_eq!(ask(&node, path, &["--path-as-is"]).await.0, 404, "{path}");
    }
}
