//! A machine with a real mesh process, and this test in the place of its other services.
#![allow(dead_code, reason = "each test uses its part")]

pub mod apps;
pub mod content;
pub mod curl;
pub mod orders;
pub mod owned;
pub mod played;

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::pubsub::Heard;
use mesh_proto::rpc::{self, CallError, Code, Mode};
use mesh_stream::{Exchange, Subscription};
use os_identity::NodeKey;
use services_api::mesh::{MeshProxy, STREAM_HANDLER_PATH};
use services_api::{bus, control, mesh};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use zbus::Connection;

const OPEN: u32 = 10_000;

/// What a served procedure does.
#[derive(Clone, Copy)]
pub enum Procedure {
    /// Answers with the message twice.
    Double,
    /// Answers each message with its length.
    Count,
    Never,
    /// Takes one call of the owner's.
    Control,
}

pub struct Machine {
    pub key: NodeKey,
    pub port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

struct Identity(NodeKey);

#[zbus::interface(name = "io.macula.Identity1")]
impl Identity {
    fn node_id(&self) -> Vec<u8> {
        self.0.node_id().as_bytes().to_vec()
    }

    fn app_id(&self, name: String) -> Vec<u8> {
        apps::key(&self.0, &name).node_id().to_vec()
    }

    fn reset_key(&self) -> Vec<u8> {
        self.0.seed().to_vec()
    }

    fn certify_session(&self, session_key: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        certify(&self.0, &session_key)
    }
}

/// Of a process.
pub fn resident_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// For this process and the meshes that it starts: a passed stream is a file at each end.
pub fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// A chain that ties a session key to a node.
pub fn certify(key: &NodeKey, session: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let session: [u8; 32] = session.try_into().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let lifetime = os_certificate::LIFETIME_S;
    let (leaf, ca) = os_certificate::certify(key, &session, now, lifetime).unwrap();
    (leaf.to_vec(), ca.to_vec())
}

impl Machine {
    /// A node with the key of this seed that knows the others' addresses.
    pub async fn start(seed: u8, seeds: &[&Machine]) -> Self {
        Self::start_with(seed, seeds, None, "").await
    }

    /// The same with an owner.
    pub async fn owned(seed: u8, seeds: &[&Machine], owner: Option<&NodeKey>) -> Self {
        Self::start_with(seed, seeds, owner, "").await
    }

