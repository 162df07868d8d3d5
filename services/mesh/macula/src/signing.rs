//! What signatures are over, and the puzzle.
//!
//! Ed25519 over a prefix that ends in a zero byte, then canonical CBOR: `macula-v2-frame` for frames,
//! `macula-v2-event-pub` for what was published, `macula-v2-record` for records. They are checked strictly: no
//! small-order keys, no malleable signatures.
//!
//! A node id is an Ed25519 public key. The puzzle makes many of them costly: SHA-256 of the key must begin with eight zero bits.
//! CONNECT carries that hash as evidence. Whether a station insists is its own matter.

use minicbor::{Decoder, Encoder};
use os_identity::{NodeId, NodeKey, SignatureError, verify_raw};
use sha2::{Digest, Sha256};

use crate::cbor::Value;
use crate::frame::{Message, PublisherSignature};

const FRAME: &[u8] = b"macula-v2-frame\0";
const PUBLISHER: &[u8] = b"macula-v2-event-pub\0";
const RECORD: &[u8] = b"macula-v2-record\0";
const PUZZLE_BITS: u32 = 8;

pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// What CONNECT says as `puzzle_evidence`.
pub fn puzzle_evidence(node: &NodeId) -> [u8; 32] {
    sha256(&[node.as_bytes()])
}

/// Has this key cost its owner what the puzzle asks?
pub fn puzzle_solved(node: &NodeId) -> bool {
    u32::from(puzzle_evidence(node)[0]).leading_zeros() - 24 >= PUZZLE_BITS
}

/// The publisher's own signature over a message.
pub fn sign_message(message: &Message, key: &NodeKey) -> PublisherSignature {
    key.sign_raw(&message_bytes(message))
}

/// Did the message's publisher say this?
pub fn verify_message(message: &Message, signature: &PublisherSignature) -> Result<(), SignatureError> {
    verify_raw(&message.publisher, &message_bytes(message), signature)
}

fn message_bytes(message: &Message) -> Vec<u8> {
    [PUBLISHER, &Value::map(message.pairs()).encode()].concat()
}

pub(crate) fn frame_bytes(unsigned: &[u8]) -> Vec<u8> {
    [FRAME, unsigned].concat()
}

pub(crate) fn record_bytes(unsigned: &[u8]) -> Vec<u8> {
    [RECORD, unsigned].concat()
}

/// A frame's map without its two signatures. The bytes have been decoded before, so they are canonical: what
/// remains of them is, too.
pub(crate) fn unsigned(raw: &[u8]) -> Vec<u8> {
    let mut d = Decoder::new(raw);
    let count = d.map().ok().flatten().unwrap_or(0);
    let (mut kept, mut body) = (0, Vec::with_capacity(raw.len()));
    for _ in 0..count {
        let start = d.position();
        let signature = matches!(d.str(), Ok("signature" | "publisher_sig"));
        d.set_position(start);
        // The key, then its value: both are there, or the bytes would not have been decoded.
        let _ = d.skip().and_then(|()| d.skip());
        if !signature {
            kept += 1;
            body.extend_from_slice(&raw[start..d.position()]);
        }
    }
    let mut head = Encoder::new(Vec::with_capacity(9));
    let _ = head.map(kept);
    [head.into_writer(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_puzzle_is_eight_zero_bits() {
        let solved =
            (0..=u8::MAX).map(|n| NodeKey::from_seed(&[n; 32]).node_id()).filter(puzzle_solved).count();
        assert!((0..16).contains(&solved), "about one of 256, not {solved}");
        let cheap = NodeKey::from_seed(&[1; 32]).node_id();
        assert_eq!(puzzle_solved(&cheap), puzzle_evidence(&cheap)[0] == 0);
    }

    #[test]
    fn keys_of_any_kind_are_kept_when_signatures_are_cut_out() {
        let pairs = |signed: bool| {
            let mut pairs = vec![
                (Value::Int(1.into()), Value::List(vec![Value::Null])),
                (Value::Bytes(vec![2]), Value::map([("signature", Value::Null)])),
            ];
            if signed {
                pairs.push((Value::Text("signature".into()), Value::Bytes(vec![7; 64])));
                pairs.push((Value::Text("publisher_sig".into()), Value::Bytes(vec![8; 64])));
            }
            Value::Map(pairs).encode()
        };
        assert_eq!(unsigned(&pairs(true)), pairs(false));
    }
}
