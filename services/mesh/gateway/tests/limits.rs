//! What strangers may cost.

mod support;

use std::time::{Duration, Instant};

use mesh_gateway::Settings;
use support::clients::{ALL, Version, ask, ask_h3, quic, tls};
use support::{Served, TestNode, large};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

fn impatient() -> Settings {
    Settings { turn: SHORT, head: SHORT, silence: SHORT, ..Settings::default() }
}

/// What comes until the other end closes.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it is not closed");
    all
}

#[tokio::test]
async fn slow_heads_and_silent_connections_are_closed() {
    let served = Served::start(TestNode::default(), impatient()).await;
    let began = Instant::now();
    let mut slow = tls(&served, &[b"http/1.1"]).await.unwrap();
    let dripping = async {
        slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while slow.write_all(b"a: b\r\n").await.is_ok() && slow.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("a head that drips in is cut off");
    for alpn in [&b"http/1.1"[..], b"h2"] {
        rest(&mut tls(&served, &[alpn]).await.unwrap()).await;
    }
    let mut handshake = tokio::net::TcpStream::connect(served.tcp).await.unwrap();
    handshake.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    rest(&mut handshake).await;
    let (_endpoint, idle) = quic(served.quic).await;
    tokio::time::timeout(PATIENCE, idle.closed()).await.expect("it is not closed");
    let (_endpoint, connection) = quic(served.quic).await;
    let (mut half, _recv) = connection.open_bi().await.unwrap();
    // The beginning of a HEADERS frame of 1000 bytes.
    half.write_all(&[1, 0x43, 0xe8, 0, 0]).await.unwrap();
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is not closed");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn large_and_many_headers_are_refused() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    let huge = "x".repeat(100_000);
    for version in ALL {
        let result = ask(&served, version, "GET", "/.well-known/macula", &[("x-padding", &huge)], b"").await;
        assert!(result.as_ref().map_or(true, |a| a.status == 431), "{version:?}: {result:?}");
        // A token of the largest size fits.
        let token = format!("Bearer {}", "x".repeat(24_000));
        let headers = [("authorization", token.as_str())];
        let answer = ask(&served, version, "GET", "/.well-known/macula", &headers, b"").await.unwrap();
        assert_eq!(answer.status, 200, "{version:?}");
    }
    let mut many = tls(&served, &[b"http/1.1"]).await.unwrap();
    many.write_all(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100)).as_bytes()).await.unwrap();
    assert!(rest(&mut many).await.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn a_client_has_its_share_of_requests() {
    let settings = Settings { calls: (3, 1), contents: (1, 1), ..impatient() };
    let settings = Settings { silence: PATIENCE, ..settings };
    let served = Served::start(TestNode::default(), settings).await;
    let long = ask(&served, Version::Http2, "POST", "/rpc/home/never?timeout_ms=2000", &[], b"");
    let next = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask(&served, Version::Http3, "POST", "/rpc/home/double", &[], b"x").await.unwrap()
    };
    let (_, refused) = tokio::join!(long, next);
    assert_eq!((refused.status, refused.headers["retry-after"].to_str().unwrap()), (503, "2"));
    assert_eq!(
        ask(&served, Version::Http3, "POST", "/rpc/home/double", &[], b"x").await.unwrap().status,
        200
    );

    // Somebody who asks for much and reads nothing keeps the turn, until gone.
    let mut lazy = tls(&served, &[b"http/1.1"]).await.unwrap();
    let path = format!("/content/{}", large());
    // More than the kernel keeps for it.
    let requests = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").repeat(20);
    lazy.write_all(requests.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(ask(&served, Version::Http2, "GET", &path, &[], b"").await.unwrap().status, 503);
    drop(lazy);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ask(&served, Version::Http2, "GET", &path, &[], b"").await.unwrap().status, 200);
}

#[tokio::test]
async fn whoever_reads_nothing_is_let_go() {
    let settings = Settings { silence: Duration::from_secs(1), contents: (1, 1), ..Settings::default() };
    let served = Served::start(TestNode::default(), settings).await;
    let mut lazy = tls(&served, &[b"http/1.1"]).await.unwrap();
    let path = format!("/content/{}", large());
    let requests = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").repeat(20);
    lazy.write_all(requests.as_bytes()).await.unwrap();
    let began = Instant::now();
    // It waits for its turn until then.
    assert_eq!(ask(&served, Version::Http2, "GET", &path, &[], b"").await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_has_its_share_of_connections() {
    let settings = Settings { http3_connections: (10, 2), ..Settings::default() };
    let served = Served::start(TestNode::default(), settings).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(tls(&served, &[b"http/1.1"]).await.unwrap());
    }
    assert!(tls(&served, &[b"http/1.1"]).await.is_err(), "the seventeenth");
    open.truncate(10);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(tls(&served, &[b"http/1.1"]).await.is_ok(), "others have gone");

    let first = [quic(served.quic).await, quic(served.quic).await];
    let (_endpoint, third) = quic(served.quic).await;
    let closed = tokio::time::timeout(PATIENCE, third.closed()).await.unwrap();
    assert!(closed.to_string().contains("too many"), "{closed}");
    let request = http::Request::get("https://a/.well-known/macula").body(()).unwrap();
    let answer = ask_h3(first[0].1.clone(), request, bytes::Bytes::new()).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn other_protocols_are_refused_by_tls() {
    let served = Served::start(TestNode::default(), Settings::default()).await;
    assert!(tls(&served, &[b"macula-os-relay/1"]).await.is_err());
    let mut plain = tls(&served, &[]).await.unwrap();
    plain.write_all(b"GET /nothing HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(rest(&mut plain).await.starts_with(b"HTTP/1.0 404"), "no ALPN means HTTP/1");
}
