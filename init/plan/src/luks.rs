//! What the header of an encrypted state partition says about how it is opened. Source: LUKS2 On-Disk Format
//! Specification 1.1, chapters 2 and 3; the token's fields are those of systemd's `systemd-tpm2` token.
//!
//! Only that: everything else in the header is cryptsetup's to read, which checks it, too.

use image_layout::encryption::Encryption;
use serde_json::Value;

/// The first copy of the header is at the start, the second one right behind it; ours are 16 KiB long.
const PRIMARY: &[u8; 6] = b"LUKS\xba\xbe";
const SECONDARY: &[u8; 6] = b"SKUL\xba\xbe";
const COPY_BYTES: usize = 16 << 10;
/// Both copies.
pub const HEADER_BYTES: usize = 2 * COPY_BYTES;
/// The binary part, before the JSON.
const BINARY_BYTES: usize = 4096;
const VERSION: [u8; 2] = [0, 2];
/// Header and key slots of a partition that cryptsetup formats by default; what is behind them is data.
pub const DATA_AT: u64 = 16 << 20;

/// How the partition that starts with `bytes` ([`HEADER_BYTES`]) is opened; `None` if it is not encrypted.
pub fn encryption(bytes: &[u8]) -> Option<Encryption> {
    let copies = [(PRIMARY, bytes.get(..COPY_BYTES)), (SECONDARY, bytes.get(COPY_BYTES..HEADER_BYTES))];
    let present = copies.into_iter().filter_map(|(magic, copy)| copy.filter(|copy| is_header(copy, magic)));
    let mut present = present.peekable();
    present.peek()?;
    // Unreadable JSON: cryptsetup will say what is wrong with it, and a person can type the recovery key.
    Some(present.find_map(kind).unwrap_or(Encryption::Passphrase))
}

fn is_header(copy: &[u8], magic: &[u8; 6]) -> bool {
    copy.starts_with(magic) && copy[6..8] == VERSION
}

fn kind(copy: &[u8]) -> Option<Encryption> {
    let text = copy[BINARY_BYTES..].split(|byte| *byte == 0).next()?;
    let header: Value = serde_json::from_slice(text).ok()?;
    let tokens = header.get("tokens")?.as_object()?;
    let tpm = tokens.values().find(|token| token["type"] == "systemd-tpm2");
    Some(match tpm {
        Some(token) if token["tpm2-pin"] == true => Encryption::TpmPin,
        Some(_) => Encryption::Tpm,
        None => Encryption::Passphrase,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(magic: &[u8; 6], json: &str) -> Vec<u8> {
        let mut bytes = vec![0; COPY_BYTES];
        bytes[..6].copy_from_slice(magic);
        bytes[6..8].copy_from_slice(&VERSION);
        bytes[BINARY_BYTES..BINARY_BYTES + json.len()].copy_from_slice(json.as_bytes());
        bytes
    }

    const TPM: &str = r#"{"keyslots":{},"tokens":{"0":{"type":"systemd-tpm2","tpm2-pcrs":[7]}}}"#;

    #[test]
    fn tokens_say_what_opens_it() {
        let pin = TPM.replace("[7]", "[7],\"tpm2-pin\":true");
        let none = r#"{"keyslots":{},"tokens":{}}"#;
        for (json, wanted) in
            [(TPM, Encryption::Tpm), (&pin, Encryption::TpmPin), (none, Encryption::Passphrase)]
        {
            let both = [copy(PRIMARY, json), copy(SECONDARY, json)].concat();
            assert_eq!(encryption(&both), Some(wanted));
        }
    }

    #[test]
    fn either_copy_will_do() {
        let whole = [copy(PRIMARY, TPM), copy(SECONDARY, TPM)].concat();
        for spoilt in [0, 7, BINARY_BYTES + 3, COPY_BYTES, COPY_BYTES + BINARY_BYTES + 3] {
            let mut bytes = whole.clone();
            bytes[spoilt] ^= 0x55;
            assert_eq!(encryption(&bytes), Some(Encryption::Tpm), "byte {spoilt}");
        }
        let unreadable = [copy(PRIMARY, "{"), copy(SECONDARY, "}")].concat();
        assert_eq!(encryption(&unreadable), Some(Encryption::Passphrase));
    }

    #[test]
    fn other_partitions_are_not_encrypted() {
        for bytes in [vec![], vec![0; 100], vec![0; HEADER_BYTES], vec![0xff; HEADER_BYTES]] {
            assert_eq!(encryption(&bytes), None);
        }
        let version_1 = [&b"LUKS\xba\xbe\0\x01"[..], &[0; HEADER_BYTES]].concat();
        assert_eq!(encryption(&version_1), None);
    }
}
