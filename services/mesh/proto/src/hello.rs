//! What two nodes tell each other about a connection, each on the one unidirectional stream that it opens: version and features
//! first, and where it sees the other.
//!
//! Nobody waits for it: what version 1 has can be used from the first packet on, and what goes beyond once the other end has said
//! that it can.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use crate::frame::framed;

/// The newest version of the protocol spoken here, and the oldest. ALPN fixes the generation, this the steps within it.
pub const VERSION: u16 = 1;
pub const OLDEST_VERSION: u16 = 1;
/// Largest frame on the hello stream, in bytes.
pub const MAX_HELLO: usize = 4096;
const MAX_FEATURES: usize = 64;
const MAX_FEATURE: usize = 32;

/// The first message, and later ones when the address has changed. Unknown fields are ignored; what must not be ignored goes
/// into `required`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    #[n(0)]
    pub version: u16,
    #[n(1)]
    pub oldest: u16,
    /// What this end can do beyond the version.
    #[n(2)]
    pub features: Vec<String>,
    /// What the other end must be able to do.
    #[n(3)]
    pub required: Vec<String>,
    /// Where this end sees the other one (`ip:port`).
    #[n(4)]
    pub you_are: Option<String>,
}

/// What both ends can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    pub version: u16,
    /// Sorted.
    pub features: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("hello does not decode: {0}")]
    Cbor(String),
    #[error("hello with too much in it")]
    TooLarge,
    #[error(
        "the peer speaks versions {theirs_oldest} to {theirs} of the protocol, this node {OLDEST_VERSION} to {VERSION}; update the older one"
    )]
    Version { theirs_oldest: u16, theirs: u16 },
    #[error("the peer requires `{0}`, which this node does not know; is its release older?")]
    Required(String),
}

impl Hello {
    pub fn new(features: &[&str], you_are: Option<SocketAddr>) -> Self {
        Self {
            version: VERSION,
            oldest: OLDEST_VERSION,
            features: features.iter().map(ToString::to_string).collect(),
            required: Vec::new(),
            you_are: you_are.map(|address| address.to_string()),
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        framed(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() > MAX_HELLO {
            return Err(HelloError::TooLarge);
        }
        let hello: Self = minicbor::decode(bytes).map_err(|e| HelloError::Cbor(e.to_string()))?;
        let words = hello.features.iter().chain(&hello.required);
        let few = hello.features.len() <= MAX_FEATURES && hello.required.len() <= MAX_FEATURES;
        if !few || words.clone().any(|word| word.len() > MAX_FEATURE) {
            return Err(HelloError::TooLarge);
        }
        Ok(hello)
    }

    /// What this end (`self`) and the other one can do together. Each finds out by itself, and both find the same.
    pub fn agree(&self, theirs: &Hello) -> Result<Agreed, HelloError> {
        let version = self.version.min(theirs.version);
        if version < self.oldest || version < theirs.oldest {
            return Err(HelloError::Version { theirs_oldest: theirs.oldest, theirs: theirs.version });
        }
        if let Some(missing) = theirs.required.iter().find(|word| !self.features.contains(word)) {
            return Err(HelloError::Required(missing.clone()));
        }
        let mut features: Vec<_> =
            self.features.iter().filter(|word| theirs.features.contains(word)).cloned().collect();
        features.sort();
        features.dedup();
        Ok(Agreed { version, features })
    }

    /// Where the other end sees this one. An address is a claim: it is only worth what several peers say.
    pub fn seen_at(&self) -> Option<SocketAddr> {
        self.you_are.as_deref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(versions: (u16, u16), features: &[&str], required: &[&str]) -> Hello {
        Hello {
            oldest: versions.0,
            version: versions.1,
            required: required.iter().map(ToString::to_string).collect(),
            ..Hello::new(features, None)
        }
    }

    #[test]
    fn both_ends_agree_on_the_same() {
        for (a, b, expected) in [
            (hello((1, 1), &[], &[]), hello((1, 1), &[], &[]), Some((1, vec![]))),
            (hello((1, 3), &["relay", "a"], &[]), hello((2, 9), &["b", "a"], &["a"]), Some((3, vec!["a"]))),
            (hello((1, 2), &[], &[]), hello((3, 4), &[], &[]), None),
        ] {
            let (at_a, at_b) = (a.agree(&b).ok(), b.agree(&a).ok());
            assert_eq!(at_a, at_b);
            assert_eq!(at_a.as_ref().map(|x| x.version), expected.as_ref().map(|x| x.0));
            assert_eq!(
                at_a.map(|x| x.features),
                expected.map(|x| x.1.iter().map(ToString::to_string).collect())
            );
        }
        let new = hello((1, 1), &["seal"], &["seal"]);
        assert_eq!(hello((1, 1), &[], &[]).agree(&new), Err(HelloError::Required("seal".into())));
    }

    #[test]
    fn unknown_fields_are_ignored_and_too_much_is_refused() {
        let mut bytes = Hello::new(&["relay"], Some(([192, 0, 2, 1], 4433).into())).frame().split_off(4);
        assert_eq!(Hello::decode(&bytes).unwrap().seen_at(), Some(([192, 0, 2, 1], 4433).into()));
        bytes[0] += 1;
        bytes.extend([0x18, 99, 0x81, 0xf5]);
        assert_eq!(Hello::decode(&bytes).unwrap().features, ["relay"]);
        for cut in 0..bytes.len() {
            let _ = Hello::decode(&bytes[..cut]);
        }
        let long = "x".repeat(MAX_FEATURE + 1);
        for bad in [Hello::new(&[&long], None), Hello::new(&["x"; MAX_FEATURES + 1], None)] {
            assert_eq!(Hello::decode(&bad.frame()[4..]), Err(HelloError::TooLarge));
        }
        assert_eq!(Hello::decode(&[0; MAX_HELLO + 1]), Err(HelloError::TooLarge));
        assert!(Hello { you_are: Some("nowhere".into()), ..Hello::new(&[], None) }.seen_at().is_none());
    }
}
