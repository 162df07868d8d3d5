//! PUBLISH to EVENT.

use mesh_macula::*;
use os_identity::NodeKey;

use crate::world::*;

fn subscribe(world: &mut World, who: Who, topic: &str) {
    let subscriber = world.id(who);
    world.send(who, Frame::Subscribe(Subscribe { topic: topic.into(), realm: REALM, subscriber }));
}

fn message(world: &World, who: Who, topic: &str, seq: u64) -> Message {
    Message { topic: topic.into(), realm: REALM, publisher: world.id(who), seq, payload: uint(seq) }
}

fn publish(message: Message, publisher_sig: Option<PublisherSignature>) -> Frame {
    Frame::Publish(Publish { message, published_at_ms: UNIX_MS, ttl_ms: None, publisher_sig })
}

fn say(world: &mut World, who: Who, topic: &str, seq: u64) {
    let message = message(world, who, topic, seq);
    world.send(who, publish(message, None));
}

/// Sequence numbers of the events that came.
fn heard(world: &mut World, who: Who) -> Vec<u64> {
    let seq = |frame| match frame {
        Frame::Event(event) => event.message.seq,
        other => panic!("not an event: {other:?}"),
    };
    world.take(who).into_iter().map(seq).collect()
}

#[test]
fn what_is_published_reaches_all_subscribers_the_publisher_among_them() {
    let mut world = World::new();
    let (publisher, one, two) = (world.join(1), world.join(2), world.join(3));
    for who in [publisher, one] {
        subscribe(&mut world, who, "t");
    }
    subscribe(&mut world, two, "other");
    say(&mut world, publisher, "t", 7);
    let raw = world.clients[one].raw[0].clone();
    let station = world.station.node_id();
    assert!(Received::decode(&raw[4..]).unwrap().verify(&station).is_ok(), "signed by the station");
    let Frame::Event(event) = world.one(one) else { panic!("no event") };
    assert_eq!(event.message, message(&world, publisher, "t", 7));
    assert_eq!((event.delivered_via.as_str(), event.publisher_sig), ("direct", None));
    assert_eq!(heard(&mut world, publisher), [7]);
    assert_eq!(heard(&mut world, two), []);
}

#[test]
fn the_publishers_signature_travels_with_its_word_and_a_false_one_does_not() {
    let mut world = World::new();
    let (publisher, reader) = (world.join(1), world.join(2));
    subscribe(&mut world, reader, "t");
    let said = message(&world, publisher, "t", 7);
    let signature = sign_message(&said, &world.clients[publisher].key);
    world.send(publisher, publish(said.clone(), Some(signature)));
    let Frame::Event(event) = world.one(reader) else { panic!("no event") };
    assert_eq!(event.publisher_sig, Some(signature));
    assert!(verify_message(&event.message, &signature).is_ok());
    let other = Message { seq: 8, ..said };
    world.send(publisher, publish(other, Some(signature)));
    assert_eq!(heard(&mut world, reader), []);
    assert_eq!(world.station.counters().frames_forged, 1);
}

#[test]
fn nobody_publishes_or_subscribes_for_another() {
    let mut world = World::new();
    let (liar, reader, victim) = (world.join(1), world.join(2), world.join(3));
    subscribe(&mut world, reader, "t");
    let foreign = message(&world, victim, "t", 1);
    world.send(liar, publish(foreign, None));
    let own = message(&world, liar, "t", 2);
    world.send_signed(liar, Stream::Control, publish(own, None), &NodeKey::from_seed(&[3; 32]));
    assert_eq!(heard(&mut world, reader), []);
    let subscriber = world.id(victim);
    world.send(liar, Frame::Subscribe(Subscribe { topic: "t".into(), realm: REALM, subscriber }));
    say(&mut world, reader, "t", 3);
    assert_eq!((heard(&mut world, liar), heard(&mut world, victim)), (vec![], vec![]));
    assert_eq!(world.station.counters().frames_forged, 3);
}

#[test]
fn a_message_is_delivered_once_in_five_minutes() {
    let mut world = World::new();
    let (publisher, other, reader) = (world.join(1), world.join(2), world.join(3));
    subscribe(&mut world, reader, "t");
    say(&mut world, publisher, "t", 7);
    say(&mut world, publisher, "t", 7);
    world.advance(299_999);
    say(&mut world, publisher, "t", 7);
    assert_eq!(heard(&mut world, reader), [7]);
    say(&mut world, other, "t", 7);
    assert_eq!(heard(&mut world, reader), [7], "another publisher's seventh");
    world.advance(1);
    say(&mut world, publisher, "t", 7);
    assert_eq!(heard(&mut world, reader), [7]);
    assert_eq!(world.station.counters().events_repeated, 2);
}