    /// The same, with more tables in its config.toml.
    pub async fn start_with(seed: u8, seeds: &[&Machine], owner: Option<&NodeKey>, tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::from_seed(&[seed; 32]);
        let port = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let seeds: Vec<_> =
            seeds.iter().map(|m| format!("\"{}@{}\"", m.key.node_id(), m.address())).collect();
        let config = format!(
            "version = 1\nname = \"n{seed}\"\n{}\n[mesh]\nport = {port}\nmdns = false\nseeds = [{}]\n{tables}\n",
            owner.map(|key| format!("owner = \"{}\"", key.node_id())).unwrap_or_default(),
            seeds.join(", ")
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let listener = UnixListener::bind(dir.path().join("identity.sock")).unwrap();
        tokio::spawn(async move {
            bus::serve(listener, &[], |builder, _| {
                builder.serve_at("/io/macula/Identity", Identity(NodeKey::from_seed(&[seed; 32])))
            })
            .await
        });
        let mut machine = Self { key, port, dir, process: None };
        machine.spawn().await;
        machine
    }

    /// The socket of another service, played by the test.
    pub fn listen_as(&self, service: &str) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("{service}.sock"))).unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv6Addr::LOCALHOST, self.port))
    }

    /// Where its services' sockets are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Of the mesh process.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.process.as_ref().unwrap().id())
    }

    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.spawn().await;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    async fn spawn(&mut self) {
        let process = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .env("MACULA_RUN_DIR", self.dir.path())
            .env("MACULA_CONFIG", self.dir.path().join("config.toml"))
            .env("MACULA_CONSOLE", self.dir.path().join("console"))
            .spawn()
            .unwrap();
        self.process = Some(process);
        for _ in 0..200 {
            if let Ok(connection) = connect(self.dir.path()).await
                && MeshProxy::new(&connection).await.unwrap().peers().await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("mesh does not come up");
    }

    pub async fn mesh(&self) -> MeshProxy<'static> {
        MeshProxy::new(&connect(self.dir.path()).await.unwrap()).await.unwrap()
    }

    /// Serves a procedure for as long as what it returns is kept.
    pub async fn serve(&self, name: &str, access: &str, procedure: Procedure) -> Connection {
        self.serve_protocol(rpc::PROTOCOL, name, access, procedure).await
    }

    pub async fn serve_protocol(
        &self,
        protocol: &str,
        name: &str,
        access: &str,
        procedure: Procedure,
    ) -> Connection {
        let builder = builder(self.dir.path()).await.serve_at(STREAM_HANDLER_PATH, Handler(procedure));
        let connection = builder.build().await.unwrap();
        MeshProxy::new(&connection).await.unwrap().serve(protocol, name, access).await.unwrap();
        connection
    }

    pub async fn open_call(
        &self,
        to: &Machine,
        procedure: &str,
        mode: Mode,
        wait: Duration,
    ) -> Exchange<OwnedReadHalf, OwnedWriteHalf> {
        let stream = self.open(to, rpc::PROTOCOL, procedure, wait.as_millis() as u32).await;
        let (reader, writer) = stream.into_split();
        mesh_stream::call(reader, writer, mode, Some(wait))
    }

    pub async fn call(
        &self,
        to: &Machine,
        procedure: &str,
        message: &[u8],
        wait: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.call_by(to, procedure, message, &[], wait).await
    }

    /// The same with a chain of delegations to show.
    pub async fn call_by(
        &self,
        to: &Machine,
        procedure: &str,
        message: &[u8],
        ucan: &[u8],
        wait: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let timeout_ms = wait.as_millis() as u32;
        let stream = self.open_by(to, rpc::PROTOCOL, procedure, ucan, timeout_ms).await;
        let (reader, writer) = stream.into_split();
        mesh_stream::unary(reader, writer, message, Some(wait)).await
    }

    /// Tries for a while: after a restart the peer has to be found again.
    pub async fn open(&self, to: &Machine, protocol: &str, resource: &str, timeout_ms: u32) -> UnixStream {
        self.open_by(to, protocol, resource, &[], timeout_ms).await
    }

    pub async fn open_by(
        &self,
        to: &Machine,
        protocol: &str,
        resource: &str,
        ucan: &[u8],
        timeout_ms: u32,
    ) -> UnixStream {
        let mesh = self.mesh().await;
        let node = to.key.node_id();
        let mut last = None;
        for _ in 0..50 {
            match mesh.open_stream(node.as_bytes(), protocol, resource, ucan, timeout_ms).await {
                Ok(fd) => return mesh::from_fd(fd).unwrap(),
                Err(e) => last = Some(e),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{last:?}");
    }

    pub async fn open_topic(&self, topic: &str, access: &str) {
        self.mesh().await.serve_topic(topic, access).await.unwrap();
    }

    pub async fn publish(&self, topic: &str, event: &[u8]) -> u64 {
        self.mesh().await.publish(topic, event).await.unwrap()
    }

    pub async fn subscribe(&self, to: &Machine, topic: &str, subscription: &mut Subscription) -> UnixStream {
        let mut stream = self.open(to, mesh_proto::pubsub::PROTOCOL, topic, OPEN).await;
        subscription.begin(&mut stream).await.unwrap();
        stream
    }

    /// A subscription begins when the publisher's end has seen it; until then events pass it by.
    pub async fn publish_until_heard(
        &self,
        topic: &str,
        subscription: &mut Subscription,
        stream: &mut UnixStream,
    ) {
        for _ in 0..200 {
            let seq = self.publish(topic, b"hello?").await;
            let heard = tokio::time::timeout(Duration::from_millis(100), subscription.next(stream)).await;
            match heard {
                Ok(Ok(Some(Heard::Event { seq: heard, .. }))) if heard == seq => return,
                Ok(Ok(Some(_))) | Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        }
        panic!("nothing is heard");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn builder(dir: &Path) -> zbus::connection::Builder<'static> {
    let stream = UnixStream::connect(dir.join("mesh.sock")).await.unwrap();
    let stream: StdUnixStream = stream.into_std().unwrap();
    zbus::connection::Builder::unix_stream(stream).p2p()
}

async fn connect(dir: &Path) -> zbus::Result<Connection> {
    let stream = UnixStream::connect(dir.join("mesh.sock"))
        .await
        .map_err(Arc::new)
        .map_err(zbus::Error::InputOutput)?;
    zbus::connection::Builder::unix_stream(stream.into_std().unwrap()).p2p().build().await
}

struct Handler(Procedure);

#[zbus::interface(name = "io.macula.StreamHandler1")]
impl Handler {
    fn accept(
        &self,
        _peer: Vec<u8>,
        _protocol: String,
        resource: String,
        deadline_ms: u32,
        stream: zbus::OwnedFd,
    ) {
        let stream = mesh::from_fd(stream).unwrap();
        if matches!(self.0, Procedure::Control) {
            tokio::spawn(control::serve_one(
                stream,
                Box::leak(resource.into_boxed_str()),
                |call, stream| async move { (control::ok(&format!("did {}", call.method)), stream) },
            ));
            return;
        }
        let (reader, writer) = stream.into_split();
        let deadline = Some(Duration::from_millis(deadline_ms.into()));
        tokio::spawn(run(self.0, reader, writer, deadline));
    }

    fn peer_changed(&self, _peer: Vec<u8>, _connected: bool) {}
}

async fn run(
    procedure: Procedure,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    deadline: Option<Duration>,
) -> Result<(), CallError> {
    match procedure {
        Procedure::Double => {
            let mut call = mesh_stream::accept(reader, writer, Mode::Unary, deadline);
            let message = call.next().await?.ok_or(CallError::new(Code::BAD_ARGUMENT, "no message"))?;
            call.sender().send_last(&message.repeat(2)).await
        }
        Procedure::Count => {
            let mut call = mesh_stream::accept(reader, writer, Mode::Both, deadline);
            while let Some(message) = call.next().await? {
                call.sender().send(message.len().to_string().as_bytes()).await?;
            }
            call.sender().end().await
        }
        Procedure::Never | Procedure::Control => {
            let mut call = mesh_stream::accept(reader, writer, Mode::Unary, deadline);
            while call.next().await?.is_some() {}
            call.next().await.map(drop)
        }
    }
}
