//! What is done to the node while its disk is watched, in the order of the recording.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};

/// One operation of a node's life. Each begins where the one before it has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A flashed disk becomes a node: GUIDs, growth, configuration, key.
    FirstBoot,
    /// From the first byte fetched to the boot loader's choice of the entry on trial.
    Update,
    /// The trial's boot, to the commit.
    Commit,
    /// The owner's order to go back, to the old slot's rest.
    Rollback,
    /// The owner changes one value of the configuration.
    ConfigSet,
    /// The owner's order, the erasure, and the first boot of the node that comes after.
    Reset,
    /// Somebody with its code becomes the new node's owner.
    Pair,
}

pub const OPERATIONS: [Operation; 7] = [
    Operation::FirstBoot,
    Operation::Update,
    Operation::Commit,
    Operation::Rollback,
    Operation::ConfigSet,
    Operation::Reset,
    Operation::Pair,
];

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstBoot => "first-boot",
            Self::Update => "update",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::ConfigSet => "config-set",
            Self::Reset => "reset",
            Self::Pair => "pair",
        }
    }

    /// Install sequence numbers that may run after a cut.
    pub fn may_run(self) -> &'static [u32] {
        match self {
            Self::FirstBoot | Self::ConfigSet | Self::Reset | Self::Pair => &[1],
            Self::Update | Self::Rollback => &[1, 2],
            Self::Commit => &[2],
        }
    }

    /// Whether the node, left alone with a neighbour, must end in the new release.
    pub fn finishes_in_new_release(self) -> bool {
        matches!(self, Self::Update | Self::Commit)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match OPERATIONS.into_iter().find(|o| o.name() == text) {
            Some(operation) => Ok(operation),
            None => {
                let known = OPERATIONS.map(Operation::name).join(", ");
                bail!("{text:?} is no operation of the campaign; there are {known}")
            }
        }
    }
}
