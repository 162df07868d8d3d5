//! STREAM_OPEN, STREAM_DATA, STREAM_END, STREAM_ERROR, STREAM_REPLY: streaming RPC, on a QUIC stream of its own.
//!
//! The caller opens the stream and sends STREAM_OPEN; the station opens one to who advertised the procedure and passes
//! frames between the two. `server_stream`: data comes from the provider until its STREAM_END. `client_stream`: data goes to the
//! provider, STREAM_END, then STREAM_REPLY comes back. `bidi`: data both ways, and either kind of end. STREAM_ERROR ends
//! all of them. Data, end and error carry `signer` since they may pass several stations; without it they are the
//! sending connection's.

use os_identity::NodeId;

use super::fields::Fields;
use super::{Body, FrameError, Pairs};
use crate::cbor::{Value, bytes, text, uint};

const MAX_ROUTE: usize = 1024;

pub type StreamId = [u8; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    ServerStream,
    ClientStream,
    Bidi,
}

/// What the sender says that a body is; both are CBOR values here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Raw,
    /// A label from earlier days: the body is a CBOR value like any other.
    Msgpack,
}

/// What STREAM_END ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Send,
    Both,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StreamOpen {
    pub stream_id: StreamId,
    pub procedure: String,
    pub realm: [u8; 32],
    pub mode: Mode,
    pub args: Value,
    /// Unix time.
    pub deadline_ms: u64,
    pub caller: NodeId,
    pub source_route: Vec<u8>,
    pub retry_budget: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StreamData {
    pub stream_id: StreamId,
    pub seq: u64,
    pub encoding: Encoding,
    pub body: Value,
    pub signer: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEnd {
    pub stream_id: StreamId,
    pub role: Role,
    pub signer: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamError {
    pub stream_id: StreamId,
    /// A word; not one of the numbers that ERROR has.
    pub code: String,
    pub message: String,
    pub signer: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StreamReply {
    pub stream_id: StreamId,
    pub payload: Value,
    pub responded_by: NodeId,
}

const MODES: [(&str, Mode); 3] =
    [("server_stream", Mode::ServerStream), ("client_stream", Mode::ClientStream), ("bidi", Mode::Bidi)];
const ENCODINGS: [(&str, Encoding); 2] = [("raw", Encoding::Raw), ("msgpack", Encoding::Msgpack)];
const ROLES: [(&str, Role); 2] = [("send", Role::Send), ("both", Role::Both)];

fn read_word<T: Copy>(f: &mut Fields, name: &'static str, words: &[(&str, T)]) -> Result<T, FrameError> {
    let word = f.word(name)?;
    words.iter().find(|(w, _)| *w == word).map(|(_, value)| *value).ok_or(FrameError::Kind(name))
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Value {
    text(words.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| word))
}

fn read_signer(f: &mut Fields) -> Result<Option<NodeId>, FrameError> {
    Ok(f.optional_array("signer")?.map(NodeId::from_bytes))
}

fn with_signer(mut pairs: Pairs, signer: Option<NodeId>) -> Pairs {
    pairs.extend(signer.map(|s| ("signer", bytes(s.as_bytes()))));
    pairs
}

impl Body for StreamOpen {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            stream_id: f.array("stream_id")?,
            procedure: f.name("procedure")?,
            realm: f.array("realm")?,
            mode: read_word(f, "mode", &MODES)?,
            args: f.value("args")?,
            deadline_ms: f.uint("deadline_ms")?,
            caller: NodeId::from_bytes(f.array("caller")?),
            source_route: f.blob("source_route", MAX_ROUTE)?,
            retry_budget: f.optional_uint("retry_budget")?.unwrap_or(0),
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("stream_id", bytes(self.stream_id)),
            ("procedure", bytes(&self.procedure)),
            ("realm", bytes(self.realm)),
            ("mode", word_of(&MODES, self.mode)),
            ("args", self.args.clone()),
            ("deadline_ms", uint(self.deadline_ms)),
            ("caller", bytes(self.caller.as_bytes())),
            ("source_route", bytes(&self.source_route)),
            ("retry_budget", uint(self.retry_budget)),
        ]
    }
}

impl Body for StreamData {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            stream_id: f.array("stream_id")?,
            seq: f.uint("seq")?,
            encoding: read_word(f, "encoding", &ENCODINGS)?,
            body: f.value("body")?,
            signer: read_signer(f)?,
        })
    }

    fn pairs(&self) -> Pairs {
        let pairs = vec![
            ("stream_id", bytes(self.stream_id)),
            ("seq", uint(self.seq)),
            ("encoding", word_of(&ENCODINGS, self.encoding)),
            ("body", self.body.clone()),
        ];
        with_signer(pairs, self.signer)
    }
}

impl Body for StreamEnd {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            stream_id: f.array("stream_id")?,
            role: read_word(f, "role", &ROLES)?,
            signer: read_signer(f)?,
        })
    }

    fn pairs(&self) -> Pairs {
        with_signer(
            vec![("stream_id", bytes(self.stream_id)), ("role", word_of(&ROLES, self.role))],
            self.signer,
        )
    }
}

impl Body for StreamError {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            stream_id: f.array("stream_id")?,
            code: f.name("code")?,
            message: f.remark("message")?.unwrap_or_default(),
            signer: read_signer(f)?,
        })
    }

    fn pairs(&self) -> Pairs {
        let pairs = vec![
            ("stream_id", bytes(self.stream_id)),
            ("code", bytes(&self.code)),
            ("message", bytes(&self.message)),
        ];
        with_signer(pairs, self.signer)
    }
}

impl Body for StreamReply {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            stream_id: f.array("stream_id")?,
            payload: f.value("payload")?,
            responded_by: NodeId::from_bytes(f.array("responded_by")?),
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("stream_id", bytes(self.stream_id)),
            ("payload", self.payload.clone()),
            ("responded_by", bytes(self.responded_by.as_bytes())),
        ]
    }
}
