//! One run with one claimant.

use sha2::{Digest, Sha256};

use os_identity::NodeId;

use crate::channel::Half;
use crate::limits::{AFTERWARDS_MS, IDLE_MS, OPENING_MS};
use crate::schedule::Keys;
use crate::setup::Role;

pub struct Run {
    pub claimant: NodeId,
    pub from: String,
    pub role: Role,
    pub stage: Stage,
    /// When the last message came.
    pub touched: u64,
    /// The last message's hash, and what was said to it: said again when it comes again, for answers get lost.
    pub last: Option<([u8; 32], Vec<u8>)>,
}

pub enum Stage {
    /// Has said hello. Without keys: its half of the PAKE was none, which it finds out like a wrong code.
    Welcomed {
        code: u64,
        keys: Option<Box<Keys>>,
    },
    /// Has confirmed; this node's key is signing.
    Proving {
        keys: Box<Keys>,
        receiver: Half,
        confirm: Vec<u8>,
    },
    Open {
        sender: Half,
        receiver: Half,
    },
    /// This node is doing what was asked.
    Working {
        sender: Half,
        receiver: Half,
    },
    /// Paired.
    Done,
}

impl Run {
    pub fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Welcomed { .. })
    }

    pub fn deadline(&self) -> u64 {
        self.touched
            + match self.stage {
                Stage::Welcomed { .. } => OPENING_MS,
                Stage::Done => AFTERWARDS_MS,
                _ => IDLE_MS,
            }
    }

    pub fn said_before(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (hash, answer) = self.last.as_ref()?;
        (*hash == digest(message)).then(|| answer.clone())
    }
}

pub fn digest(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}
