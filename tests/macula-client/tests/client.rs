//! The unmodified crates.io client `macula-rust` 0.3.0 takes our station for one of its own.

mod station;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use macula_rust::cbor::Value;
use macula_rust::connection::{self, CallHandler, Session};
use macula_rust::frame::{
    self, AdvertiseSpec, CallResponse, EventInfo, PublishSpec, StreamEncoding, StreamMode, SubscribeSpec,
};
use macula_rust::identity::KeyPair;
use macula_rust::stream::{StreamHandle, StreamItem};
use macula_rust::transport::Trust;
use macula_rust::{content, dht};
use station::TestStation;

const REALM: [u8; 32] = [0x42; 32];
const WAIT: Duration = Duration::from_secs(20);

fn deadline() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now + WAIT).as_millis() as i128
}

async fn join(station: &TestStation) -> (Session, KeyPair) {
    let identity = KeyPair::generate();
    let session = connection::connect("127.0.0.1", station.port, Trust::Insecure, &identity).await.unwrap();
    (session, identity)
}

async fn call(session: &mut Session, identity: &KeyPair, procedure: &str, payload: Value) -> CallResponse {
    let realm = if procedure.starts_with('_') { [0; 32] } else { REALM };
    session.call(procedure, realm, payload, deadline(), identity, WAIT).await.unwrap()
}

/// Advertises, and waits until the station has seen it.
async fn serve(session: &mut Session, identity: &KeyPair, procedure: &str) {
    let spec = AdvertiseSpec::new(REALM, procedure, identity.node_id());
    session.advertise(&spec, identity).await.unwrap();
    call(session, identity, "_relay.ping", Value::Null).await;
}

#[tokio::test]
async fn handshake_with_the_stations_key_pinned() {
    let station = TestStation::start();
    let identity = KeyPair::generate_with_default_puzzle();
    let pinned = Trust::Pinned(station.node_id);
    let session = connection::connect("127.0.0.1", station.port, pinned, &identity).await.unwrap();
    assert_eq!(session.station.node_id, station.node_id);
    assert!(session.station.accepted);
    session.close("normal", Some("done"), &identity).await;
    let another = Trust::Pinned([7; 32]);
    assert!(connection::connect("127.0.0.1", station.port, another, &identity).await.is_err());
}

#[tokio::test]
async fn pings_are_answered_with_the_time() {
    let station = TestStation::start();
    let (mut session, identity) = join(&station).await;
    for procedure in ["_relay.ping", "_macula.ping"] {
        let CallResponse::Result { payload, responded_by } =
            call(&mut session, &identity, procedure, Value::Map(vec![])).await
        else {
            panic!("no result")
        };
        assert_eq!(responded_by, station.node_id);
        assert!(matches!(payload.get("ts"), Some(Value::Int(ts)) if *ts > 1_700_000_000_000_000));
    }
}

