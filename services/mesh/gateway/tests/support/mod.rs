//! A gateway on loopback with a made-up node behind it, and clients of all three kinds.
#![allow(dead_code, reason = "each test uses its part")]

pub mod clients;

use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_gateway::{
    Allowed, Asset, Content, Control, Duplex, Gateway, H2, H3, HTTP_1_1, Node, Settings, TcpPort, serve_quic,
    serve_tls,
};
use mesh_http::{Asked, Bearer, Epoch, Method, Problem};
use mesh_proto::pubsub::{Keep, Log};
use mesh_proto::rpc::{CallError, Code};
use os_certificate::WebKey;
use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey};
use os_ucan::Ability;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub const SMALL: &[u8] = b"0123456789";
pub const LARGE: usize = 3_000_000;
pub const CHUNK: u32 = 262_144;

pub fn small() -> Mcid {
    Mcid::of_raw(SMALL)
}

/// Its bytes are made up, so is its name.
pub fn large() -> Mcid {
    Mcid { codec: os_content_id::Codec::Manifest, ..Mcid::of_raw(b"large") }
}

pub fn large_bytes(range: Range<usize>) -> Vec<u8> {
    range.map(|i| (i % 251) as u8).collect()
}

pub const EPOCH: Epoch = [3; 16];

/// Everything but `rpc/secret` is public; orders are followed for the key of seed 1.
pub struct TestNode {
    pub log: Arc<Mutex<Log>>,
    pub tick: watch::Sender<u64>,
    pub fetched: AtomicUsize,
    /// Chunks from this one on cannot be had.
    pub broken_from: u32,
}

impl Default for TestNode {
    fn default() -> Self {
        let log = Arc::new(Mutex::new(Log::new(1, Keep { events: 100, bytes: 100_000 })));
        Self { log, tick: watch::Sender::new(0), fetched: AtomicUsize::new(0), broken_from: u32::MAX }
    }
}

impl Node for TestNode {
    fn id(&self) -> NodeId {
        NodeKey::from_seed(&[1; 32]).node_id()
    }

    fn realm(&self) -> &str {
        "home"
    }

    fn is_public(&self, asked: &Asked) -> bool {
        !asked.resource.to_string().ends_with("/rpc/secret")
    }

    async fn authorise(&self, _: &Asked, _: &Bearer) -> Result<Allowed, String> {
        Err("no token is good enough".into())
    }

    fn now_unix(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn epoch(&self) -> &Epoch {
        &EPOCH
    }

    fn owner(&self) -> Option<&NodeId> {
        None
    }

    fn command(&self, method: &Method) -> Result<Ability, Problem> {
        Ok(Ability::parse(&format!("macula/{}/{}", method.family.word(), method.name)).unwrap())
    }

    async fn control(
        &self,
        asked: Control,
        admit: impl FnOnce() -> Result<(), Problem> + Send,
    ) -> Result<Value, Problem> {
        if asked.by != self.id() {
            return Err(Problem::new(http::StatusCode::FORBIDDEN, "somebody else", "be the owner"));
        }
        admit()?;
        Ok(json!({ "method": asked.method.name, "params": asked.params }))
    }

    fn refused(&self, _: NodeId, _: &dyn std::fmt::Display) {}

    async fn pair(
        &self,
        _: std::net::IpAddr,
        session: [u8; 16],
        message: Vec<u8>,
    ) -> Result<Vec<u8>, Problem> {
        Ok([&session[..1], &message].concat())
    }

    fn asset(&self, name: &'static str) -> Option<Asset> {
        let bytes: Arc<[u8]> = Arc::from(&b"a page"[..]);
        (name == "index.html").then(|| Asset { bytes, tag: "\"t\"".into(), gzip: false })
    }

    fn document(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    async fn content(&self, mcid: Mcid) -> Result<Content, Problem> {
        let content = |size, whole| Content { mcid, size, chunk_size: CHUNK, whole };
        match mcid {
            m if m == small() => Ok(content(SMALL.len() as u64, Some(SMALL.to_vec()))),
            m if m == large() => Ok(content(LARGE as u64, None)),
            m if m == Mcid::of_raw(b"") => Ok(content(0, Some(Vec::new()))),
            _ => Err(Problem::new(http::StatusCode::NOT_FOUND, "it is not here", "look elsewhere")),
        }
    }

    async fn chunks(&self, _: &Content, chunks: Range<u32>) -> std::io::Result<Vec<u8>> {
        if chunks.end > self.broken_from {
            return Err(std::io::Error::other("nobody has it"));
        }
        self.fetched.fetch_add(chunks.len(), Ordering::Relaxed);
        let (from, end) = (chunks.start as usize * CHUNK as usize, chunks.end as usize * CHUNK as usize);
        Ok(large_bytes(from..end.min(LARGE)))
    }

    async fn call(
        &self,
        _: NodeId,
        procedure: String,
        message: Vec<u8>,
        wait: Duration,
    ) -> Result<Vec<u8>, CallError> {
        match procedure.as_str() {
            "double" => Ok(message.repeat(2)),
            "fails" => Err(CallError::new(Code(300), "it always does")),
            "never" => {
                tokio::time::sleep(wait).await;
                Err(CallError::new(Code::DEADLINE, "never"))
            }
            _ => Err(CallError::new(Code::UNKNOWN_PROCEDURE, "nobody serves it")),
        }
    }

    async fn subscribe(&self, _: NodeId, topic: String) -> Result<Duplex, CallError> {
        if topic != "weather" {
            return Err(CallError::new(Code::UNKNOWN_PROCEDURE, "no such topic"));
        }
        let (here, there) = tokio::io::duplex(1000);
        let (reader, writer) = tokio::io::split(there);
        tokio::spawn(mesh_stream::publish_to(reader, writer, self.log.clone(), self.tick.subscribe()));
        let (reader, writer) = tokio::io::split(here);
        Ok(Duplex { reader: Box::new(reader), writer: Box::new(writer) })
    }
}

pub struct Served {
    pub gateway: Arc<Gateway<TestNode>>,
    pub tcp: SocketAddr,
    pub quic: SocketAddr,
}

impl Served {
    pub async fn start(node: TestNode, settings: Settings) -> Self {
        let gateway = Gateway::new(node, settings);
        let key = WebKey::generate().unwrap();
        let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.unwrap();
        let tcp = listener.local_addr().unwrap();
        let port = Arc::new(TcpPort::new(|_| true));
        let served = gateway.clone();
        port.speak(tls(&key, &[H2, HTTP_1_1]), move |stream, from, slot| {
            let served = served.clone();
            tokio::spawn(async move {
                let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                serve_tls(served, stream, alpn.as_deref(), from.ip(), tcp.port()).await;
                drop(slot);
            });
        })
        .unwrap();
        tokio::spawn(port.serve(listener));
        let crypto = QuicServerConfig::try_from(tls(&key, &[H3])).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, any).unwrap();
        let quic = endpoint.local_addr().unwrap();
        let served = gateway.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let served = served.clone();
                tokio::spawn(async move { serve_quic(served, incoming.await.unwrap()).await });
            }
        });
        Self { gateway, tcp, quic }
    }

    pub fn publish(&self, event: &[u8]) {
        let node = &self.gateway.node;
        let seq = node.log.lock().unwrap().publish(event).unwrap();
        node.tick.send_replace(seq);
    }
}

fn tls(key: &WebKey, alpn: &[&[u8]]) -> rustls::ServerConfig {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let certificate = key.certificate(&["test.local".to_owned()], now).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
    let mut tls = rustls::ServerConfig::builder_with_provider(clients::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    tls
}
