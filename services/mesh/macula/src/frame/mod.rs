//! Frames: one CBOR map each, with a common header, signed by who makes it.
//!
//! The header is `version` 2, `frame_type`, `frame_id` (a UUIDv7), `sent_at_ms`, `capabilities`, and `realm`, `call_id` and
//! `source_route`, which are null unless the frame's own fields set them. `signature` is over the canonical map without
//! `signature` and `publisher_sig`, after the words `macula-v2-frame` and a zero byte.

mod buffer;
mod fields;
mod handshake;
mod pubsub;
mod rpc;
mod stream;

use os_identity::{NodeId, NodeKey, SignatureError, verify_raw};

pub(crate) use buffer::framed;
pub use buffer::{FrameBuffer, MAX_FIRST_FRAME, MAX_FRAME, TooLarge};
pub(crate) use fields::Fields;
pub use fields::MAX_NAME;
pub use handshake::{Connect, Goodbye, Hello, MAX_LISTED, Nonce, STATION};
pub use pubsub::{Event, Message, Publish, PublisherSignature, Subscribe, Unsubscribe};
pub use rpc::{Advertise, Call, CallError, CallId, CallResult, MAX_DETAIL, MAX_UCAN, Unadvertise};
pub use stream::{
    Encoding, Mode, Role, StreamData, StreamEnd, StreamError, StreamId, StreamOpen, StreamReply,
};

use crate::cbor::{self, CborError, Value, bytes, text, uint};
use crate::signing;

/// Generation of the protocol, in every frame.
pub const VERSION: u64 = 2;

