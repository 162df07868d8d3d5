//! Key confirmation: HMAC-SHA-256 over the transcript, under a key that only one side speaks with. An AEAD alone would not do: one ciphertext
//! can be made to open under many keys, and so to test many guesses.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::message::TAG;
use crate::schedule::Keys;

/// Over the transcript.
pub fn by_claimant(keys: &Keys) -> [u8; TAG] {
    mac(&keys.claimant_confirms, &[&keys.transcript]).finalize().into_bytes().into()
}

/// Over the transcript and the claimant's whole confirmation.
pub fn by_node(keys: &Keys, confirm: &[u8]) -> [u8; TAG] {
    mac(&keys.node_confirms, &[&keys.transcript, &Sha256::digest(confirm)]).finalize().into_bytes().into()
}

/// In constant time.
pub fn is_claimants(keys: &Keys, tag: &[u8; TAG]) -> bool {
    mac(&keys.claimant_confirms, &[&keys.transcript]).verify_slice(tag).is_ok()
}

pub fn is_nodes(keys: &Keys, confirm: &[u8], tag: &[u8; TAG]) -> bool {
    mac(&keys.node_confirms, &[&keys.transcript, &Sha256::digest(confirm)]).verify_slice(tag).is_ok()
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    // RFC 2104: a short key is filled up with zeros to SHA-256's block.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
    parts.iter().for_each(|part| mac.update(part));
    mac
}
