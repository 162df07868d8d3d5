//! Values of UEFI variables as efivarfs shows them: 4 bytes of attributes, then data; text is UTF-16LE with a NUL.
//! What systemd-boot writes there: <https://systemd.io/BOOT_LOADER_INTERFACE/>.

/// Vendor GUID of the boot loader interface.
pub const LOADER_VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Vendor GUID of the variables that UEFI itself defines.
pub const GLOBAL_VENDOR: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, boot-time and run-time access.
const ATTRIBUTES: u32 = 7;
/// Longest accepted text, in UTF-16 units: a path on the ESP.
const TEXT_MAX: usize = 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VariableError {
    #[error("is {0} bytes long: expected 4 bytes of attributes and UTF-16 text of at most {TEXT_MAX} units")]
    Length(usize),
    #[error("holds text that is not UTF-16")]
    NotText,
}

/// The text in a variable file, without its terminator.
pub fn decode_text(bytes: &[u8]) -> Result<String, VariableError> {
    if bytes.len() < 4 || !bytes.len().is_multiple_of(2) || bytes.len() > 4 + 2 * TEXT_MAX {
        return Err(VariableError::Length(bytes.len()));
    }
    let units: Vec<u16> =
        bytes[4..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..end]).map_err(|_| VariableError::NotText)
}

/// The flag in a variable file: one byte, 0 or 1.
pub fn decode_flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [_, _, _, _, 0] => Some(false),
        [_, _, _, _, 1] => Some(true),
        _ => None,
    }
}

/// A variable file that sets `text`, kept over resets.
pub fn encode_text(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
    ATTRIBUTES.to_le_bytes().into_iter().chain(units).collect()
}

/// The file name in a path of the firmware, such as `\EFI\Linux\macula-000002+2-1.efi`.
pub fn file_name(path: &str) -> &str {
    path.rsplit(['\\', '/']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let bytes = encode_text("macula-000001.efi");
        assert_eq!(bytes[..6], [7, 0, 0, 0, b'm', 0]);
        assert_eq!(bytes[bytes.len() - 2..], [0, 0]);
        assert_eq!(decode_text(&bytes).unwrap(), "macula-000001.efi");
        assert_eq!(file_name("\\EFI\\Linux\\macula-000002+2-1.efi"), "macula-000002+2-1.efi");
    }

    #[test]
    fn flags_are_one_byte() {
        assert_eq!(decode_flag(&[6, 0, 0, 0, 1]), Some(true));
        assert_eq!(decode_flag(&[6, 0, 0, 0, 0]), Some(false));
        for bad in [&[][..], &[6, 0, 0, 0], &[6, 0, 0, 0, 2], &[6, 0, 0, 0, 1, 0]] {
            assert_eq!(decode_flag(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_text_variable() {
        assert_eq!(decode_text(&[7, 0]), Err(VariableError::Length(2)));
        assert_eq!(decode_text(&[7, 0, 0, 0, 1]), Err(VariableError::Length(5)));
        assert_eq!(
            decode_text(&vec![0; 4 + 2 * TEXT_MAX + 2]),
            Err(VariableError::Length(4 + 2 * TEXT_MAX + 2))
        );
        assert_eq!(decode_text(&[7, 0, 0, 0, 0, 0xd8]), Err(VariableError::NotText));
        assert_eq!(decode_text(&[7, 0, 0, 0]).unwrap(), "");
    }
}
