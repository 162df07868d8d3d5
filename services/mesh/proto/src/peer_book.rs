//! Who is known, where they may be reached, and when to dial whom.
//!
//! Pure: `now` is passed in (milliseconds of any steady clock). Bounded: [`MAX_PEERS`] peers with [`MAX_ADDRESSES`] addresses
//! each; when full, the peer heard of longest ago that is neither connected nor a seed makes room.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use os_identity::NodeId;

pub const MAX_PEERS: usize = 1024;
pub const MAX_ADDRESSES: usize = 8;
/// Peers kept connected without anybody asking for a stream to them.
const KEEP_CONNECTED: usize = 32;
const FIRST_RETRY_MS: u64 = 1_000;
const LAST_RETRY_MS: u64 = 60_000;
/// A peer known only from the DHT is forgotten when it was not heard of for so long.
const FORGET_MS: u64 = 24 * 3600 * 1000;

/// How a peer became known; the better word wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Dht,
    Incoming,
    Mdns,
    Seed,
}

impl Source {
    pub fn word(self) -> &'static str {
        match self {
            Source::Dht => "dht",
            Source::Incoming => "incoming",
            Source::Mdns => "mdns",
            Source::Seed => "seed",
        }
    }
}

/// What is known of one peer.
#[derive(Debug, Clone)]
pub struct Peer {
    pub source: Source,
    /// Most recently confirmed first.
    pub addresses: Vec<SocketAddr>,
    pub connections: u32,
    pub last_error: String,
    heard_ms: u64,
    next_dial_ms: u64,
    retry_ms: u64,
    dialing: bool,
}

/// A connection that should be tried now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    pub node: NodeId,
    pub addresses: Vec<SocketAddr>,
}

/// The book itself. `me` is never in it.
pub struct PeerBook {
    me: NodeId,
    peers: BTreeMap<NodeId, Peer>,
}

impl PeerBook {
    pub fn new(me: NodeId) -> Self {
        Self { me, peers: BTreeMap::new() }
    }

    pub fn get(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(node)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers.iter()
    }

    /// Notes where a node may be reached. `false`: the book is full of better peers, or this is ourselves.
    pub fn learn(&mut self, node: NodeId, addresses: &[SocketAddr], source: Source, now: u64) -> bool {
        if node == self.me || !self.make_room(&node, source) {
            return false;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(source, now));
        let fresh: Vec<_> = addresses.iter().filter(|a| !peer.addresses.contains(a)).copied().collect();
        if source > peer.source || (source >= Source::Mdns && !fresh.is_empty()) {
            // Somebody nearer than the DHT says it is there: worth a dial right away.
            peer.next_dial_ms = now;
            peer.retry_ms = FIRST_RETRY_MS;
        }
        peer.source = peer.source.max(source);
        peer.heard_ms = now;
        peer.addresses.splice(0..0, fresh);
        peer.addresses.truncate(MAX_ADDRESSES);
        true
    }

    /// A connection to the node is up. `address` is the far end of one that we dialled. `true`: it is the first one.
    pub fn connected(&mut self, node: NodeId, address: Option<SocketAddr>, now: u64) -> bool {
        self.learn(node, &[], Source::Incoming, now);
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        if let Some(address) = address {
            peer.addresses.retain(|a| *a != address);
            peer.addresses.insert(0, address);
            peer.addresses.truncate(MAX_ADDRESSES);
        }
        peer.dialing = false;
        peer.retry_ms = FIRST_RETRY_MS;
        peer.last_error.clear();
        peer.connections += 1;
        peer.connections == 1
    }

    /// One of its connections ended. `true`: it was the last one.
    pub fn disconnected(&mut self, node: &NodeId, why: &str, now: u64) -> bool {
        let Some(peer) = self.peers.get_mut(node) else { return false };
        peer.last_error = why.to_string();
        peer.heard_ms = now;
        peer.next_dial_ms = now + FIRST_RETRY_MS;
        let last = peer.connections == 1;
        peer.connections = peer.connections.saturating_sub(1);
        last
    }

