//! The scheduler against simulated providers, in virtual time.

use std::collections::BTreeSet;

use os_content_id::hash;

use super::*;

/// How a simulated provider behaves.
#[derive(Clone)]
struct Peer {
    bytes_per_ms: u64,
    latency_ms: u64,
    /// Sends a flipped byte in its n-th block.
    lies_at: Option<u32>,
    /// Its stream ends after so many blocks, and nobody answers there any more.
    dies_after: Option<u32>,
    /// Chunk indices that it does not have.
    lacks: BTreeSet<u32>,
}

fn peer(bytes_per_ms: u64) -> Peer {
    Peer { bytes_per_ms, latency_ms: 5, lies_at: None, dies_after: None, lacks: BTreeSet::new() }
}

struct Running {
    peer: Peer,
    queue: VecDeque<Hash>,
    /// When the block being sent has arrived.
    arrives_at: Option<u64>,
    sent: u32,
    dead: bool,
}

struct Sim {
    chunks: Vec<Vec<u8>>,
    local: BTreeSet<u32>,
    peers: BTreeMap<&'static str, Running>,
    download: Download<&'static str>,
    now: u64,
    delivered: Vec<u32>,
    most_held: usize,
}

const LEN: usize = 64 * 1024;

impl Sim {
    fn new(count: u32, peers: &[(&'static str, Peer)]) -> Self {
        let chunks: Vec<Vec<u8>> =
            (0..count).map(|i| i.to_le_bytes().into_iter().cycle().take(LEN).collect()).collect();
        let wanted = chunks
            .iter()
            .enumerate()
            .map(|(i, c)| Wanted { index: i as u32, hash: hash(c), len: LEN as u32 })
            .collect();
        let mut download = Download::new(wanted, 0);
        let running = |p: &Peer| Running {
            peer: p.clone(),
            queue: VecDeque::new(),
            arrives_at: None,
            sent: 0,
            dead: false,
        };
        for (name, _) in peers {
            download.add_provider(*name, 0);
        }
        let peers = peers.iter().map(|(n, p)| (*n, running(p))).collect();
        Self { chunks, local: BTreeSet::new(), peers, download, now: 0, delivered: vec![], most_held: 0 }
    }

    /// Runs until finished or stalled for 60 s; the time it took.
    fn run(&mut self) -> u64 {
        while !self.download.finished() && self.download.stalled_ms(self.now) < 60_000 {
            for action in self.download.poll(self.now) {
                self.act(action);
            }
            let held = self.download.slots.iter().filter(|s| matches!(s, State::Have(..))).count();
            self.most_held = self.most_held.max(held);
            while let Some((w, bytes, _)) = self.download.next(self.now) {
                assert_eq!(**bytes, self.chunks[w.index as usize], "delivered bytes are the right ones");
                self.delivered.push(w.index);
            }
            self.advance();
        }
        self.now
    }

    fn act(&mut self, action: Action<&'static str>) {
        match action {
            Action::Local(h) => {
                let here = self.local.iter().map(|i| &self.chunks[*i as usize]).find(|c| hash(c) == h);
                self.download.local(&h, here.map(|c| Checked::new(h, c.clone())), self.now);
            }
            Action::Connect(p) if self.peers[p].dead => self.download.failed(&p, "unreachable", self.now),
            Action::Connect(p) => self.download.connected(&p, self.now),
            Action::Want(p, hashes) => {
                if let Some(r) = self.peers.get_mut(p) {
                    r.queue.extend(hashes);
                }
            }
            Action::Close(p) => {
                if let Some(r) = self.peers.get_mut(p) {
                    r.queue.clear();
                    r.arrives_at = None;
                }
            }
        }
    }

    /// One millisecond of everybody's life.
    fn advance(&mut self) {
        self.now += 1;
        for (name, r) in &mut self.peers {
            if r.arrives_at.is_none() && !r.queue.is_empty() {
                let gap = if r.sent == 0 { r.peer.latency_ms } else { 0 };
                r.arrives_at = Some(self.now + gap + LEN as u64 / r.peer.bytes_per_ms);
            }
            if r.arrives_at.is_none_or(|at| at > self.now) {
                continue;
            }
            r.arrives_at = None;
            if r.peer.dies_after.is_some_and(|n| r.sent >= n) {
                r.dead = true;
                r.queue.clear();
                self.download.failed(name, "stream ended", self.now);
                continue;
            }
            let Some(h) = r.queue.pop_front() else { continue };
            let index = self.chunks.iter().position(|c| hash(c) == h).unwrap();
            if r.peer.lacks.contains(&(index as u32)) {
                self.download.reply(name, Reply::Missing(h), self.now);
                continue;
            }
            let mut bytes = self.chunks[index].clone();
            if r.peer.lies_at == Some(r.sent) {
                bytes[77] ^= 1;
            }
            r.sent += 1;
            self.download.reply(name, Reply::Block(Checked::new(h, bytes)), self.now);
        }
    }

    fn bytes(&self, name: &str) -> u64 {
        self.download.bytes_from().1.iter().find(|(n, _)| *n == name).map_or(0, |(_, b)| *b)
    }

    fn reason(&self, name: &str) -> Option<String> {
        self.download.dropped().into_iter().find(|(n, _)| *n == name).map(|(_, r)| r)
    }

    fn assert_complete(&self) {
        assert!(
            self.download.finished(),
            "stopped at {:?}: {}",
            self.delivered.last(),
            self.download.tried()
        );
        assert!(self.delivered.iter().copied().eq(0..self.chunks.len() as u32), "in order, each once");
    }
}

#[test]
fn two_equal_providers_share_the_work() {
    let mut one = Sim::new(200, &[("a", peer(1000))]);
    let alone = one.run();
    one.assert_complete();
    let mut two = Sim::new(200, &[("a", peer(1000)), ("b", peer(1000))]);
    let together = two.run();
    two.assert_complete();
    assert!(together * 10 < alone * 6, "{together} ms with two, {alone} ms with one");
    let total: u64 = two.bytes("a") + two.bytes("b");
    assert!(total <= 203 * LEN as u64, "hardly anything is sent twice: {total}");
    assert!(two.most_held <= two.download.window);
}

#[test]
fn a_lying_provider_is_dropped_for_good_and_its_chunk_comes_from_elsewhere() {
    let liar = Peer { lies_at: Some(3), ..peer(2000) };
    let mut sim = Sim::new(100, &[("honest", peer(1000)), ("liar", liar)]);
    sim.run();
    sim.assert_complete();
    let reason = sim.reason("liar").unwrap();
    assert!(reason.starts_with("chunk ") && reason.ends_with(" does not match its hash"), "{reason}");
    assert_eq!(sim.peers["liar"].sent, 4, "nothing is asked after the lie");
    sim.download.add_provider("liar", sim.now);
    assert!(sim.reason("liar").is_some(), "a new announcement does not bring it back");
}

#[test]
fn a_lone_liar_ends_in_an_error_that_names_it() {
    let mut sim = Sim::new(10, &[("liar", Peer { lies_at: Some(0), ..peer(1000) })]);
    sim.run();
    assert!(sim.delivered.is_empty() && !sim.download.finished());
    assert_eq!(sim.download.tried(), "liar: chunk 0 does not match its hash");
    assert_eq!(sim.download.waiting_for(), Some(0));
}

#[test]
fn a_slow_provider_does_not_hold_up_a_fast_one() {
    let mut alone = Sim::new(300, &[("fast", peer(2000))]);
    let alone_ms = alone.run();
    let mut sim = Sim::new(300, &[("fast", peer(2000)), ("slow", peer(20))]);
    let ms = sim.run();
    sim.assert_complete();
    assert!(ms < alone_ms * 13 / 10 + 200, "{ms} ms beside a slow one, {alone_ms} ms without");
    assert!(sim.bytes("fast") > 20 * sim.bytes("slow"));
    assert_eq!(sim.reason("slow"), None, "slow is no crime");
}

#[test]
fn a_dying_provider_is_replaced_and_named() {
    let dying = Peer { dies_after: Some(20), ..peer(3000) };
    let mut sim = Sim::new(150, &[("dying", dying), ("steady", peer(500))]);
    sim.run();
    sim.assert_complete();
    assert_eq!(sim.bytes("dying"), 20 * LEN as u64);
    assert_eq!(sim.reason("dying").as_deref(), Some("unreachable"));
}

#[test]
fn a_provider_that_falls_silent_is_given_up() {
    let silent = Peer { latency_ms: 10_000_000, ..peer(1000) };
    let mut sim = Sim::new(50, &[("silent", silent.clone()), ("steady", peer(500))]);
    sim.run();
    sim.assert_complete();
    assert!(sim.now < 25_000, "{}", sim.now);
    let mut sim = Sim::new(50, &[("silent", silent)]);
    assert!(sim.run() >= 60_000);
    assert_eq!(sim.download.tried(), "silent: sent nothing for too long");
}

#[test]
fn chunks_that_one_lacks_come_from_the_other() {
    let half = Peer { lacks: (0..40).filter(|i| i % 2 == 0).collect(), ..peer(1000) };
    let other = Peer { lacks: (0..40).filter(|i| i % 2 == 1).collect(), ..peer(1000) };
    let mut sim = Sim::new(40, &[("even", other), ("odd", half)]);
    sim.run();
    sim.assert_complete();
    assert_eq!((sim.bytes("even"), sim.bytes("odd")), (20 * LEN as u64, 20 * LEN as u64));
    assert!(sim.download.dropped().is_empty());
}

#[test]
fn what_is_here_is_not_asked_of_others_and_repeated_chunks_once() {
    let mut sim = Sim::new(30, &[("a", peer(1000))]);
    sim.local = (0..30).filter(|i| i % 3 != 0).collect();
    sim.run();
    sim.assert_complete();
    assert_eq!(sim.download.bytes_from(), (20 * LEN as u64, vec![("a", 10 * LEN as u64)]));

    let chunk = vec![0; 1000];
    let w = |index| Wanted { index, hash: hash(&chunk), len: 1000 };
    let mut d = Download::new((0..10).map(w).collect(), 0);
    d.add_provider("a", 0);
    let first = d.poll(0);
    assert_eq!(first, vec![Action::Local(hash(&chunk))]);
    d.local(&hash(&chunk), None, 0);
    assert_eq!(d.poll(0), vec![Action::Connect("a")]);
    d.connected(&"a", 0);
    assert_eq!(d.poll(0), vec![Action::Want("a", vec![hash(&chunk)])]);
    d.reply(&"a", Reply::Block(Checked::new(hash(&chunk), chunk)), 1);
    assert_eq!(std::iter::from_fn(|| d.next(1)).count(), 10);
    assert!(d.finished());
}

#[test]
fn unasked_and_misshapen_answers_are_lies() {
    let chunk = vec![5; 1000];
    let w = Wanted { index: 9, hash: hash(&chunk), len: 999 };
    let start = || {
        let mut d = Download::new(vec![w], 0);
        d.add_provider("a", 0);
        d.poll(0);
        d.local(&w.hash, None, 0);
        d.poll(0);
        d.connected(&"a", 0);
        d.poll(0);
        d
    };
    let mut d = start();
    d.reply(&"a", Reply::Block(Checked::new(hash(b"other"), b"other".to_vec())), 1);
    assert_eq!(d.dropped()[0].1, "answered with a chunk that it was not asked for");
    assert_eq!(d.poll(1), vec![Action::Close("a")]);
    let mut d = start();
    d.reply(&"a", Reply::Block(Checked::new(w.hash, chunk)), 1);
    assert_eq!(d.dropped()[0].1, "chunk 9 has 1000 bytes, its manifest says 999");
    let mut d = start();
    d.failed(&"a", "stream ended", 1);
    d.reply(&"a", Reply::Missing(w.hash), 2);
    assert_eq!(d.next_deadline(2), Some(501), "a late answer of a closed stream changes nothing");
}

#[test]
fn a_slow_consumer_is_not_a_stalled_download() {
    let mut sim = Sim::new(100, &[("a", peer(100_000))]);
    for _ in 0..5000 {
        for action in sim.download.poll(sim.now) {
            sim.act(action);
        }
        sim.advance();
    }
    assert_eq!(sim.download.stalled_ms(sim.now), 0);
    let held = sim.download.slots.iter().filter(|s| matches!(s, State::Have(..))).count();
    assert_eq!(held, sim.download.window, "the window fills and no more");
    sim.run();
    sim.assert_complete();
}
