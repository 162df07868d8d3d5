//! `NodeId`: the public key of a node (or an owner, or a release signer) as a name.

use std::fmt;
use std::str::FromStr;

const DID_KEY: &str = "did:key:";
/// Multicodec `ed25519-pub` (0xed) as an unsigned varint.
const ED25519_PUB: [u8; 2] = [0xed, 0x01];
/// `did:key:z` + base58 of 34 bytes is 57 characters; anything much longer is not worth decoding.
const MAX_TEXT: usize = 64;

/// An Ed25519 public key, 32 bytes. Text form `did:key:z6Mk...`.
///
/// Holding one does not mean that the bytes are a valid curve point: [`crate::verify`] finds that out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

/// Why a text or byte string is not a node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNodeIdError {
    #[error("a node id starts with `did:key:z`")]
    NotDidKey,
    #[error("a node id is at most {MAX_TEXT} characters")]
    TooLong,
    #[error("a node id is base58 after `did:key:z`")]
    NotBase58,
    #[error("this did:key does not hold an Ed25519 public key")]
    NotEd25519,
    #[error("a node id is 32 bytes, got {0}")]
    Length(usize),
}

impl NodeId {
    pub const LEN: usize = 32;

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The last eight characters of the text form: enough for people to tell nodes apart in a list.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_string()
    }
}

impl TryFrom<&[u8]> for NodeId {
    type Error = ParseNodeIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self).map_err(|_| ParseNodeIdError::Length(bytes.len()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = [0; 34];
        raw[..2].copy_from_slice(&ED25519_PUB);
        raw[2..].copy_from_slice(&self.0);
        write!(f, "{DID_KEY}z{}", bs58::encode(raw).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT {
            return Err(ParseNodeIdError::TooLong);
        }
        let encoded = text
            .strip_prefix(DID_KEY)
            .and_then(|t| t.strip_prefix('z'))
            .ok_or(ParseNodeIdError::NotDidKey)?;
        let raw = bs58::decode(encoded).into_vec().map_err(|_| ParseNodeIdError::NotBase58)?;
        match raw.strip_prefix(&ED25519_PUB) {
            Some(key) => NodeId::try_from(key),
            None => Err(ParseNodeIdError::NotEd25519),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Macula SDK's known answer (`ucan_did.json`: issuer_pub and publicKeyMultibase).
    #[test]
    fn prints_the_known_multibase_form() {
        let bytes = data_encoding::HEXLOWER
            .decode(b"b966a9812649c3d5542ff54954fe090c43fda6574fe48a0dd326626cfad29a83");
        let id = NodeId::try_from(bytes.unwrap().as_slice()).unwrap();
        assert_eq!(id.to_string(), "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "rHGcCvhx");
    }

    #[test]
    fn refuses_what_is_not_a_node_id() {
        let parse = |t: &str| t.parse::<NodeId>().unwrap_err();
        assert_eq!(parse(""), ParseNodeIdError::NotDidKey);
        assert_eq!(parse("did:web:example.org"), ParseNodeIdError::NotDidKey);
        assert_eq!(parse("did:key:z0OIl"), ParseNodeIdError::NotBase58);
        assert_eq!(parse("did:key:z6Mk"), ParseNodeIdError::NotEd25519);
        assert_eq!(parse(&format!("did:key:z{}", "1".repeat(100))), ParseNodeIdError::TooLong);
        assert_eq!(NodeId::try_from(&[0u8; 31][..]), Err(ParseNodeIdError::Length(31)));
    }
}
