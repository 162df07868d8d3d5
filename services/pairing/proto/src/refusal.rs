//! Why a pairing does not happen: what the node says in the clear, and what the claimant tells the person.

use crate::setup::Declined;

/// What a node says without further words, so that it says the same to whoever guesses, whatever it guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Refused {
    /// The code was wrong, or was right once: expired, used up, or tried too often. Also: this run is over, or was never.
    #[n(1)]
    WrongCode,
    /// Too many wrong guesses, or too many at once. Later.
    #[n(2)]
    Busy,
    /// It has an owner, who has invited nobody.
    #[n(3)]
    Owned,
    /// No version in common.
    #[n(4)]
    Version,
    /// It cannot read the message.
    #[n(5)]
    Malformed,
    /// It could not do its part (no key, no disk).
    #[n(6)]
    Broken,
}

/// Why a claimant does not own the node, for people: what happened, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    #[error(
        "the node does not know this code. A code is good for ten minutes, five tries and one use: \
         read the one that the node shows now, and try again"
    )]
    WrongCode,
    #[error(
        "the node takes no more tries for now: too many wrong codes, or too many at once. \
         Wait ten minutes, or restart the node, then read its code again"
    )]
    Busy,
    #[error(
        "the node has an owner already. Its owner can invite you (`maculactl owner invite`); if nobody is its owner any more, \
         choose `recover` in the boot menu of the machine"
    )]
    Owned,
    #[error(
        "whoever answers is not the node that shows this code: {0}. Somebody may be in between, or the address is another \
         machine's. Nothing was told to it. Check the address, or connect to the node directly"
    )]
    NotThisNode(&'static str),
    #[error("node and program have no version of pairing in common; update the older one")]
    Version,
    #[error(
        "the node's answer is not what pairing has here ({0}); try again, and update the older of the two if it stays so"
    )]
    Malformed(&'static str),
    #[error("the node could not finish: {0}")]
    Declined(Declined),
}

impl From<Refused> for PairError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::WrongCode => PairError::WrongCode,
            Refused::Busy => PairError::Busy,
            Refused::Owned => PairError::Owned,
            Refused::Version => PairError::Version,
            Refused::Malformed => PairError::Malformed("it could not read what was sent"),
            Refused::Broken => PairError::Malformed("something in it is broken; see its console"),
        }
    }
}

impl PairError {
    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            PairError::WrongCode => "wrong-code",
            PairError::Busy => "busy",
            PairError::Owned => "owned",
            PairError::NotThisNode(_) => "not-this-node",
            PairError::Version => "version",
            PairError::Malformed(_) => "malformed",
            PairError::Declined(_) => "declined",
        }
    }
}
