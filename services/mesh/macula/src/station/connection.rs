//! Connections: from CONNECT to GOODBYE.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use os_identity::NodeId;

use super::bucket::Bucket;
use super::system::{SYSTEM_PROCEDURES, SYSTEM_REALM};
use super::{Action, ConnId, Name, Now, Output, Puzzle, Request, Station, Stream, Timer};
use crate::ErrorCode;
use crate::frame::{Advertise, Connect, Frame, Goodbye, Hello, Nonce, Received, STATION};
use crate::signing::{puzzle_evidence, puzzle_solved};

/// Streams of a client besides the control stream; its transport should stop it at 100.
const STREAMS_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Has not said who it is.
    Connecting,
    Open,
    /// One side has said GOODBYE.
    Leaving,
}

/// What is known of a connection. `node` is there from the handshake on.
pub(super) struct Conn {
    pub phase: Phase,
    pub node: Option<NodeId>,
    pub bucket: Bucket,
    pub advertised: BTreeSet<Name>,
    pub subscribed: BTreeSet<Name>,
    /// CALLs it waits for.
    pub calls: usize,
    /// CALLs it is to answer.
    pub serving: usize,
    pub sessions: usize,
    pub streams: BTreeMap<u64, Theirs>,
    pub last_stream: u64,
    /// Bytes handed out and not yet written.
    pub unsent: BTreeMap<Stream, usize>,
    pub unsent_bytes: usize,
    /// Events that wait until there is room on the control stream.
    pub events: VecDeque<Arc<[u8]>>,
    pub event_bytes: usize,
    deadline_ms: u64,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// CALLs, any number.
    Calls,
    /// One streaming call.
    Session,
}

/// A stream that the client opened, besides the control stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Theirs {
    pub purpose: Option<Purpose>,
    /// CALLs whose answers are to go there.
    pub calls: usize,
    /// It brings nothing more.
    pub closed: bool,
    /// We have ended our direction.
    pub finished: bool,
}

impl Conn {
    fn new(bucket: Bucket, deadline_ms: u64) -> Self {
        Self {
            phase: Phase::Connecting,
            node: None,
            bucket,
            advertised: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            calls: 0,
            serving: 0,
            sessions: 0,
            streams: BTreeMap::new(),
            last_stream: 0,
            unsent: BTreeMap::new(),
            unsent_bytes: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            deadline_ms,
        }
    }
}

impl Station {
    /// A connection with our ALPN is up.
    pub fn connected(&mut self, conn: ConnId, now: Now) {
        let reason = if self.closing { "shutting_down" } else { "too_many_connections" };
        if self.closing || self.conns.len() >= self.config.connections_max {
            return self.out.push_back(Output::Close { conn, reason: reason.into() });
        }
        let deadline = now.steady_ms + self.config.handshake_ms;
        let bucket = Bucket::full(self.config.frames_burst, now.steady_ms);
        self.conns.insert(conn, Conn::new(bucket, deadline));
        self.set_timer(deadline, Timer::Phase(conn));
    }