pub(crate) type Pairs = Vec<(&'static str, Value)>;

/// The fields of one type of frame.
pub(crate) trait Body: Sized {
    fn read(fields: &mut Fields) -> Result<Self, FrameError>;
    fn pairs(&self) -> Pairs;
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame is not canonical CBOR: {0}")]
    Cbor(#[from] CborError),
    #[error("a CBOR map is expected")]
    NotAMap,
    #[error("frame is of protocol version {0}, this is {VERSION}")]
    Version(u64),
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    #[error("field `{0}` is of the wrong kind, length or value")]
    Kind(&'static str),
    #[error("field `{0}` is too long")]
    TooLong(&'static str),
}

/// What every frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub frame_id: [u8; 16],
    /// Unix time.
    pub sent_at_ms: u64,
    pub capabilities: u64,
}

/// A frame's type and fields.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Connect(Connect),
    Hello(Hello),
    Goodbye(Goodbye),
    Ping(Nonce),
    Pong(Nonce),
    Call(Call),
    Result(CallResult),
    Error(CallError),
    Advertise(Advertise),
    Unadvertise(Unadvertise),
    Publish(Publish),
    Event(Event),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    StreamOpen(StreamOpen),
    StreamData(StreamData),
    StreamEnd(StreamEnd),
    StreamError(StreamError),
    StreamReply(StreamReply),
    /// A type that is not for stations as this one is, or not known at all. Cannot be sent.
    Other(String),
}

impl Frame {
    fn read(frame_type: String, f: &mut Fields) -> Result<Self, FrameError> {
        Ok(match frame_type.as_str() {
            "connect" => Frame::Connect(Body::read(f)?),
            "hello" => Frame::Hello(Body::read(f)?),
            "goodbye" => Frame::Goodbye(Body::read(f)?),
            "ping" => Frame::Ping(Body::read(f)?),
            "pong" => Frame::Pong(Body::read(f)?),
            "call" => Frame::Call(Body::read(f)?),
            "result" => Frame::Result(Body::read(f)?),
            "error" => Frame::Error(Body::read(f)?),
            "advertise" => Frame::Advertise(Body::read(f)?),
            "unadvertise" => Frame::Unadvertise(Body::read(f)?),
            "publish" => Frame::Publish(Body::read(f)?),
            "event" => Frame::Event(Body::read(f)?),
            "subscribe" => Frame::Subscribe(Body::read(f)?),
            "unsubscribe" => Frame::Unsubscribe(Body::read(f)?),
            "stream_open" => Frame::StreamOpen(Body::read(f)?),
            "stream_data" => Frame::StreamData(Body::read(f)?),
            "stream_end" => Frame::StreamEnd(Body::read(f)?),
            "stream_error" => Frame::StreamError(Body::read(f)?),
            "stream_reply" => Frame::StreamReply(Body::read(f)?),
            _ => Frame::Other(frame_type),
        })
    }

    fn parts(&self) -> (&str, Pairs) {
        match self {
            Frame::Connect(b) => ("connect", b.pairs()),
            Frame::Hello(b) => ("hello", b.pairs()),
            Frame::Goodbye(b) => ("goodbye", b.pairs()),
            Frame::Ping(b) => ("ping", b.pairs()),
            Frame::Pong(b) => ("pong", b.pairs()),
            Frame::Call(b) => ("call", b.pairs()),
            Frame::Result(b) => ("result", b.pairs()),
            Frame::Error(b) => ("error", b.pairs()),
            Frame::Advertise(b) => ("advertise", b.pairs()),
            Frame::Unadvertise(b) => ("unadvertise", b.pairs()),
            Frame::Publish(b) => ("publish", b.pairs()),
            Frame::Event(b) => ("event", b.pairs()),
            Frame::Subscribe(b) => ("subscribe", b.pairs()),
            Frame::Unsubscribe(b) => ("unsubscribe", b.pairs()),
            Frame::StreamOpen(b) => ("stream_open", b.pairs()),
            Frame::StreamData(b) => ("stream_data", b.pairs()),
            Frame::StreamEnd(b) => ("stream_end", b.pairs()),
            Frame::StreamError(b) => ("stream_error", b.pairs()),
            Frame::StreamReply(b) => ("stream_reply", b.pairs()),
            Frame::Other(name) => (name, Vec::new()),
        }
    }

    /// The signed frame with its length in front, ready for a stream.
    pub fn sign(&self, header: &Header, key: &NodeKey) -> Vec<u8> {
        let (frame_type, mut pairs) = self.parts();
        // Of a key that is there twice the first counts: a frame's own realm goes before the header's null.
        pairs.extend([
            ("version", uint(VERSION)),
            ("frame_type", text(frame_type)),
            ("frame_id", bytes(header.frame_id)),
            ("sent_at_ms", uint(header.sent_at_ms)),
            ("capabilities", uint(header.capabilities)),
            ("realm", Value::Null),
            ("call_id", Value::Null),
            ("source_route", Value::Null),
        ]);
        let publisher_sig = pairs.iter().position(|(key, _)| *key == "publisher_sig");
        let publisher_sig = publisher_sig.map(|at| pairs.swap_remove(at));
        let signable = signing::frame_bytes(&Value::map(pairs.iter().cloned()).encode());
        pairs.push(("signature", bytes(key.sign_raw(&signable))));
        pairs.extend(publisher_sig);
        framed(&Value::map(pairs).encode())
    }
}

/// A frame that came from a peer, with its bytes. Its signature is not checked until somebody does.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub header: Header,
    pub frame: Frame,
    raw: Vec<u8>,
    signature: Option<[u8; 64]>,
}

impl Received {
    /// Reads a frame without its four bytes of length.
    pub fn decode(raw: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::of(cbor::decode(raw)?)?;
        match fields.uint("version")? {
            VERSION => {}
            other => return Err(FrameError::Version(other)),
        }
        let header = Header {
            frame_id: fields.array("frame_id")?,
            sent_at_ms: fields.uint("sent_at_ms")?,
            capabilities: fields.uint("capabilities")?,
        };
        let signature = fields.optional_array("signature")?;
        let frame_type = fields.word("frame_type")?;
        let frame = Frame::read(frame_type, &mut fields)?;
        Ok(Self { header, frame, raw: raw.to_vec(), signature })
    }

    /// Is the frame's signature that of `node`?
    pub fn verify(&self, node: &NodeId) -> Result<(), SignatureError> {
        let signature = self.signature.ok_or(SignatureError)?;
        verify_raw(node, &signing::frame_bytes(&signing::unsigned(&self.raw)), &signature)
    }

    /// Bytes of the frame, without its length.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The bytes as they came, with their length in front, to be passed on.
    pub fn framed(&self) -> Vec<u8> {
        framed(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { frame_id: [9; 16], sent_at_ms: 1, capabilities: 0 };

    fn ping(key: &NodeKey) -> Vec<u8> {
        Frame::Ping(Nonce([3; 16])).sign(&HEADER, key)[4..].to_vec()
    }

    #[test]
    fn a_signature_is_the_signers_over_every_field() {
        let (key, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let received = Received::decode(&ping(&key)).unwrap();
        assert_eq!(received.frame, Frame::Ping(Nonce([3; 16])));
        assert!(received.verify(&key.node_id()).is_ok());
        assert!(received.verify(&other.node_id()).is_err());
    }

    #[test]
    fn no_changed_byte_of_a_frame_keeps_its_signature() {
        let key = NodeKey::from_seed(&[1; 32]);
        let good = ping(&key);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(received) = Received::decode(&bytes) {
                assert!(received.verify(&key.node_id()).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn other_generations_and_unsigned_frames_are_told_apart() {
        let map = |version: u64| {
            Value::map([
                ("version", uint(version)),
                ("frame_type", text("swim_ping")),
                ("frame_id", bytes([0; 16])),
                ("sent_at_ms", uint(0u64)),
                ("capabilities", uint(0u64)),
            ])
            .encode()
        };
        assert_eq!(Received::decode(&map(3)), Err(FrameError::Version(3)));
        let unsigned = Received::decode(&map(2)).unwrap();
        assert_eq!(unsigned.frame, Frame::Other("swim_ping".into()));
        assert!(unsigned.verify(&NodeId::from_bytes([0; 32])).is_err());
    }
}
