//! `TokenId`: a token's name is the hash of its bytes.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use ipld_core::cid::Cid;
use ipld_core::cid::multibase::Base;
use ipld_core::cid::multihash::Multihash;
use sha2::{Digest, Sha256};

use crate::token::Format;

const SHA2_256: u64 = 0x12;
const RAW: u64 = 0x55;
const DAG_CBOR: u64 = 0x71;
/// The longest text of a CID that is looked at.
const MAX_TEXT: usize = 128;

/// SHA-256 of a token as it was issued, signature included. Text: base64url, as Macula writes it in `prf`.
///
/// UCAN 1.0 wraps the same hash in a CID, see [`TokenId::cid`]. Reading takes either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's id is 43 characters of base64url, or a CID of its SHA-256")]
pub struct ParseTokenIdError;

impl TokenId {
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a link to a token in this format.
    pub(crate) fn link(&self, format: Format) -> Cid {
        let codec = if format == Format::Jwt { RAW } else { DAG_CBOR };
        // 32 bytes always fit a hash of up to 64.
        let hash = Multihash::wrap(SHA2_256, &self.0).unwrap_or_default();
        Cid::new_v1(codec, hash)
    }

    /// The CID of a token in this format as text in base58btc (UCAN 1.0, "Content Identifiers"): `zdpu...` for UCAN 1.0.
    pub fn cid(&self, format: Format) -> String {
        let cid = self.link(format);
        cid.to_string_of_base(Base::Base58Btc).unwrap_or_else(|_| cid.to_string())
    }

    pub fn from_cid(cid: &Cid) -> Option<Self> {
        let known = matches!(cid.codec(), RAW | DAG_CBOR) && cid.hash().code() == SHA2_256;
        let digest = <[u8; 32]>::try_from(cid.hash().digest()).ok()?;
        known.then_some(Self(digest))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = ParseTokenIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
        let cid = || Cid::try_from(text).ok().and_then(|cid| Self::from_cid(&cid));
        match plain {
            Some(hash) => Ok(Self(hash)),
            None if text.len() <= MAX_TEXT => cid().ok_or(ParseTokenIdError),
            None => Err(ParseTokenIdError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_one_text_and_is_read_from_a_cid_too() {
        let id = TokenId::of(b"abc");
        assert_eq!(id.to_string(), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.cid(Format::Jwt).parse(), Ok(id));
        let text = id.cid(Format::DagCbor);
        assert!(text.starts_with("zdpu"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        for bad in ["", "ungWv48B", "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa1", &"z".repeat(500)] {
            assert_eq!(bad.parse::<TokenId>(), Err(ParseTokenIdError), "{bad}");
        }
    }
}
