//! Whole networks of nodes in one thread, in virtual time, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dht_proto::record_types::{PROVIDER, Provider, provider_key};
use dht_proto::{
    Action, Config, Contact, K, LookupId, Node, Outcome, Published, Request, RequestId, Response,
};
use os_identity::{NodeKey, domain};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const START_MS: u64 = 1_800_000_000_000;
const QUORUM: usize = 1;

#[test]
fn two_nodes_find_what_was_provided_before_they_met() {
    let mut network = Network::new(2, 0.0, 1);
    network.provide(0, 7);
    network.run(60_000);
    assert!(network.providers(1, 7).is_empty());
    network.introduce(1, 0);
    network.run(5_000);
    assert_eq!(network.providers(1, 7), [0]);
    assert_eq!(network.providers(0, 7), [0]);
    network.withdraw(0, 7);
    network.run(5_000);
    assert!(network.providers(1, 7).is_empty());
    assert!(network.providers(0, 7).is_empty());
}

#[test]
fn a_quiet_network_is_quiet_and_records_outlive_their_first_hours() {
    let mut network = Network::new(3, 0.0, 2);
    network.join_all();
    network.provide(0, 7);
    network.run(60_000);
    let before = network.requests;
    network.run(10 * 3600 * 1000);
    let per_node_and_hour = (network.requests - before) as f64 / 30.0;
    assert!(per_node_and_hour < 20.0, "{per_node_and_hour} requests");
    assert_eq!(network.providers(2, 7), [0], "published anew, although the first record has expired");
    network.kill(0);
    network.run(6 * 3600 * 1000);
    assert!(network.providers(2, 7).is_empty(), "expired with its signer");
}

