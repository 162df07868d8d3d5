//! `Token`: a delegation as somebody signed it.

use os_identity::{NodeId, SIGNATURE_LEN, Signature, SignatureError};

use crate::error::TokenError;
use crate::{Delegation, MAX_TOKEN, TokenId, dag_cbor, jwt};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// UCAN 0.10.
    Jwt,
    /// UCAN 1.0.
    DagCbor,
}

/// A delegation, its signature and the bytes that were signed. Nothing is known of the signature until
/// [`Token::verify`] has looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub id: TokenId,
    pub format: Format,
    pub delegation: Delegation,
    pub(crate) signed: Vec<u8>,
    pub(crate) signature: Signature,
}

impl Token {
    /// Reads a token of either format.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge(bytes.len()));
        }
        match bytes.first() {
            // `{` in base64url, and an array of two.
            Some(b'e') => jwt::decode(bytes),
            Some(0x82) => dag_cbor::decode(bytes),
            _ => Err(TokenError::UnknownFormat),
        }
    }

    /// Whether its issuer signed it. An issuer that is no key has signed nothing that can be checked.
    pub fn verify(&self) -> Result<(), SignatureError> {
        self.verify_by(&self.delegation.issuer.key().ok_or(SignatureError)?)
    }

    /// Whether this key signed it: for an issuer whose key is known from elsewhere.
    pub fn verify_by(&self, key: &NodeId) -> Result<(), SignatureError> {
        os_identity::verify_raw(key, &self.signed, &self.signature)
    }
}

pub(crate) fn signature(bytes: &[u8]) -> Result<Signature, TokenError> {
    <[u8; SIGNATURE_LEN]>::try_from(bytes).map_err(|_| TokenError::SignatureLength)
}
