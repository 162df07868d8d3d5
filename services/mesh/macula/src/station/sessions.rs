//! Streaming calls: two clients' streams, joined.

use os_identity::NodeId;

use super::calls::Refusal;
use super::{Action, ConnId, Now, Output, Station, Stream, Timer, until};
use crate::ErrorCode;
use crate::frame::{Frame, Mode, Received, Role, StreamError, StreamId, StreamOpen};

/// With so much unwritten on one side, the other one is not read from.
const PAUSE_AT: usize = 1 << 20;
const RESUME_AT: usize = 256 * 1024;

/// A streaming call. `sides[CALLER]` opened it, `sides[PROVIDER]` serves it.
pub(super) struct Session {
    stream_id: StreamId,
    mode: Mode,
    sides: [Side; 2],
    deadline_ms: u64,
}

const CALLER: usize = 0;
const PROVIDER: usize = 1;

struct Side {
    conn: ConnId,
    stream: Stream,
    /// It has sent STREAM_END.
    ended: bool,
    /// Its stream brings nothing more.
    closed: bool,
    /// We have ended our direction of its stream.
    finished: bool,
    paused: bool,
}

impl Side {
    fn new(conn: ConnId, stream: Stream) -> Self {
        Self { conn, stream, ended: false, closed: false, finished: false, paused: false }
    }
}

/// What a frame does to its session.
enum Step {
    Pass,
    /// This frame is the last one.
    Last,
    Refuse(ErrorCode, &'static str),
}

impl Station {
    pub(super) fn stream_open(
        &mut self,
        conn: ConnId,
        stream: Stream,
        node: NodeId,
        received: &Received,
        now: Now,
    ) {
        let Frame::StreamOpen(open) = &received.frame else { return };
        if let Err((code, why)) = self.join(conn, stream, &node, open, received, now) {
            self.stream_error((conn, stream), open.stream_id, code, &why, now);
            self.finish(conn, stream);
        }
    }

    fn join(
        &mut self,
        conn: ConnId,
        stream: Stream,
        node: &NodeId,
        open: &StreamOpen,
        received: &Received,
        now: Now,
    ) -> Result<(), Refusal> {
        if !self.genuine(received, node, open.caller == *node) {
            return Err((ErrorCode::SignatureInvalid, "not signed by this connection's client".into()));
        }
        let deadline_ms = until(open.deadline_ms, self.config.session_ms_max, now)
            .ok_or_else(|| (ErrorCode::ExpiryTooSoon, "the deadline has passed".into()))?;
        let (realm, procedure) = (&open.realm, open.procedure.as_str());
        self.allowed(node, &[], Action::Call { realm, procedure }, now)?;
        let provider = self.provider(realm, procedure)?;
        for end in [conn, provider] {
            self.room_for_session(end)?;
        }
        let theirs = self.open_stream(provider);
        let id = self.new_token();
        let sides = [Side::new(conn, stream), Side::new(provider, theirs)];
        let session = Session { stream_id: open.stream_id, mode: open.mode, sides, deadline_ms };
        self.counters.sessions += 1;
        for side in &session.sides {
            self.session_of.insert((side.conn, side.stream), id);
            self.count_sessions(side.conn, 1);
        }
        self.sessions.insert(id, session);
        self.set_timer(deadline_ms, Timer::Session(id));
        self.send(provider, theirs, received.framed().into(), now);
        Ok(())
    }

    fn room_for_session(&self, conn: ConnId) -> Result<(), Refusal> {
        let max = self.config.sessions_max;
        match self.conns.get(&conn) {
            Some(c) if c.sessions < max => Ok(()),
            _ => Err((ErrorCode::UpstreamCongestion, format!("{max} streaming calls are open already"))),
        }
    }

    fn open_stream(&mut self, conn: ConnId) -> Stream {
        let n = self.conns.get_mut(&conn).map_or(0, |c| {
            c.last_stream += 1;
            c.last_stream
        });
        self.out.push_back(Output::OpenStream { conn, stream: Stream::Ours(n) });
        Stream::Ours(n)
    }

