//! MCID: the name of content, made from its bytes.
//!
//! 34 bytes: version `01`, codec `55` (raw block) or `56` (manifest), 32 bytes of BLAKE3. Content of up to
//! [`CHUNK_SIZE`] bytes is one raw block; anything longer is cut into chunks of that size and named by a
//! [`Manifest`]. The same bytes under the same name have the same MCID as in the Erlang and Rust SDKs.

mod manifest;
mod mcid;
mod merkle;

pub use manifest::{
    CHUNK_SIZE, ChunkList, MAX_CHUNKS, MAX_NAME, MAX_WIRE_MANIFEST, Manifest, ManifestBuilder, ManifestError,
};
pub use mcid::{Codec, Mcid, ParseMcidError};
pub use merkle::merkle_root;

/// A BLAKE3 hash, 32 bytes.
pub type Hash = [u8; 32];

/// BLAKE3 of a whole buffer. Feed at least 16 KiB at a time where speed matters.
pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}
