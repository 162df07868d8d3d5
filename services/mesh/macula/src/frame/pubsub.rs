//! PUBLISH, SUBSCRIBE, UNSUBSCRIBE, EVENT.
//!
//! A PUBLISH is for one station, which makes EVENTs of it and signs these itself. `publisher_sig` is the publisher's word
//! over what it said, and stays with the event as far as it goes.

use os_identity::NodeId;

use super::fields::Fields;
use super::{Body, FrameError, Pairs};
use crate::cbor::{Value, bytes, or_null, text, uint};

pub type PublisherSignature = [u8; 64];

#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub message: Message,
    /// Unix time.
    pub published_at_ms: u64,
    pub ttl_ms: Option<u64>,
    pub publisher_sig: Option<PublisherSignature>,
}

/// What was said, and what `publisher_sig` is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub topic: String,
    pub realm: [u8; 32],
    pub publisher: NodeId,
    /// Tells a publisher's messages apart; they need not count up.
    pub seq: u64,
    pub payload: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub message: Message,
    /// `plumtree`, `dht` or `direct`.
    pub delivered_via: String,
    pub publisher_sig: Option<PublisherSignature>,
}

/// `filter` and `options` are sent as null and an empty map, and not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub topic: String,
    pub realm: [u8; 32],
    pub subscriber: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe(pub Subscribe);

impl Message {
    pub(crate) fn pairs(&self) -> Pairs {
        vec![
            ("topic", bytes(&self.topic)),
            ("realm", bytes(self.realm)),
            ("publisher", bytes(self.publisher.as_bytes())),
            ("seq", uint(self.seq)),
            ("payload", self.payload.clone()),
        ]
    }

    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            topic: f.name("topic")?,
            realm: f.array("realm")?,
            publisher: NodeId::from_bytes(f.array("publisher")?),
            seq: f.uint("seq")?,
            payload: f.value("payload")?,
        })
    }
}

impl Body for Publish {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            message: Message::read(f)?,
            published_at_ms: f.uint("published_at_ms")?,
            ttl_ms: f.optional_uint("ttl_ms")?,
            publisher_sig: f.optional_array("publisher_sig")?,
        })
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = self.message.pairs();
        pairs.push(("published_at_ms", uint(self.published_at_ms)));
        pairs.push(("ttl_ms", or_null(self.ttl_ms.map(uint))));
        pairs.extend(self.publisher_sig.map(|s| ("publisher_sig", bytes(s))));
        pairs
    }
}

impl Body for Event {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            message: Message::read(f)?,
            delivered_via: f.word("delivered_via")?,
            publisher_sig: f.optional_array("publisher_sig")?,
        })
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = self.message.pairs();
        pairs.push(("delivered_via", text(&self.delivered_via)));
        pairs.extend(self.publisher_sig.map(|s| ("publisher_sig", bytes(s))));
        pairs
    }
}

impl Body for Subscribe {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            topic: f.name("topic")?,
            realm: f.array("realm")?,
            subscriber: NodeId::from_bytes(f.array("subscriber")?),
        })
    }

    fn pairs(&self) -> Pairs {
        vec![
            ("topic", bytes(&self.topic)),
            ("realm", bytes(self.realm)),
            ("subscriber", bytes(self.subscriber.as_bytes())),
            ("filter", Value::Null),
            ("options", Value::Map(Vec::new())),
        ]
    }
}

impl Body for Unsubscribe {
    fn read(f: &mut Fields) -> Result<Self, FrameError> {
        Subscribe::read(f).map(Self)
    }

    fn pairs(&self) -> Pairs {
        let mut pairs = self.0.pairs();
        pairs.truncate(3);
        pairs
    }
}
