//! A real mesh process in a namespace, with this program in the place of its other services.

use std::fs::File;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use os_identity::NodeKey;
use services_api::bus;
use services_api::mesh::{self, MeshProxy, STREAM_HANDLER_PATH};
use services_api::report::PeerReport;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use zbus::Connection;

use crate::lab::Place;

pub const PORT: u16 = 4433;
/// A stream of this protocol ticks: a byte each [`TICK`], for ever.
pub const TICKER: &str = "test-tick/1";
pub const TICK: Duration = Duration::from_millis(100);

pub struct Node {
    pub key: NodeKey,
    pub place: Place,
    dir: tempfile::TempDir,
    process: Child,
    connection: Connection,
}

struct Identity(NodeKey);

#[zbus::interface(name = "io.macula.Identity1")]
impl Identity {
    fn node_id(&self) -> Vec<u8> {
        self.0.node_id().as_bytes().to_vec()
    }

    fn reset_key(&self) -> Vec<u8> {
        self.0.seed().to_vec()
    }

    fn certify_session(&self, session_key: Vec<u8>) -> zbus::fdo::Result<(Vec<u8>, Vec<u8>)> {
        let session = session_key.try_into().map_err(|_| zbus::fdo::Error::InvalidArgs("no key".into()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let made = os_certificate::certify(&self.0, &session, now, os_certificate::LIFETIME_S);
        let (leaf, ca) = made.map_err(bus::failed)?;
        Ok((leaf.to_vec(), ca.to_vec()))
    }
}

struct Ticker;

#[zbus::interface(name = "io.macula.StreamHandler1")]
impl Ticker {
    fn accept(&self, _peer: Vec<u8>, _protocol: String, _resource: String, _ms: u32, stream: zbus::OwnedFd) {
        tokio::spawn(async move {
            let Ok(mut stream) = mesh::from_fd(stream) else { return };
            while stream.write_all(b".").await.is_ok() {
                tokio::time::sleep(TICK).await;
            }
        });
    }

    fn peer_changed(&self, _peer: Vec<u8>, _connected: bool) {}
}

impl Node {
    /// Starts it and waits until it answers. `more` are lines for the configuration's table `mesh`.
    pub async fn start(seed: u8, place: Place, seeds: &[&Node], more: &str) -> Result<Self> {
        let (dir, key) = (tempfile::tempdir()?, NodeKey::from_seed(&[seed; 32]));
        let seeds: Vec<_> = seeds.iter().map(|n| format!("\"{}@{}\"", n.key.node_id(), n.at())).collect();
        let config = format!(
            "version = 1\n[mesh]\nport = {PORT}\nmdns = false\nseeds = [{}]\n{more}\n",
            seeds.join(", ")
        );
        std::fs::write(dir.path().join("config.toml"), config)?;
        let listener = UnixListener::bind(dir.path().join("identity.sock"))?;
        tokio::spawn(async move {
            bus::serve(listener, &[], |builder, _| {
                builder.serve_at("/io/macula/Identity", Identity(NodeKey::from_seed(&[seed; 32])))
            })
            .await
        });
        let process = spawn(&place.space, dir.path())?;
        let connection = connect_patiently(dir.path()).await?;
        Ok(Self { key, place, dir, process, connection })
    }

    /// `ip:port` by which others on the Internet may know it.
    pub fn at(&self) -> String {
        let ip = &self.place.address;
        if ip.contains(':') { format!("[{ip}]:{PORT}") } else { format!("{ip}:{PORT}") }
    }

    pub async fn mesh(&self) -> Result<MeshProxy<'static>> {
        Ok(MeshProxy::new(&self.connection).await?)
    }

    /// Serves [`TICKER`] for as long as what is returned is kept.
    pub async fn serve_ticks(&self) -> Result<Connection> {
        let builder = builder(self.dir.path()).await?.serve_at(STREAM_HANDLER_PATH, Ticker);
        let connection = builder.build().await?;
        MeshProxy::new(&connection).await?.serve(TICKER, "", "peer").await?;
        Ok(connection)
    }

    /// The connected peer, as this node sees it.
    pub async fn peer(&self, other: &Node) -> Result<Option<PeerReport>> {
        let peers: Vec<PeerReport> = parse(&self.mesh().await?.peers().await?)?;
        let id = other.key.node_id().to_string();
        Ok(peers.into_iter().find(|p| p.node == id && p.connected))
    }

    pub async fn wait_for(&self, other: &Node, limit: Duration) -> Result<()> {
        let began = std::time::Instant::now();
        while began.elapsed() < limit {
            if self.peer(other).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} and {} do not meet", self.place.space, other.place.space)
    }

    /// The last lines that the process wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn parse(json: &str) -> Result<Vec<PeerReport>> {
    serde_json::from_str(json).context("the list of peers")
}

/// `ip netns exec` becomes the program, so that its process id is the mesh's.
fn spawn(space: &str, dir: &Path) -> Result<Child> {
    let log = File::create(dir.join("log"))?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).arg(mesh_program()?);
    command.env("MACULA_RUN_DIR", dir).env("MACULA_CONFIG", dir.join("config.toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("cannot start mesh")
}

/// Built beside this program.
fn mesh_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("mesh");
    if !program.exists() {
        bail!("{} is missing; `cargo xtask test network` builds it", program.display());
    }
    Ok(program)
}

async fn connect_patiently(dir: &Path) -> Result<Connection> {
    for _ in 0..400 {
        if let Ok(builder) = builder(dir).await
            && let Ok(connection) = builder.build().await
            && MeshProxy::new(&connection).await?.peers().await.is_ok()
        {
            return Ok(connection);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    bail!("mesh does not come up:\n{log}")
}

async fn builder(dir: &Path) -> Result<zbus::connection::Builder<'static>> {
    let stream: StdUnixStream = UnixStream::connect(dir.join("mesh.sock")).await?.into_std()?;
    Ok(zbus::connection::Builder::unix_stream(stream).p2p())
}
