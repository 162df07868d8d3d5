//! CALL and its answers.

use mesh_macula::*;
use os_identity::NodeKey;

use crate::world::*;

pub fn call(world: &World, who: Who, procedure: &str, n: u8) -> Frame {
    Frame::Call(a_call(world, who, procedure, n))
}

pub fn a_call(world: &World, who: Who, procedure: &str, n: u8) -> Call {
    let system = procedure.starts_with('_');
    Call {
        call_id: [n; 16],
        procedure: procedure.into(),
        realm: if system { SYSTEM_REALM } else { REALM },
        payload: text("please"),
        deadline_ms: world.now.unix_ms + 10_000,
        caller: world.id(who),
        source_route: vec![],
        retry_budget: 0,
        ucan_token: vec![],
    }
}

pub fn result(world: &World, who: Who, n: u8) -> Frame {
    let (payload, responded_by) = (text("done"), world.id(who));
    Frame::Result(CallResult { call_id: [n; 16], payload, responded_by, source_route_reverse: vec![] })
}

pub fn serve(world: &mut World, who: Who, procedure: &str) {
    let advertiser = world.id(who);
    world.send(who, Frame::Advertise(Advertise { realm: REALM, procedure: procedure.into(), advertiser }));
}

fn code(reply: Result<Value, (u8, String)>) -> ErrorCode {
    ErrorCode::of(reply.unwrap_err().0).unwrap()
}

#[test]
fn a_call_reaches_who_serves_it_and_the_answer_comes_back_byte_for_byte() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    let asked = call(&world, caller, "a.b", 1);
    world.send(caller, asked.clone());
    let raw = world.clients[provider].raw.remove(0);
    assert!(Received::decode(&raw[4..]).unwrap().verify(&world.id(caller)).is_ok());
    assert_eq!(world.one(provider), asked);
    let answer = result(&world, provider, 1);
    world.send(provider, answer.clone());
    let raw = world.clients[caller].raw.remove(0);
    assert!(Received::decode(&raw[4..]).unwrap().verify(&world.id(provider)).is_ok());
    assert_eq!(world.one(caller), answer);
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn an_error_of_the_provider_comes_back_too() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    let error = CallError::new([1; 16], ErrorCode::UnknownError, world.id(provider), "no milk");
    world.send(provider, Frame::Error(error));
    assert_eq!(world.reply(caller), Err((0x0f, "no milk".into())));
}

#[test]
fn what_nobody_serves_is_answered_with_unknown_next_peer() {
    let mut world = World::new();
    let caller = world.join(1);
    world.send(caller, call(&world, caller, "a.b", 1));
    assert_eq!(world.reply(caller), Err((0x01, "nobody serves a.b here".into())));
    serve(&mut world, caller, "a.b");
    let mut elsewhere = a_call(&world, caller, "a.b", 2);
    elsewhere.realm = [0x66; 32];
    world.send(caller, Frame::Call(elsewhere));
    assert_eq!(code(world.reply(caller)), ErrorCode::UnknownNextPeer, "another realm is another procedure");
}

#[test]
fn calls_under_anothers_name_or_signature_are_refused() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    let honest = call(&world, caller, "a.b", 1);
    world.send_signed(caller, Stream::Control, honest, &NodeKey::from_seed(&[9; 32]));
    assert_eq!(code(world.reply(caller)), ErrorCode::SignatureInvalid);
    let stolen = call(&world, provider, "a.b", 1);
    world.send_signed(caller, Stream::Control, stolen, &NodeKey::from_seed(&[1; 32]));
    assert_eq!(code(world.reply(caller)), ErrorCode::Unauthorized);
    assert_eq!(world.take(provider), []);
    assert_eq!(world.station.counters().frames_forged, 2);
}

#[test]
fn answers_under_anothers_name_or_signature_are_not_passed_on() {
    let mut world = World::new();
    let (provider, caller, liar) = (world.join(1), world.join(2), world.join(3));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    let lie = result(&world, liar, 1);
    world.send(liar, lie);
    assert_eq!(world.take(caller), [], "it was not asked");
    let forged = result(&world, provider, 1);
    world.send_signed(provider, Stream::Control, forged, &NodeKey::from_seed(&[3; 32]));
    let foreign = result(&world, liar, 1);
    world.send_signed(provider, Stream::Control, foreign, &NodeKey::from_seed(&[3; 32]));
    assert_eq!(world.take(caller), []);
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.reply(caller), Ok(text("done")));
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.take(caller), [], "an answer is given once");
    let counters = world.station.counters();
    assert_eq!((counters.answers_late, counters.frames_forged), (2, 2));
}

#[test]
fn a_call_that_is_not_answered_in_time_is_answered_by_the_station() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    world.advance(9_999);
    assert_eq!(world.take(caller), []);
    world.advance(1);
    assert_eq!(world.reply(caller), Err((0x02, "no answer before the deadline".into())));
    world.take(provider);
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.take(caller), []);
    assert_eq!(world.station.counters().answers_late, 1);
}

