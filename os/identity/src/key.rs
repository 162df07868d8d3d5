//! `NodeKey`: the private half, and domain-separated signatures.

use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::NodeId;

pub const SIGNATURE_LEN: usize = 64;
/// Ed25519 signature bytes (RFC 8032).
pub type Signature = [u8; SIGNATURE_LEN];

/// What a signature may be about. New purposes get a new word.
pub mod domain {
    /// Never shown: what is made of it is a secret of the node.
    pub const QUIC_RESET: &str = "quic-reset";
    /// The same: what is made of it is the key of the station that existing Macula clients see.
    pub const STATION: &str = "station";
    /// DHT records (`dht-proto`).
    pub const DHT_RECORD: &str = "dht-record";
    /// Release statements (`os-release`).
    pub const RELEASE: &str = "release";
    /// Delegations taken back (`os-ucan`).
    pub const UCAN_REVOCATION: &str = "ucan-revocation";
    /// What was said while a node was paired (`pairing-proto`), by whoever becomes its owner.
    pub const PAIR_CLAIMANT: &str = "pair-claimant";
    /// The same, by the node.
    pub const PAIR_NODE: &str = "pair-node";
}

/// The signature is not this key's over this message in this domain, or the key is not a valid point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct SignatureError;

/// An Ed25519 key pair. Its memory is wiped on drop.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// A new key from the kernel's random numbers.
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    pub fn generate() -> std::io::Result<Self> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut()).map_err(std::io::Error::from)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key whose RFC 8032 seed this is.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, domain: &str, message: &[u8]) -> Signature {
        self.0.sign(&signed_bytes(domain, message)).to_bytes()
    }

    /// A signature over exactly these bytes, for formats that bring their own domain (X.509, TUF metadata).
    pub fn sign_raw(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
    }

    /// The key as PKCS#8 DER (RFC 8410), as TLS stacks want it.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, SignatureError> {
        let document = self.0.to_pkcs8_der().map_err(|_| SignatureError)?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }
}

/// Checks that `signer` made `signature` over `message` in `domain`. Strict: small-order keys and
/// malleable signatures are refused.
pub fn verify(signer: &NodeId, domain: &str, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    verify_raw(signer, &signed_bytes(domain, message), signature)
}

/// The same over exactly these bytes, for formats that bring their own domain (TUF metadata).
pub fn verify_raw(signer: &NodeId, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| SignatureError)?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(message, &signature).map_err(|_| SignatureError)
}

/// What [`NodeKey::sign`] signs, for keys that are kept elsewhere (a browser's).
pub fn signed_bytes(domain: &str, message: &[u8]) -> Vec<u8> {
    [b"macula-os\0", domain.as_bytes(), b"\0", message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known_key() -> NodeKey {
        let seed = data_encoding::HEXLOWER
            .decode(b"457f45ff5a09e172ed15cb20d6cb26b51ad15ed7308c12d478e8631f9ca03d4f")
            .unwrap();
        NodeKey::from_seed(&seed.try_into().unwrap())
    }

    /// `identity.json`: public key and raw signature over a known message.
    #[test]
    fn signs_as_the_known_answers_say() {
        let key = known_key();
        assert_eq!(
            data_encoding::HEXLOWER.encode(key.node_id().as_bytes()),
            "b966a9812649c3d5542ff54954fe090c43fda6574fe48a0dd326626cfad29a83"
        );
        let signature = key.sign_raw(b"macula-v2-frame\0hello world");
        assert_eq!(
            data_encoding::HEXLOWER.encode(&signature),
            "e8605cf0387cdfcdd88308a0e40a1dcb83402864c335a64d44431dc8abc5e7e4\
             ff16ca0c56231b32eeb312c4f89f20b6ba76280afd622983e9d8bc5f4456ac0b"
        );
    }

    #[test]
    fn a_signature_serves_one_domain_message_and_key_only() {
        let key = known_key();
        let signature = key.sign("dht-record", b"hello");
        assert!(verify(&key.node_id(), "dht-record", b"hello", &signature).is_ok());
        assert!(verify(&key.node_id(), "release", b"hello", &signature).is_err());
        assert!(verify(&key.node_id(), "dht-record", b"hullo", &signature).is_err());
        assert!(verify(&NodeKey::from_seed(&[7; 32]).node_id(), "dht-record", b"hello", &signature).is_err());
        assert!(verify(&key.node_id(), "dht-record", b"hello", &signature[..63]).is_err());
        let mut flipped = signature;
        flipped[40] ^= 1;
        assert!(verify(&key.node_id(), "dht-record", b"hello", &flipped).is_err());
    }

    #[test]
    fn a_key_that_is_no_point_verifies_nothing() {
        assert!(verify(&NodeId::from_bytes([0; 32]), "release", b"", &[0; 64]).is_err());
    }
}
