//! Taking a delegation back.
//!
//! A statement `{revoker, token}`, signed by the revoker. It counts when the revoker is the token's issuer, or one of those that the
//! issuer has it from (UCAN Revocation, "Scope"): [`crate::authorize`] asks only about those, so that anybody's statement about
//! anything may be kept without harm. There is no taking back of a revocation.
//!
//! In bytes, 137 to 145 of them: a CBOR array `[1, token, revoker, at, signature]` in deterministic encoding (RFC 8949, 4.2.1), the
//! signature over the array of the first four in the domain `ucan-revocation` of `os-identity`. It travels as it is.

use minicbor::{Decoder, Encoder};
use os_identity::{NodeId, NodeKey, SIGNATURE_LEN, Signature, domain};

use crate::TokenId;

const VERSION: u8 = 1;
pub const MAX_LEN: usize = 160;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub token: TokenId,
    pub revoker: NodeId,
    /// When, by the revoker's clock, in seconds since 1970. For people: it holds from when it becomes known.
    pub at: u64,
    signature: Signature,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    #[error("a revocation is at most {MAX_LEN} bytes, got {0}")]
    TooLarge(usize),
    #[error("not a revocation: {0}")]
    Cbor(String),
    #[error("not a revocation in the one way to write it")]
    NotCanonical,
    #[error("revocation version {0} is not known")]
    Version(u8),
    #[error("the revoker did not sign it")]
    Signature,
}

impl Revocation {
    pub fn issue(token: TokenId, at: u64, key: &NodeKey) -> Self {
        let revoker = key.node_id();
        let signature = key.sign(domain::UCAN_REVOCATION, &statement(&token, &revoker, at, None));
        Self { token, revoker, at, signature }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        statement(&self.token, &self.revoker, self.at, Some(&self.signature))
    }

    /// Reads a statement and checks that its revoker signed it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RevocationError> {
        if bytes.len() > MAX_LEN {
            return Err(RevocationError::TooLarge(bytes.len()));
        }
        let (version, read) = read(bytes).map_err(|e| RevocationError::Cbor(e.to_string()))?;
        if version != VERSION {
            return Err(RevocationError::Version(version));
        }
        let revocation = read.ok_or(RevocationError::NotCanonical)?;
        if revocation.to_bytes() != bytes {
            return Err(RevocationError::NotCanonical);
        }
        let signed = statement(&revocation.token, &revocation.revoker, revocation.at, None);
        os_identity::verify(&revocation.revoker, domain::UCAN_REVOCATION, &signed, &revocation.signature)
            .map_err(|_| RevocationError::Signature)?;
        Ok(revocation)
    }
}

/// The version, and the rest if its lengths are right.
fn read(bytes: &[u8]) -> Result<(u8, Option<Revocation>), minicbor::decode::Error> {
    let mut d = Decoder::new(bytes);
    let fields = d.array()?;
    let version = d.u8()?;
    if version != VERSION || fields != Some(5) {
        return Ok((version, None));
    }
    let (token, revoker, at, signature) = (d.bytes()?, d.bytes()?, d.u64()?, d.bytes()?);
    let revocation = || {
        Some(Revocation {
            token: TokenId::from_bytes(token.try_into().ok()?),
            revoker: NodeId::try_from(revoker).ok()?,
            at,
            signature: <[u8; SIGNATURE_LEN]>::try_from(signature).ok()?,
        })
    };
    Ok((version, revocation()))
}

fn statement(token: &TokenId, revoker: &NodeId, at: u64, signature: Option<&Signature>) -> Vec<u8> {
    let mut e = Encoder::new(Vec::with_capacity(MAX_LEN));
    let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(4 + u64::from(signature.is_some()))?.u8(VERSION)?;
        e.bytes(token.as_bytes())?.bytes(revoker.as_bytes())?.u64(at)?;
        signature.map_or(Ok(()), |signature| e.bytes(signature).map(|_| ()))
    };
    // A Vec takes every write.
    let _ = write();
    e.into_writer()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Revocation {
        Revocation::issue(TokenId::of(b"token"), 1_795_000_000, &NodeKey::from_seed(&[3; 32]))
    }

    #[test]
    fn comes_back_as_it_was() {
        for at in [0, 1_795_000_000, u64::MAX] {
            let revocation = Revocation::issue(TokenId::of(b"token"), at, &NodeKey::from_seed(&[3; 32]));
            let bytes = revocation.to_bytes();
            assert!((137..=145).contains(&bytes.len()), "{}", bytes.len());
            assert_eq!(Revocation::from_bytes(&bytes), Ok(revocation));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = known().to_bytes();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Revocation::from_bytes(&flipped).is_err(), "bit {at}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let bytes = known().to_bytes();
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Revocation::from_bytes(&longer), Err(RevocationError::NotCanonical));
        let wide = [&[0x98, 5], &bytes[1..]].concat();
        assert_eq!(Revocation::from_bytes(&wide), Err(RevocationError::NotCanonical));
        let mut newer = bytes.clone();
        newer[1] = 2;
        assert_eq!(Revocation::from_bytes(&newer), Err(RevocationError::Version(2)));
        assert!(matches!(Revocation::from_bytes(&bytes[..100]), Err(RevocationError::Cbor(_))));
        assert_eq!(Revocation::from_bytes(&[0; 161]), Err(RevocationError::TooLarge(161)));
        // In somebody else's name.
        let mut other = known();
        other.revoker = NodeKey::from_seed(&[4; 32]).node_id();
        assert_eq!(Revocation::from_bytes(&other.to_bytes()), Err(RevocationError::Signature));
    }
}
