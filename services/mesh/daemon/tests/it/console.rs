//! The console in headless Chromium, on whole nodes: their real identity, mesh, DHT, content programs. `update` is played by the test,
//! since it needs slots: real frames, answers out of memory. `cargo xtask test console` brings what this needs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::orders::owner;
use crate::support::played::Update;
use data_encoding::HEXLOWER;
use os_content_id::ManifestBuilder;
use os_identity::NodeId;
use services_api::content::ContentProxy;
use services_api::control::protocol;
use services_api::identity::IdentityProxy;
use services_api::mesh::MeshProxy;
use zbus::Connection;

/// A node's programs on this machine.
struct Node {
    dir: tempfile::TempDir,
    port: u16,
    services: Vec<Child>,
}

impl Node {
    async fn start(name: &str, seeds: &[&Node]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::UdpSocket::bind(("::", 0)).unwrap().local_addr().unwrap().port();
        let mut node = Self { dir, port, services: Vec::new() };
        let mut known = Vec::new();
        for seed in seeds {
            known.push(format!("\"{}@[::1]:{}\"", seed.id().await, seed.port));
        }
        let config = format!(
            "version = 1\nname = \"{name}\"\nowner = \"{}\"\n[mesh]\nport = {port}\nmdns = false\nseeds = [{}]\n",
            owner().node_id(),
            known.join(", ")
        );
        std::fs::write(node.dir.path().join("config.toml"), config).unwrap();
        for service in ["identity", "mesh", "dht", "content"] {
            node.spawn(service);
        }
        node.mesh().await;
        node
    }

    fn spawn(&mut self, service: &str) {
        let (dir, state) = (self.dir.path(), self.dir.path().join(service));
        std::fs::create_dir_all(&state).unwrap();
        let mut command = Command::new(program(service));
        command.env("MACULA_RUN_DIR", dir).env("MACULA_CONFIG", dir.join("config.toml"));
        command.env("MACULA_CONSOLE", std::env::var_os("MACULA_CONSOLE_FILES").unwrap());
        command.env("STATE_DIRECTORY", state).env("MACULA_LOG", "warn");
        self.services.push(command.spawn().unwrap());
    }

    async fn connect(&self, service: &str) -> Connection {
        connect(self.dir.path(), service).await
    }

    async fn id(&self) -> NodeId {
        let identity = IdentityProxy::new(&self.connect("identity").await).await.unwrap();
        NodeId::try_from(identity.node_id().await.unwrap().as_slice()).unwrap()
    }

    async fn mesh(&self) -> MeshProxy<'static> {
        MeshProxy::new(&self.connect("mesh").await).await.unwrap()
    }

    /// Takes the calls of `control/1` for as long as what it returns is kept.
    async fn play(&self, update: Update) -> Connection {
        let stream = std::os::unix::net::UnixStream::connect(self.dir.path().join("mesh.sock")).unwrap();
        let builder = zbus::connection::Builder::unix_stream(stream).p2p();
        let builder = builder.serve_at(services_api::mesh::STREAM_HANDLER_PATH, update).build();
        let connection = builder.await.unwrap();
        MeshProxy::new(&connection).await.unwrap().serve(protocol::OS, "", "macula/os").await.unwrap();
        connection
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for service in &mut self.services {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

/// Built into the folder of `mesh`.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_mesh")).with_file_name(name)
}

async fn connect(dir: &Path, service: &str) -> Connection {
    for _ in 0..600 {
        if let Ok(stream) = std::os::unix::net::UnixStream::connect(dir.join(format!("{service}.sock")))
            && let Ok(connection) = zbus::connection::Builder::unix_stream(stream).p2p().build().await
        {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{service} does not come up");
}

/// One node has content, the other fetches it.
async fn transfer(from: &Node, to: &Node) {
    let bytes: Vec<u8> = (0..6_000_000usize).map(|i| (i % 251) as u8).collect();
    let mut builder = ManifestBuilder::new("picture.img");
    builder.update(&bytes);
    let list = builder.finish().unwrap();
    let path = from.dir.path().join("picture.img");
    std::fs::write(&path, &bytes).unwrap();
    let source = ContentProxy::new(&from.connect("content").await).await.unwrap();
    let file = OwnedFd::from(std::fs::File::open(&path).unwrap());
    source.offer_file(&list.encode(), file.into()).await.unwrap();
    let target = ContentProxy::new(&to.connect("content").await).await.unwrap();
    let mcid = list.mcid().to_bytes();
    for _ in 0..100 {
        if target.manifest(&mcid).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let chunks: Vec<u32> = (0..list.manifest().chunk_count).collect();
    let mut stream = services_api::mesh::from_fd(target.fetch(&mcid, &chunks).await.unwrap()).unwrap();
    let got = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(got, bytes.len() as u64);
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "needs Chromium: cargo xtask test console"]
async fn in_a_browser() {
    let kitchen = Node::start("kitchen", &[]).await;
    let attic = Node::start("attic", &[&kitchen]).await;
    let cellar = Node::start("cellar", &[&kitchen]).await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let _kitchen = kitchen.play(Update::new("kitchen", &kitchen.id().await, calls.clone())).await;
    let _attic = attic.play(Update::new("attic", &attic.id().await, Arc::default())).await;
    transfer(&attic, &kitchen).await;

    let key = kitchen.dir.path().join("owner.key");
    std::fs::write(&key, format!("{}\n", HEXLOWER.encode(owner().seed().as_ref()))).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/console.cjs");
    let mut command = tokio::process::Command::new("node");
    command.arg(script).arg(kitchen.port.to_string()).arg(&key).arg(attic.id().await.to_string());
    let status = tokio::time::timeout(Duration::from_secs(600), command.kill_on_drop(true).status()).await;
    let calls = calls.lock().unwrap().clone();
    assert!(status.unwrap().unwrap().success(), "see above; the node was called: {calls:?}");
    let ordered = |what: &str| calls.iter().any(|call| call.starts_with(what));
    assert!(ordered("restart {\"unit\":\"dht\"}") && ordered("rollback") && ordered("install"), "{calls:?}");
    let followed = calls.iter().find(|call| call.starts_with("config_change")).unwrap();
    let followed: serde_json::Value = serde_json::from_str(followed.split_once(' ').unwrap().1).unwrap();
    let attic = attic.id().await.to_string();
    assert_eq!((&followed["key"], &followed["value"]), (&"update.channel".into(), &"stable".into()));
    assert_eq!(followed["and"][0], serde_json::json!(["update.publisher", attic]));
    assert_eq!(followed["and"][1], serde_json::json!(["update.release_keys", format!("[\"{attic}\"]")]));
    assert!(!ordered("poweroff"), "what was not confirmed is not done: {calls:?}");
    drop(cellar);
}
