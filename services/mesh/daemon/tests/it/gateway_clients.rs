//! The gateway as other people's HTTP/3 sees it: aioquic and Chromium. `cargo xtask test gateway` brings them and runs these.

use std::time::Duration;

use crate::support::owned::{machine, token};
use crate::support::{Machine, Procedure, content};
use tokio::process::Command;
use zbus::Connection;

const PUBLIC: &str = "\"content/*\", \"rpc/open/*\", \"topic/weather\"";

/// A node on which everything that a stranger may want is public, but for `rpc/test/*`.
async fn node(seed: u8) -> (Machine, Vec<Connection>, Vec<u8>, String) {
    let node = machine(seed, &[], PUBLIC).await;
    let large: Vec<u8> = (0..2_500_000usize).map(|i| (i % 251) as u8).collect();
    let (_, mcid) = content::serve(&node, b"hello", &large);
    let services = vec![
        node.serve("open/double_v1", "peer", Procedure::Double).await,
        node.serve("test/double_v1", "peer", Procedure::Double).await,
    ];
    node.open_topic("weather", "peer").await;
    node.publish("weather", b"rain").await;
    (node, services, large, mcid.to_string())
}

async fn run(mut command: Command) -> serde_json::Value {
    command.kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let at = text.find("RESULT ").unwrap_or_else(|| panic!("{output:?}"));
    let json = text[at + 7..].split(" END").next().unwrap();
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "needs aioquic: cargo xtask test gateway"]
async fn aioquic() {
    let (node, _services, large, mcid) = node(67).await;
    let me = node.key.node_id();
    let bearer = token(me, "macula/http/call", &format!("macula:{me}/rpc/test/*"));
    let mut command = Command::new(std::env::var("MACULA_AIOQUIC").expect("set by cargo xtask test gateway"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http3_client.py");
    command.args([script, &node.port.to_string(), &mcid, &bearer]);
    let publishing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            node.publish("weather", b"snow").await;
        }
    };
    let result = tokio::select! { result = run(command) => result, _ = publishing => unreachable!() };
    let status = |name: &str| result[name]["status"].as_u64().unwrap();
    let body = |name: &str| result[name]["body"].as_str().unwrap().to_owned();
    assert_eq!(status("document"), 200, "{result}");
    assert!(body("document").contains(&me.to_string()));
    assert_eq!((status("content"), result["content"]["length"].as_u64()), (200, Some(large.len() as u64)));
    assert_eq!(result["content"]["sum"].as_u64(), Some(large.iter().map(|b| u64::from(*b)).sum()));
    assert_eq!((status("range"), result["range"]["length"].as_u64()), (206, Some(3)));
    assert_eq!((status("call"), body("call")), (200, "abab".to_owned()));
    assert_eq!((status("denied"), status("allowed"), status("nothing")), (401, 200, 404));
    assert_eq!(status("too_large"), 413);
    assert!(body("events").contains("data: snow"), "{result}");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "needs Chromium: cargo xtask test gateway"]
async fn chromium() {
    let (node, _services, large, mcid) = node(68).await;
    for (http3, protocol) in [(false, "h2"), (true, "h3")] {
        let result = browse(&node, &mcid, http3).await;
        assert_eq!(result["document"].as_str(), Some(node.key.node_id().to_string().as_str()), "{result}");
        assert_eq!(result["length"].as_u64(), Some(large.len() as u64), "{result}");
        assert_eq!(result["part"].as_str(), Some("206 3"), "{result}");
        assert_eq!(result["call"].as_str(), Some("abab"), "{result}");
        assert_eq!(result["event"].as_str(), Some("snow"), "{result}");
        assert!(result["denied"].as_str().unwrap().contains("TypeError"), "other pages' tokens: {result}");
        assert_eq!(result["protocol"].as_str(), Some(protocol), "{result}");
    }
}

/// What a page of another origin gets.
async fn browse(node: &Machine, mcid: &str, http3: bool) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let page = include_str!("../page.html").replace("PORT", &node.port.to_string()).replace("MCID", mcid);
    let file = dir.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--ignore-certificate-errors",
    ]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--virtual-time-budget=20000", "--timeout=20000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
    if http3 {
        command.arg(format!("--origin-to-force-quic-on=localhost:{}", node.port));
        command.arg(format!("--ignore-certificate-errors-spki-list={}", spki_hash(node).await));
    } else {
        command.arg("--disable-quic");
    }
    command.arg(format!("file://{}", file.display()));
    let publishing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            node.publish("weather", b"snow").await;
        }
    };
    tokio::select! { result = run(command) => result, _ = publishing => unreachable!() }
}

/// As `--ignore-certificate-errors-spki-list` wants it.
async fn spki_hash(node: &Machine) -> String {
    let script = format!(
        "openssl s_client -connect '[::1]:{}' -alpn h2 </dev/null 2>/dev/null | openssl x509 -pubkey -noout | \
         openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
        node.port
    );
    let output = Command::new("sh").args(["-c", &script]).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
