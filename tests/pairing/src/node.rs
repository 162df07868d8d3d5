//! One node: identity, mesh and pairing as processes; this test plays `update` and the supervisor.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use os_config::Config;
use pairing_proto::PairCode;
use services_api::mesh::MeshProxy;
use services_api::pairing::{CodeReport, PairingProxy};
use tempfile::TempDir;
use zbus::Connection;
use zbus::connection::Builder;

use crate::program;
use crate::update::{self, Said};

pub struct Node {
    dir: Arc<TempDir>,
    pub port: u16,
    identity: Child,
    mesh: Arc<Mutex<Child>>,
    pairing: Child,
    pub update: Said,
}

impl Node {
    /// A node without an owner.
    pub async fn start() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let port = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
        let config =
            format!("# a comment that stays\nname = \"n{port}\"\n[mesh]\nport = {port}\nmdns = false\n");
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let identity = spawn(dir.path(), "identity");
        drop(connect(dir.path(), "identity").await);
        let mesh = Arc::new(Mutex::new(spawn(dir.path(), "mesh")));
        let update = Said::default();
        update::play(dir.clone(), mesh.clone(), update.clone());
        let pairing = spawn(dir.path(), "pairing");
        let node = Self { dir, port, identity, mesh, pairing, update };
        node.wait_until_it_takes_claimants().await;
        node
    }

    /// Pairing and mesh are there, and know each other.
    pub async fn wait_until_it_takes_claimants(&self) {
        for _ in 0..600 {
            let mesh = MeshProxy::new(&connect(self.dir.path(), "mesh").await).await.unwrap();
            if mesh.peers().await.is_ok() && !self.code().await.state.is_empty() {
                // Pairing registers with mesh by itself.
                tokio::time::sleep(Duration::from_millis(700)).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the node does not come up");
    }

    pub async fn pairing(&self) -> PairingProxy<'static> {
        PairingProxy::new(&connect(self.dir.path(), "pairing").await).await.unwrap()
    }

    pub async fn code(&self) -> CodeReport {
        serde_json::from_str(&self.pairing().await.code().await.unwrap()).unwrap()
    }

    /// The code on the screen, at an address where this test reaches it.
    pub async fn pair_code(&self) -> PairCode {
        let code: PairCode = self.code().await.uri.parse().expect("a code is shown");
        PairCode { addresses: vec![self.address()], ..code }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn config(&self) -> Config {
        Config::load_from(&self.dir.path().join("config.toml")).unwrap()
    }

    pub fn config_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("config.toml")).unwrap()
    }

    /// As after a crash.
    pub async fn restart_pairing(&mut self) {
        end(&mut self.pairing);
        self.pairing = spawn(self.dir.path(), "pairing");
        self.wait_until_it_takes_claimants().await;
    }

    /// Waits until mesh has started again, with the new owner.
    pub async fn settled(&self) {
        tokio::time::sleep(update::RESTART_DELAY + Duration::from_millis(500)).await;
        self.wait_until_it_takes_claimants().await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.pairing);
        end(&mut self.mesh.lock().unwrap());
        end(&mut self.identity);
    }
}

pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn spawn(dir: &Path, name: &str) -> Child {
    let state = dir.join("state").join(name);
    std::fs::create_dir_all(&state).unwrap();
    Command::new(program(name))
        .env("MACULA_RUN_DIR", dir)
        .env("MACULA_CONFIG", dir.join("config.toml"))
        .env("STATE_DIRECTORY", state)
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {name}: {e}"))
}

async fn connect(dir: &Path, service: &str) -> Connection {
    for _ in 0..600 {
        if let Ok(stream) = StdUnixStream::connect(dir.join(format!("{service}.sock")))
            && let Ok(connection) = Builder::unix_stream(stream).p2p().build().await
        {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{service} does not come up");
}
