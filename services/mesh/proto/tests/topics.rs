//! Publishers and subscribers over a wire that delays and is cut.

mod support;

use mesh_proto::pubsub::{Feed, Heard, Keep, Log, MAX_EVENT, Subscriber, TopicError, refusal_frame};
use mesh_proto::rpc::{CallError, Code};
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};
use support::{Arrival, End, Pair};

const KEEP: Keep = Keep { events: 10, bytes: 10_000 };

/// A publisher (A) and a subscriber (B) that connects anew when it is cut off.
struct World {
    pair: Pair,
    log: Log,
    feed: Feed,
    subscriber: Subscriber,
    heard: Vec<Heard>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (log, feed, subscriber) = (Log::new(1, KEEP), Feed::default(), Subscriber::default());
        Self { pair: Pair::new(seed), log, feed, subscriber, heard: vec![] }
    }

    fn connect(&mut self, seed: u64) {
        let now = self.pair.now;
        self.pair = Pair::new(seed);
        self.pair.now = now;
        self.feed = Feed::default();
        let frame = self.subscriber.connected();
        self.pair.send(End::B, &frame);
    }

    fn publish(&mut self, n: u32) {
        self.log.publish(&n.to_be_bytes()).unwrap();
        self.pump();
    }

    /// The stream takes all that there is.
    fn pump(&mut self) {
        while let Some(frame) = self.feed.next(&self.log) {
            self.pair.send(End::A, &frame);
        }
    }

    fn run(&mut self, until: u64) {
        while let Some(next) = self.pair.next_arrival().filter(|at| *at <= until) {
            self.pair.now = next;
            while let Some((end, arrival)) = self.pair.arrived() {
                match (end, arrival) {
                    (End::A, Arrival::Bytes(bytes)) => {
                        self.feed.received(&bytes, &self.log).unwrap();
                        self.pump();
                    }
                    (End::B, Arrival::Bytes(bytes)) => self.subscriber.received(&bytes),
                    (_, Arrival::Closed) => {}
                }
                while let Some(heard) = self.subscriber.poll().unwrap() {
                    self.heard.push(heard);
                }
            }
        }
        self.pair.now = until;
    }

    fn numbers(&self) -> Vec<u32> {
        let number = |heard: &Heard| match heard {
            Heard::Event { payload, .. } => Some(u32::from_be_bytes(payload[..].try_into().unwrap())),
            Heard::Missed(_) => None,
        };
        self.heard.iter().filter_map(number).collect()
    }
}

fn event(seq: u64, n: u32) -> Heard {
    Heard::Event { seq, payload: n.to_be_bytes().to_vec() }
}

#[test]
fn a_subscriber_hears_what_is_published_from_then_on() {
    let mut world = World::new(1);
    world.publish(1);
    world.connect(1);
    world.run(1000);
    world.publish(2);
    world.publish(3);
    world.run(2000);
    assert_eq!(world.heard, [event(2, 2), event(3, 3)]);
}

#[test]
fn a_new_connection_goes_on_where_the_old_one_broke_off() {
    for seed in 0..200 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut world = World::new(seed);
        world.log = Log::new(1, Keep { events: 40, ..KEEP });
        world.connect(seed);
        world.run(1000);
        let mut n = 0;
        // At most as many events as the log keeps.
        for round in 0..10 {
            for _ in 0..rng.random_range(0..5) {
                n += 1;
                world.publish(n);
            }
            let until = world.pair.now + rng.random_range(0..100);
            world.run(until);
            if rng.random_bool(0.5) {
                world.pair.cut();
                world.connect(seed * 100 + round);
                world.run(until + 200);
            }
        }
        world.run(world.pair.now + 1000);
        assert_eq!(
            world.numbers(),
            (1..=n).collect::<Vec<_>>(),
            "seed {seed}: nothing lost, twice or out of order"
        );
        assert!(!world.heard.iter().any(|heard| matches!(heard, Heard::Missed(_))), "seed {seed}");
    }
}

#[test]
fn who_was_away_too_long_is_told_how_much_it_missed() {
    let mut world = World::new(1);
    world.connect(1);
    world.run(1000);
    world.publish(1);
    world.run(2000);
    world.pair.cut();
    (2..=30).for_each(|n| world.log.publish(&u32::to_be_bytes(n)).map(drop).unwrap());
    world.connect(2);
    world.run(3000);
    assert_eq!(world.heard[..3], [event(1, 1), Heard::Missed(Some(19)), event(21, 21)]);
    assert_eq!(world.numbers().len(), 1 + 10);
}

