//! A node as far as its owner's calls go: real transport and frames, answers out of memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use dht_proto::Record;
use mesh_proto::pubsub::{Keep, Log};
use mesh_proto::rpc::{CallError, Code, Mode};
use mesh_proto::{pubsub, rpc};
use mesh_transport::{Credentials, close_code};
use os_content_id::{CHUNK_SIZE, ManifestBuilder, Mcid};
use os_identity::NodeKey;
use quinn::{Endpoint, RecvStream, SendStream, VarInt};
use services_api::control::{self, Answer, Call, ok};
use services_api::report::{
    EventReport, GetAnswer, InstallParams, KillParams, LogLine, LogsPage, LogsParams, LogsSince, OsReport,
    PeerReport, PowerParams, PutParams, UnitParams, UnitReport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Join};

type Stream = Join<RecvStream, SendStream>;

pub type TopicLog = Arc<Mutex<Log>>;

pub struct Topic(TopicLog);

impl Default for Topic {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Log::new(1, Keep { events: 10, bytes: 10_000 }))))
    }
}

#[derive(Default)]
pub struct State {
    pub id: String,
    pub calls: Vec<String>,
    /// Name and bytes by MCID.
    pub stored: HashMap<String, (String, Vec<u8>)>,
    pub records: Vec<Vec<u8>>,
    /// Answered one after the other, the last one for ever.
    pub statuses: Vec<OsReport>,
    pub flip_a_byte: bool,
    pub cut_short: bool,
    pub refuse_puts: bool,
    /// Only mesh itself is up.
    pub starting: bool,
    pub log: Topic,
    /// `kitchen` when empty.
    pub name: String,
    /// What services logged, and the run that numbers it.
    pub lines: Vec<LogLine>,
    pub run: String,
    /// The text of its config.toml.
    pub config: String,
    pub peers: Vec<PeerReport>,
    pub events: Vec<EventReport>,
}

impl State {
    pub fn logs(&mut self, unit: &str, text: &str) {
        let seq = self.lines.len() as u64 + 1;
        let line = LogLine { at_ms: seq * 1000, unit: unit.into(), priority: 6, text: text.into(), seq };
        self.lines.push(line);
    }
}

#[derive(serde::Deserialize)]
struct LookupParams {
    key: String,
    record_type: Option<u8>,
}

#[derive(serde::Serialize)]
struct LookupAnswer {
    key: String,
    records: Vec<FoundRecord>,
}

#[derive(serde::Serialize)]
struct FoundRecord {
    record: String,
}

pub struct TestNode {
    pub address: String,
    pub id: String,
    pub state: Arc<Mutex<State>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestNode {
    pub fn start(seed: u8, owner: &str) -> Self {
        Self::start_at(seed, owner, "127.0.0.1:0")
    }

    pub fn start_at(seed: u8, owner: &str, address: &str) -> Self {
        let key = NodeKey::from_seed(&[seed; 32]);
        let id = key.node_id().to_string();
        let address: SocketAddr = address.parse().unwrap();
        let state = State { id: id.clone(), run: format!("{address} {seed}"), ..State::default() };
        let (owner, state) = (owner.to_string(), Arc::new(Mutex::new(state)));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (bound, wait_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let state = state.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let endpoint = mesh_transport::endpoint(
                        address,
                        &credentials(&key),
                        mesh_transport::system_clock,
                        None,
                    )
                    .unwrap();
                    bound.send(endpoint.local_addr().unwrap().to_string()).unwrap();
                    tokio::select! { _ = serve(&endpoint, owner, state) => (), _ = stopped => () }
                    endpoint.close(VarInt::from_u32(close_code::DONE), b"test over");
                    endpoint.wait_idle().await;
                });
            }
        });
        Self { address: wait_bound.recv().unwrap(), id, state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn credentials(key: &NodeKey) -> Credentials {
    let session = NodeKey::generate().unwrap();
    let now = services_api::daemon::now_ms() / 1000;
    let (leaf, ca) =
        os_certificate::certify(key, session.node_id().as_bytes(), now, os_certificate::LIFETIME_S).unwrap();
    Credentials { chain: vec![leaf, ca], session_key: session.to_pkcs8_der().unwrap().to_vec() }
}

async fn serve(endpoint: &Endpoint, owner: String, state: Arc<Mutex<State>>) {
    while let Some(incoming) = endpoint.accept().await {
        let (owner, state) = (owner.clone(), state.clone());
        tokio::spawn(async move {
            let connection = incoming.await?;
            let peer = mesh_transport::peer_of(&connection)?.to_string();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let header = mesh_transport::read_header(&mut recv).await?;
                let up = !state.lock().unwrap().starting || header.protocol == control::protocol::MESH;
                if peer != owner || !up {
                    let _ = send.reset(VarInt::from_u32(close_code::REFUSED));
                    let _ = recv.stop(VarInt::from_u32(close_code::REFUSED));
                    continue;
                }
                match header.protocol.as_str() {
                    rpc::PROTOCOL => {
                        tokio::spawn(procedure(header.resource.unwrap(), recv, send));
                        continue;
                    }
                    pubsub::PROTOCOL => {
                        tokio::spawn(topic(header.resource.unwrap(), recv, send, state.clone()));
                        continue;
                    }
                    control => assert!(control.starts_with("control")),
                }
                tokio::spawn(answer(tokio::io::join(recv, send), state.clone()));
            }
            anyhow::Ok(())
        });
    }
}

