//! What a release is, and when a node believes in one.
//!
//! A [`Release`] is a statement: for which board, which version, which artifacts by MCID, how long it may be installed. It
//! is deterministic CBOR (RFC 8949 section 4.2.1), a map with small integers as keys, named by the MCID of its bytes. A
//! reader skips keys that it does not know, except negative ones: those say "refuse me if you do not understand this".
//!
//! Statements are targets of TUF metadata (`os-tuf`). Statements and metadata travel together as a [`Bundle`], one piece
//! of content. What a node has come to trust is its [`Trust`], rooted in the owner's keys, the [`Anchor`].

pub mod author;
mod bundle;
mod install;
mod statement;
mod trust;

pub use bundle::{BUNDLE_MAX, Bundle, ROOTS_MAX, STATEMENTS_MAX, target_path};
pub use install::{Expected, Named, installable};
pub use semver::Version;
pub use statement::{ARTIFACTS_MAX, Artifact, NOTES_MAX, Release, Role};
pub use trust::{Anchor, Trust};

use os_tuf::TufError;

/// Why a release is refused. Each text says what is wrong with it and, where it helps, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    #[error("release is truncated: it ends in the middle of a field")]
    Truncated,
    #[error("release is malformed: {0}")]
    Malformed(String),
    #[error("release metadata is {0} bytes, more than the {BUNDLE_MAX} allowed")]
    TooLarge(usize),
    #[error("release has format version {0}; this node reads version 1 (update it stepwise)")]
    Format(u64),
    #[error(
        "release has the required field {0} that this node does not know; a newer release must come first"
    )]
    UnknownRequired(i64),
    #[error("release field `{0}` is missing")]
    Missing(&'static str),
    #[error(
        "not enough signatures: {valid} of the {needed} needed are by this node's release keys \
         (update.release_keys); no root metadata offered is theirs"
    )]
    NotAnchored { valid: usize, needed: u64 },
    #[error(transparent)]
    Metadata(#[from] TufError),
    #[error("mixed up: statement {0} is not among the targets that were signed")]
    NotATarget(String),
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
