//! Streaming calls.

use mesh_macula::*;
use os_identity::NodeKey;

use crate::calls::serve;
use crate::world::*;

const ID: [u8; 16] = [6; 16];
const FIRST: Stream = Stream::Ours(1);

fn open_frame(world: &World, who: Who, mode: Mode) -> Frame {
    Frame::StreamOpen(StreamOpen {
        stream_id: ID,
        procedure: "s".into(),
        realm: REALM,
        mode,
        args: text("args"),
        deadline_ms: world.now.unix_ms + 60_000,
        caller: world.id(who),
        source_route: vec![],
        retry_budget: 0,
    })
}

fn data(world: &World, who: Who, seq: u64, body: Value) -> Frame {
    let signer = Some(world.id(who));
    Frame::StreamData(StreamData { stream_id: ID, seq, encoding: Encoding::Raw, body, signer })
}

fn end(role: Role) -> Frame {
    Frame::StreamEnd(StreamEnd { stream_id: ID, role, signer: None })
}

fn reply(world: &World, who: Who) -> Frame {
    let responded_by = world.id(who);
    Frame::StreamReply(StreamReply { stream_id: ID, payload: text("done"), responded_by })
}

/// (provider, caller, caller's stream): a streaming call that has just begun.
fn session(world: &mut World, mode: Mode) -> (Who, Who, Stream) {
    let (provider, caller) = (world.join(1), world.join(2));
    serve(world, provider, "s");
    let stream = world.open(caller, 3);
    let open = open_frame(world, caller, mode);
    world.send_on(caller, stream, open.clone());
    assert_eq!(world.clients[provider].opened, [FIRST]);
    assert_eq!(world.take_on(provider), [(FIRST, open)]);
    (provider, caller, stream)
}

fn error_code(frame: &Frame) -> &str {
    match frame {
        Frame::StreamError(error) => &error.code,
        other => panic!("not a STREAM_ERROR: {other:?}"),
    }
}

/// Both sides were told why, and their streams end.
fn failed(world: &mut World, provider: Who, caller: Who, code: &str) {
    for who in [provider, caller] {
        assert_eq!(error_code(&world.one(who)), code);
        assert_eq!(world.clients[who].finished.len(), 1);
    }
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn server_stream_data_comes_until_its_end() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::ServerStream);
    for seq in 0..3 {
        let frame = data(&world, provider, seq, uint(seq));
        world.send_on(provider, FIRST, frame.clone());
        let raw = world.clients[caller].raw[0].clone();
        assert!(Received::decode(&raw[4..]).unwrap().verify(&world.id(provider)).is_ok());
        assert_eq!(world.take_on(caller), [(stream, frame)]);
    }
    world.send_on(provider, FIRST, end(Role::Send));
    assert_eq!(world.take_on(caller), [(stream, end(Role::Send))]);
    assert_eq!(
        (&world.clients[provider].finished, &world.clients[caller].finished),
        (&vec![FIRST], &vec![stream])
    );
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn client_stream_data_goes_and_a_reply_comes() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::ClientStream);
    for seq in 0..3 {
        let frame = data(&world, caller, seq, uint(seq));
        world.send_on(caller, stream, frame.clone());
        assert_eq!(world.take_on(provider), [(FIRST, frame)]);
    }
    world.send_on(caller, stream, end(Role::Send));
    assert_eq!(world.take_on(provider), [(FIRST, end(Role::Send))]);
    let answer = reply(&world, provider);
    world.send_on(provider, FIRST, answer.clone());
    assert_eq!(world.take_on(caller), [(stream, answer)]);
    assert_eq!(world.clients[caller].finished, [stream]);
}

#[test]
fn bidi_data_goes_both_ways_until_both_have_ended() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::Bidi);
    let (there, back) = (data(&world, caller, 0, text("there")), data(&world, provider, 0, text("back")));
    world.send_on(caller, stream, there.clone());
    world.send_on(provider, FIRST, back.clone());
    assert_eq!((world.take(provider), world.take(caller)), (vec![there], vec![back.clone()]));
    world.send_on(caller, stream, end(Role::Send));
    world.send_on(provider, FIRST, back.clone());
    world.send_on(provider, FIRST, end(Role::Send));
    assert_eq!(world.take(caller), [back, end(Role::Send)]);
    world.close_stream(provider, FIRST);
    assert_eq!(world.clients[caller].finished, [stream], "the end is passed on");
    world.close_stream(caller, stream);
    assert_eq!(world.clients[provider].finished, [FIRST]);
    assert_eq!(world.clients[caller].finished, [stream]);
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn a_bidi_call_may_end_with_a_reply_after_the_data() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::Bidi);
    world.send_on(caller, stream, end(Role::Send));
    world.send_on(provider, FIRST, end(Role::Send));
    let answer = reply(&world, provider);
    world.send_on(provider, FIRST, answer.clone());
    assert_eq!(world.take(caller), [end(Role::Send), answer]);
    assert_eq!(world.station.next_deadline(), None);
}