#[tokio::test]
async fn records_are_put_and_found() {
    let station = TestStation::start();
    let (mut writer, identity) = join(&station).await;
    let uri = dht::discovery_uri(REALM, "acme.echo");
    let record = dht::new_procedure_advertisement(identity.node_id(), uri.clone(), station.node_id, WAIT);
    let record = dht::sign(record, &identity);
    dht::put_record(&mut writer, &identity, &record).await.unwrap();
    let (mut reader, reader_identity) = join(&station).await;
    let key = dht::procedure_key(&uri);
    let found = dht::find_record(&mut reader, &reader_identity, key).await.unwrap();
    assert!(dht::verify(&found).is_ok());
    assert_eq!(dht::read_procedure_advertisement(&found).unwrap().procedure_uri, uri);
    assert_eq!(dht::find_records(&mut reader, &reader_identity, key).await.unwrap().len(), 1);
    assert_eq!(dht::find_records_by_type(&mut reader, &reader_identity, 6).await.unwrap().len(), 1);
    assert_eq!(dht::find_records_by_type(&mut reader, &reader_identity, 7).await.unwrap().len(), 0);
    let nothing = dht::find_record(&mut reader, &reader_identity, [1; 32]).await;
    assert!(matches!(nothing, Err(dht::DhtError::NotFound)), "{nothing:?}");
    let mut forged = record;
    forged.created_at += 1;
    let refused = dht::put_record(&mut writer, &identity, &forged).await;
    assert!(matches!(refused, Err(dht::DhtError::Remote(name)) if name == "unknown_error"));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn raw_and_chunked_content_has_the_nodes_own_ids() {
    let station = TestStation::start();
    let (mut writer, identity) = join(&station).await;
    let (mut reader, reader_identity) = join(&station).await;
    for len in [0, 12, 262_144, 262_145, 1_000_000] {
        let data = pattern(len);
        let mcid = content::put(&mut writer, &data, "blob.bin", &identity).await.unwrap();
        assert_eq!(mcid, station::native_mcid(&data, "blob.bin"), "{len} bytes");
        assert_eq!(station.memory.content(&mcid), Some(data.clone()), "{len} bytes");
        assert_eq!(content::get(&mut reader, mcid, &reader_identity).await.unwrap(), data, "{len} bytes");
    }
    let nowhere = macula_rust::manifest::block_mcid(b"nobody has this");
    assert!(matches!(
        content::get(&mut reader, nowhere, &reader_identity).await,
        Err(content::GetError::NotFound)
    ));
}

/// And the other way round: what the node has, a client gets under the same id.
#[tokio::test]
async fn content_of_the_node_is_fetched_by_a_client() {
    let station = TestStation::start();
    let data = pattern(600_000);
    let mcid = station.memory.put_natively(&data, "from the node");
    let (mut session, identity) = join(&station).await;
    assert_eq!(content::get(&mut session, mcid, &identity).await.unwrap(), data);
}

/// More streams than may be open at once: each is given back.
#[tokio::test]
async fn a_client_may_put_more_often_than_it_may_have_streams() {
    let station = TestStation::start();
    let (mut session, identity) = join(&station).await;
    for n in (0..250u32).map(u32::to_be_bytes) {
        let put = content::put(&mut session, &n, "n", &identity);
        tokio::time::timeout(WAIT, put).await.expect("a stream is free").unwrap();
    }
}

/// The next event, whatever else the station says before.
async fn next_event(session: &mut Session) -> EventInfo {
    loop {
        let value = session.recv_frame_timeout(WAIT).await.unwrap();
        if let Ok(event) = frame::parse_event(&value) {
            assert!(frame::verify_publisher(&value).is_ok(), "signed by who published it");
            return event;
        }
    }
}

#[tokio::test]
async fn what_is_published_reaches_subscribers_in_order_and_signed() {
    let station = TestStation::start();
    let (mut publisher, identity) = join(&station).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (mut session, identity) = join(&station).await;
        let spec = SubscribeSpec::new("acme/weather_v1", REALM, identity.node_id());
        session.subscribe(&spec, &identity).await.unwrap();
        call(&mut session, &identity, "_relay.ping", Value::Null).await;
        readers.push(session);
    }
    for seq in [5, 3, 9] {
        let payload = Value::Map(vec![(Value::text("degrees"), Value::Int(seq as i128))]);
        let spec = PublishSpec::new("acme/weather_v1", REALM, identity.node_id(), seq, payload, 1);
        publisher.publish(&spec, &identity).await.unwrap();
    }
    for reader in &mut readers {
        for seq in [5, 3, 9] {
            let event = next_event(reader).await;
            assert_eq!((event.seq, event.publisher), (seq, identity.node_id()));
            assert_eq!(event.payload.get("degrees"), Some(&Value::Int(seq as i128)));
        }
    }
}

fn echo() -> CallHandler {
    Arc::new(|payload| {
        Box::pin(async move {
            match payload {
                Value::Null => Err("nothing to say".to_string()),
                payload => Ok(payload),
            }
        })
    })
}

#[tokio::test]
async fn one_client_calls_another() {
    let station = TestStation::start();
    let (mut provider, provider_identity) = join(&station).await;
    serve(&mut provider, &provider_identity, "acme.echo").await;
    let provider_id = provider_identity.node_id();
    let serving = tokio::spawn(async move {
        for _ in 0..2 {
            let lookup = |_: &[u8; 32], name: &str| (name == "acme.echo").then(echo);
            provider.serve_one_call(lookup, &provider_identity, WAIT).await.unwrap();
        }
        (provider, provider_identity)
    });
    let (mut caller, identity) = join(&station).await;
    match call(&mut caller, &identity, "acme.echo", Value::text("hello")).await {
        CallResponse::Result { payload, responded_by } => {
            assert_eq!((payload, responded_by), (Value::text("hello"), provider_id));
        }
        other => panic!("{other:?}"),
    }
    match call(&mut caller, &identity, "acme.echo", Value::Null).await {
        CallResponse::Error { code, detail, .. } => {
            assert_eq!((code, detail.as_deref()), (0x0f, Some("nothing to say")));
        }
        other => panic!("{other:?}"),
    }
    let (provider, provider_identity) = serving.await.unwrap();
    provider.close("normal", None, &provider_identity).await;
    match call(&mut caller, &identity, "acme.echo", Value::Null).await {
        CallResponse::Error { code, name, reported_by, .. } => {
            assert_eq!((code, name.as_str(), reported_by), (0x01, "unknown_next_peer", station.node_id));
        }
        other => panic!("{other:?}"),
    }
}

struct Streaming {
    provider: Session,
    provider_identity: KeyPair,
    identity: KeyPair,
    /// Both are kept open for as long as the streams are used.
    caller: Session,
    there: StreamHandle,
    back: StreamHandle,
    _station: TestStation,
}

