//! Topics (`pubsub/1`): one stream per subscription, from a publisher's node to a subscriber. `docs/protocol.md` has the wire format.
//!
//! A publisher keeps the last events of a topic in a [`Log`] that all its subscriptions read from, each at its own place
//! ([`Feed`]): whoever reads slowly falls behind alone, and is told what it missed once the log has moved on. A [`Subscriber`] knows
//! how far it has come, and after a new connection goes on from there. Pure: no clock, no socket.

use std::collections::VecDeque;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::frame::{Frames, framed};
use crate::rpc::{CallError, Code};

pub const PROTOCOL: &str = "pubsub/1";
/// Largest event, in bytes.
pub const MAX_EVENT: usize = 64 * 1024;
const MAX_FRAME: usize = MAX_EVENT + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Place {
    /// Made anew whenever a publisher forgets its log.
    #[n(0)]
    pub epoch: u64,
    /// The last event that the subscriber has.
    #[n(1)]
    pub seq: u64,
}

#[derive(Encode, Decode)]
#[cbor(flat)]
enum Message<'a> {
    /// Subscriber: from after this event, or from now on.
    #[n(0)]
    Subscribe(#[n(0)] Option<Place>),
    /// Publisher, once and first: what follows comes after this event.
    #[n(1)]
    Start(#[n(0)] Place),
    #[n(2)]
    Event(#[n(0)] u64, #[cbor(b(1), with = "minicbor::bytes")] &'a [u8]),
    /// Publisher: the next event is this one; those between are gone.
    #[n(3)]
    Skip(#[n(0)] u64),
    /// Publisher, once and alone: there is no such topic, or not for this subscriber. The codes are those of calls.
    #[n(4)]
    Refused(#[n(0)] u16, #[b(1)] &'a str),
}

impl Message<'_> {
    fn frame(&self) -> Vec<u8> {
        framed(self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("an event of {0} bytes; at most {MAX_EVENT} are allowed, send larger things as content")]
    TooLarge(usize),
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    #[error("not subscribed: {0}")]
    Refused(CallError),
}

/// Bounds of a log; whichever is reached first.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    pub events: usize,
    pub bytes: usize,
}

/// What a topic's subscribers may still read.
#[derive(Debug)]
pub struct Log {
    epoch: u64,
    /// Number of the newest event; the first is 1.
    last: u64,
    frames: VecDeque<Arc<[u8]>>,
    bytes: usize,
    keep: Keep,
}

impl Log {
    /// `epoch`: a random number.
    pub fn new(epoch: u64, keep: Keep) -> Self {
        Self { epoch, last: 0, frames: VecDeque::new(), bytes: 0, keep }
    }

    /// Adds an event and returns its number. It is encoded once, for however many read it.
    pub fn publish(&mut self, payload: &[u8]) -> Result<u64, TopicError> {
        if payload.len() > MAX_EVENT {
            return Err(TopicError::TooLarge(payload.len()));
        }
        self.last += 1;
        let frame: Arc<[u8]> = Message::Event(self.last, payload).frame().into();
        self.bytes += frame.len();
        self.frames.push_back(frame);
        while self.frames.len() > self.keep.events.max(1)
            || (self.bytes > self.keep.bytes && self.frames.len() > 1)
        {
            self.bytes -= self.frames.pop_front().map_or(0, |frame| frame.len());
        }
        Ok(self.last)
    }

    /// Number of the newest event, 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    fn first(&self) -> u64 {
        self.last + 1 - self.frames.len() as u64
    }

    fn frame(&self, seq: u64) -> Option<&Arc<[u8]>> {
        self.frames.get(usize::try_from(seq.checked_sub(self.first())?).ok()?)
    }
}

/// The publisher's end of one subscription: a place in the [`Log`].
#[derive(Debug)]
pub struct Feed {
    /// The event to send next; `None`: the subscriber has not said where to begin.
    next: Option<u64>,
    start: Option<Place>,
    incoming: Frames,
}

impl Default for Feed {
    fn default() -> Self {
        Self { next: None, start: None, incoming: Frames::new(MAX_FRAME) }
    }
}

impl Feed {
    /// Bytes of the subscriber.
    pub fn received(&mut self, bytes: &[u8], log: &Log) -> Result<(), TopicError> {
        self.incoming.push(bytes);
        while let Some(message) = read(&mut self.incoming)? {
            let Message::Subscribe(from) = message else { return Err(unexpected()) };
            if self.next.is_some() {
                return Err(TopicError::Protocol("subscribed twice on one stream".into()));
            }
            let after = match from {
                Some(place) if place.epoch == log.epoch => place.seq.min(log.last),
                // All that is left of what it has never heard of.
                Some(_) => log.first() - 1,
                None => log.last,
            };
            self.next = Some(after + 1);
            self.start = Some(Place { epoch: log.epoch, seq: after });
        }
        Ok(())
    }

    /// What to send next, if the log has something. Called whenever the stream takes more: that is all the back-pressure there is.
    pub fn next(&mut self, log: &Log) -> Option<Arc<[u8]>> {
        let next = self.next.as_mut()?;
        if let Some(start) = self.start.take() {
            return Some(Message::Start(start).frame().into());
        }
        if *next > log.last {
            return None;
        }
        if *next < log.first() {
            *next = log.first();
            return Some(Message::Skip(*next).frame().into());
        }
        let frame = log.frame(*next)?.clone();
        *next += 1;
        Some(frame)
    }
}

/// What a subscriber learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Event {
        seq: u64,
        payload: Vec<u8>,
    },
    /// So many events are lost for good; `None`: the publisher has begun anew, and nobody knows how many.
    Missed(Option<u64>),
}