#[test]
fn deadlines_that_have_passed_are_said_so_and_far_ones_are_cut() {
    let config = Config { call_ms_max: 60_000, ..Config::default() };
    let mut world = World::with(config, open_door);
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    let late = Call { deadline_ms: world.now.unix_ms, ..a_call(&world, caller, "a.b", 1) };
    world.send(caller, Frame::Call(late));
    assert_eq!(code(world.reply(caller)), ErrorCode::ExpiryTooSoon);
    let never = Call { deadline_ms: u64::MAX, ..a_call(&world, caller, "a.b", 2) };
    world.send(caller, Frame::Call(never));
    world.advance(60_000);
    assert_eq!(code(world.reply(caller)), ErrorCode::TemporaryRelayFailure);
}

#[test]
fn of_several_providers_the_first_one_serves_until_it_goes() {
    let mut world = World::new();
    let (first, second, caller) = (world.join(1), world.join(2), world.join(3));
    serve(&mut world, second, "other");
    serve(&mut world, first, "a.b");
    serve(&mut world, second, "a.b");
    serve(&mut world, first, "a.b");
    let asked = |world: &mut World, n| {
        world.send(caller, call(world, caller, "a.b", n));
        (world.take(first).len(), world.take(second).len())
    };
    assert_eq!(asked(&mut world, 1), (1, 0));
    assert_eq!(asked(&mut world, 2), (1, 0));
    let advertise = Advertise { realm: REALM, procedure: "a.b".into(), advertiser: world.id(first) };
    world.send(first, Frame::Unadvertise(Unadvertise(advertise)));
    assert_eq!(asked(&mut world, 3), (0, 1));
    serve(&mut world, first, "a.b");
    assert_eq!(asked(&mut world, 4), (0, 1), "who comes back stands behind");
    world.vanish(second);
    world.take(caller);
    assert_eq!(asked(&mut world, 5), (1, 0));
}

#[test]
fn when_the_provider_goes_its_callers_are_told() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    world.vanish(provider);
    assert_eq!(world.reply(caller), Err((0x02, "the provider has gone".into())));
    world.send(caller, call(&world, caller, "a.b", 2));
    assert_eq!(code(world.reply(caller)), ErrorCode::UnknownNextPeer);
}

#[test]
fn when_the_caller_goes_its_calls_are_forgotten() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    world.vanish(caller);
    assert_eq!(world.station.next_deadline(), None);
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.station.counters().answers_late, 1);
}

#[test]
fn an_answer_goes_to_the_stream_on_which_the_call_came() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    let stream = world.open(caller, 5);
    world.send_on(caller, stream, call(&world, caller, "a.b", 1));
    assert_eq!(world.take_on(provider)[0].0, Stream::Control);
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.take_on(caller)[0].0, stream);
}

#[test]
fn two_callers_may_choose_the_same_call_id_but_not_for_one_provider_at_once() {
    let mut world = World::new();
    let (one, two) = (world.join(1), world.join(2));
    let (a, b) = (world.join(3), world.join(4));
    serve(&mut world, one, "a");
    serve(&mut world, two, "b");
    world.send(a, call(&world, a, "a", 1));
    world.send(b, call(&world, b, "b", 1));
    world.send(two, result(&world, two, 1));
    assert_eq!((world.take(a).len(), world.take(b).len()), (0, 1));
    world.send(b, call(&world, b, "a", 1));
    assert_eq!(code(world.reply(b)), ErrorCode::UnknownError);
    world.send(one, result(&world, one, 1));
    assert_eq!(world.reply(a), Ok(text("done")));
}

#[test]
fn the_node_decides_who_may_call_and_sees_the_ucan() {
    let mut world = World::with(Config::default(), |r: &Request<'_>| match r.action {
        Action::Call { procedure: "a.b", .. } if r.ucan != b"ticket" => Err("no ticket".to_string()),
        _ => Ok(()),
    });
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    world.send(caller, call(&world, caller, "a.b", 1));
    assert_eq!(world.reply(caller), Err((0x10, "no ticket".into())));
    let with = Call { ucan_token: b"ticket".to_vec(), ..a_call(&world, caller, "a.b", 2) };
    world.send(caller, Frame::Call(with));
    assert_eq!(world.take(provider).len(), 1);
}

#[test]
fn procedures_are_advertised_by_who_may_and_in_its_own_name() {
    let mut world = World::with(Config::default(), |r: &Request<'_>| match r.action {
        Action::Advertise { procedure: "secret", .. } => Err(String::new()),
        _ => Ok(()),
    });
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "secret");
    let foreign = Advertise { realm: REALM, procedure: "a.b".into(), advertiser: world.id(caller) };
    world.send(provider, Frame::Advertise(foreign));
    for procedure in ["secret", "a.b"] {
        world.send(caller, call(&world, caller, procedure, 1));
        assert_eq!(code(world.reply(caller)), ErrorCode::UnknownNextPeer);
    }
    let counters = world.station.counters();
    assert_eq!((counters.frames_refused, counters.frames_forged), (1, 1));
}

#[test]
fn a_stream_that_the_client_has_closed_ends_after_the_last_answer() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "a.b");
    let (silent, asking) = (world.open(caller, 5), world.open(caller, 6));
    world.close_stream(caller, silent);
    assert_eq!(world.clients[caller].finished, [silent]);
    for n in 1..3 {
        world.send_on(caller, asking, call(&world, caller, "a.b", n));
    }
    world.close_stream(caller, asking);
    world.send(provider, result(&world, provider, 1));
    assert_eq!(world.clients[caller].finished, [silent]);
    world.advance(10_000);
    assert_eq!(world.take_on(caller).len(), 2);
    assert_eq!(world.clients[caller].finished, [silent, asking]);
}