#[test]
fn either_side_may_end_it_with_an_error_or_altogether() {
    for from_caller in [true, false] {
        for last in [
            end(Role::Both),
            Frame::StreamError(StreamError {
                stream_id: ID,
                code: "cancelled".into(),
                message: "enough".into(),
                signer: None,
            }),
        ] {
            let mut world = World::new();
            let (provider, caller, stream) = session(&mut world, Mode::Bidi);
            let (from, on, to) =
                if from_caller { (caller, stream, provider) } else { (provider, FIRST, caller) };
            world.send_on(from, on, last.clone());
            assert_eq!(world.take(to), [last]);
            assert_eq!(world.station.next_deadline(), None);
        }
    }
}

#[test]
fn what_nobody_serves_is_refused_on_the_callers_stream() {
    let mut world = World::new();
    let caller = world.join(1);
    let stream = world.open(caller, 3);
    world.send_on(caller, stream, open_frame(&world, caller, Mode::Bidi));
    let raw = world.clients[caller].raw[0].clone();
    assert!(Received::decode(&raw[4..]).unwrap().verify(&world.station.node_id()).is_ok());
    let Frame::StreamError(error) = world.one(caller) else { panic!("no STREAM_ERROR") };
    assert_eq!((error.stream_id, error.code.as_str()), (ID, "unknown_next_peer"));
    assert_eq!(world.clients[caller].finished, [stream]);
}

/// Makes a frame, and says whether the caller is to send it.
type Misfit = fn(&World, Who, Who) -> (bool, Frame);

#[test]
fn frames_that_do_not_belong_end_the_call_on_both_sides() {
    let cases: [(Misfit, &str); 6] = [
        (|w, _, caller| (true, reply(w, caller)), "unknown_error"),
        (|w, provider, _| (true, data(w, provider, 0, Value::Null)), "signature_invalid"),
        (|w, _, caller| (false, reply(w, caller)), "signature_invalid"),
        (
            |_, _, _| {
                (true, Frame::StreamEnd(StreamEnd { stream_id: [1; 16], role: Role::Send, signer: None }))
            },
            "unknown_error",
        ),
        (
            |_, _, _| {
                let error = StreamError {
                    stream_id: [1; 16],
                    code: "x".into(),
                    message: String::new(),
                    signer: None,
                };
                (false, Frame::StreamError(error))
            },
            "unknown_error",
        ),
        (|w, _, caller| (false, data(w, caller, 0, Value::Null)), "signature_invalid"),
    ];
    for (make, code) in cases {
        let mut world = World::new();
        let (provider, caller, stream) = session(&mut world, Mode::Bidi);
        let (from_caller, frame) = make(&world, provider, caller);
        let (from, on) = if from_caller { (caller, stream) } else { (provider, FIRST) };
        world.send_on(from, on, frame);
        failed(&mut world, provider, caller, code);
    }
}

#[test]
fn data_after_the_end_and_forged_data_end_the_call() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::Bidi);
    world.send_on(caller, stream, end(Role::Send));
    world.take(provider);
    world.send_on(caller, stream, data(&world, caller, 0, Value::Null));
    failed(&mut world, provider, caller, "unknown_error");
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::Bidi);
    let forged = data(&world, caller, 0, Value::Null);
    world.send_signed(caller, stream, forged, &NodeKey::from_seed(&[9; 32]));
    failed(&mut world, provider, caller, "signature_invalid");
}

#[test]
fn a_side_that_goes_is_told_to_the_other_one() {
    for who_goes in 0..4 {
        let mut world = World::new();
        let (provider, caller, stream) = session(&mut world, Mode::Bidi);
        let left = match who_goes {
            0 => (world.vanish(provider), caller).1,
            1 => (world.vanish(caller), provider).1,
            2 => (world.close_stream(provider, FIRST), caller).1,
            _ => (world.close_stream(caller, stream), provider).1,
        };
        assert_eq!(error_code(&world.one(left)), "temporary_relay_failure");
        assert_eq!(world.clients[left].finished.len(), 1);
        assert_eq!(world.station.next_deadline(), None);
    }
}

