//! Calls (`rpc/1`): one stream each, with any number of messages either way. `docs/protocol.md` has the wire format.
//!
//! [`Call`] is one end of a call, without clock or socket: bytes and `now` in, frames to send and [`Event`]s out. Both ends keep
//! the deadline, so that neither waits for the other's clock.

use minicbor::{Decode, Encode};

use crate::frame::{Frames, framed};

pub const PROTOCOL: &str = "rpc/1";
/// Largest message, in bytes; what is larger travels as content.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Largest text of an error, in bytes.
pub const MAX_ERROR_TEXT: usize = 1024;
const MAX_FRAME: usize = MAX_MESSAGE + 16;

/// Which side sends how many messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One each.
    Unary,
    /// The caller sends one, the callee any number.
    Server,
    /// The caller sends any number, the callee one.
    Client,
    /// Any number both ways, in any order.
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Caller,
    Callee,
}

/// Why a call failed, for programs. Numbers from 256 on belong to the procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl Code {
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN_PROCEDURE: Code = Code(2);
    pub const BAD_ARGUMENT: Code = Code(3);
    pub const DEADLINE: Code = Code(4);
    pub const FORBIDDEN: Code = Code(5);
    pub const BUSY: Code = Code(6);
    pub const UNAVAILABLE: Code = Code(7);
    pub const INTERNAL: Code = Code(8);
    /// The peer does not keep to the protocol.
    pub const PROTOCOL: Code = Code(9);
    pub const FIRST_OF_PROCEDURE: u16 = 256;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} (code {})", code.0)]
pub struct CallError {
    pub code: Code,
    pub text: String,
}

impl CallError {
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(MAX_ERROR_TEXT));
        Self { code, text }
    }
}

#[derive(Encode, Decode)]
#[cbor(flat)]
enum Message<'a> {
    #[n(0)]
    Data(#[cbor(b(0), with = "minicbor::bytes")] &'a [u8]),
    #[n(1)]
    End,
    #[n(2)]
    Error(#[n(0)] u16, #[b(1)] &'a str),
}

impl Message<'_> {
    fn frame(&self) -> Vec<u8> {
        framed(self)
    }
}

