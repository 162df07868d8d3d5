//! Node keys, node ids and signatures.
//!
//! A node is its Ed25519 public key. For people and files it is written as a `did:key` (multicodec `ed25519-pub`,
//! multibase base58btc: <https://w3c-ccg.github.io/did-key-spec/>), on the wire it is the 32 key bytes.
//! Every signature is made over `macula-os\0<domain>\0<message>`, so one made for one purpose never serves another.

mod key;
mod node_id;

pub use key::{NodeKey, SIGNATURE_LEN, Signature, SignatureError, domain, signed_bytes, verify, verify_raw};
pub use node_id::{NodeId, ParseNodeIdError};
