//! The real `dht` program, two of it, each with an identity and a mesh of its own that this test plays: streams are
//! socket pairs between the two.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dht_proto::Record;
use dht_proto::record_types::{CHANNEL_HEAD, ChannelHead};
use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey, domain};
use services_api::dht::DhtProxy;
use services_api::mesh::StreamHandlerProxy;
use services_api::report::{DhtReport, PeerReport};
use services_api::{control, daemon};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use zbus::Connection;

const PROGRAM: &str = env!("CARGO_BIN_EXE_dht");

#[tokio::test(flavor = "current_thread")]
async fn records_are_found_over_streams_and_survive_kills() {
    let air = Air::default();
    let (mut a, mut b) = (Machine::start(1, &air).await, Machine::start(2, &air).await);
    let mcid = Mcid::of_raw(b"content");

    a.dht().await.provide(&mcid.to_bytes()).await.unwrap();
    assert!(b.dht().await.providers(&mcid.to_bytes()).await.unwrap().is_empty(), "they have not met");
    air.meet(&a, &b).await;
    a.contacts(1).await;
    b.contacts(1).await;
    assert_eq!(b.providers(&mcid).await, [a.id()]);
    assert!(a.dht().await.providers(&mcid.to_bytes()).await.unwrap().is_empty(), "it is left out itself");
    assert_eq!(a.owner_asks_who_has(&air, &mcid).await, [a.id().to_string()]);
    assert!(air.taught(&b, &a), "mesh knows where the provider is");

    let head = channel_head(1);
    assert_eq!(a.dht().await.put_record(&head.to_bytes()).await.unwrap(), 1);
    assert_eq!(b.channel_heads(&head).await, vec![head.clone()]);
    let newer = channel_head(2);
    assert_eq!(b.owner_puts(&air, &newer).await.unwrap(), 1);
    assert_eq!(a.channel_heads(&head).await, vec![newer.clone()]);
    let refused = a.dht().await.put_record(&head.to_bytes()).await.unwrap_err();
    assert!(refused.to_string().contains("a newer record"), "{refused}");

    // What was promised is promised after a kill, what was kept for others comes back from them.
    a.kill_and_restart(&air).await;
    b.kill_and_restart(&air).await;
    air.meet(&a, &b).await;
    a.contacts(1).await;
    b.contacts(1).await;
    assert_eq!(b.providers(&mcid).await, [a.id()]);
    assert_eq!(a.channel_heads(&head).await, [newer]);

    a.dht().await.unprovide(&mcid.to_bytes()).await.unwrap();
    for _ in 0..50 {
        if b.dht().await.providers(&mcid.to_bytes()).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("still found although withdrawn");
}

#[tokio::test(flavor = "current_thread")]
async fn strangers_cannot_break_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let air = Air::default();
    let a = Machine::start(3, &air).await;
    let garbage: [&[u8]; 4] = [b"", &[0xff; 64], &[0, 0, 0, 3, 0xff, 0xff, 0xff], &[0, 0, 0, 9, 1]];
    for bytes in garbage {
        let mut stream = air.open(&a.id(), &NodeId::from_bytes([9; 32]), "dht/1").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed without an answer, by a reset where something was left unread.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    assert!(a.dht().await.put_record(&[0xff; 100]).await.is_err());
    assert!(a.dht().await.put_record(&tampered().to_bytes()).await.is_err());
    assert!(a.dht().await.provide(&[1; 33]).await.is_err());
    assert!(a.dht().await.get_records(1, &[0; 31]).await.is_err());
    assert_eq!(a.report().await.provided, [""; 0]);
}

fn publisher() -> NodeKey {
    NodeKey::from_seed(&[77; 32])
}

fn channel_head(seq: u64) -> Record {
    let (name, version) = ("stable".into(), format!("1.0.{seq}"));
    let head = ChannelHead { name, metadata: [1; 34], version, seq, boards: Vec::new() };
    let draft = head.draft(&publisher().node_id()).unwrap();
    let statement = draft.statement(publisher().node_id(), seq, daemon::now_ms(), 3_600_000);
    let signature = publisher().sign(domain::DHT_RECORD, &statement.signing_bytes());
    statement.signed(signature)
}

fn tampered() -> Record {
    let mut record = channel_head(9);
    record.signature[0] ^= 1;
    record
}

/// One node: a run directory with the services that the program needs, and the program.
struct Machine {
    key: Arc<NodeKey>,
    run: TempDir,
    state: TempDir,
    program: Program,
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    async fn start(seed: u8, air: &Air) -> Self {
        let (run, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = Arc::new(NodeKey::from_seed(&[seed; 32]));
        let identity = Identity { key: key.clone() };
        serve(run.path().join("identity.sock"), "/io/macula/Identity", identity);
        let mesh = Mesh { own: key.node_id(), air: air.clone() };
        serve(run.path().join("mesh.sock"), "/io/macula/Mesh", mesh);
        let program = run_program(run.path(), state.path());
        let machine = Machine { key, run, state, program };
        air.wait_for(&machine.id()).await;
        machine
    }

    fn id(&self) -> NodeId {
        self.key.node_id()
    }

    async fn kill_and_restart(&mut self, air: &Air) {
        self.program.0.kill().unwrap();
        self.program.0.wait().unwrap();
        air.0.lock().unwrap().handlers.remove(&self.id());
        std::fs::remove_file(self.run.path().join("dht.sock")).unwrap();
        self.program = run_program(self.run.path(), self.state.path());
    }

    async fn dht(&self) -> DhtProxy<'static> {
        let path = self.run.path().join("dht.sock");
        for _ in 0..100 {
            if let Ok(stream) = UnixStream::connect(&path).await {
                let builder = zbus::connection::Builder::unix_stream(stream.into_std().unwrap()).p2p();
                return DhtProxy::new(&builder.build().await.unwrap()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no D-Bus socket");
    }

    async fn report(&self) -> DhtReport {
        serde_json::from_str(&self.dht().await.report().await.unwrap()).unwrap()
    }

    async fn contacts(&self, count: u32) {
        for _ in 0..100 {
            if self.report().await.contacts == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} does not come to {count} contacts", self.id());
    }

    async fn providers(&self, mcid: &Mcid) -> Vec<NodeId> {
        let found = self.dht().await.providers(&mcid.to_bytes()).await.unwrap();
        found.iter().map(|id| NodeId::try_from(id.as_slice()).unwrap()).collect()
    }

    async fn channel_heads(&self, like: &Record) -> Vec<Record> {
        let key = like.statement.key;
        let found = self.dht().await.get_records(CHANNEL_HEAD, key.as_bytes()).await.unwrap();
        found.iter().map(|bytes| Record::from_bytes(bytes).unwrap()).collect()
    }

    async fn owner_puts(&self, air: &Air, record: &Record) -> anyhow::Result<u32> {
        let mut stream = self.owner_stream(air).await;
        control::call(&mut stream, "put_record", &record.to_bytes()).await
    }

    async fn owner_asks_who_has(&self, air: &Air, mcid: &Mcid) -> Vec<String> {
        let mut stream = self.owner_stream(air).await;
        control::call(&mut stream, "providers", &mcid.to_string()).await.unwrap()
    }

    async fn owner_stream(&self, air: &Air) -> UnixStream {
        air.open(&self.id(), &NodeId::from_bytes([8; 32]), control::protocol::DHT).await.unwrap()
    }
}

fn run_program(run: &Path, state: &Path) -> Program {
    let mut command = Command::new(PROGRAM);
    command.env("MACULA_RUN_DIR", run).env("STATE_DIRECTORY", state);
    command.env_remove("LISTEN_FDS").env_remove("NOTIFY_SOCKET");
    Program(command.spawn().unwrap())
}

fn serve<I: zbus::object_server::Interface + Clone>(path: PathBuf, at: &'static str, interface: I) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let interface = interface.clone();
            tokio::spawn(async move {
                let guid = zbus::Guid::generate();
                let builder =
                    zbus::connection::Builder::unix_stream(stream.into_std().unwrap()).server(guid).p2p();
                if let Ok(connection) = builder.serve_at(at, interface).build().await {
                    connection.closed().await;
                }
            });
        }
    });
}

#[derive(Clone)]
struct Identity {
    key: Arc<NodeKey>,
}

#[zbus::interface(name = "io.macula.Identity1")]
impl Identity {
    fn node_id(&self) -> Vec<u8> {
        self.key.node_id().to_vec()
    }

    fn sign_record(&self, payload: Vec<u8>) -> Vec<u8> {
        self.key.sign(domain::DHT_RECORD, &payload).to_vec()
    }
}

/// Who can reach whom, and how.
#[derive(Clone, Default)]
struct Air(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    handlers: BTreeMap<NodeId, Connection>,
    met: Vec<(NodeId, NodeId)>,
    taught: Vec<(NodeId, NodeId)>,
}

impl Air {
    async fn wait_for(&self, id: &NodeId) {
        for _ in 0..200 {
            if self.0.lock().unwrap().handlers.contains_key(id) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} does not serve");
    }

    async fn handler(&self, id: &NodeId) -> StreamHandlerProxy<'static> {
        for _ in 0..200 {
            let connection = self.0.lock().unwrap().handlers.get(id).cloned();
            if let Some(connection) = connection.filter(|c| !c.is_closed()) {
                return StreamHandlerProxy::new(&connection).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} does not serve");
    }

    async fn meet(&self, a: &Machine, b: &Machine) {
        self.0.lock().unwrap().met.extend([(a.id(), b.id()), (b.id(), a.id())]);
        for (one, other) in [(a, b), (b, a)] {
            let handler = self.handler(&one.id()).await;
            handler.peer_changed(other.id().as_bytes(), true).await.unwrap();
        }
    }

    fn taught(&self, at: &Machine, about: &Machine) -> bool {
        self.0.lock().unwrap().taught.contains(&(at.id(), about.id()))
    }

    async fn open(&self, to: &NodeId, from: &NodeId, protocol: &str) -> zbus::Result<UnixStream> {
        let (near, far) = StdUnixStream::pair().unwrap();
        let far = zbus::OwnedFd::from(OwnedFd::from(far));
        self.handler(to).await.accept(from.as_bytes(), protocol, "", 0, far).await?;
        near.set_nonblocking(true).unwrap();
        Ok(UnixStream::from_std(near).unwrap())
    }
}

#[derive(Clone)]
struct Mesh {
    own: NodeId,
    air: Air,
}

#[zbus::interface(name = "io.macula.Mesh1")]
impl Mesh {
    async fn open_stream(
        &self,
        node: Vec<u8>,
        protocol: String,
        _resource: String,
        _ucan: Vec<u8>,
        _timeout_ms: u32,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        let to = NodeId::try_from(node.as_slice()).unwrap();
        if !self.air.0.lock().unwrap().met.contains(&(self.own, to)) {
            return Err(zbus::fdo::Error::Failed("not reachable".into()));
        }
        let stream = self.air.open(&to, &self.own, &protocol).await?;
        Ok(zbus::OwnedFd::from(OwnedFd::from(stream.into_std().unwrap())))
    }

    fn serve(
        &self,
        _protocol: String,
        _resource: String,
        _access: String,
        #[zbus(connection)] connection: &Connection,
    ) {
        self.air.0.lock().unwrap().handlers.insert(self.own, connection.clone());
    }

    fn learn(&self, node: Vec<u8>, addresses: Vec<String>) {
        assert!(!addresses.is_empty());
        let about = NodeId::try_from(node.as_slice()).unwrap();
        self.air.0.lock().unwrap().taught.push((self.own, about));
    }

    fn local_addresses(&self) -> Vec<String> {
        vec![format!("10.0.0.{}:4433", self.own.as_bytes()[0]), "[fe80::1%eth0]:4433".into()]
    }

    fn peers(&self) -> String {
        let state = self.air.0.lock().unwrap();
        let met = state.met.iter().filter(|(one, _)| *one == self.own);
        let report = |(_, other): &(NodeId, NodeId)| PeerReport {
            node: other.to_string(),
            connected: true,
            address: format!("10.0.0.{}:4433", other.as_bytes()[0]),
            ..PeerReport::default()
        };
        serde_json::to_string(&met.map(report).collect::<Vec<_>>()).unwrap()
    }
}