/// The subscriber's end, which outlives connections.
#[derive(Debug)]
pub struct Subscriber {
    place: Option<Place>,
    started: bool,
    incoming: Frames,
}

impl Default for Subscriber {
    fn default() -> Self {
        Self { place: None, started: false, incoming: Frames::new(MAX_FRAME) }
    }
}

impl Subscriber {
    /// One that goes on after this event, which it was told of in an earlier life.
    pub fn after(place: Place) -> Self {
        Self { place: Some(place), ..Self::default() }
    }

    /// The event that was heard last; `None` before the publisher has said where it begins.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// A new stream is there: the frame to send on it.
    pub fn connected(&mut self) -> Vec<u8> {
        self.started = false;
        self.incoming = Frames::new(MAX_FRAME);
        Message::Subscribe(self.place).frame()
    }

    /// Whether the publisher has taken this stream's subscription.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Bytes of the publisher.
    pub fn received(&mut self, bytes: &[u8]) {
        self.incoming.push(bytes);
    }

    /// What they say, until there is nothing more.
    pub fn poll(&mut self) -> Result<Option<Heard>, TopicError> {
        loop {
            let Some(message) = read(&mut self.incoming)? else { return Ok(None) };
            let heard = match (message, self.started) {
                (Message::Start(place), false) => {
                    self.started = true;
                    let before = self.place.replace(place);
                    start(before, place)?
                }
                (Message::Refused(code, text), false) => {
                    return Err(TopicError::Refused(CallError::new(Code(code), text)));
                }
                (Message::Event(seq, payload), true) => {
                    let payload = payload.to_vec();
                    self.advance(seq, 1)?;
                    Some(Heard::Event { seq, payload })
                }
                (Message::Skip(next), true) => {
                    let missed = self.advance(next.saturating_sub(1), u64::MAX)?;
                    Some(Heard::Missed(Some(missed)))
                }
                _ => return Err(unexpected()),
            };
            if heard.is_some() {
                return Ok(heard);
            }
        }
    }

    /// Goes on to `seq`, by at least one and at most `by`.
    fn advance(&mut self, seq: u64, by: u64) -> Result<u64, TopicError> {
        let place = self.place.as_mut().ok_or_else(unexpected)?;
        let step = seq.checked_sub(place.seq).filter(|step| (1..=by).contains(step));
        let step = step.ok_or_else(|| TopicError::Protocol(format!("event {seq} after {}", place.seq)))?;
        place.seq = seq;
        Ok(step)
    }
}

/// What a subscriber is sent instead of events.
pub fn refusal_frame(refusal: &CallError) -> Vec<u8> {
    Message::Refused(refusal.code.0, &refusal.text).frame()
}

fn start(before: Option<Place>, place: Place) -> Result<Option<Heard>, TopicError> {
    match before {
        Some(before) if before.epoch != place.epoch => Ok(Some(Heard::Missed(None))),
        // It has restarted from a copy of itself, or lies; the subscriber would take old events for new ones.
        Some(before) if before.seq != place.seq => {
            Err(TopicError::Protocol(format!("goes on after {} instead of {}", place.seq, before.seq)))
        }
        _ => Ok(None),
    }
}

fn unexpected() -> TopicError {
    TopicError::Protocol("a message that does not belong here".into())
}

fn read(frames: &mut Frames) -> Result<Option<Message<'_>>, TopicError> {
    let Some(frame) = frames.next_frame().map_err(|e| TopicError::Protocol(e.to_string()))? else {
        return Ok(None);
    };
    let mut decoder = minicbor::Decoder::new(frame);
    let message = decoder.decode().map_err(|e| TopicError::Protocol(e.to_string()))?;
    if decoder.position() != frame.len() {
        return Err(TopicError::Protocol("bytes after the message".into()));
    }
    Ok(Some(message))
}
