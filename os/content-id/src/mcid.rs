//! The 34-byte id and its text form.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::{Hash, hash};

const VERSION: u8 = 1;

/// What the hash of an MCID is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The content itself.
    Raw = 0x55,
    /// The canonical CBOR of a [`crate::Manifest`].
    Manifest = 0x56,
}

impl Codec {
    fn word(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Manifest => "manifest",
        }
    }
}

/// A content id. Text form `mcid1-raw-blake3-<64 hex>` or `mcid1-manifest-blake3-<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mcid {
    pub codec: Codec,
    pub hash: Hash,
}

/// Why something is not an MCID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMcidError {
    #[error("an MCID is 34 bytes, got {0}")]
    Length(usize),
    #[error("MCID version {0} is not known (this node knows 1)")]
    Version(u8),
    #[error("MCID codec {0:#04x} is not known (raw is 0x55, manifest 0x56)")]
    Codec(u8),
    #[error("an MCID reads `mcid1-raw-blake3-<64 hex digits>` or `mcid1-manifest-blake3-<64 hex digits>`")]
    Text,
}

impl Mcid {
    pub const LEN: usize = 34;

    /// The id of one raw block.
    pub fn of_raw(bytes: &[u8]) -> Self {
        Self { codec: Codec::Raw, hash: hash(bytes) }
    }

    pub fn to_bytes(&self) -> [u8; 34] {
        let mut out = [0; 34];
        out[0] = VERSION;
        out[1] = self.codec as u8;
        out[2..].copy_from_slice(&self.hash);
        out
    }
}

impl TryFrom<&[u8]> for Mcid {
    type Error = ParseMcidError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseMcidError> {
        let bytes: &[u8; 34] = bytes.try_into().map_err(|_| ParseMcidError::Length(bytes.len()))?;
        if bytes[0] != VERSION {
            return Err(ParseMcidError::Version(bytes[0]));
        }
        let codec = match bytes[1] {
            0x55 => Codec::Raw,
            0x56 => Codec::Manifest,
            other => return Err(ParseMcidError::Codec(other)),
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[2..]);
        Ok(Self { codec, hash })
    }
}

impl fmt::Display for Mcid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mcid1-{}-blake3-{}", self.codec.word(), HEXLOWER.encode(&self.hash))
    }
}

impl fmt::Debug for Mcid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mcid {
    type Err = ParseMcidError;

    fn from_str(text: &str) -> Result<Self, ParseMcidError> {
        let rest = text.strip_prefix("mcid1-").ok_or(ParseMcidError::Text)?;
        let (codec, hex) = match rest.strip_prefix("raw-blake3-") {
            Some(hex) => (Codec::Raw, hex),
            None => (Codec::Manifest, rest.strip_prefix("manifest-blake3-").ok_or(ParseMcidError::Text)?),
        };
        if hex.len() != 64 {
            return Err(ParseMcidError::Text);
        }
        let raw = HEXLOWER.decode(hex.as_bytes()).map_err(|_| ParseMcidError::Text)?;
        Ok(Self { codec, hash: raw.try_into().map_err(|_| ParseMcidError::Text)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = Mcid::of_raw(b"hello macula");
        assert_eq!(
            HEXLOWER.encode(&id.to_bytes()),
            "0155fe2c442ccf7ef2940efe24bee9112dd0faf611d4b7ebfedd4037d8249cfde0e7"
        );
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(Mcid::try_from(id.to_bytes().as_slice()), Ok(id));
        let manifest = Mcid { codec: Codec::Manifest, hash: [0xab; 32] };
        assert_eq!(manifest.to_string().parse(), Ok(manifest));
    }

    #[test]
    fn refuses_other_things() {
        assert_eq!(Mcid::try_from(&[1u8; 33][..]), Err(ParseMcidError::Length(33)));
        let mut bytes = Mcid::of_raw(b"").to_bytes();
        bytes[0] = 2;
        assert_eq!(Mcid::try_from(bytes.as_slice()), Err(ParseMcidError::Version(2)));
        bytes[0] = 1;
        bytes[1] = 0x70;
        assert_eq!(Mcid::try_from(bytes.as_slice()), Err(ParseMcidError::Codec(0x70)));
        for text in
            ["", "mcid1-raw-blake3-", "mcid2-raw-blake3-00", "mcid1-raw-sha256-00", "mcid1-raw-blake3-zz"]
        {
            assert_eq!(text.parse::<Mcid>(), Err(ParseMcidError::Text), "{text}");
        }
        let upper = Mcid::of_raw(b"x").to_string().to_uppercase();
        assert_eq!(upper.parse::<Mcid>(), Err(ParseMcidError::Text));
    }
}
