//! Vectors, and the frames whose signatures are known.
#![allow(dead_code)]

use data_encoding::HEXLOWER;
use mesh_macula::*;
use os_identity::{NodeId, NodeKey};
use serde_json::Value as Json;

pub const SENT_AT_MS: u64 = 1_700_000_000_000;

pub fn vectors(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

pub fn unhex(value: &Json) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

pub fn array<const N: usize>(value: &Json) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

pub fn each(value: &Json) -> impl Iterator<Item = &Json> {
    value.as_array().unwrap().iter()
}

/// The first key of `identity.json`.
pub fn known_key() -> NodeKey {
    let identity = vectors(include_str!("../vectors/identity.json"));
    NodeKey::from_seed(&array(&identity["keys"][0]["seed"]))
}

pub fn header() -> Header {
    let frame_id = HEXLOWER.decode(b"0192e8b0f1a47000a1b2c3d4e5f60718").unwrap().try_into().unwrap();
    Header { frame_id, sent_at_ms: SENT_AT_MS, capabilities: 0 }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn message(topic: &str, payload: Value) -> Message {
    Message { topic: topic.into(), realm: [0; 32], publisher: known_key().node_id(), seq: 42, payload }
}

/// The message of the known `publisher_sig`.
pub fn known_message() -> Message {
    message("acme/svc.do", Value::Bytes(b"hello".to_vec()))
}

/// Each frame of `frames.json` under its name there.
pub fn known_frames() -> Vec<(&'static str, Frame)> {
    let mut frames = handshake_and_calls();
    frames.extend(pubsub());
    frames.extend(streams());
    frames
}

fn handshake_and_calls() -> Vec<(&'static str, Frame)> {
    let me = known_key().node_id();
    let call_id = array(&Json::from("aabbccddeeff00112233445566778899"));
    let advertise =
        Advertise { realm: [0; 32], procedure: "macula_rust_sdk.test_procedure".into(), advertiser: me };
    let connect = Connect {
        node_id: me,
        station_id: me,
        realms: vec![],
        addresses: vec![],
        site: None,
        puzzle_evidence: puzzle_evidence(&me),
        endorsements: vec![],
    };
    let call = Call {
        call_id,
        procedure: "_content.get_manifest".into(),
        realm: [0; 32],
        payload: Value::map([("hello", text("world"))]),
        deadline_ms: 1_700_000_030_000,
        caller: me,
        source_route: vec![],
        retry_budget: 0,
        ucan_token: vec![],
    };
    let result =
        CallResult { call_id, payload: text("ok-result"), responded_by: me, source_route_reverse: vec![] };
    vec![
        ("connect", Frame::Connect(connect)),
        ("call", Frame::Call(call)),
        ("result", Frame::Result(result)),
        ("error", Frame::Error(CallError::new(call_id, ErrorCode::UnknownNextPeer, me, ""))),
        ("advertise", Frame::Advertise(advertise.clone())),
        ("unadvertise", Frame::Unadvertise(Unadvertise(advertise))),
    ]
}

fn pubsub() -> Vec<(&'static str, Frame)> {
    let message = message("test.topic", text("published-data"));
    let publish =
        Publish { message: message.clone(), published_at_ms: SENT_AT_MS, ttl_ms: None, publisher_sig: None };
    let event = Event { message, delivered_via: "direct".into(), publisher_sig: None };
    let subscribe =
        Subscribe { topic: "test.topic".into(), realm: [0; 32], subscriber: known_key().node_id() };
    vec![
        ("publish", Frame::Publish(publish)),
        ("event", Frame::Event(event)),
        ("subscribe", Frame::Subscribe(subscribe.clone())),
        ("unsubscribe", Frame::Unsubscribe(Unsubscribe(subscribe))),
    ]
}

fn streams() -> Vec<(&'static str, Frame)> {
    let me = known_key().node_id();
    let stream_id = array(&Json::from("0102030405060708090a0b0c0d0e0f10"));
    let open = StreamOpen {
        stream_id,
        procedure: "macula_rust_sdk.test_stream".into(),
        realm: [0; 32],
        mode: Mode::ClientStream,
        args: Value::map([("hello", text("world"))]),
        deadline_ms: 1_700_000_030_000,
        caller: me,
        source_route: vec![],
        retry_budget: 0,
    };
    let data = |signer| {
        let (encoding, body) = (Encoding::Raw, Value::Bytes(b"raw chunk bytes".to_vec()));
        Frame::StreamData(StreamData { stream_id, seq: 0, encoding, body, signer })
    };
    let map = Value::map([("a", Value::Int(1.into())), ("greeting", Value::Bytes(b"hi".to_vec()))]);
    let msgpack = StreamData { stream_id, seq: 1, encoding: Encoding::Msgpack, body: map, signer: None };
    let end = |signer| Frame::StreamEnd(StreamEnd { stream_id, role: Role::Send, signer });
    let error = |signer: Option<NodeId>| {
        Frame::StreamError(StreamError {
            stream_id,
            code: "cancelled".into(),
            message: "boom".into(),
            signer,
        })
    };
    let payload = Value::map([("ok", text("true"))]);
    vec![
        ("stream_open", Frame::StreamOpen(open)),
        ("stream_data_raw", data(None)),
        ("stream_data_with_signer", data(Some(me))),
        ("stream_data_msgpack", Frame::StreamData(msgpack)),
        ("stream_end", end(None)),
        ("stream_end_with_signer", end(Some(me))),
        ("stream_error", error(None)),
        ("stream_error_with_signer", error(Some(me))),
        ("stream_reply", Frame::StreamReply(StreamReply { stream_id, payload, responded_by: me })),
    ]
}
