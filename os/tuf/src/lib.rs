//! The Update Framework's rules (specification 1.0), from bytes: which metadata a client may believe after which.
//!
//! No clock, no disk, no network: bytes and `now_unix` in, an answer out. [`Trusted`] is the reading side, used by a node;
//! [`author`] is the writing side, used by `maculactl release`. Signatures are Ed25519 over canonical JSON; a caller may
//! bring a check for other kinds of keys, a node does not.

pub mod author;
mod delegation;
mod envelope;
mod error;
mod json;
mod metadata;
mod time;
mod trusted;

pub use delegation::{Delegation, Delegations};
pub use envelope::{CheckSignature, Envelope, check_ed25519};
pub use error::{Result, TufError};
pub use metadata::{FileInfo, Key, Role, RoleKeys, Root, Snapshot, Target, Targets, Timestamp};
pub use time::{format as format_time, parse as parse_time};
pub use trusted::{Seen, Trusted};

/// Bytes of one metadata file.
pub const METADATA_MAX: usize = 256 * 1024;
/// Keys of a root, keys of a role, signatures on a file.
pub const KEYS_MAX: usize = 64;
/// Files that a snapshot names, targets that a targets role names.
pub const NAMES_MAX: usize = 4096;
/// Bytes of a key id, role name or target path.
pub const NAME_LEN_MAX: usize = 512;