#[test]
fn lookups_succeed_after_a_third_of_the_nodes_died() {
    let (success, report) = churn(3);
    println!("{report}");
    assert!(success >= 0.99, "{report}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(churn(4), churn(4));
}

/// 200 nodes join through one, each provides something, 30 % die without notice.
fn churn(seed: u64) -> (f64, String) {
    let mut network = Network::new(200, 0.01, seed);
    network.join_all();
    network.run(60_000);
    (0..200).for_each(|n| network.provide(n, n));
    network.run(60_000);
    assert!((0..200).all(|n| network.nodes[n].as_ref().is_some_and(|node| node.table().len() >= K)));
    let copies: Vec<u32> = network.published.iter().map(|p| p.stored).collect();
    assert!(copies.len() >= 200 && copies.iter().all(|stored| *stored >= K as u32 / 2), "{copies:?}");
    (0..60).for_each(|_| network.kill_one());

    let (mut found, mut hops, mut requests, mut elapsed) = (0, 0, 0, 0);
    let lookups = 1000;
    for _ in 0..lookups {
        let (who, what) = (network.living(), network.rng.random_range(0..200));
        let outcome = network.find(who, what);
        let provider = network.keys[what].node_id();
        found += usize::from(outcome.records.iter().any(|r| r.statement.signer == provider));
        hops += usize::from(outcome.hops);
        requests += outcome.requests as usize;
        elapsed += outcome.elapsed_ms;
    }
    let mean = |sum: usize| sum as f64 / lookups as f64;
    let success = mean(found);
    let (hops, requests) = (mean(hops), mean(requests));
    let report = format!(
        "found {success}, {hops} hops, {requests} requests, {} ms, {} messages in all",
        elapsed / lookups,
        network.requests
    );
    (success, report)
}

struct Network {
    now_ms: u64,
    rng: Xoshiro256PlusPlus,
    loss: f64,
    keys: Vec<NodeKey>,
    nodes: Vec<Option<Node>>,
    index: BTreeMap<os_identity::NodeId, usize>,
    /// Messages and wake-ups, in order of time and then of making.
    events: BTreeMap<(u64, u64), Event>,
    wakes: BTreeSet<(usize, u64)>,
    made: u64,
    requests: u64,
    found: BTreeMap<(usize, LookupId), Outcome>,
    published: Vec<Published>,
}

enum Event {
    Request { from: usize, to: usize, id: RequestId, bytes: Vec<u8> },
    Response { to: usize, id: RequestId, bytes: Vec<u8> },
    Wake(usize),
}

impl Network {
    fn new(count: usize, loss: f64, seed: u64) -> Self {
        let key = |n: usize| NodeKey::from_seed(blake3::hash(&[n as u8, seed as u8]).as_bytes());
        let keys: Vec<NodeKey> = (0..count).map(key).collect();
        let node = |(n, key): (usize, &NodeKey)| {
            let mut node = Node::new(key.node_id(), Config::default(), seed ^ n as u64);
            node.set_addresses([address(n)]);
            Some(node)
        };
        Network {
            now_ms: START_MS,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            loss,
            nodes: keys.iter().enumerate().map(node).collect(),
            index: keys.iter().enumerate().map(|(n, key)| (key.node_id(), n)).collect(),
            keys,
            events: BTreeMap::new(),
            wakes: BTreeSet::new(),
            made: 0,
            requests: 0,
            found: BTreeMap::new(),
            published: Vec::new(),
        }
    }

    fn join_all(&mut self) {
        for n in 1..self.nodes.len() {
            self.introduce(n, 0);
            self.run(100);
        }
    }

    fn introduce(&mut self, n: usize, other: usize) {
        let contact = Contact::new(self.keys[other].node_id(), [address(other)]);
        self.with(n, |node, now| node.remember([contact], now));
    }

    fn provide(&mut self, n: usize, what: usize) {
        let draft = provider(n, what, false).draft();
        self.with(n, |node, now| node.provide(draft, now).unwrap());
    }

    fn withdraw(&mut self, n: usize, what: usize) {
        let farewell = provider(n, what, true).draft();
        assert!(self.with(n, |node, now| node.withdraw(farewell, now)));
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
    }

    fn kill_one(&mut self) {
        let n = self.living();
        self.kill(n);
    }

    fn living(&mut self) -> usize {
        let living: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].is_some()).collect();
        *living.choose(&mut self.rng).unwrap()
    }

    fn find(&mut self, n: usize, what: usize) -> Outcome {
        let key = provider_key(&mcid(what));
        let id = self.with(n, |node, now| node.find_records(key, Some(PROVIDER), QUORUM, now).unwrap());
        let deadline = self.now_ms + 60_000;
        loop {
            if let Some(outcome) = self.found.remove(&(n, id)) {
                return outcome;
            }
            assert!(self.step(deadline), "a lookup never ended");
        }
    }

    fn providers(&mut self, n: usize, what: usize) -> Vec<usize> {
        let records = self.find(n, what).records;
        let parse = |r: &Arc<dht_proto::Record>| Provider::parse(&r.statement.payload).unwrap();
        let living = records.iter().filter(|r| !parse(r).withdrawn);
        living.map(|r| self.index[&r.statement.signer]).collect()
    }

    fn run(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.step(until) {}
        self.now_ms = until;
    }

    /// The next event, if there is one until then.
    fn step(&mut self, until_ms: u64) -> bool {
        let Some(((at, _), event)) = self.events.pop_first() else { return false };
        if at > until_ms {
            self.schedule_at(at, event);
            return false;
        }
        self.now_ms = at;
        match event {
            Event::Wake(n) => {
                self.wakes.remove(&(n, at));
                self.with_living(n, |node, now| node.handle_timeout(now));
            }
            Event::Request { from, to, id, bytes } => {
                let (request, sender) = (Request::from_bytes(&bytes).unwrap(), self.keys[from].node_id());
                let response = self.with_living(to, |node, now| node.handle_request(sender, request, now));
                if let Some(response) = response {
                    self.deliver(Event::Response { to: from, id, bytes: response.to_bytes() });
                }
            }
            Event::Response { to, id, bytes } => {
                let response = Response::from_bytes(&bytes).unwrap();
                self.with_living(to, |node, now| node.on_response(id, response, now));
            }
        }
        true
    }

    fn with<T>(&mut self, n: usize, act: impl FnOnce(&mut Node, u64) -> T) -> T {
        self.with_living(n, act).expect("a living node")
    }

    /// Lets a node act and carries out what it wants done.
    fn with_living<T>(&mut self, n: usize, act: impl FnOnce(&mut Node, u64) -> T) -> Option<T> {
        let mut node = self.nodes[n].take()?;
        let result = act(&mut node, self.now_ms);
        while let Some(action) = node.poll_action() {
            match action {
                Action::Send { id, to, request } => {
                    let to = self.index[&to.id];
                    assert_ne!(to, n, "asked itself");
                    self.requests += 1;
                    self.deliver(Event::Request { from: n, to, id, bytes: request.to_bytes() });
                }
                Action::Found { id, outcome } => {
                    self.found.insert((n, id), outcome);
                }
                Action::Sign(statement) => {
                    let signature = self.keys[n].sign(domain::DHT_RECORD, &statement.signing_bytes());
                    node.on_signed(statement.signed(signature), self.now_ms).unwrap();
                }
                Action::Published(published) => self.published.push(published),
            }
        }
        if let Some(at) = node.next_deadline(self.now_ms) {
            let at = at.max(self.now_ms + 1);
            if self.wakes.range((n, 0)..=(n, at)).next().is_none() {
                self.wakes.insert((n, at));
                self.schedule_at(at, Event::Wake(n));
            }
        }
        self.nodes[n] = Some(node);
        Some(result)
    }

    fn deliver(&mut self, event: Event) {
        if !self.rng.random_bool(self.loss) {
            let at = self.now_ms + self.rng.random_range(5..80);
            self.schedule_at(at, event);
        }
    }

    fn schedule_at(&mut self, at_ms: u64, event: Event) {
        self.made += 1;
        self.events.insert((at_ms, self.made), event);
    }
}

fn mcid(n: usize) -> [u8; 34] {
    let mut mcid = [n as u8; 34];
    (mcid[0], mcid[1]) = (1, 0x56);
    mcid
}

fn provider(n: usize, what: usize, withdrawn: bool) -> Provider {
    Provider { mcid: mcid(what), addresses: [address(n)].into(), withdrawn }
}

fn address(n: usize) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, n as u8 + 1], 4433))
}
