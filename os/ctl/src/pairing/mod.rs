//! Pairing, from the side of whoever wants to own: read a code, find the node, say what `pairing-proto` says.

pub mod ask;
pub mod find;
pub mod picture;
pub mod talk;
