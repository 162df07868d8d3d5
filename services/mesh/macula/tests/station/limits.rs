//! Bounds on what one client may take, and what it is told when it takes more.

use mesh_macula::*;

use crate::calls::{call, serve};
use crate::world::*;

/// The client was told `detail` and sent away; the other one is still there.
fn expelled(world: &mut World, who: Who, reason: &str, detail: &str) {
    let last = world.take(who).pop();
    let Some(Frame::Goodbye(goodbye)) = last else { panic!("no GOODBYE: {last:?}") };
    assert_eq!((goodbye.reason.as_str(), goodbye.detail.as_deref()), (reason, Some(detail)));
    assert_eq!(world.clients[who].closed.as_deref(), Some(reason));
}

#[test]
fn frames_per_second() {
    let config = Config { frames_per_second: 10, frames_burst: 20, ..Config::default() };
    let mut world = World::with(config, open_door);
    let (flood, calm) = (world.join(1), world.join(2));
    for n in 0..19 {
        world.send(flood, Frame::Ping(Nonce([n; 16])));
    }
    world.advance(100);
    world.send(flood, Frame::Ping(Nonce([0; 16])));
    assert_eq!(world.take(flood).len(), 20);
    world.send(flood, Frame::Ping(Nonce([0; 16])));
    expelled(&mut world, flood, "rate_limited", "more than 10 frames per second, or 20 at once");
    world.send(calm, Frame::Ping(Nonce([0; 16])));
    assert_eq!(world.take(calm).len(), 1);
}

#[test]
fn procedures() {
    let mut world = World::with(Config { advertised_max: 2, ..Config::default() }, open_door);
    let who = world.join(1);
    for procedure in ["a", "b", "a", "b"] {
        serve(&mut world, who, procedure);
    }
    assert_eq!(world.clients[who].closed, None);
    serve(&mut world, who, "c");
    expelled(&mut world, who, "limit_exceeded", "more than 2 procedures");
}

#[test]
fn subscriptions() {
    let mut world = World::with(Config { subscribed_max: 2, ..Config::default() }, open_door);
    let who = world.join(1);
    let subscriber = world.id(who);
    for topic in ["a", "b", "a", "c"] {
        assert_eq!(world.clients[who].closed, None);
        world.send(who, Frame::Subscribe(Subscribe { topic: topic.into(), realm: REALM, subscriber }));
    }
    expelled(&mut world, who, "limit_exceeded", "more than 2 subscriptions");
}

#[test]
fn calls_that_wait() {
    let mut world = World::with(Config { calls_max: 2, ..Config::default() }, open_door);
    let (provider, caller, other) = (world.join(1), world.join(2), world.join(3));
    serve(&mut world, provider, "a");
    for n in 0..2 {
        world.send(caller, call(&world, caller, "a", n));
    }
    world.send(caller, call(&world, caller, "a", 2));
    assert_eq!(world.reply(caller), Err((0x08, "2 calls wait for an answer already".into())));
    world.send(other, call(&world, other, "a", 9));
    world.send(provider, crate::calls::result(&world, provider, 0));
    world.take(caller);
    world.take(provider);
    world.send(caller, call(&world, caller, "a", 3));
    assert_eq!(world.take(provider).len(), 1, "an answer makes room");
}

#[test]
fn calls_at_one_provider() {
    let config = Config { calls_max: 1, ..Config::default() };
    let mut world = World::with(config, open_door);
    let provider = world.join(1);
    serve(&mut world, provider, "a");
    let callers: Vec<_> = (2..19).map(|seed| world.join(seed)).collect();
    for (n, who) in callers.iter().enumerate() {
        world.send(*who, call(&world, *who, "a", n as u8));
    }
    assert_eq!(world.take(provider).len(), 16);
    assert_eq!(world.reply(callers[16]), Err((0x08, "the provider has too many calls".into())));
}

#[test]
fn streaming_calls() {
    let mut world = World::with(Config { sessions_max: 1, ..Config::default() }, open_door);
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "s");
    for n in 0..2 {
        let stream = world.open(caller, n);
        let open = StreamOpen {
            stream_id: [n as u8; 16],
            procedure: "s".into(),
            realm: REALM,
            mode: Mode::Bidi,
            args: Value::Null,
            deadline_ms: world.now.unix_ms + 1000,
            caller: world.id(caller),
            source_route: vec![],
            retry_budget: 0,
        };
        world.send_on(caller, stream, Frame::StreamOpen(open));
    }
    assert_eq!(world.clients[provider].opened.len(), 1);
    let Frame::StreamError(error) = world.one(caller) else { panic!("no STREAM_ERROR") };
    assert_eq!(error.code, "upstream_congestion");
}

#[test]
fn streams() {
    let mut world = World::new();
    let who = world.join(1);
    for n in 0..1000 {
        let stream = world.open(who, n);
        world.close_stream(who, stream);
    }
    assert_eq!(world.clients[who].closed, None);
    for n in 1000..1129 {
        world.open(who, n);
    }
    expelled(&mut world, who, "limit_exceeded", "more than 128 streams");
}

#[test]
fn connections() {
    let mut world = World::with(Config { connections_max: 1, ..Config::default() }, open_door);
    let who = world.join(1);
    let late = world.connection(2);
    assert_eq!(world.clients[late].closed.as_deref(), Some("too_many_connections"));
    world.vanish(who);
    world.join(3);
}

#[test]
fn large_messages() {
    let config = Config { publish_bytes_max: 1000, ..Config::default() };
    let mut world = World::with(config, open_door);
    let who = world.join(1);
    let message = Message {
        topic: "t".into(),
        realm: REALM,
        publisher: world.id(who),
        seq: 1,
        payload: Value::Bytes(vec![0; 1000]),
    };
    let publish = Publish { message, published_at_ms: 0, ttl_ms: None, publisher_sig: None };
    world.send(who, Frame::Publish(publish));
    let reason = world.clients[who].closed.clone();
    assert_eq!(reason.as_deref(), Some("limit_exceeded"));
}

#[test]
fn bytes_that_a_client_does_not_read() {
    let config = Config { unsent_bytes_max: 1_000_000, ..Config::default() };
    let mut world = World::with(config, open_door);
    let (provider, slow) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a");
    world.stalled.insert(slow);
    for n in 0..10 {
        world.send(slow, call(&world, slow, "a", n));
        let payload = Value::Bytes(vec![0; 200_000]);
        let responded_by = world.id(provider);
        let result = CallResult { call_id: [n; 16], payload, responded_by, source_route_reverse: vec![] };
        world.send(provider, Frame::Result(result));
    }
    assert_eq!(world.clients[slow].closed.as_deref(), Some("too_slow"));
    assert_eq!(world.take(slow).len(), 4);
    assert_eq!(world.clients[provider].closed, None);
}

#[test]
fn bytes_that_are_no_frame() {
    let mut world = World::new();
    let (who, other) = (world.join(1), world.join(2));
    world.send_bytes(who, Stream::Control, &[0xa1, 0x18, 0, 0]);
    let why = "frame is not canonical CBOR: number or length at byte 1 is not in its shortest form";
    expelled(&mut world, who, "malformed_frame", why);
    world.station.broken(other as ConnId, &TooLarge { len: 9, max: 8 }.to_string(), world.now);
    world.advance(0);
    expelled(&mut world, other, "malformed_frame", "frame of 9 bytes, at most 8 are taken here");
}