    fn count_sessions(&mut self, conn: ConnId, change: isize) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.sessions = c.sessions.saturating_add_signed(change);
        }
    }

    pub(super) fn session_frame(
        &mut self,
        conn: ConnId,
        stream: Stream,
        node: NodeId,
        received: &Received,
        now: Now,
    ) {
        let Some((id, from)) = self.session_at(conn, stream) else {
            self.counters.frames_skipped += 1;
            return;
        };
        let step = match self.sessions.get(&id) {
            Some(session) => session.judge(from, &node, received),
            None => return,
        };
        let signed = !matches!(step, Step::Refuse(..)) && self.genuine(received, &node, true);
        match step {
            Step::Refuse(code, why) => self.fail_session(id, code, why, now),
            _ if !signed => self.fail_session(id, ErrorCode::SignatureInvalid, "frame is not signed", now),
            step => self.pass_frame(id, from, received, matches!(step, Step::Last), now),
        }
    }

    fn pass_frame(&mut self, id: u64, from: usize, received: &Received, last: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.sides[from].ended |= matches!(received.frame, Frame::StreamEnd(_));
        let (near, far) = (&session.sides[from], &session.sides[1 - from]);
        let (near, far) = ((near.conn, near.stream), (far.conn, far.stream));
        self.send(far.0, far.1, received.framed().into(), now);
        if last {
            return self.finish_session(id);
        }
        if self.unsent(far.0, far.1) > PAUSE_AT
            && let Some(session) = self.sessions.get_mut(&id)
            && !std::mem::replace(&mut session.sides[from].paused, true)
        {
            self.out.push_back(Output::Pause { conn: near.0, stream: near.1 });
        }
    }

    /// `left` bytes wait on a stream now: its source may go on when they are few.
    pub(super) fn resume_source(&mut self, conn: ConnId, stream: Stream, left: usize) {
        let Some((id, to)) = self.session_at(conn, stream).filter(|_| left < RESUME_AT) else { return };
        let Some(source) = self.sessions.get_mut(&id).map(|s| &mut s.sides[1 - to]) else { return };
        if std::mem::take(&mut source.paused) {
            self.out.push_back(Output::Resume { conn: source.conn, stream: source.stream });
        }
    }

    /// One side's stream brings nothing more: in order if it said so before.
    pub(super) fn session_closed(&mut self, conn: ConnId, stream: Stream, now: Now) {
        let Some((id, from)) = self.session_at(conn, stream) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.sides[from].closed = true;
        if !session.sides[from].ended {
            return self.fail_session(id, ErrorCode::TemporaryRelayFailure, "the other side has gone", now);
        }
        if session.sides[1 - from].closed {
            return self.finish_session(id);
        }
        let far = &mut session.sides[1 - from];
        far.finished = true;
        let (conn, stream) = (far.conn, far.stream);
        self.finish(conn, stream);
    }

    pub(super) fn session_over(&mut self, id: u64, now: Now) {
        self.fail_session(id, ErrorCode::TemporaryRelayFailure, "the deadline has passed", now);
    }

    pub(super) fn forget_sessions(&mut self, conn: ConnId, now: Now) {
        let range = (conn, Stream::Control)..=(conn, Stream::Ours(u64::MAX));
        let ids: Vec<_> = self.session_of.range(range).map(|(_, id)| *id).collect();
        for id in ids {
            self.fail_session(id, ErrorCode::TemporaryRelayFailure, "the other side has gone", now);
        }
    }

    fn session_at(&self, conn: ConnId, stream: Stream) -> Option<(u64, usize)> {
        let id = *self.session_of.get(&(conn, stream))?;
        let caller = &self.sessions.get(&id)?.sides[CALLER];
        let side = if (caller.conn, caller.stream) == (conn, stream) { CALLER } else { PROVIDER };
        Some((id, side))
    }

    /// Tells both sides why it is over.
    fn fail_session(&mut self, id: u64, code: ErrorCode, why: &str, now: Now) {
        let Some(session) = self.sessions.get(&id) else { return };
        let stream_id = session.stream_id;
        let ends = [CALLER, PROVIDER].map(|n| (session.sides[n].conn, session.sides[n].stream));
        self.finish_session_after(id, |station| {
            ends.into_iter().for_each(|end| station.stream_error(end, stream_id, code, why, now));
        });
    }

    fn finish_session(&mut self, id: u64) {
        self.finish_session_after(id, |_| {});
    }

    /// Forgets the session before anything is sent: sending may end a connection, which would end it once more.
    fn finish_session_after(&mut self, id: u64, last_words: impl FnOnce(&mut Self)) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.clear_timer(session.deadline_ms, Timer::Session(id));
        for side in &session.sides {
            self.session_of.remove(&(side.conn, side.stream));
            self.count_sessions(side.conn, -1);
        }
        last_words(self);
        for side in session.sides {
            let (conn, stream) = (side.conn, side.stream);
            if !self.conns.contains_key(&conn) {
                continue;
            }
            if side.paused {
                self.out.push_back(Output::Resume { conn, stream });
            }
            if !side.finished {
                self.finish(conn, stream);
            }
            self.release(conn, stream);
        }
    }

    fn stream_error(
        &mut self,
        (conn, stream): (ConnId, Stream),
        stream_id: StreamId,
        code: ErrorCode,
        why: &str,
        now: Now,
    ) {
        let (code, message) = (code.name().to_string(), why.to_string());
        let error = StreamError { stream_id, code, message, signer: Some(self.me) };
        self.send_frame(conn, stream, &Frame::StreamError(error), now);
    }
}

impl Session {
    fn judge(&self, from: usize, node: &NodeId, received: &Received) -> Step {
        let (stream_id, signer) = match &received.frame {
            Frame::StreamData(b) => (b.stream_id, b.signer),
            Frame::StreamEnd(b) => (b.stream_id, b.signer),
            Frame::StreamError(b) => (b.stream_id, b.signer),
            Frame::StreamReply(b) => (b.stream_id, Some(b.responded_by)),
            _ => return Step::Refuse(ErrorCode::UnknownError, "not a frame of a streaming call"),
        };
        if stream_id != self.stream_id {
            return Step::Refuse(ErrorCode::UnknownError, "frame of another stream_id");
        }
        if signer.is_some_and(|signer| signer != *node) {
            return Step::Refuse(ErrorCode::SignatureInvalid, "signer is not who sends this");
        }
        let ended = self.sides[from].ended;
        match &received.frame {
            Frame::StreamError(_) => Step::Last,
            Frame::StreamReply(_) if from == PROVIDER => Step::Last,
            Frame::StreamReply(_) => Step::Refuse(ErrorCode::UnknownError, "STREAM_REPLY from the caller"),
            _ if ended => Step::Refuse(ErrorCode::UnknownError, "frame after STREAM_END"),
            Frame::StreamEnd(end) if end.role == Role::Both => Step::Last,
            Frame::StreamEnd(_) if from == PROVIDER && self.mode == Mode::ServerStream => Step::Last,
            _ => Step::Pass,
        }
    }
}