    /// The client opened another stream than its first one.
    pub fn stream_opened(&mut self, conn: ConnId, stream: u64, now: Now) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.streams.insert(stream, Theirs::default());
        if c.streams.len() > STREAMS_MAX {
            self.expel(conn, "limit_exceeded", &format!("more than {STREAMS_MAX} streams"), now);
        }
    }

    /// A stream will bring nothing more: it ended, was reset, or could not be opened.
    pub fn stream_closed(&mut self, conn: ConnId, stream: Stream, now: Now) {
        if stream == Stream::Control {
            return;
        }
        self.session_closed(conn, stream, now);
        if let Some(theirs) = self.theirs(conn, stream) {
            theirs.closed = true;
            self.release(conn, stream);
        }
    }

    /// Is this stream the client's, for this purpose, and can we still answer on it? Its first frame decides what it is for.
    pub(super) fn takes(&mut self, conn: ConnId, stream: Stream, purpose: Purpose) -> bool {
        let Some(theirs) = self.theirs(conn, stream).filter(|theirs| !theirs.finished) else { return false };
        let first = theirs.purpose.is_none();
        *theirs.purpose.get_or_insert(purpose) == purpose && (first || purpose == Purpose::Calls)
    }

    fn theirs(&mut self, conn: ConnId, stream: Stream) -> Option<&mut Theirs> {
        let Stream::Theirs(n) = stream else { return None };
        self.conns.get_mut(&conn)?.streams.get_mut(&n)
    }

    /// A stream that the client has closed is closed by us, too, once nothing more is to go there: only then may it
    /// open another one instead.
    pub(super) fn release(&mut self, conn: ConnId, stream: Stream) {
        let joined = self.session_of.contains_key(&(conn, stream));
        let Some(theirs) = self.theirs(conn, stream).filter(|t| t.closed && t.calls == 0 && !joined) else {
            return;
        };
        if !std::mem::replace(&mut theirs.finished, true) {
            self.out.push_back(Output::Finish { conn, stream });
        }
        if let (Stream::Theirs(n), Some(c)) = (stream, self.conns.get_mut(&conn)) {
            c.streams.remove(&n);
        }
    }

    /// Ends our direction of a stream, once.
    pub(super) fn finish(&mut self, conn: ConnId, stream: Stream) {
        let ended = self.theirs(conn, stream).is_some_and(|t| std::mem::replace(&mut t.finished, true));
        if !ended && self.conns.contains_key(&conn) {
            self.out.push_back(Output::Finish { conn, stream });
        }
    }

    /// A CALL begins or ends to wait for its answer.
    pub(super) fn count_calls(&mut self, conn: ConnId, stream: Stream, change: isize) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.calls = c.calls.saturating_add_signed(change);
        }
        if let Some(theirs) = self.theirs(conn, stream) {
            theirs.calls = theirs.calls.saturating_add_signed(change);
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, conn: ConnId, now: Now) {
        self.forget(conn, now);
    }

    /// Says goodbye to everybody; new connections are closed.
    pub fn shutdown(&mut self, now: Now) {
        self.closing = true;
        let all: Vec<_> = self.conns.iter().map(|(conn, c)| (*conn, c.phase)).collect();
        for (conn, phase) in all {
            match phase {
                Phase::Connecting => self.close(conn, "shutting_down", now),
                Phase::Open => {
                    self.say_goodbye(conn, "shutting_down", "", now);
                    self.leave(conn, now);
                }
                Phase::Leaving => {}
            }
        }
    }

    /// Ends a connection that broke a rule.
    pub(super) fn expel(&mut self, conn: ConnId, reason: &str, detail: &str, now: Now) {
        self.counters.clients_expelled += 1;
        self.say_goodbye(conn, reason, detail, now);
        self.close(conn, reason, now);
    }

    pub(super) fn handshake(&mut self, conn: ConnId, stream: Stream, received: &Received, now: Now) {
        let Frame::Connect(connect) = &received.frame else {
            return self.expel(conn, "handshake", "the first frame must be CONNECT", now);
        };
        if stream != Stream::Control {
            return self.expel(conn, "handshake", "CONNECT must come on the first stream", now);
        }
        let verdict = self.judge(connect, received, now);
        let hello = Frame::Hello(Hello {
            node_id: self.me,
            station_id: self.me,
            realms: self.config.realms.clone(),
            addresses: Vec::new(),
            site: None,
            verdict: verdict.map_err(|code| code as u8),
            negotiated_capabilities: received.header.capabilities & STATION,
        });
        if let Err(code) = verdict {
            self.send_frame(conn, Stream::Control, &hello, now);
            return self.close(conn, code.name(), now);
        }
        self.replace(connect.node_id, conn, now);
        self.send_frame(conn, Stream::Control, &hello, now);
        self.advertise_system(conn, now);
    }

    fn judge(&self, connect: &Connect, received: &Received, now: Now) -> Result<(), ErrorCode> {
        let node = &connect.node_id;
        received.verify(node).map_err(|_| ErrorCode::SignatureInvalid)?;
        let solved = puzzle_solved(node) && connect.puzzle_evidence == puzzle_evidence(node);
        if self.config.puzzle == Puzzle::Enforce && !solved {
            return Err(ErrorCode::CryptoPuzzleInvalid);
        }
        let request = Request { node, ucan: &[], unix_ms: now.unix_ms, action: Action::Connect };
        self.access.allows(&request).map_err(|_| ErrorCode::Unauthorized)
    }

    /// This connection is the node's from now on; an earlier one ends.
    fn replace(&mut self, node: NodeId, conn: ConnId, now: Now) {
        if let Some(earlier) = self.nodes.insert(node, conn) {
            self.say_goodbye(earlier, "replaced", "the same key has connected anew", now);
            self.close(earlier, "replaced", now);
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.phase = Phase::Open;
        c.node = Some(node);
        let deadline = c.deadline_ms;
        self.clear_timer(deadline, Timer::Phase(conn));
    }

    fn advertise_system(&mut self, conn: ConnId, now: Now) {
        for procedure in SYSTEM_PROCEDURES {
            let advertise =
                Advertise { realm: SYSTEM_REALM, procedure: procedure.to_string(), advertiser: self.me };
            self.send_frame(conn, Stream::Control, &Frame::Advertise(advertise), now);
        }
    }

    pub(super) fn ping(&mut self, conn: ConnId, node: NodeId, nonce: Nonce, received: &Received, now: Now) {
        if self.genuine(received, &node, true) {
            self.send_frame(conn, Stream::Control, &Frame::Pong(nonce), now);
        }
    }

    pub(super) fn goodbye(&mut self, conn: ConnId, node: NodeId, received: &Received, now: Now) {
        if self.genuine(received, &node, true) {
            self.leave(conn, now);
        }
    }

    /// From now on nothing new goes to or comes from the client; what it waits for still reaches it for a while.
    fn leave(&mut self, conn: ConnId, now: Now) {
        let deadline = now.steady_ms + self.config.drain_ms;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.phase = Phase::Leaving;
        c.deadline_ms = deadline;
        c.events.clear();
        c.event_bytes = 0;
        self.set_timer(deadline, Timer::Phase(conn));
        self.withdraw(conn);
    }

    pub(super) fn phase_over(&mut self, conn: ConnId, now: Now) {
        match self.conns.get(&conn).map(|c| c.phase) {
            Some(Phase::Connecting) => {
                self.counters.clients_expelled += 1;
                self.close(conn, "handshake_timeout", now);
            }
            Some(Phase::Leaving) => self.close(conn, "goodbye", now),
            Some(Phase::Open) | None => {}
        }
    }

    fn say_goodbye(&mut self, conn: ConnId, reason: &str, detail: &str, now: Now) {
        let detail = Some(detail.to_string()).filter(|d| !d.is_empty());
        let goodbye = Frame::Goodbye(Goodbye { reason: reason.to_string(), detail });
        self.send_frame(conn, Stream::Control, &goodbye, now);
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: &str, now: Now) {
        if self.conns.contains_key(&conn) {
            self.out.push_back(Output::Close { conn, reason: reason.to_string() });
            self.forget(conn, now);
        }
    }

    fn forget(&mut self, conn: ConnId, now: Now) {
        self.withdraw(conn);
        let Some(c) = self.conns.remove(&conn) else { return };
        self.clear_timer(c.deadline_ms, Timer::Phase(conn));
        if let Some(node) = c.node.filter(|node| self.nodes.get(node) == Some(&conn)) {
            self.nodes.remove(&node);
        }
        self.forget_calls(conn, now);
        self.forget_works(conn);
        self.forget_sessions(conn, now);
    }

    /// The client serves and hears nothing any more.
    fn withdraw(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (advertised, subscribed) = (std::mem::take(&mut c.advertised), std::mem::take(&mut c.subscribed));
        advertised.iter().for_each(|name| self.remove_provider(name, conn));
        subscribed.iter().for_each(|name| self.remove_subscriber(name, conn));
    }
}