async fn procedure(name: String, recv: RecvStream, mut send: SendStream) -> Result<()> {
    let mode = match name.as_str() {
        "test/upper_v1" => Mode::Unary,
        "test/words_v1" => Mode::Server,
        "test/echo_v1" => Mode::Both,
        _ => {
            let error = CallError::new(Code::UNKNOWN_PROCEDURE, format!("nobody serves `{name}` here"));
            send.write_all(&rpc::error_frame(&error)).await?;
            return Ok(send.finish()?);
        }
    };
    let mut call = mesh_stream::accept(recv, send, mode, None);
    let sender = call.sender();
    while let Some(message) = call.next().await? {
        match mode {
            Mode::Server => {
                for word in message.split(|b| *b == b'_') {
                    sender.send(word).await?;
                }
            }
            _ => sender.send(&message.to_ascii_uppercase()).await?,
        }
    }
    Ok(sender.end().await?)
}

/// Three events, of which the connection breaks after the second.
async fn topic(name: String, recv: RecvStream, mut send: SendStream, state: Arc<Mutex<State>>) -> Result<()> {
    if name != "test/weather" {
        let error = CallError::new(Code::FORBIDDEN, "not for you");
        send.write_all(&pubsub::refusal_frame(&error)).await?;
        return Ok(send.finish()?);
    }
    let log = state.lock().unwrap().log.0.clone();
    let (tick, ticks) = tokio::sync::watch::channel(0);
    let sending = tokio::spawn(mesh_stream::publish_to(recv, send, log.clone(), ticks));
    for _ in 0..2 {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let seq = log.lock().unwrap().last() + 1;
        tick.send_replace(log.lock().unwrap().publish(format!("event {seq}").as_bytes())?);
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    sending.abort();
    log.lock().unwrap().publish(b"between two connections")?;
    Ok(())
}

async fn answer(mut stream: Stream, state: Arc<Mutex<State>>) -> Result<()> {
    let call = control::read_call(&mut stream, "").await??;
    match call.method.as_str() {
        "put" => put(call, &mut stream, &state).await,
        "get" => get(call, &mut stream, &state).await,
        _ => {
            let answer = report(&call, &mut state.lock().unwrap());
            control::reply(&mut stream, answer).await
        }
    }
}

fn report(call: &Call, s: &mut State) -> Result<Answer> {
    let (line, answer) = match call.method.as_str() {
        "status" => {
            let report = match s.statuses.len() {
                0 => OsReport {
                    node: s.id.clone(),
                    name: if s.name.is_empty() { "kitchen".into() } else { s.name.clone() },
                    events: s.events.clone(),
                    version: "0.1.0".into(),
                    slot: "A".into(),
                    seq: 1,
                    ..OsReport::default()
                },
                1 => s.statuses[0].clone(),
                _ => s.statuses.remove(0),
            };
            (String::new(), ok(&report))
        }
        "units" => {
            let mesh =
                UnitReport { name: "mesh".into(), state: "ready".into(), pid: 7, ..UnitReport::default() };
            (String::new(), ok(&vec![mesh]))
        }
        "peers" => (String::new(), ok(&s.peers)),
        "logs_since" => {
            let p: LogsSince = call.params()?;
            let after = if p.run == s.run { p.after } else { 0 };
            let of_unit = |l: &&LogLine| p.unit.is_empty() || l.unit == p.unit;
            let new = s.lines.iter().filter(|l| l.seq > after).filter(of_unit);
            let mut lines: Vec<LogLine> = new.cloned().collect();
            if p.run.is_empty() {
                lines.drain(..lines.len().saturating_sub(p.max_lines as usize));
            }
            let last = s.lines.last().map_or(0, |l| l.seq);
            (String::new(), ok(&LogsPage { run: s.run.clone(), last, lost: false, lines }))
        }
        "config" => (String::new(), ok(&s.config)),
        "content_report" | "report" => (String::new(), ok(&services_api::report::ContentReport::default())),
        "audit" => (String::new(), ok(&services_api::report::AuditAnswer::default())),
        "logs" if !s.lines.is_empty() => (String::new(), ok(&s.lines)),
        "logs" => {
            let p: LogsParams = call.params()?;
            let text = format!("{} {}", p.unit, p.max_lines);
            (String::new(), ok(&vec![LogLine { unit: p.unit, text, ..LogLine::default() }]))
        }
        "kill" => {
            let p: KillParams = call.params()?;
            (format!(" {} {}", p.unit, p.signal), ok(&()))
        }
        "restart" => return Err(anyhow!("no unit `{}`", call.params::<UnitParams>()?.unit)),
        "reboot" => (format!(" {}", call.params::<PowerParams>()?.reason), ok(&())),
        "install" => {
            let p: InstallParams = call.params()?;
            (format!(" {} {}", p.release, p.again), ok(&()))
        }
        "has" => (String::new(), ok(&s.stored.contains_key(&call.params::<String>()?))),
        "lookup" => {
            let p: LookupParams = call.params()?;
            assert_eq!(p.record_type, Some(dht_proto::record_types::CHANNEL_HEAD));
            let records = s.records.iter().map(|r| Record::from_bytes(r).unwrap());
            let records = records.filter(|r| r.statement.key.to_string() == p.key);
            let hex = |r: Record| FoundRecord { record: data_encoding::HEXLOWER.encode(&r.to_bytes()) };
            (String::new(), ok(&LookupAnswer { key: p.key.clone(), records: records.map(hex).collect() }))
        }
        "put_record" => {
            s.records.push(call.params()?);
            (String::new(), ok(&1u32))
        }
        _ => return Err(call.unknown()),
    };
    s.calls.push(call.method.clone() + &line);
    answer
}

async fn put(call: Call, stream: &mut Stream, state: &Mutex<State>) -> Result<()> {
    let p: PutParams = call.params()?;
    if state.lock().unwrap().refuse_puts {
        return control::reply(stream, Err(anyhow!("the state partition is full"))).await;
    }
    let mut bytes = vec![0; p.size as usize];
    stream.read_exact(&mut bytes).await?;
    let mcid = if bytes.len() <= CHUNK_SIZE as usize {
        Mcid::of_raw(&bytes)
    } else {
        let mut builder = ManifestBuilder::new(p.name.as_str());
        builder.update(&bytes);
        builder.finish()?.mcid()
    };
    state.lock().unwrap().stored.insert(mcid.to_string(), (p.name, bytes));
    control::reply(stream, ok(&mcid.to_string())).await
}

async fn get(call: Call, stream: &mut Stream, state: &Mutex<State>) -> Result<()> {
    let (name, mut bytes) = state.lock().unwrap().stored[&call.params::<String>()?].clone();
    control::reply(stream, ok(&GetAnswer { name, size: bytes.len() as u64 })).await?;
    let (flip, cut) = {
        let s = state.lock().unwrap();
        (s.flip_a_byte, s.cut_short)
    };
    if flip {
        bytes[500_000] ^= 1;
    }
    if cut {
        bytes.truncate(500_000);
    }
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    Ok(())
}
