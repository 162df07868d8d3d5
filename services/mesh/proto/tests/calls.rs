//! Calls between two ends, over a wire that delays, tears, loses and lies.

mod support;

use mesh_proto::rpc::{Call, CallError, Code, Event, MAX_MESSAGE, Mode, Role, SendError, error_frame};
use support::{Arrival, End, Pair};

/// A call with both of its ends, and all that each has been told.
struct World {
    pair: Pair,
    caller: Call,
    callee: Call,
    at_caller: Vec<Event>,
    at_callee: Vec<Event>,
}

impl World {
    fn new(seed: u64, mode: Mode, deadline_ms: Option<u32>) -> Self {
        Self {
            pair: Pair::new(seed),
            caller: Call::new(Role::Caller, mode, deadline_ms, 0),
            callee: Call::new(Role::Callee, mode, deadline_ms, 0),
            at_caller: vec![],
            at_callee: vec![],
        }
    }

    fn call(&mut self, messages: &[&[u8]]) {
        for message in messages {
            let frame = self.caller.message(message).unwrap();
            self.pair.send(End::A, &frame);
        }
        let frame = self.caller.end().unwrap();
        self.pair.send(End::A, &frame);
    }

    fn answer(&mut self, messages: &[&[u8]]) {
        for message in messages {
            let frame = self.callee.message(message).unwrap();
            self.pair.send(End::B, &frame);
        }
        let frame = self.callee.end().unwrap();
        self.pair.send(End::B, &frame);
    }

    /// Lets time pass until nothing more happens.
    fn run(&mut self) {
        loop {
            while let Some((end, arrival)) = self.pair.arrived() {
                self.take(end, arrival);
            }
            let deadlines = [self.caller.deadline(), self.callee.deadline(), self.pair.next_arrival()];
            let Some(next) = deadlines.into_iter().flatten().min() else { return };
            self.pair.now = self.pair.now.max(next);
            for end in [End::A, End::B] {
                let now = self.pair.now;
                let event = self.end(end).0.timer(now);
                self.note(end, event);
            }
        }
    }

    fn take(&mut self, end: End, arrival: Arrival) {
        let call = self.end(end).0;
        match arrival {
            Arrival::Bytes(bytes) => {
                call.received(&bytes);
                while let Some(event) = self.end(end).0.poll() {
                    self.note(end, Some(event));
                }
            }
            Arrival::Closed => {
                let event = call.closed();
                self.note(end, event);
            }
        }
    }

    fn note(&mut self, end: End, event: Option<Event>) {
        if let Some(Event::Failed { tell: Some(frame), .. }) = &event {
            self.pair.send(end, frame);
        }
        self.end(end).1.extend(event);
    }

    fn end(&mut self, end: End) -> (&mut Call, &mut Vec<Event>) {
        match end {
            End::A => (&mut self.caller, &mut self.at_caller),
            End::B => (&mut self.callee, &mut self.at_callee),
        }
    }
}

fn message(text: &[u8]) -> Event {
    Event::Message(text.to_vec())
}

fn failed(events: &[Event]) -> Option<Code> {
    match events.last() {
        Some(Event::Failed { error, .. }) => Some(error.code),
        _ => None,
    }
}

#[test]
fn every_mode_carries_its_messages_in_order() {
    let large = vec![7; MAX_MESSAGE];
    let many: [&[u8]; 4] = [b"one", b"", &large, b"four"];
    for (seed, mode, asked, answered) in [
        (1, Mode::Unary, &many[..1], &many[2..3]),
        (2, Mode::Server, &many[..1], &many[..]),
        (3, Mode::Client, &many[..], &many[..1]),
        (4, Mode::Both, &many[..], &many[..]),
        (5, Mode::Both, &many[..0], &many[..0]),
    ] {
        let mut world = World::new(seed, mode, Some(60_000));
        world.call(asked);
        world.run_until_asked();
        world.answer(answered);
        world.run();
        let expect =
            |list: &[&[u8]]| list.iter().map(|m| message(m)).chain([Event::PeerEnded]).collect::<Vec<_>>();
        assert_eq!(world.at_callee, expect(asked), "{mode:?}");
        assert_eq!(world.at_caller, expect(answered), "{mode:?}");
        assert!(world.caller.is_over() && world.callee.is_over());
    }
}

impl World {
    fn run_until_asked(&mut self) {
        while self.at_callee.last() != Some(&Event::PeerEnded) {
            self.pair.now = self.pair.next_arrival().expect("nothing is on its way");
            while let Some((end, arrival)) = self.pair.arrived() {
                self.take(end, arrival);
            }
        }
    }
}

