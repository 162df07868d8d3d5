//! One peer that asks for all it can, and what the others notice of it.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Machine, Procedure, certify};
use mesh_proto::StreamHeader;
use mesh_transport::Credentials;
use os_identity::NodeKey;
use quinn::{Connection, Endpoint};

const PATIENCE: Duration = Duration::from_secs(20);
const CALLS: usize = 100;

fn endpoint(seed: u8) -> Endpoint {
    let (key, session) = (NodeKey::from_seed(&[seed; 32]), NodeKey::generate().unwrap());
    let (leaf, ca) = certify(&key, session.node_id().as_bytes());
    let credentials = Credentials {
        chain: vec![leaf.into(), ca.into()],
        session_key: session.to_pkcs8_der().unwrap().to_vec(),
    };
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    mesh_transport::endpoint(any, &credentials, mesh_transport::system_clock, None).unwrap()
}

async fn connect(endpoint: &Endpoint, to: SocketAddr) -> Option<Connection> {
    mesh_transport::connect(endpoint, to, None).await.ok().map(|(connection, _)| connection)
}

/// Opens streams as fast as it may, with headers that are none, and reads no answer.
async fn junk_streams(to: SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    let endpoint = endpoint(66);
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = connect(&endpoint, to).await else { continue };
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut send, _recv)) = connection.open_bi().await else { break };
            if send.write_all(&[0xff; 100]).await.is_err() {
                continue;
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Calls a procedure that is there, over and over, and never waits for the answer.
async fn calls(to: SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    let endpoint = endpoint(67);
    let header = StreamHeader::of("rpc/1", "test/double_v1");
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = connect(&endpoint, to).await else { continue };
        while !stop.load(Ordering::Relaxed) && mesh_transport::open(&connection, &header).await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Handshake after handshake.
async fn handshakes(to: SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    let endpoint = endpoint(68);
    while !stop.load(Ordering::Relaxed) {
        if let Some(connection) = connect(&endpoint, to).await {
            connection.close(0u32.into(), b"");
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// In a thread of its own, as another machine would.
fn aside<F: Future<Output = ()>>(flood: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(flood());
    })
}

/// The median and the slowest of some calls.
async fn measure(from: &Machine, to: &Machine) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        assert_eq!(from.call(to, "test/double_v1", b"ab", PATIENCE).await, Ok(b"abab".to_vec()));
        took.push(began.elapsed());
    }
    took.sort();
    (took[CALLS / 2], took[CALLS - 1])
}

/// Says how much slower the others' calls become. Timings do not gate: that each call is answered does.
#[tokio::test(flavor = "current_thread")]
async fn a_flood_from_one_peer_leaves_the_others_calls_answered() {
    let a = Machine::start(11, &[]).await;
    let b = Machine::start(12, &[&a]).await;
    let _service = a.serve("test/double_v1", "peer", Procedure::Double).await;
    let (median, slowest) = measure(&b, &a).await;
    println!("quiet: median {median:?}, slowest {slowest:?}");
    let (stop, to) = (Arc::new(AtomicBool::new(false)), a.address());
    for what in ["junk streams", "calls", "handshakes"] {
        stop.store(false, Ordering::Relaxed);
        let count = Arc::new(AtomicU64::new(0));
        let (s, c) = (stop.clone(), count.clone());
        let flood = match what {
            "junk streams" => aside(move || junk_streams(to, s, c)),
            "calls" => aside(move || calls(to, s, c)),
            _ => aside(move || handshakes(to, s, c)),
        };
        // A hundred calls may be over before a slow machine has a flood under way.
        let under_way = async {
            while count.load(Ordering::Relaxed) <= 100 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, under_way).await;
        came.unwrap_or_else(|_| panic!("the flood of {what} is none"));
        count.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let (median, slowest) = measure(&b, &a).await;
        let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("{what} ({rate:.0}/s): median {median:?}, slowest {slowest:?}");
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
    }
}