#[test]
fn a_publisher_that_began_anew_is_noticed() {
    let mut world = World::new(1);
    world.connect(1);
    world.run(1000);
    world.publish(1);
    world.run(2000);
    world.pair.cut();
    world.log = Log::new(2, KEEP);
    world.log.publish(&7u32.to_be_bytes()).unwrap();
    world.connect(2);
    world.run(3000);
    assert_eq!(world.heard, [event(1, 1), Heard::Missed(None), event(1, 7)]);
}

/// The back-pressure of one reader is its own: its place in the log stands still, and nobody waits for it.
#[test]
fn a_slow_reader_holds_nobody_up_and_nothing_in_memory() {
    let mut log = Log::new(1, KEEP);
    let mut feeds = [Feed::default(), Feed::default()];
    for feed in &mut feeds {
        feed.received(&Subscriber::default().connected(), &log).unwrap();
    }
    let [fast, slow] = &mut feeds;
    let (mut at_fast, mut at_slow) = (Subscriber::default(), Subscriber::default());
    at_fast.connected();
    at_slow.connected();
    let mut heard = 0;
    for n in 0..1000u32 {
        log.publish(&n.to_be_bytes()).unwrap();
        while let Some(frame) = fast.next(&log) {
            at_fast.received(&frame);
        }
        while let Some(Heard::Event { seq, .. }) = at_fast.poll().unwrap() {
            heard += 1;
            assert_eq!(seq, heard);
        }
    }
    assert_eq!(heard, 1000);
    while let Some(frame) = slow.next(&log) {
        at_slow.received(&frame);
    }
    assert_eq!(at_slow.poll(), Ok(Some(Heard::Missed(Some(990)))));
    assert!(matches!(at_slow.poll(), Ok(Some(Heard::Event { seq: 991, .. }))));
}

#[test]
fn a_log_is_bounded_in_bytes_too() {
    let mut log = Log::new(1, KEEP);
    let mut feed = Feed::default();
    feed.received(&Subscriber::default().connected(), &log).unwrap();
    for _ in 0..5 {
        log.publish(&[0; 4000]).unwrap();
    }
    let frames: Vec<_> = std::iter::from_fn(|| feed.next(&log)).collect();
    assert_eq!(frames.len(), 2 + 2, "start, skip, and the two events that fit");
    assert_eq!(log.publish(&vec![0; MAX_EVENT + 1]), Err(TopicError::TooLarge(MAX_EVENT + 1)));
    assert_eq!(log.publish(&vec![0; MAX_EVENT]), Ok(6));
    assert!(feed.next(&log).is_some(), "the newest is kept, however large");
}

/// A subscriber never takes what a lying publisher sends for a plausible sequence.
#[test]
fn lies_are_refused() {
    let start = |epoch, seq| {
        let mut log = Log::new(epoch, KEEP);
        (0..seq).for_each(|_| log.publish(b"").map(drop).unwrap());
        let mut feed = Feed::default();
        feed.received(&Subscriber::default().connected(), &log).unwrap();
        feed.next(&log).unwrap()
    };
    let event = |seq: u64| {
        let mut log = Log::new(1, KEEP);
        let mut feed = Feed::default();
        (1..seq).for_each(|_| log.publish(b"").map(drop).unwrap());
        feed.received(&Subscriber::default().connected(), &log).unwrap();
        log.publish(b"x").unwrap();
        (feed.next(&log), feed.next(&log).unwrap()).1
    };
    for (what, frames) in [
        ("an event before the start", vec![event(1)]),
        ("two starts", vec![start(1, 0), start(1, 0)]),
        ("a gap that is not told", vec![start(1, 0), event(2)]),
        ("an event twice", vec![start(1, 0), event(1), event(1)]),
        ("a subscriber's message", vec![Subscriber::default().connected().into()]),
        ("junk", vec![vec![0, 0, 0, 1, 0xff].into()]),
    ] {
        let mut subscriber = Subscriber::default();
        subscriber.connected();
        frames.iter().for_each(|frame| subscriber.received(frame));
        let error = std::iter::from_fn(|| subscriber.poll().transpose()).find_map(Result::err);
        assert!(matches!(error, Some(TopicError::Protocol(_))), "{what}");
    }
    let mut feed = Feed::default();
    let log = Log::new(1, KEEP);
    assert!(feed.next(&log).is_none(), "nothing before the subscription");
    let twice = [Subscriber::default().connected(), Subscriber::default().connected()].concat();
    assert!(feed.received(&twice, &log).is_err());
}

#[test]
fn a_refusal_says_why() {
    let refusal = CallError::new(Code::FORBIDDEN, "not for you");
    let mut subscriber = Subscriber::default();
    subscriber.connected();
    subscriber.received(&refusal_frame(&refusal));
    assert_eq!(subscriber.poll(), Err(TopicError::Refused(refusal)));
}
