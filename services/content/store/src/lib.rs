//! Content on this node, and the rules by which it is exchanged.
//!
//! - [`Store`]: blocks and manifests as files named by hash, an index that can be thrown away, quota, pins;
//! - [`Offers`]: content served by reference out of read-only files and devices;
//! - [`exchange`]: the messages of `content/1` (pure);
//! - [`download`]: which chunk to ask of whom, and when to give up on somebody (pure).
//!
//! Every byte is checked against its hash whenever it is read, from disk as from a peer. A power cut loses at most
//! content whose `put` had not been answered yet; nothing here has to be repaired by hand.

pub mod download;
pub mod exchange;
mod files;
mod index;
mod offers;
mod pins;
mod store;
mod writer;

pub use exchange::Checked;
pub use offers::{MAX_OFFERS, Offer, OfferError, Offers};
pub use store::{Store, StoreError, Usage, default_quota};
pub use writer::ContentWriter;
