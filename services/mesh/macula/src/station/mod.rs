//! The station: what it does with its clients' frames.
//!
//! Pure. The caller hands in what happens (connections, streams, frames, the time, answers to [`Work`]), then polls
//! [`Station::poll`] until there is nothing more to do, and calls [`Station::handle_timeout`] at [`Station::next_deadline`].
//!
//! - A connection's first frame is CONNECT, within 30 s. HELLO answers it, then ADVERTISE for each procedure of the station. A second
//!   connection under the same key ends the first one.
//! - A client speaks for itself only: `caller`, `publisher`, `subscriber`, `advertiser`, `responded_by` and `signer` must be its
//!   own key, which its signature proves. Frames are passed on byte for byte, so signatures reach the far end.
//! - CALL goes to the station's own procedures, else to the client that advertised the procedure first, else back with
//!   `unknown_next_peer`. What the caller gets within its deadline is the answer, or an ERROR of ours.
//! - PUBLISH becomes one EVENT for all subscribers, in the order in which messages came. For a reader that is too slow the oldest
//!   waiting events are dropped and counted: events are the newest word on something, and one slow reader neither
//!   holds up the others nor loses its calls and its place.
//! - STREAM_OPEN pairs a client's stream with one that we open to the provider. When the far side does not read, the near
//!   side is not read from ([`Output::Pause`]).
//! - Whoever breaks the protocol or a limit gets GOODBYE with the reason in words, and is disconnected.

mod access;
mod bucket;
mod calls;
mod config;
mod connection;
mod outgoing;
mod pubsub;
mod seen;
mod sessions;
mod system;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use os_identity::{NodeId, NodeKey};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

pub use access::{Access, Action, Request};
pub use config::{Config, Puzzle};
pub use system::{Answer, SYSTEM_PROCEDURES, SYSTEM_REALM, Work};

use crate::frame::{CallId, Frame, MAX_FIRST_FRAME, MAX_FRAME, Received};
use connection::{Conn, Phase, Purpose};

/// The caller's name for a connection; not used again for another one.
pub type ConnId = u64;
/// Our name for something that [`Work`] asks for.
pub type Token = u64;

/// A stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// The first one that the client opened.
    Control,
    /// Another one that the client opened, as the caller counts them.
    Theirs(u64),
    /// One that we asked for with [`Output::OpenStream`].
    Ours(u64),
}

/// The time: waiting is by a clock that only goes forward, deadlines in frames are Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub steady_ms: u64,
    pub unix_ms: u64,
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write this, in order; then call [`Station::written`].
    Send {
        conn: ConnId,
        stream: Stream,
        bytes: Arc<[u8]>,
    },
    /// Open a stream in both directions. If that fails, [`Station::stream_closed`].
    OpenStream {
        conn: ConnId,
        stream: Stream,
    },
    /// End the stream's sending direction once all is written. What comes on it is still to be handed in.
    Finish {
        conn: ConnId,
        stream: Stream,
    },
    /// Do not read from this stream for now.
    Pause {
        conn: ConnId,
        stream: Stream,
    },
    Resume {
        conn: ConnId,
        stream: Stream,
    },
    /// Write what there is, but not for long, and end the connection. The station has forgotten it.
    Close {
        conn: ConnId,
        reason: String,
    },
    /// Do this, then call [`Station::answer`].
    Work {
        token: Token,
        work: Work,
    },
}

/// What went by, for people to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames of types that are not for this station.
    pub frames_skipped: u64,
    /// Frames whose signature or identity is not the client's.
    pub frames_forged: u64,
    /// ADVERTISE, SUBSCRIBE, PUBLISH and EVENT that the node does not allow: the protocol has no answer to them.
    pub frames_refused: u64,
    pub events: u64,
    pub events_repeated: u64,
    /// Events that a slow reader missed.
    pub events_dropped: u64,
    pub calls: u64,
    pub calls_failed: u64,
    /// Answers to no call that waits.
    pub answers_late: u64,
    pub sessions: u64,
    /// Connections that we ended for breaking the protocol or a limit.
    pub clients_expelled: u64,
}

