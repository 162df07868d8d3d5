//! Encryption of the state partition: the ways to open it, and how a request for it is written in the partition table.
//! `docs/decisions/0016`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What opens an encrypted state partition. Any of them can also be opened with the recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// The machine's TPM 2.0, by itself.
    Tpm,
    /// The TPM, and a PIN that a person types at each boot.
    TpmPin,
    /// A passphrase that a person types at each boot.
    Passphrase,
}

/// All of them, in the order of their numbers in the partition table, from 1.
pub const ALL: [Encryption; 3] = [Encryption::Tpm, Encryption::TpmPin, Encryption::Passphrase];

/// GPT attribute bits of `state` beside the one that asks for a factory reset: how the new state is to be encrypted, 0 for
/// not at all.
const SHIFT: u32 = 58;
pub const ENCRYPTION_ATTRIBUTES: u64 = 3 << SHIFT;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is none of `off`, `tpm`, `tpm-pin` and `passphrase`")]
pub struct UnknownEncryption(String);

impl Encryption {
    /// What people write, such as `tpm-pin`; `off` for none.
    pub fn parse(text: &str) -> Result<Option<Encryption>, UnknownEncryption> {
        match text {
            "off" => Ok(None),
            _ => text.parse().map(Some),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encryption::Tpm => "tpm",
            Encryption::TpmPin => "tpm-pin",
            Encryption::Passphrase => "passphrase",
        }
    }

    /// Whether a person has to type something at each boot.
    pub fn asks(self) -> bool {
        self != Encryption::Tpm
    }
}

impl FromStr for Encryption {
    type Err = UnknownEncryption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| UnknownEncryption(text.chars().take(32).collect()))
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The attribute bits for a wish.
pub fn to_attributes(wish: Option<Encryption>) -> u64 {
    let number =
        wish.and_then(|wish| ALL.iter().position(|kind| *kind == wish)).map_or(0, |at| at as u64 + 1);
    number << SHIFT
}

/// The wish in attribute bits.
pub fn from_attributes(attributes: u64) -> Option<Encryption> {
    let number = ((attributes & ENCRYPTION_ATTRIBUTES) >> SHIFT) as usize;
    number.checked_sub(1).and_then(|at| ALL.get(at)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_read_back() {
        for wish in [None, Some(ALL[0]), Some(ALL[1]), Some(ALL[2])] {
            assert_eq!(from_attributes(to_attributes(wish) | 1 << 57), wish);
            assert_eq!(Encryption::parse(wish.map_or("off", Encryption::name)), Ok(wish));
        }
        assert!(Encryption::parse("TPM").is_err());
        assert_eq!(to_attributes(Some(Encryption::Passphrase)) & !ENCRYPTION_ATTRIBUTES, 0);
    }
}
