//! The CBOR of the wire: values, their one encoding, and a decoder that takes no other.
//!
//! Deterministic as in RFC 8949 section 4.2.1: shortest numbers and lengths, nothing of indefinite length, keys sorted by
//! their encoded form. Floats are always binary64. The only simple value is null: a boolean is the text `true` or
//! `false`. No tags. What is a name in Erlang (an atom) is text; what is a binary there is a byte string, even where
//! it holds text. The SDK's own decoder takes more (long numbers, unsorted and repeated keys, invalid UTF-8, short floats),
//! but signatures are checked over the canonical form, so no honest sender needs that.

mod decode;
mod value;

pub use decode::{CborError, MAX_DEPTH, MAX_ITEMS, decode};
pub use value::Value;
pub(crate) use value::{bytes, flag, or_null, text, uint};