/// A procedure or topic, in its realm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    realm: [u8; 32],
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The handshake, or the time after a GOODBYE.
    Phase(ConnId),
    /// A CALL that was passed on to this connection.
    Call(ConnId, CallId),
    Work(Token),
    Session(u64),
}

pub struct Station {
    key: NodeKey,
    me: NodeId,
    config: Config,
    access: Box<dyn Access>,
    rng: Xoshiro256PlusPlus,
    conns: BTreeMap<ConnId, Conn>,
    nodes: BTreeMap<NodeId, ConnId>,
    /// Who serves what, whoever said so first in front.
    providers: BTreeMap<Name, Vec<ConnId>>,
    subscribers: BTreeMap<Name, BTreeSet<ConnId>>,
    calls: BTreeMap<(ConnId, CallId), calls::Passed>,
    works: BTreeMap<Token, system::Asked>,
    sessions: BTreeMap<u64, sessions::Session>,
    session_of: BTreeMap<(ConnId, Stream), u64>,
    seen: seen::Seen,
    timers: BTreeSet<(u64, Timer)>,
    out: VecDeque<Output>,
    counters: Counters,
    last_token: u64,
    closing: bool,
}

impl Station {
    /// `key` signs the station's frames; its certificate should be over the same one.
    pub fn new(key: NodeKey, config: Config, access: impl Access + 'static, seed: u64) -> Self {
        Self {
            me: key.node_id(),
            key,
            config,
            access: Box::new(access),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            conns: BTreeMap::new(),
            nodes: BTreeMap::new(),
            providers: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            calls: BTreeMap::new(),
            works: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_of: BTreeMap::new(),
            seen: seen::Seen::default(),
            timers: BTreeSet::new(),
            out: VecDeque::new(),
            counters: Counters::default(),
            last_token: 0,
            closing: false,
        }
    }