/// A streaming call between two clients.
async fn stream(mode: StreamMode) -> Streaming {
    let station = TestStation::start();
    let (mut provider, provider_identity) = join(&station).await;
    serve(&mut provider, &provider_identity, "acme.stream").await;
    let (mut caller, identity) = join(&station).await;
    let args = Value::text("args");
    let there =
        StreamHandle::open(&mut caller, "acme.stream", REALM, mode, args.clone(), deadline(), &identity);
    let there = there.await.unwrap();
    let (back, open) = StreamHandle::accept(&mut provider, WAIT).await.unwrap();
    assert_eq!((open.mode, open.args, open.caller), (mode, args, identity.node_id()));
    Streaming { provider, provider_identity, identity, caller, there, back, _station: station }
}

impl Streaming {
    async fn end(self) {
        self.caller.close("normal", None, &self.identity).await;
        self.provider.close("normal", None, &self.provider_identity).await;
    }
}

async fn send(handle: &mut StreamHandle, identity: &KeyPair, n: u8) {
    handle.send_data(StreamEncoding::Raw, Value::Bytes(vec![n; 10_000]), identity).await.unwrap();
}

async fn expect(handle: &mut StreamHandle, n: u8) {
    match handle.recv(WAIT).await.unwrap() {
        StreamItem::Data { seq, body, .. } => {
            assert_eq!((seq, body), (u64::from(n), Value::Bytes(vec![n; 10_000])));
        }
        StreamItem::Eof => panic!("ended early"),
    }
}

#[tokio::test]
async fn server_stream_between_two_clients() {
    let mut s = stream(StreamMode::ServerStream).await;
    for n in 0..5 {
        send(&mut s.back, &s.provider_identity, n).await;
    }
    s.back.close_send(&s.provider_identity).await.unwrap();
    for n in 0..5 {
        expect(&mut s.there, n).await;
    }
    assert!(matches!(s.there.recv(WAIT).await, Ok(StreamItem::Eof)));
    s.end().await;
}

#[tokio::test]
async fn client_stream_between_two_clients() {
    let mut s = stream(StreamMode::ClientStream).await;
    for n in 0..5 {
        send(&mut s.there, &s.identity, n).await;
    }
    s.there.close_send(&s.identity).await.unwrap();
    for n in 0..5 {
        expect(&mut s.back, n).await;
    }
    assert!(matches!(s.back.recv(WAIT).await, Ok(StreamItem::Eof)));
    s.back.send_reply(Value::text("five"), &s.provider_identity).await.unwrap();
    let reply = s.there.await_reply(WAIT).await.unwrap();
    assert_eq!(reply, (Value::text("five"), s.provider_identity.node_id()));
    s.end().await;
}

#[tokio::test]
async fn bidi_stream_between_two_clients() {
    let mut s = stream(StreamMode::Bidi).await;
    for n in 0..5 {
        send(&mut s.there, &s.identity, n).await;
        expect(&mut s.back, n).await;
        send(&mut s.back, &s.provider_identity, n).await;
        expect(&mut s.there, n).await;
    }
    s.there.close_send(&s.identity).await.unwrap();
    assert!(matches!(s.back.recv(WAIT).await, Ok(StreamItem::Eof)));
    s.back.close_send(&s.provider_identity).await.unwrap();
    assert!(matches!(s.there.recv(WAIT).await, Ok(StreamItem::Eof)));
    s.end().await;
}

#[tokio::test]
async fn a_stream_that_nobody_serves_or_that_is_aborted_says_why() {
    let station = TestStation::start();
    let (mut caller, identity) = join(&station).await;
    let mut nobody = StreamHandle::open(
        &mut caller,
        "acme.nobody",
        REALM,
        StreamMode::Bidi,
        Value::Null,
        deadline(),
        &identity,
    )
    .await
    .unwrap();
    let refused = nobody.recv(WAIT).await.unwrap_err().to_string();
    assert!(refused.contains("unknown_next_peer"), "{refused}");
    let s = stream(StreamMode::Bidi).await;
    let mut there = s.there;
    s.back.abort("cancelled", "enough", &s.provider_identity).await;
    let aborted = there.recv(WAIT).await.unwrap_err().to_string();
    assert!(aborted.contains("cancelled") && aborted.contains("enough"), "{aborted}");
}

#[tokio::test]
async fn a_station_that_stops_tells_its_clients() {
    let mut station = TestStation::start();
    let (mut session, _identity) = join(&station).await;
    station.stop();
    loop {
        let value = session.recv_frame_timeout(WAIT).await.unwrap();
        if value.get("frame_type") == Some(&Value::text("goodbye")) {
            assert_eq!(value.get("reason"), Some(&Value::text("shutting_down")));
            break;
        }
    }
    tokio::time::timeout(WAIT, station.stopped()).await.expect("it stops when all have gone");
}
