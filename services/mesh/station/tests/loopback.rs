//! The station over real QUIC, with clients made of its own codec. What an existing client makes of it is
//! `tests/macula-client`'s.

mod client;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::Client;
use mesh_macula::*;
use mesh_station::Backing;
use os_identity::{NodeId, NodeKey};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const REALM: [u8; 32] = [0x42; 32];
const WAIT: Duration = Duration::from_secs(20);

/// Keeps blocks.
#[derive(Default)]
struct Blocks(Mutex<Vec<(os_content_id::Mcid, Vec<u8>)>>);

impl Backing for Blocks {
    async fn work(&self, work: Work) -> Answer {
        match work {
            Work::PutBlock { mcid, bytes } => self.0.lock().unwrap().push((mcid, bytes)),
            Work::GetBlock(mcid) => {
                let blocks = self.0.lock().unwrap();
                return Answer::Block(blocks.iter().find(|b| b.0 == mcid).map(|b| b.1.clone()));
            }
            other => return Answer::Failed(format!("not here: {other:?}")),
        }
        Answer::Done
    }
}

struct Served {
    address: SocketAddr,
    node: NodeId,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn serve() -> Served {
    serve_with(Config::default())
}

fn serve_with(config: Config) -> Served {
    let key = NodeKey::from_seed(&[0xaa; 32]);
    let node = key.node_id();
    let endpoint =
        mesh_station::endpoint(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &key, 1_795_000_000).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let station = Station::new(key, config, |_: &Request<'_>| Ok(()), 1);
    let serving = mesh_station::serve(
        mesh_station::connections(&endpoint),
        station,
        Arc::new(Blocks::default()),
        async {
            if stopping.await.is_err() {
                std::future::pending::<()>().await;
            }
        },
    );
    Served { address, node, stop, task: tokio::spawn(serving) }
}

fn advertise(client: &Client, procedure: &str) -> Frame {
    Frame::Advertise(Advertise { realm: REALM, procedure: procedure.into(), advertiser: client.id() })
}

#[tokio::test]
async fn clients_are_welcomed_and_reach_each_other() {
    let served = serve();
    let (mut provider, mut caller) =
        (Client::join(&served.address, 1).await, Client::join(&served.address, 2).await);
    assert_eq!(provider.station, served.node, "in the certificate and in HELLO");
    provider.send(&advertise(&provider, "a.b")).await;
    provider.ping().await;
    let call = caller.call(REALM, "a.b", Value::Text("hi".into()));
    caller.send(&Frame::Call(call.clone())).await;
    assert_eq!(provider.next().await, Frame::Call(call.clone()));
    let result = Frame::Result(CallResult {
        call_id: call.call_id,
        payload: Value::Null,
        responded_by: provider.id(),
        source_route_reverse: vec![],
    });
    provider.send(&result).await;
    assert_eq!(caller.next().await, result);
}

#[tokio::test]
async fn blocks_come_and_go_on_streams_of_their_own() {
    let served = serve();
    let client = Client::join(&served.address, 1).await;
    let content = vec![9; 262_144];
    let mcid = os_content_id::Mcid::of_raw(&content);
    let name = Value::Bytes(mcid.to_bytes().to_vec());
    let put = Value::map([("mcid", name.clone()), ("payload", Value::Bytes(content.clone()))]);
    let mut stream = client.open().await;
    assert_eq!(stream.ask("_content.put_block", put).await, Ok(Value::Text("ok".into())));
    let get = Value::map([("mcid", name)]);
    assert_eq!(stream.ask("_content.get_block", get).await, Ok(Value::Bytes(content)));
    let (code, detail) = stream.ask("_content.get_manifest", Value::Null).await.unwrap_err();
    assert_eq!(code, ErrorCode::UnknownError as u8);
    assert!(detail.starts_with("bad_request"));
}

#[tokio::test]
async fn a_frame_that_is_too_large_for_a_stranger_ends_the_connection_with_a_word() {
    let served = serve();
    let mut client = Client::dial(&served.address, 1).await;
    client.write(&(MAX_FIRST_FRAME as u32 + 1).to_be_bytes()).await;
    let Frame::Goodbye(goodbye) = client.next().await else { panic!("no GOODBYE") };
    assert_eq!(goodbye.reason, "malformed_frame");
    assert!(goodbye.detail.unwrap().contains("at most 65536"));
    let ended = tokio::time::timeout(WAIT, client.connection.closed()).await;
    assert!(ended.is_ok(), "it is closed");
}

/// A reader that stands still: its source is not read from, everybody else is served.
#[tokio::test]
async fn a_stream_that_is_not_read_stops_its_source_and_nobody_else() {
    let served = serve();
    let (mut provider, caller) =
        (Client::join(&served.address, 1).await, Client::join(&served.address, 2).await);
    let mut other = Client::join(&served.address, 3).await;
    provider.send(&advertise(&provider, "s")).await;
    provider.ping().await;
    let mut there = caller.open().await;
    there.send(&Frame::StreamOpen(there.stream_open(REALM, "s"))).await;
    let mut back = provider.accept().await;
    let Frame::StreamOpen(open) = back.next().await else { panic!("no STREAM_OPEN") };
    let data = |seq| {
        Frame::StreamData(StreamData {
            stream_id: open.stream_id,
            seq,
            encoding: Encoding::Raw,
            body: Value::Bytes(vec![7; 1 << 20]),
            signer: None,
        })
    };
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(2), back.send(&data(sent))).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "it is never stopped");
    }
    other.ping().await;
    for seq in 0..sent {
        assert_eq!(there.next().await, data(seq));
    }
}

/// Pings until the station has had enough: how many, and why it ended the connection.
async fn flood(address: SocketAddr) -> (u32, String) {
    let mut client = Client::join(&address, 2).await;
    let mut sent = 0;
    while client.try_send(&Frame::Ping(Nonce([1; 16]))).await {
        sent += 1;
        tokio::task::yield_now().await;
    }
    (sent, client.connection.closed().await.to_string())
}

/// Another client's calls while one sends pings as fast as it can: answered, and how soon.
#[tokio::test]
async fn a_flood_of_one_client_leaves_others_answered_and_ends_it() {
    let config = Config { frames_per_second: 100, frames_burst: 8000, ..Config::default() };
    let served = serve_with(config);
    let mut calm = Client::join(&served.address, 1).await;
    let address = served.address;
    // A thread of its own: what it costs to make the frames is not the station's.
    let flooding = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(flood(address))
    });
    let (mut slowest, mut answers) = (Duration::ZERO, 0);
    while !flooding.is_finished() {
        let began = Instant::now();
        calm.ping().await;
        slowest = slowest.max(began.elapsed());
        answers += 1;
        // Well under its own limit.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (sent, why) = flooding.join().unwrap();
    eprintln!("{sent} pings of the flood; the slowest of the calm client's {answers} took {slowest:?}");
    assert!(why.contains("rate_limited"), "{why}");
    // How long each takes is a matter of the machine; if the flood were served first, there would be one or two.
    assert!(answers >= 5, "{answers} answers in all that time");
}

#[tokio::test]
async fn a_station_that_stops_says_goodbye_and_ends() {
    let served = serve();
    let mut client = Client::join(&served.address, 1).await;
    served.stop.send(()).unwrap();
    let Frame::Goodbye(goodbye) = client.next().await else { panic!("no GOODBYE") };
    assert_eq!(goodbye.reason, "shutting_down");
    client.connection.close(0u32.into(), b"");
    tokio::time::timeout(WAIT, served.task).await.expect("it ends").unwrap();
}