    pub fn node_id(&self) -> NodeId {
        self.me
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Clients that have said who they are.
    pub fn clients(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Largest frame to take from a connection now.
    pub fn frame_max(&self, conn: ConnId) -> usize {
        match self.conns.get(&conn) {
            Some(c) if c.phase == Phase::Open => self.config.frame_bytes_max.min(MAX_FRAME),
            _ => MAX_FIRST_FRAME,
        }
    }

    /// When [`Self::handle_timeout`] has something to do, by the steady clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.seen.next_deadline()).min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now.steady_ms) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Phase(conn) => self.phase_over(conn, now),
                Timer::Call(conn, call_id) => self.call_over(conn, call_id, now),
                Timer::Work(token) => self.work_over(token, now),
                Timer::Session(id) => self.session_over(id, now),
            }
        }
        self.seen.expire(now.steady_ms);
    }

    /// A frame came, without its four bytes of length.
    pub fn frame(&mut self, conn: ConnId, stream: Stream, bytes: &[u8], now: Now) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (rate, burst) = (self.config.frames_per_second, self.config.frames_burst);
        if !c.bucket.take(rate, burst, now.steady_ms) {
            let detail = format!("more than {rate} frames per second, or {burst} at once");
            return self.expel(conn, "rate_limited", &detail, now);
        }
        match Received::decode(bytes) {
            Ok(received) => self.received(conn, stream, received, now),
            Err(e) => self.expel(conn, "malformed_frame", &e.to_string(), now),
        }
    }

    /// A stream's bytes are no frames: a length was larger than [`Self::frame_max`].
    pub fn broken(&mut self, conn: ConnId, why: &str, now: Now) {
        if self.conns.contains_key(&conn) {
            self.expel(conn, "malformed_frame", why, now);
        }
    }

    fn received(&mut self, conn: ConnId, stream: Stream, received: Received, now: Now) {
        let Some(c) = self.conns.get(&conn) else { return };
        match (c.phase, c.node) {
            (Phase::Connecting, _) => self.handshake(conn, stream, &received, now),
            (Phase::Open | Phase::Leaving, Some(node)) if stream == Stream::Control => {
                self.control_frame(conn, node, received, now);
            }
            (Phase::Open, Some(node)) => self.stream_frame(conn, stream, node, received, now),
            _ => {}
        }
    }

    fn control_frame(&mut self, conn: ConnId, node: NodeId, received: Received, now: Now) {
        let leaving = self.conns.get(&conn).is_some_and(|c| c.phase == Phase::Leaving);
        match &received.frame {
            Frame::Result(b) => self.call_answered(conn, b.call_id, b.responded_by == node, &received, now),
            Frame::Error(b) => self.call_answered(conn, b.call_id, b.reported_by == node, &received, now),
            _ if leaving => self.counters.frames_skipped += 1,
            Frame::Call(_) => self.call(conn, Stream::Control, node, received, now),
            Frame::Publish(b) => self.publish(conn, node, b, &received, now),
            Frame::Event(b) => self.relay(conn, node, b, now),
            Frame::Subscribe(b) => self.subscribe(conn, node, b, &received, now),
            Frame::Unsubscribe(b) => self.unsubscribe(conn, node, &b.0, &received),
            Frame::Advertise(b) => self.advertise(conn, node, b, &received, now),
            Frame::Unadvertise(b) => self.unadvertise(conn, node, &b.0, &received),
            Frame::Ping(nonce) => self.ping(conn, node, *nonce, &received, now),
            Frame::Goodbye(_) => self.goodbye(conn, node, &received, now),
            _ => self.counters.frames_skipped += 1,
        }
    }

    fn stream_frame(&mut self, conn: ConnId, stream: Stream, node: NodeId, received: Received, now: Now) {
        match &received.frame {
            Frame::Call(_) if self.takes(conn, stream, Purpose::Calls) => {
                self.call(conn, stream, node, received, now);
            }
            Frame::StreamOpen(_) if self.takes(conn, stream, Purpose::Session) => {
                self.stream_open(conn, stream, node, &received, now);
            }
            Frame::StreamData(_) | Frame::StreamEnd(_) | Frame::StreamError(_) | Frame::StreamReply(_) => {
                self.session_frame(conn, stream, node, &received, now);
            }
            _ => self.counters.frames_skipped += 1,
        }
    }

    /// Is the frame signed by this client? If not, it is counted.
    fn genuine(&mut self, received: &Received, node: &NodeId, speaks_for_itself: bool) -> bool {
        let genuine = speaks_for_itself && received.verify(node).is_ok();
        self.counters.frames_forged += u64::from(!genuine);
        genuine
    }

    /// May this client do this without showing anything? If not, it is counted.
    fn permitted(&mut self, node: &NodeId, action: Action<'_>, now: Now) -> bool {
        let request = Request { node, ucan: &[], unix_ms: now.unix_ms, action };
        let permitted = self.access.allows(&request).is_ok();
        self.counters.frames_refused += u64::from(!permitted);
        permitted
    }

    fn set_timer(&mut self, at_ms: u64, timer: Timer) {
        self.timers.insert((at_ms, timer));
    }

    fn clear_timer(&mut self, at_ms: u64, timer: Timer) {
        self.timers.remove(&(at_ms, timer));
    }

    fn new_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }
}

/// When to give up, by the steady clock: at a deadline in Unix time, but not later than in `max_ms`. `None`: it has passed.
fn until(deadline_ms: u64, max_ms: u64, now: Now) -> Option<u64> {
    let left = deadline_ms.checked_sub(now.unix_ms).filter(|left| *left > 0)?;
    Some(now.steady_ms + left.min(max_ms))
}