#[test]
fn a_mode_is_kept_by_the_sender_and_checked_by_the_receiver() {
    let mut call = Call::new(Role::Caller, Mode::Unary, None, 0);
    call.message(b"one").unwrap();
    assert_eq!(call.message(b"two"), Err(SendError::Ended));
    assert_eq!(call.message(&vec![0; MAX_MESSAGE + 1]), Err(SendError::TooLarge(MAX_MESSAGE + 1)));
    call.end().unwrap();
    assert_eq!(call.end(), Err(SendError::Ended));

    // A caller that takes the procedure for a streaming one.
    let mut world = World::new(1, Mode::Unary, None);
    world.caller = Call::new(Role::Caller, Mode::Both, None, 0);
    world.call(&[b"one", b"two"]);
    world.run();
    assert_eq!(failed(&world.at_callee), Some(Code::PROTOCOL));
    assert_eq!(failed(&world.at_caller), Some(Code::PROTOCOL), "it is told");

    let mut world = World::new(1, Mode::Unary, None);
    world.caller = Call::new(Role::Caller, Mode::Both, None, 0);
    world.call(&[]);
    world.run();
    assert_eq!(failed(&world.at_callee), Some(Code::PROTOCOL), "ended without its message");
}

#[test]
fn a_deadline_ends_the_call_at_both_ends_without_the_other() {
    let mut world = World::new(1, Mode::Unary, Some(1000));
    world.call(&[b"are you there?"]);
    world.run();
    assert_eq!(
        (failed(&world.at_caller), failed(&world.at_callee)),
        (Some(Code::DEADLINE), Some(Code::DEADLINE))
    );
    assert!((1000..1100).contains(&world.pair.now), "{}", world.pair.now);

    let mut world = World::new(1, Mode::Unary, Some(1000));
    world.call(&[b"are you there?"]);
    world.pair.cut();
    world.run();
    assert_eq!(failed(&world.at_callee), Some(Code::CANCELLED));
    assert_eq!(failed(&world.at_caller), Some(Code::UNAVAILABLE));
}

#[test]
fn a_refusal_and_a_cancellation_cross_with_their_reasons() {
    let error = CallError::new(Code(Code::FIRST_OF_PROCEDURE + 3), "no such sensor");
    let mut world = World::new(1, Mode::Both, None);
    world.call(&[b"read"]);
    let frame = world.callee.fail(&error).unwrap();
    world.pair.send(End::B, &frame);
    world.run();
    assert_eq!(world.at_caller, [Event::Failed { error: error.clone(), tell: None }]);
    assert_eq!(world.callee.message(b"late"), Err(SendError::Ended));

    let cancelled = CallError::new(Code::CANCELLED, "the person has left");
    let mut world = World::new(1, Mode::Server, None);
    let frames = [world.caller.message(b"count").unwrap(), world.caller.fail(&cancelled).unwrap()];
    frames.iter().for_each(|frame| world.pair.send(End::A, frame));
    world.run();
    assert_eq!(world.at_callee, [message(b"count"), Event::Failed { error: cancelled, tell: None }]);

    let long = CallError::new(Code::INTERNAL, "é".repeat(1000));
    assert_eq!(long.text.len(), 1024);
    let mut call = Call::new(Role::Caller, Mode::Unary, None, 0);
    call.received(&error_frame(&long));
    assert_eq!(call.poll(), Some(Event::Failed { error: long, tell: None }));
}

/// Whatever is cut, no end believes that a call went well when it did not.
#[test]
fn an_answer_cut_anywhere_is_never_taken_for_a_whole_one() {
    let mut whole = World::new(1, Mode::Server, None);
    whole.answer(&[b"one", b"two"]);
    let frames = {
        let mut callee = Call::new(Role::Callee, Mode::Server, None, 0);
        [callee.message(b"one").unwrap(), callee.message(b"two").unwrap(), callee.end().unwrap()].concat()
    };
    for cut in 0..frames.len() {
        let mut caller = Call::new(Role::Caller, Mode::Server, None, 0);
        caller.received(&frames[..cut]);
        let mut events = vec![];
        while let Some(event) = caller.poll() {
            events.push(event);
        }
        events.extend(caller.closed());
        assert_eq!(failed(&events), Some(Code::UNAVAILABLE), "cut at {cut}");
    }
}

#[test]
fn garbage_ends_a_call_once_and_never_panics() {
    use rand::rngs::ChaCha12Rng;
    use rand::{Rng, RngExt, SeedableRng};
    let mut callee = Call::new(Role::Callee, Mode::Both, None, 0);
    let good = [callee.message(b"a message").unwrap(), callee.end().unwrap()].concat();
    for seed in 0..5000 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut bytes = good.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.next_u32() as u8;
        }
        let mut caller = Call::new(Role::Caller, Mode::Both, None, 0);
        caller.received(&bytes);
        let mut failures = 0;
        while let Some(event) = caller.poll() {
            failures += u32::from(matches!(event, Event::Failed { .. }));
        }
        failures += u32::from(caller.closed().is_some());
        assert!(failures <= 1 && caller.is_over(), "seed {seed}");
    }
}
