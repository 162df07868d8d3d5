//! `Did`: who issues, who receives.

use std::fmt;

use os_identity::NodeId;

use crate::error::TokenError;

/// Longest DID that is read at all.
const MAX_DID: usize = 256;

/// A decentralized identifier (<https://www.w3.org/TR/did-core/>). Only an Ed25519 `did:key` is a key by itself; any other, such as
/// `did:macula:io.macula`, would have to be looked up somewhere, so it can be shown but never verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    Key(NodeId),
    Other(String),
}

impl Did {
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if text.len() > MAX_DID || !printable || !text.starts_with("did:") {
            return Err(TokenError::Did(text.chars().take(80).collect()));
        }
        // base58 has one spelling for what does not begin with zeros, and this begins with the codec's number.
        Ok(text.parse().map_or_else(|_| Did::Other(text.to_owned()), Did::Key))
    }

    pub fn key(&self) -> Option<NodeId> {
        match self {
            Did::Key(key) => Some(*key),
            Did::Other(_) => None,
        }
    }
}

impl From<NodeId> for Did {
    fn from(key: NodeId) -> Self {
        Did::Key(key)
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Did::Key(key) => key.fmt(f),
            Did::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_did_key_is_a_key() {
        let key = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";
        assert_eq!(Did::parse(key).unwrap().key().unwrap().to_string(), key);
        let fragment = format!("{key}#{}", &key[8..]);
        let padded = key.replace("did:key:z", "did:key:z1");
        let p256 = "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv";
        for other in
            ["did:macula:io.macula", "did:web:example.org", p256, &fragment, "did:key:", "did:KEY:z", &padded]
        {
            assert_eq!(Did::parse(other).unwrap(), Did::Other(other.to_owned()));
        }
        for bad in ["", "did", "key:z6Mk", "DID:key:z", "did:key:z6\n", "did: x", "did:\u{e9}"] {
            assert!(Did::parse(bad).is_err(), "{bad}");
        }
        assert!(Did::parse(&format!("did:web:{}", "a".repeat(300))).is_err());
    }
}