#[test]
fn the_deadline_is_for_the_whole_call() {
    let mut world = World::new();
    let (provider, caller, _) = session(&mut world, Mode::Bidi);
    world.advance(59_999);
    world.send_on(provider, FIRST, data(&world, provider, 0, Value::Null));
    world.take(caller);
    world.advance(1);
    failed(&mut world, provider, caller, "temporary_relay_failure");
}

#[test]
fn when_the_far_side_does_not_read_the_near_side_is_not_read_from() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::ServerStream);
    let other = world.join(3);
    world.stalled.insert(caller);
    let mut sent = 0;
    while world.clients[provider].paused.is_empty() {
        world.send_on(provider, FIRST, data(&world, provider, sent, Value::Bytes(vec![0; 100_000])));
        sent += 1;
        assert!(sent < 20, "it is never paused");
    }
    assert_eq!(sent, 11, "once more than a mebibyte waits");
    world.send(other, crate::calls::call(&world, other, "_relay.ping", 1));
    assert!(world.reply(other).is_ok(), "others go on");
    world.read_on(caller);
    assert!(world.clients[provider].paused.is_empty());
    assert_eq!(world.take_on(caller).iter().filter(|(on, _)| *on == stream).count(), 11);
}

#[test]
fn a_paused_side_is_read_again_when_the_call_is_over() {
    let mut world = World::new();
    let (provider, caller, _) = session(&mut world, Mode::ServerStream);
    world.stalled.insert(caller);
    for seq in 0..12 {
        world.send_on(provider, FIRST, data(&world, provider, seq, Value::Bytes(vec![0; 100_000])));
    }
    assert_eq!(world.clients[provider].paused.len(), 1);
    world.vanish(caller);
    assert!(world.clients[provider].paused.is_empty());
}

#[test]
fn stream_open_is_for_a_stream_of_its_own_and_for_who_signs_it() {
    let mut world = World::new();
    let (provider, caller, stream) = session(&mut world, Mode::Bidi);
    world.send(caller, open_frame(&world, caller, Mode::Bidi));
    assert_eq!(world.station.counters().frames_skipped, 1, "not on the control stream");
    let another = world.open(caller, 4);
    let foreign = open_frame(&world, provider, Mode::Bidi);
    world.send_on(caller, another, foreign);
    assert_eq!(error_code(&world.one(caller)), "signature_invalid");
    let late = world.open(caller, 5);
    let Frame::StreamOpen(open) = open_frame(&world, caller, Mode::Bidi) else { unreachable!() };
    world.send_on(caller, late, Frame::StreamOpen(StreamOpen { deadline_ms: 5, ..open }));
    assert_eq!(error_code(&world.one(caller)), "expiry_too_soon");
    let skipped = world.station.counters().frames_skipped;
    world.send_on(caller, stream, open_frame(&world, caller, Mode::Bidi));
    world.send_on(caller, stream, crate::calls::call(&world, caller, "s", 1));
    let calls = world.open(caller, 6);
    world.send_on(caller, calls, crate::calls::call(&world, caller, "s", 1));
    world.send_on(caller, calls, open_frame(&world, caller, Mode::Bidi));
    assert_eq!(world.station.counters().frames_skipped, skipped + 3, "a stream is for one purpose");
}

#[test]
fn streams_of_past_calls_are_not_counted_whoever_closed_first() {
    let mut world = World::new();
    let (provider, caller) = (world.join(1), world.join(2));
    serve(&mut world, provider, "s");
    for n in 1..=300 {
        let (stream, back) = (world.open(caller, n), Stream::Ours(n));
        world.send_on(caller, stream, open_frame(&world, caller, Mode::ClientStream));
        world.send_on(caller, stream, end(Role::Send));
        let early = n % 2 == 0;
        if early {
            world.close_stream(caller, stream);
        }
        world.send_on(provider, back, reply(&world, provider));
        world.close_stream(provider, back);
        if !early {
            world.close_stream(caller, stream);
        }
    }
    let closed = (&world.clients[caller].closed, &world.clients[provider].closed);
    assert_eq!(closed, (&None, &None));
    assert_eq!(world.clients[caller].finished.len(), 300);
}
