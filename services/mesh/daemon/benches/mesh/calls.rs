//! A call's round trip with a delegation, beside a bare stream's echo.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_proto::StreamHeader;
use mesh_proto::rpc::{self, Mode};
use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::{Ability, Authorizer, Capability, Delegation, Request, Resource, Subject, TokenId, chain, jwt};
use quinn::{Connection, RecvStream, SendStream};

use crate::support::{Machine, Procedure};
use crate::{bare, figure, permille, say};

const MESSAGE: [u8; 64] = [7; 64];
const ROUNDS: usize = 10;
const CALLS: usize = 500;
const WAIT: Duration = Duration::from_secs(10);
const ABILITY: &str = "macula/mesh/call";
const PROCEDURE: &str = "bench/echo_v1";

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn link(issuer: &NodeKey, audience: NodeId, resource: &str, proofs: &[&[u8]]) -> Vec<u8> {
    let delegation = Delegation {
        issuer: issuer.node_id().into(),
        audience: audience.into(),
        subject: Subject::Implied,
        capabilities: vec![Capability {
            ability: Ability::parse(ABILITY).unwrap(),
            resource: Resource::parse(resource).unwrap(),
        }],
        policy: Policy::default(),
        not_before: None,
        expires: Some(now_unix() + 3600),
        nonce: b"bench".to_vec(),
        meta: Default::default(),
        proofs: proofs.iter().map(|token| TokenId::of(token)).collect(),
    };
    jwt::issue(&delegation, issuer).unwrap()
}

/// Owner, somebody in between, the caller: two links.
fn delegated(owner: &NodeKey, caller: NodeId, node: NodeId) -> (Vec<u8>, String) {
    let resource = format!("macula:{node}/rpc/{PROCEDURE}");
    let between = NodeKey::generate().unwrap();
    let root = link(owner, between.node_id(), &resource, &[]);
    let leaf = link(&between, caller, &resource, &[&root]);
    (chain::encode(&[&leaf, &root]).unwrap(), resource)
}

/// Both ends on one thread: what a call costs over what its stream costs.
pub async fn within_a_process() {
    say("calls within a process");
    let ((server, node), (client, caller)) = (bare::node(bare::LOOPBACK), bare::node(bare::LOOPBACK));
    let owner = NodeKey::generate().unwrap();
    let (ucan, resource) = delegated(&owner, caller, node);
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            let checker = Checker::new(owner.node_id(), &resource);
            tokio::spawn(serve(incoming.await.unwrap(), checker));
        }
    });
    let (plain, _) = mesh_transport::connect(&client, address, Some(&node)).await.unwrap();
    let (mesh, _) = mesh_transport::connect(&client, address, Some(&node)).await.unwrap();
    let (mut echoes, mut calls) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (echo, call) = (rounds(|| echo(&plain)).await, rounds(|| call(&mesh, &ucan)).await);
        // The first warms up.
        if round > 0 {
            echoes.extend(echo);
            calls.extend(call);
        }
    }
    for (name, at) in [("p50", 500), ("p99", 990)] {
        let metric = format!("call with a delegation of two links, within a process, {name}");
        figure(&metric, permille(&calls, at), "us", Some(permille(&echoes, at)));
    }
}

async fn rounds<F: Future<Output = ()>>(once: impl Fn() -> F) -> Vec<Duration> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        once().await;
        times.push(began.elapsed());
    }
    times
}

/// A bare stream, with nothing before the message.
async fn echo(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // Told apart from a header's length by its first byte.
    send.write_all(&[0xff; 64]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap().len(), 64);
}

async fn call(connection: &Connection, ucan: &[u8]) {
    let header = StreamHeader {
        ucan: Some(ucan.to_vec()),
        deadline_ms: Some(WAIT.as_millis() as u32),
        ..StreamHeader::of(rpc::PROTOCOL, PROCEDURE)
    };
    let (send, recv) = mesh_transport::open(connection, &header).await.unwrap();
    assert_eq!(mesh_stream::unary(recv, send, &MESSAGE, Some(WAIT)).await.unwrap(), MESSAGE);
}

/// What mesh does at its door.
#[derive(Clone)]
struct Checker {
    root: NodeId,
    ability: Ability,
    resource: Resource,
    authorizer: Arc<Mutex<Authorizer>>,
}

impl Checker {
    fn new(root: NodeId, resource: &str) -> Self {
        let (ability, resource) = (Ability::parse(ABILITY).unwrap(), Resource::parse(resource).unwrap());
        Self { root, ability, resource, authorizer: Arc::new(Mutex::new(Authorizer::new(64))) }
    }

    fn check(&self, invoker: NodeId, ucan: &[u8]) {
        let (root, ability, resource) = (self.root, &self.ability, &self.resource);
        let request = Request { invoker, root, ability, resource, now: now_unix() };
        self.authorizer.lock().unwrap().authorize(&request, ucan, |_, _| false).unwrap();
    }
}

async fn serve(connection: Connection, checker: Checker) {
    let peer = mesh_transport::peer_of(&connection).unwrap();
    // The first stream says what this connection is for.
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(answer(send, recv, peer, checker.clone()));
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream, peer: NodeId, checker: Checker) {
    let mut first = [0; 4];
    recv.read_exact(&mut first).await.unwrap();
    if first == [0xff; 4] {
        let rest = recv.read_to_end(100).await.unwrap();
        send.write_all(&[&first[..], &rest].concat()).await.unwrap();
        send.finish().unwrap();
        return;
    }
    let mut bytes = vec![0; u32::from_be_bytes(first) as usize];
    recv.read_exact(&mut bytes).await.unwrap();
    let header = StreamHeader::decode(&bytes).unwrap();
    checker.check(peer, header.ucan.as_deref().unwrap_or_default());
    let mut call = mesh_stream::accept(recv, send, Mode::Unary, Some(WAIT));
    let message = call.next().await.unwrap().unwrap();
    call.sender().send_last(&message).await.unwrap();
}

/// Service to service: D-Bus, a passed stream, mesh, QUIC, mesh, a passed stream.
pub async fn between_services() {
    say("calls between services of two mesh processes");
    let owner = NodeKey::generate().unwrap();
    let a = Machine::owned(101, &[], Some(&owner)).await;
    let b = Machine::start(102, &[&a]).await;
    let (ucan, _) = delegated(&owner, b.key.node_id(), a.key.node_id());
    let _echo = a.serve(PROCEDURE, ABILITY, Procedure::Double).await;
    let mesh = b.mesh().await;
    let node = a.key.node_id();
    let once = async || {
        let opened = mesh.open_stream(node.as_bytes(), rpc::PROTOCOL, PROCEDURE, &ucan, 10_000).await;
        let (reader, writer) = services_api::mesh::from_fd(opened.unwrap()).unwrap().into_split();
        assert_eq!(mesh_stream::unary(reader, writer, &MESSAGE, Some(WAIT)).await.unwrap().len(), 128);
    };
    b.call_by(&a, PROCEDURE, &MESSAGE, &ucan, WAIT).await.expect("they meet");
    let mut times = Vec::new();
    for _ in 0..2000 {
        let began = Instant::now();
        once().await;
        times.push(began.elapsed());
    }
    for (name, at) in [("p50", 500), ("p99", 990)] {
        figure(&format!("the same from service to service, {name}"), permille(&times, at), "us", None);
    }
}
