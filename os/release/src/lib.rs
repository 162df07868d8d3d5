//! The signed statement that names a release: for which board, which version, which artifacts by MCID, how long it
//! may be installed. A release is itself named by the MCID of its signed bytes.
//!
//! The statement is deterministic CBOR (RFC 8949 section 4.2.1), a map with small integers as keys. A reader skips
//! keys that it does not know, except negative ones: those say "refuse me if you do not understand this".
//! The envelope around it carries k-of-n Ed25519 signatures in the domain `release` of `os-identity`.

mod signed;
mod statement;

pub use semver::Version;
pub use signed::{Expected, SIGNATURES_MAX, SIGNED_MAX, SignedRelease};
pub use statement::{ARTIFACTS_MAX, Artifact, NOTES_MAX, Release, Role};

use os_identity::NodeId;

/// Why a release is refused. Each text says what is wrong with it and, where it helps, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    #[error("release is truncated: it ends in the middle of a field")]
    Truncated,
    #[error("release is not a signed release statement: {0}")]
    Malformed(String),
    #[error("release is {0} bytes, more than the {SIGNED_MAX} allowed")]
    TooLarge(usize),
    #[error("release statement has format version {0}; this node reads version 1 (update it stepwise)")]
    Format(u64),
    #[error(
        "release has the required field {0} that this node does not know; a newer release must come first"
    )]
    UnknownRequired(i64),
    #[error("release field `{0}` is missing")]
    Missing(&'static str),
    #[error("wrong signature: the one by {0} is not over this release")]
    WrongSignature(NodeId),
    #[error(
        "not enough signatures: {valid} of the {needed} needed are by this node's release keys \
         ({unknown} by keys it does not trust)"
    )]
    NotEnoughSignatures { valid: usize, needed: usize, unknown: usize },
    #[error("wrong board: the release is for {release}, this node is {node}")]
    WrongBoard { release: String, node: String },
    #[error("older version: the release is {release}, this node runs {running}")]
    OlderVersion { release: Version, running: Version },
    #[error("this node runs version {0} already")]
    SameVersion(Version),
    #[error("the release replaces {minimum} or newer, this node runs {running}: install {minimum} first")]
    CannotReplace { minimum: Version, running: Version },
    #[error("release expired {ago_s} s ago by this node's clock")]
    Expired { ago_s: u64 },
}

impl From<minicbor::decode::Error> for ReleaseError {
    fn from(e: minicbor::decode::Error) -> Self {
        if e.is_end_of_input() { ReleaseError::Truncated } else { ReleaseError::Malformed(e.to_string()) }
    }
}
