//! CONNECT to GOODBYE.

use mesh_macula::*;
use os_identity::NodeKey;

use crate::world::*;

fn refusal(world: &mut World, who: Who) -> u8 {
    match world.one(who) {
        Frame::Hello(hello) => hello.verdict.unwrap_err(),
        other => panic!("not a HELLO: {other:?}"),
    }
}

#[test]
fn a_client_is_welcomed_and_told_what_the_station_serves() {
    let mut world = World::with(Config { realms: vec![REALM], ..Config::default() }, open_door);
    let who = world.connection(1);
    assert_eq!(world.station.frame_max(who as ConnId), MAX_FIRST_FRAME);
    world.send(who, world.connect(who));
    let raw = world.clients[who].raw.clone();
    let inbox = world.take(who);
    let Frame::Hello(hello) = &inbox[0] else { panic!("{inbox:?}") };
    assert_eq!(
        (hello.node_id, hello.verdict, &hello.realms),
        (world.station.node_id(), Ok(()), &vec![REALM])
    );
    let told: Vec<_> = inbox[1..]
        .iter()
        .map(|frame| match frame {
            Frame::Advertise(a) if a.realm == SYSTEM_REALM && a.advertiser == hello.node_id => {
                &a.procedure[..]
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, SYSTEM_PROCEDURES);
    for bytes in raw {
        assert!(Received::decode(&bytes[4..]).unwrap().verify(&hello.node_id).is_ok());
    }
    assert_eq!(world.station.frame_max(who as ConnId), 4 << 20);
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn whoever_does_not_say_who_it_is_is_gone_after_thirty_seconds() {
    let mut world = World::new();
    let who = world.connection(1);
    world.advance(29_999);
    assert_eq!(world.clients[who].closed, None);
    world.advance(1);
    assert_eq!(world.clients[who].closed.as_deref(), Some("handshake_timeout"));
}

#[test]
fn connect_under_anothers_key_is_refused() {
    let mut world = World::new();
    let who = world.connection(1);
    let connect = world.connect(who);
    world.send_signed(who, Stream::Control, connect, &NodeKey::from_seed(&[2; 32]));
    assert_eq!(refusal(&mut world, who), ErrorCode::SignatureInvalid as u8);
    assert_eq!(world.clients[who].closed.as_deref(), Some("signature_invalid"));
    assert_eq!(world.station.clients().count(), 0);
}

#[test]
fn keys_without_the_puzzle_are_refused_only_where_it_is_enforced() {
    let solved = |seed: &u8| puzzle_solved(&NodeKey::from_seed(&[*seed; 32]).node_id());
    let cheap = (1..=u8::MAX).find(|seed| !solved(seed)).unwrap();
    World::new().join(cheap);
    let mut world = World::with(Config { puzzle: Puzzle::Enforce, ..Config::default() }, open_door);
    let who = world.connection(cheap);
    world.send(who, world.connect(who));
    assert_eq!(refusal(&mut world, who), ErrorCode::CryptoPuzzleInvalid as u8);
    if let Some(dear) = (1..=u8::MAX).find(solved) {
        world.join(dear);
    }
}

#[test]
fn the_node_may_refuse_a_client() {
    let mut world = World::with(Config::default(), |r: &Request<'_>| match r.action {
        Action::Connect => Err("not you".to_string()),
        _ => Ok(()),
    });
    let who = world.connection(1);
    world.send(who, world.connect(who));
    assert_eq!(refusal(&mut world, who), ErrorCode::Unauthorized as u8);
}

#[test]
fn the_first_frame_is_connect_on_the_first_stream() {
    let mut world = World::new();
    let who = world.connection(1);
    world.send(who, Frame::Ping(Nonce([0; 16])));
    let Frame::Goodbye(goodbye) = world.one(who) else { panic!("no GOODBYE") };
    assert_eq!(goodbye.reason, "handshake");
    let who = world.connection(1);
    let stream = world.open(who, 0);
    world.send_on(who, stream, world.connect(who));
    assert_eq!(world.clients[who].closed.as_deref(), Some("handshake"));
}

#[test]
fn a_second_connection_of_a_client_ends_its_first_one() {
    let mut world = World::new();
    let first = world.join(1);
    let second = world.join(1);
    let Frame::Goodbye(goodbye) = world.one(first) else { panic!("no GOODBYE") };
    assert_eq!(goodbye.reason, "replaced");
    assert_eq!(world.clients[first].closed.as_deref(), Some("replaced"));
    assert_eq!(world.clients[second].closed, None);
    assert_eq!(world.station.clients().count(), 1);
    world.vanish(first);
    assert_eq!(world.station.clients().count(), 1, "the late end of the first one changes nothing");
    world.send(second, Frame::Ping(Nonce([4; 16])));
    assert_eq!(world.one(second), Frame::Pong(Nonce([4; 16])));
}

#[test]
fn ping_is_answered_if_it_is_the_clients() {
    let mut world = World::new();
    let who = world.join(1);
    world.send(who, Frame::Ping(Nonce([7; 16])));
    assert_eq!(world.one(who), Frame::Pong(Nonce([7; 16])));
    world.send_signed(who, Stream::Control, Frame::Ping(Nonce([8; 16])), &NodeKey::from_seed(&[9; 32]));
    assert_eq!(world.take(who), []);
    assert_eq!(world.station.counters().frames_forged, 1);
}

#[test]
fn after_goodbye_nothing_new_happens_and_the_connection_ends_in_five_seconds() {
    let mut world = World::new();
    let (who, caller) = (world.join(1), world.join(2));
    let advertise = Advertise { realm: REALM, procedure: "a.b".into(), advertiser: world.id(who) };
    world.send(who, Frame::Advertise(advertise));
    world.send(who, Frame::Goodbye(Goodbye { reason: "normal".into(), detail: None }));
    world.send(who, Frame::Ping(Nonce([7; 16])));
    assert_eq!(world.take(who), []);
    world.send(caller, crate::calls::call(&world, caller, "a.b", 1));
    assert_eq!(world.reply(caller).unwrap_err().0, ErrorCode::UnknownNextPeer as u8);
    world.advance(4_999);
    assert_eq!(world.clients[who].closed, None);
    world.advance(1);
    assert_eq!(world.clients[who].closed.as_deref(), Some("goodbye"));
    assert_eq!(world.clients[caller].closed, None);
}

#[test]
fn a_goodbye_that_the_client_did_not_sign_ends_nothing() {
    let mut world = World::new();
    let who = world.join(1);
    let goodbye = Frame::Goodbye(Goodbye { reason: "normal".into(), detail: None });
    world.send_signed(who, Stream::Control, goodbye, &NodeKey::from_seed(&[9; 32]));
    world.advance(60_000);
    assert_eq!(world.clients[who].closed, None);
}

#[test]
fn a_station_that_stops_says_so_and_lets_calls_end() {
    let mut world = World::new();
    let (provider, caller, stranger) = (world.join(1), world.join(2), world.connection(3));
    crate::calls::serve(&mut world, provider, "a.b");
    world.send(caller, crate::calls::call(&world, caller, "a.b", 1));
    world.take(provider);
    world.station.shutdown(world.now);
    world.advance(0);
    assert_eq!(world.clients[stranger].closed.as_deref(), Some("shutting_down"));
    let Frame::Goodbye(goodbye) = world.one(caller) else { panic!("no GOODBYE") };
    assert_eq!(goodbye.reason, "shutting_down");
    world.send(provider, crate::calls::result(&world, provider, 1));
    assert_eq!(world.reply(caller), Ok(text("done")));
    let late = world.connection(4);
    assert_eq!(world.clients[late].closed.as_deref(), Some("shutting_down"));
    world.advance(5_000);
    assert_eq!(world.clients[caller].closed.as_deref(), Some("goodbye"));
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn frames_that_are_not_for_this_station_are_skipped() {
    let mut world = World::new();
    let who = world.join(1);
    for name in ["swim_ping", "hyparview_join", "find_node", "tomorrows_frame"] {
        world.send(who, Frame::Other(name.into()));
    }
    world.send(who, Frame::Pong(Nonce([0; 16])));
    assert_eq!(world.take(who), []);
    assert_eq!(world.station.counters().frames_skipped, 5);
    assert_eq!(world.clients[who].closed, None);
}
