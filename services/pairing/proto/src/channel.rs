//! ChaCha20-Poly1305 (RFC 8439) both ways, a key and a counter for each direction. Messages are padded, so that their length does not tell a
//! passphrase's.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key as AeadKey, Nonce};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::schedule::Key;

/// Plain texts are a multiple of this, in bytes.
const PADDING: usize = 256;

/// One direction, one end. Its counter goes up with every message.
pub struct Half {
    key: Key,
    transcript: [u8; 32],
    count: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct CannotOpen;

impl Half {
    pub fn new(key: Key, transcript: [u8; 32]) -> Self {
        Self { key, transcript, count: 0 }
    }

    pub fn seal<T: Encode<()>>(&mut self, message: &T) -> Vec<u8> {
        let mut plain = Zeroizing::new(Vec::new());
        // A Vec takes every write.
        let _ = minicbor::encode(message, &mut *plain);
        let padded = plain.len().next_multiple_of(PADDING);
        plain.resize(padded, 0);
        let sealed = self.cipher().encrypt(&self.nonce(), Payload { msg: &plain, aad: &self.transcript });
        self.count += 1;
        // Fails for more than 256 GiB.
        sealed.unwrap_or_default()
    }

    pub fn open<T: for<'b> Decode<'b, ()>>(&mut self, sealed: &[u8]) -> Result<T, CannotOpen> {
        let opened = self.cipher().decrypt(&self.nonce(), Payload { msg: sealed, aad: &self.transcript });
        let plain = Zeroizing::new(opened.map_err(|_| CannotOpen)?);
        self.count += 1;
        let mut decoder = minicbor::Decoder::new(&plain);
        let message = decoder.decode().map_err(|_| CannotOpen)?;
        if plain[decoder.position()..].iter().any(|byte| *byte != 0) {
            return Err(CannotOpen);
        }
        Ok(message)
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&AeadKey::from(*self.key))
    }

    /// Four zero bytes and the counter, big-endian.
    fn nonce(&self) -> Nonce {
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        nonce
    }
}