    /// A dial failed: the next one comes later, up to a minute.
    pub fn dial_failed(&mut self, node: &NodeId, why: &str, now: u64) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.dialing = false;
            peer.last_error = why.to_string();
            peer.next_dial_ms = now + peer.retry_ms;
            peer.retry_ms = (peer.retry_ms * 2).min(LAST_RETRY_MS);
        }
    }

    /// Peers to dial now; each is marked as being dialled until [`Self::connected`] or [`Self::dial_failed`].
    pub fn due(&mut self, now: u64) -> Vec<Dial> {
        self.peers
            .retain(|_, p| p.connections > 0 || p.source > Source::Incoming || now < p.heard_ms + FORGET_MS);
        let busy = self.peers.values().filter(|p| p.connections > 0 || p.dialing).count();
        let mut room = KEEP_CONNECTED.saturating_sub(busy);
        let mut out = Vec::new();
        for (node, peer) in &mut self.peers {
            if room == 0 {
                break;
            }
            if peer.wants_dial() && peer.next_dial_ms <= now {
                peer.dialing = true;
                room -= 1;
                out.push(Dial { node: *node, addresses: peer.addresses.clone() });
            }
        }
        out
    }

    /// When [`Self::due`] may next have something.
    pub fn next_deadline(&self) -> Option<u64> {
        self.peers.values().filter(|p| p.wants_dial()).map(|p| p.next_dial_ms).min()
    }

    fn make_room(&mut self, node: &NodeId, source: Source) -> bool {
        if self.peers.len() < MAX_PEERS || self.peers.contains_key(node) {
            return true;
        }
        let idle = self.peers.iter().filter(|(_, p)| p.connections == 0 && !p.dialing && p.source <= source);
        match idle.min_by_key(|(_, p)| (p.source, p.heard_ms)).map(|(n, _)| *n) {
            Some(oldest) => self.peers.remove(&oldest).is_some(),
            None => false,
        }
    }
}

impl Peer {
    fn new(source: Source, now: u64) -> Self {
        Self {
            source,
            addresses: Vec::new(),
            connections: 0,
            last_error: String::new(),
            heard_ms: now,
            next_dial_ms: now,
            retry_ms: FIRST_RETRY_MS,
            dialing: false,
        }
    }

    /// Neighbours and seeds are kept connected; others are dialled when somebody wants a stream.
    fn wants_dial(&self) -> bool {
        self.source >= Source::Mdns && self.connections == 0 && !self.dialing && !self.addresses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn neighbours_are_dialled_and_retried_ever_later() {
        let mut book = PeerBook::new(id(0));
        book.learn(id(1), &[at(1)], Source::Mdns, 0);
        assert_eq!(book.due(0), vec![Dial { node: id(1), addresses: vec![at(1)] }]);
        assert_eq!(book.due(0), vec![], "one dial at a time");
        let mut now = 0;
        for wait in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            book.dial_failed(&id(1), "refused", now);
            assert_eq!(book.next_deadline(), Some(now + wait));
            assert!(book.due(now + wait - 1).is_empty());
            now += wait;
            assert_eq!(book.due(now).len(), 1);
        }
        assert!(book.connected(id(1), Some(at(1)), now));
        assert!(book.due(now + 1_000_000).is_empty());
        assert!(book.disconnected(&id(1), "idle", now));
        assert_eq!(book.due(now + 1000).len(), 1);
    }

    #[test]
    fn peers_of_the_dht_wait_until_they_are_wanted() {
        let mut book = PeerBook::new(id(0));
        book.learn(id(1), &[at(1)], Source::Dht, 0);
        assert!(book.due(0).is_empty());
        book.learn(id(1), &[], Source::Seed, 5);
        assert_eq!(book.due(5).len(), 1);
    }

    #[test]
    fn the_book_never_holds_us_or_more_than_its_bounds() {
        let mut book = PeerBook::new(id(0));
        assert!(!book.learn(id(0), &[at(1)], Source::Seed, 0));
        for n in 1..=MAX_PEERS as u32 {
            assert!(book.learn(id(n), &[at(1)], Source::Seed, 0));
        }
        assert!(!book.learn(id(900_000), &[at(1)], Source::Dht, 9), "strangers do not push seeds out");
        assert!(book.learn(id(900_001), &[at(1)], Source::Seed, 9));
        assert_eq!(book.iter().count(), MAX_PEERS);
        for port in 0..100 {
            book.learn(id(900_001), &[at(port)], Source::Dht, 9);
        }
        assert_eq!(book.get(&id(900_001)).unwrap().addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn two_connections_are_one_peer() {
        let mut book = PeerBook::new(id(0));
        assert!(book.connected(id(1), None, 0));
        assert!(!book.connected(id(1), Some(at(2)), 0));
        assert!(!book.disconnected(&id(1), "replaced", 1));
        assert!(book.disconnected(&id(1), "gone", 1));
    }
}