/// What came of what the peer sent, or of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message(Vec<u8>),
    /// The peer sends no further message.
    PeerEnded,
    /// The last event of a call that went wrong. With `tell`, these bytes are still to be sent.
    Failed {
        error: CallError,
        tell: Option<Vec<u8>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Half {
    /// At most so many messages; `None`: any number.
    left: Option<u32>,
    ended: bool,
}

impl Half {
    fn new(many: bool) -> Self {
        Self { left: (!many).then_some(1), ended: false }
    }

    /// Counts a message; `false`: there may be none.
    fn take(&mut self) -> bool {
        match &mut self.left {
            _ if self.ended => false,
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// One end of a call.
#[derive(Debug)]
pub struct Call {
    role: Role,
    ours: Half,
    theirs: Half,
    incoming: Frames,
    deadline_ms: Option<u64>,
    over: bool,
}

/// A message that the mode or the call's state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("a message of {0} bytes; at most {MAX_MESSAGE} are allowed, send larger things as content")]
    TooLarge(usize),
    #[error("this side of the call has sent all that it may send")]
    Ended,
}

impl Call {
    /// `deadline_ms` counts from now on `now_ms`'s clock.
    pub fn new(role: Role, mode: Mode, deadline_ms: Option<u32>, now_ms: u64) -> Self {
        let of_caller = Half::new(matches!(mode, Mode::Client | Mode::Both));
        let of_callee = Half::new(matches!(mode, Mode::Server | Mode::Both));
        let (ours, theirs) = match role {
            Role::Caller => (of_caller, of_callee),
            Role::Callee => (of_callee, of_caller),
        };
        let deadline_ms = deadline_ms.map(|ms| now_ms.saturating_add(ms.into()));
        Self { role, ours, theirs, incoming: Frames::new(MAX_FRAME), deadline_ms, over: false }
    }

    /// The frame of a message to send.
    pub fn message(&mut self, payload: &[u8]) -> Result<Vec<u8>, SendError> {
        if payload.len() > MAX_MESSAGE {
            return Err(SendError::TooLarge(payload.len()));
        }
        if self.over || !self.ours.take() {
            return Err(SendError::Ended);
        }
        Ok(Message::Data(payload).frame())
    }

    /// The frame that says that no further message comes from here.
    pub fn end(&mut self) -> Result<Vec<u8>, SendError> {
        if self.over || self.ours.ended {
            return Err(SendError::Ended);
        }
        self.ours.ended = true;
        Ok(Message::End.frame())
    }

    /// The frame that ends the call with an error. The callee's refusal, or the caller's cancelling with a reason.
    pub fn fail(&mut self, error: &CallError) -> Result<Vec<u8>, SendError> {
        if self.over {
            return Err(SendError::Ended);
        }
        self.over = true;
        Ok(error_frame(error))
    }

    /// Bytes of the peer; what they mean comes out of [`Self::poll`].
    pub fn received(&mut self, bytes: &[u8]) {
        if !self.over {
            self.incoming.push(bytes);
        }
    }

    /// What has happened, until there is nothing more to say.
    pub fn poll(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let read = match self.incoming.next_frame() {
            Ok(None) => return None,
            Ok(Some(frame)) => read(frame),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(Read::Message(payload)) if self.theirs.take() => Some(Event::Message(payload)),
            Ok(Read::Message(_)) => Some(self.broken("more messages than this procedure takes")),
            Ok(Read::End) if self.theirs.ended => Some(self.broken("ended twice")),
            Ok(Read::End) if self.theirs.left == Some(1) => Some(self.broken("ended without a message")),
            Ok(Read::End) => {
                self.theirs.ended = true;
                Some(Event::PeerEnded)
            }
            Ok(Read::Error(error)) => {
                self.over = true;
                Some(Event::Failed { error, tell: None })
            }
            Err(what) => Some(self.broken(&what)),
        }
    }

    /// The stream brings no more: the end of a call that has said so, or a call cut short.
    pub fn closed(&mut self) -> Option<Event> {
        if self.over || self.theirs.ended {
            return None;
        }
        self.over = true;
        let error = match self.role {
            Role::Caller => CallError::new(Code::UNAVAILABLE, "the stream ended in the middle of the answer"),
            Role::Callee => CallError::new(Code::CANCELLED, "the caller went away"),
        };
        Some(Event::Failed { error, tell: None })
    }

    /// When [`Self::timer`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline_ms.filter(|_| !self.is_over())
    }

    pub fn timer(&mut self, now_ms: u64) -> Option<Event> {
        self.deadline().filter(|deadline| *deadline <= now_ms)?;
        Some(self.ended_by_us(CallError::new(Code::DEADLINE, "not answered within the caller's time")))
    }

    /// Nothing more will happen. A caller does not care whether its own last messages were wanted.
    pub fn is_over(&self) -> bool {
        self.over || (self.theirs.ended && (self.ours.ended || self.role == Role::Caller))
    }

    fn broken(&mut self, what: &str) -> Event {
        self.ended_by_us(CallError::new(Code::PROTOCOL, format!("the peer broke the protocol: {what}")))
    }

    fn ended_by_us(&mut self, error: CallError) -> Event {
        self.over = true;
        let tell = Some(error_frame(&error));
        Event::Failed { error, tell }
    }
}

/// The frame with which a call is refused before anybody has taken it.
pub fn error_frame(error: &CallError) -> Vec<u8> {
    Message::Error(error.code.0, &error.text).frame()
}

enum Read {
    Message(Vec<u8>),
    End,
    Error(CallError),
}

fn read(frame: &[u8]) -> Result<Read, String> {
    let mut decoder = minicbor::Decoder::new(frame);
    let message: Message = decoder.decode().map_err(|e| e.to_string())?;
    if decoder.position() != frame.len() {
        return Err("bytes after the message".into());
    }
    Ok(match message {
        Message::Data(payload) if payload.len() > MAX_MESSAGE => {
            return Err("a message above the limit".into());
        }
        Message::Data(payload) => Read::Message(payload.to_vec()),
        Message::End => Read::End,
        Message::Error(code, text) => Read::Error(CallError::new(Code(code), text)),
    })
}
