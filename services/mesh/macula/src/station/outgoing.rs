//! Sending: our own frames, and how much of it is still on its way.

use std::sync::Arc;

use rand::RngExt;

use super::connection::Phase;
use super::{ConnId, Now, Output, Station, Stream};
use crate::frame::{Frame, Header, STATION};

/// Events are handed out while less than this waits on the control stream.
const EVENT_WINDOW: usize = 256 * 1024;

impl Station {
    /// So many bytes of a stream were written.
    pub fn written(&mut self, conn: ConnId, stream: Stream, bytes: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.unsent_bytes = c.unsent_bytes.saturating_sub(bytes);
        let left = c.unsent.get(&stream).copied().unwrap_or(0).saturating_sub(bytes);
        match left {
            0 => c.unsent.remove(&stream),
            left => c.unsent.insert(stream, left),
        };
        match stream {
            Stream::Control => self.hand_out_events(conn),
            _ => self.resume_source(conn, stream, left),
        }
    }

    pub(super) fn unsent(&self, conn: ConnId, stream: Stream) -> usize {
        self.conns.get(&conn).and_then(|c| c.unsent.get(&stream)).copied().unwrap_or(0)
    }

    /// Signs a frame of ours and sends it.
    pub(super) fn send_frame(&mut self, conn: ConnId, stream: Stream, frame: &Frame, now: Now) {
        if self.conns.contains_key(&conn) {
            let bytes = self.sign(frame, now);
            self.send(conn, stream, bytes, now);
        }
    }

    pub(super) fn sign(&mut self, frame: &Frame, now: Now) -> Arc<[u8]> {
        let frame_id = self.uuid_v7(now);
        frame.sign(&Header { frame_id, sent_at_ms: now.unix_ms, capabilities: STATION }, &self.key).into()
    }

    /// Hands out bytes for a stream. A client that has let too much pile up is disconnected, without a word that
    /// it would not read.
    pub(super) fn send(&mut self, conn: ConnId, stream: Stream, bytes: Arc<[u8]>, now: Now) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.unsent_bytes += bytes.len();
        *c.unsent.entry(stream).or_default() += bytes.len();
        if c.unsent_bytes > self.config.unsent_bytes_max {
            self.counters.clients_expelled += 1;
            return self.close(conn, "too_slow", now);
        }
        self.out.push_back(Output::Send { conn, stream, bytes });
    }

    /// An event for one of its readers, after those that wait already.
    pub(super) fn queue_event(&mut self, conn: ConnId, event: &Arc<[u8]>) {
        let (events_max, bytes_max) = (self.config.events_max, self.config.event_bytes_max);
        let Some(c) = self.conns.get_mut(&conn).filter(|c| c.phase == Phase::Open) else { return };
        c.events.push_back(event.clone());
        c.event_bytes += event.len();
        self.hand_out_events(conn);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        while c.events.len() > events_max || c.event_bytes > bytes_max {
            let Some(oldest) = c.events.pop_front() else { break };
            c.event_bytes -= oldest.len();
            self.counters.events_dropped += 1;
        }
    }

    fn hand_out_events(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        while c.unsent.get(&Stream::Control).is_none_or(|unsent| *unsent < EVENT_WINDOW) {
            let Some(bytes) = c.events.pop_front() else { break };
            c.event_bytes -= bytes.len();
            c.unsent_bytes += bytes.len();
            *c.unsent.entry(Stream::Control).or_default() += bytes.len();
            self.out.push_back(Output::Send { conn, stream: Stream::Control, bytes });
        }
    }

    /// RFC 9562: 48 bits of Unix time, version and variant, the rest at random.
    fn uuid_v7(&mut self, now: Now) -> [u8; 16] {
        let mut id: [u8; 16] = self.rng.random();
        id[..6].copy_from_slice(&now.unix_ms.to_be_bytes()[2..]);
        id[6] = 0x70 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        id
    }
}
