//! Why metadata is not believed. Each text says which file and what is wrong with it.

use crate::METADATA_MAX;

pub type Result<T> = std::result::Result<T, TufError>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TufError {
    #[error("{role} metadata is {len} bytes, more than the {METADATA_MAX} allowed")]
    TooLarge { role: String, len: usize },
    #[error("{role} metadata is malformed: {why}")]
    Malformed { role: String, why: String },
    #[error(
        "not enough signatures on {role}: {valid} of the {needed} needed \
         ({wrong} wrong signatures, {unknown} by keys that do not count)"
    )]
    NotEnoughSignatures { role: String, valid: usize, needed: u64, wrong: usize, unknown: usize },
    #[error("rolled back: {role} version {offered} is offered, version {trusted} has been seen")]
    RolledBack { role: String, offered: u64, trusted: u64 },
    #[error("rolled back: {file} is no longer in the snapshot")]
    Removed { file: String },
    #[error("root version {offered} cannot follow version {trusted}: each step needs its own root")]
    RootStep { offered: u64, trusted: u64 },
    #[error("mixed up: {role} is version {found}, {by} names version {named}")]
    WrongVersion { role: String, found: u64, by: &'static str, named: u64 },
    #[error("mixed up: {file} is not the file that {by} names ({what} differs)")]
    WrongContent { file: String, by: String, what: &'static str },
    #[error("{role} expired {ago_s} s ago: it is frozen at an old state, or nobody renewed it")]
    Expired { role: String, ago_s: u64 },
    #[error("{by} does not name {what}")]
    NotNamed { what: String, by: String },
    #[error("{what} comes before {before}")]
    Order { what: &'static str, before: &'static str },
}

pub(crate) fn malformed(role: &str, why: impl ToString) -> TufError {
    TufError::Malformed { role: role.to_string(), why: why.to_string() }
}
