//! Clients that do anything at any time, from a seed: the station stays whole, and forgets all when they are gone.

use mesh_macula::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::calls::{a_call, result, serve};
use crate::world::*;

const STEPS: usize = 1200;
const KEYS: u8 = 6;

struct Chance {
    world: World,
    rng: Xoshiro256PlusPlus,
    /// Clients whose connections are still there.
    here: Vec<Who>,
    streams: u64,
}

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    fn somebody(&mut self) -> Option<Who> {
        let world = &self.world;
        self.here.retain(|who| world.clients[*who].closed.is_none());
        if self.here.is_empty() { None } else { Some(self.here[self.rng.random_range(0..self.here.len())]) }
    }

    fn stream(&mut self) -> Stream {
        let n = self.rng.random_range(0..4);
        match self.below(3) {
            0 => Stream::Control,
            1 => Stream::Ours(n),
            _ => Stream::Theirs(self.streams.saturating_sub(n)),
        }
    }

    fn frame(&mut self, who: Who) -> Frame {
        let (id, n) = (self.world.id(who), self.below(4) as u8);
        let name = ["a", "b", "c"][self.below(3)].to_string();
        let stream_id = [n; 16];
        let payload = Value::Bytes(vec![0; [0, 10, 90_000][self.below(3)]]);
        let advertise = Advertise { realm: REALM, procedure: name.clone(), advertiser: id };
        let subscribe = Subscribe { topic: name.clone(), realm: REALM, subscriber: id };
        match self.below(12) {
            0 => Frame::Advertise(advertise),
            1 => Frame::Unadvertise(Unadvertise(advertise)),
            2 => Frame::Subscribe(subscribe),
            3 => Frame::Unsubscribe(Unsubscribe(subscribe)),
            4 => Frame::Call(a_call(&self.world, who, &name, n)),
            5 => Frame::Call(Call {
                payload: Value::map([("key", Value::Bytes(vec![1; 32]))]),
                ..a_call(&self.world, who, "_dht.find_record", n)
            }),
            6 => result(&self.world, who, n),
            7 => Frame::StreamData(StreamData {
                stream_id,
                seq: 0,
                encoding: Encoding::Raw,
                body: payload,
                signer: None,
            }),
            8 => Frame::StreamEnd(StreamEnd {
                stream_id,
                role: [Role::Send, Role::Both][self.below(2)],
                signer: None,
            }),
            9 => Frame::StreamReply(StreamReply { stream_id, payload, responded_by: id }),
            10 => {
                let seq = self.rng.random_range(0..1000);
                let message = Message { topic: name, realm: REALM, publisher: id, seq, payload };
                Frame::Publish(Publish { message, published_at_ms: 0, ttl_ms: None, publisher_sig: None })
            }
            _ => Frame::Goodbye(Goodbye { reason: "normal".into(), detail: None }),
        }
    }

    fn open_session(&mut self, who: Who) {
        self.streams += 1;
        let stream = self.world.open(who, self.streams);
        let n = self.below(4) as u8;
        let open = StreamOpen {
            stream_id: [n; 16],
            procedure: ["a", "b", "c"][self.below(3)].into(),
            realm: REALM,
            mode: [Mode::ServerStream, Mode::ClientStream, Mode::Bidi][self.below(3)],
            args: Value::Null,
            deadline_ms: self.world.now.unix_ms + 5000,
            caller: self.world.id(who),
            source_route: vec![],
            retry_budget: 0,
        };
        self.world.send_on(who, stream, Frame::StreamOpen(open));
    }

    fn step(&mut self) {
        let Some(who) = self.somebody().filter(|_| self.rng.random_range(0..20) > 0) else {
            let seed = 1 + self.below(KEYS as usize) as u8;
            let who = self.world.join(seed);
            serve(&mut self.world, who, ["a", "b", "c"][who % 3]);
            return self.here.push(who);
        };
        match self.below(24) {
            0 => {
                self.world.vanish(who);
                self.here.retain(|other| *other != who);
            }
            1 => self.world.advance([1, 100, 6000][who % 3]),
            2 => drop(self.world.stalled.insert(who)),
            3 => self.world.read_on(who),
            4..=6 => self.open_session(who),
            7 => {
                let stream = self.stream();
                self.world.close_stream(who, stream);
            }
            8 | 9 => {
                for (token, _) in std::mem::take(&mut self.world.works) {
                    self.world.answer(token, Answer::Records(vec![]));
                }
            }
            _ => {
                let (stream, frame) = (self.stream(), self.frame(who));
                let rare = !matches!(frame, Frame::Goodbye(_)) || self.below(5) == 0;
                if rare {
                    self.world.send_on(who, stream, frame);
                }
            }
        }
    }
}

#[test]
fn whatever_clients_do_the_station_stays_whole_and_forgets_them() {
    let mut total = Counters::default();
    for seed in 0..4 {
        let world = World::with(Config { unsent_bytes_max: 3_000_000, ..Config::default() }, open_door);
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut chance = Chance { world, rng, here: vec![], streams: 0 };
        (0..STEPS).for_each(|_| chance.step());
        let Chance { mut world, here, .. } = chance;
        for who in here {
            world.vanish(who);
        }
        world.advance(300_000);
        assert_eq!(world.station.next_deadline(), None, "seed {seed}");
        assert_eq!(world.station.clients().count(), 0, "seed {seed}");
        let counters = world.station.counters();
        total.events += counters.events;
        total.calls += counters.calls;
        total.sessions += counters.sessions;
        total.answers_late += counters.answers_late;
    }
    let busy = total.events > 50 && total.calls > 100 && total.sessions > 50 && total.answers_late > 5;
    assert!(busy, "the dice show too little: {total:?}");
}
