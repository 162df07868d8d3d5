//! GUIDs as GPT and UEFI store them: the first three fields little-endian (UEFI 2.10, appendix A).

use std::fmt;
use std::str::FromStr;

/// 16 bytes in on-disk order; the text form is the usual `c12a7328-f81f-11d2-ba4b-00a0c93ec93b`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Guid(pub [u8; 16]);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a GUID: expected 8-4-4-4-12 hexadecimal digits")]
pub struct BadGuid(String);

/// Text position of each on-disk byte, counted in hexadecimal pairs.
const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    pub const ZERO: Guid = Guid([0; 16]);

    /// A version 4 GUID from 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Guid {
        bytes[7] = (bytes[7] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Guid(bytes)
    }
}

impl FromStr for Guid {
    type Err = BadGuid;

    /// Accepts either case, no braces.
    fn from_str(text: &str) -> Result<Guid, BadGuid> {
        let bad = || BadGuid(text.chars().take(64).collect());
        let dashes = [8, 13, 18, 23];
        if text.len() != 36
            || text.bytes().enumerate().any(|(at, byte)| dashes.contains(&at) != (byte == b'-'))
        {
            return Err(bad());
        }
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
        let mut bytes = [0; 16];
        for (pair, digits) in digits.chunks(2).enumerate() {
            let value =
                std::str::from_utf8(digits).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
            bytes[TEXT_ORDER[pair]] =
                value.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(bad)?;
        }
        Ok(Guid(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, &byte_index) in TEXT_ORDER.iter().enumerate() {
            if [4, 6, 8, 10].contains(&position) {
                out.write_str("-")?;
            }
            write!(out, "{:02x}", self.0[byte_index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree_with_the_specification() {
        let guid: Guid = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B".parse().unwrap();
        assert_eq!(guid.0[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(guid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(Guid::from_random([0xff; 16]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn refuses_what_is_not_a_guid() {
        for bad in [
            "",
            "c12a7328",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93",
            "+12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "é12a732-f81f-11d2-ba4b-00a0c93ec93b",
        ] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }
}