#[test]
fn each_publishers_order_is_kept_whatever_its_numbers() {
    let mut world = World::new();
    let (a, b, reader) = (world.join(1), world.join(2), world.join(3));
    subscribe(&mut world, reader, "t");
    let order = [5, u64::MAX, 0, 3, 1 << 40];
    for seq in order {
        say(&mut world, a, "t", seq);
        say(&mut world, b, "t", seq);
    }
    let doubled: Vec<_> = order.iter().flat_map(|seq| [*seq, *seq]).collect();
    assert_eq!(heard(&mut world, reader), doubled);
}

#[test]
fn unsubscribe_disconnect_and_goodbye_end_a_subscription() {
    let mut world = World::new();
    let publisher = world.join(9);
    let readers: Vec<_> = (1..4).map(|seed| world.join(seed)).collect();
    for who in &readers {
        subscribe(&mut world, *who, "t");
    }
    let subscriber = world.id(readers[0]);
    let topic = Subscribe { topic: "t".into(), realm: REALM, subscriber };
    world.send(readers[0], Frame::Unsubscribe(Unsubscribe(topic)));
    world.vanish(readers[1]);
    world.send(readers[2], Frame::Goodbye(Goodbye { reason: "normal".into(), detail: None }));
    say(&mut world, publisher, "t", 1);
    for who in readers {
        assert_eq!(heard(&mut world, who), []);
    }
}

#[test]
fn a_slow_reader_loses_the_oldest_events_and_nobody_else_does() {
    let config = Config { events_max: 10, ..Config::default() };
    let mut world = World::with(config, open_door);
    let (publisher, slow, quick) = (world.join(1), world.join(2), world.join(3));
    for who in [slow, quick] {
        subscribe(&mut world, who, "t");
    }
    world.stalled.insert(slow);
    let large = |world: &World, seq| Message {
        payload: Value::Bytes(vec![0; 64 * 1024]),
        ..message(world, publisher, "t", seq)
    };
    for seq in 0..30 {
        let said = large(&world, seq);
        world.send(publisher, publish(said, None));
    }
    assert_eq!(heard(&mut world, quick), (0..30).collect::<Vec<_>>());
    let first = heard(&mut world, slow);
    assert_eq!(first, [0, 1, 2, 3], "as much as fits into the window of 256 KiB");
    world.read_on(slow);
    assert_eq!(heard(&mut world, slow), (20..30).collect::<Vec<_>>(), "the newest ten");
    assert_eq!(world.station.counters().events_dropped, 16);
    say(&mut world, publisher, "t", 30);
    assert_eq!(heard(&mut world, slow), [30]);
    assert_eq!(world.clients[slow].closed, None);
}

#[test]
fn calls_of_a_slow_reader_of_events_are_still_answered() {
    let mut world = World::new();
    let (publisher, slow) = (world.join(1), world.join(2));
    subscribe(&mut world, slow, "t");
    world.stalled.insert(slow);
    for seq in 0..30 {
        let said =
            Message { payload: Value::Bytes(vec![0; 64 * 1024]), ..message(&world, publisher, "t", seq) };
        world.send(publisher, publish(said, None));
    }
    world.take(slow);
    world.send(slow, crate::calls::call(&world, slow, "_relay.ping", 1));
    assert!(world.reply(slow).is_ok());
}

#[test]
fn events_of_others_are_relayed_only_by_whom_the_node_lets() {
    let may_relay = NodeKey::from_seed(&[1; 32]).node_id();
    let mut world = World::with(Config::default(), move |r: &Request<'_>| match r.action {
        Action::Relay { .. } if *r.node != may_relay => Err(String::new()),
        _ => Ok(()),
    });
    let (relay, liar, reader) = (world.join(1), world.join(2), world.join(3));
    subscribe(&mut world, reader, "t");
    let author = NodeKey::from_seed(&[77; 32]);
    let event = |seq, key: &NodeKey| {
        let message = Message {
            topic: "t".into(),
            realm: REALM,
            publisher: author.node_id(),
            seq,
            payload: Value::Null,
        };
        let publisher_sig = Some(sign_message(&message, key));
        Frame::Event(Event { message, delivered_via: "plumtree".into(), publisher_sig })
    };
    world.send(relay, event(1, &author));
    world.send(relay, event(1, &author));
    world.send(relay, event(2, &NodeKey::from_seed(&[78; 32])));
    world.send(liar, event(3, &author));
    assert_eq!(heard(&mut world, reader), [1]);
    let counters = world.station.counters();
    assert_eq!((counters.events_repeated, counters.frames_forged, counters.frames_refused), (1, 1, 1));
}

#[test]
fn the_node_decides_who_publishes_and_who_listens() {
    let mut world = World::with(Config::default(), |r: &Request<'_>| match r.action {
        Action::Publish { topic: "quiet", .. } | Action::Subscribe { topic: "secret", .. } => {
            Err(String::new())
        }
        _ => Ok(()),
    });
    let (publisher, reader) = (world.join(1), world.join(2));
    for topic in ["quiet", "secret"] {
        subscribe(&mut world, reader, topic);
        say(&mut world, publisher, topic, 1);
    }
    assert_eq!(heard(&mut world, reader), []);
    assert_eq!(world.station.counters().frames_refused, 2);
}
