//! How a file carries its checksum.

use data_encoding::HEXLOWER;

/// A checksum in hexadecimal digits.
const DIGITS: usize = 64;
/// What a text's last line starts with: a comment in TOML, so that every reader of the text can ignore it.
const SEAL: &str = "# sealed: blake3 ";
/// Most bytes that a form adds to the content.
pub const OVERHEAD_MAX: u64 = (1 + SEAL.len() + DIGITS + 1) as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The checksum in hexadecimal, a newline, the content. For records that only our programs write and read. 0600
    /// under the umask that services run with.
    Record,
    /// The content, then a comment line with its checksum, the seal. For what people read and write, too. 0644.
    Text,
}

impl Form {
    pub(crate) fn mode(self) -> u32 {
        match self {
            Form::Record => 0o600,
            Form::Text => 0o644,
        }
    }

    pub(crate) fn encode(self, content: &[u8]) -> Vec<u8> {
        match self {
            Form::Record => [checksum(content).as_bytes(), b"\n", content].concat(),
            Form::Text => {
                let newline: &[u8] = if content.is_empty() || content.ends_with(b"\n") { b"" } else { b"\n" };
                let text = [content, newline].concat();
                let seal = format!("{SEAL}{}\n", checksum(&text));
                [text, seal.into_bytes()].concat()
            }
        }
    }

    /// The content, if the checksum is there and matches.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (content, digits) = match self {
            Form::Record => {
                (bytes.get(DIGITS + 1..)?, bytes.get(..DIGITS).filter(|_| bytes[DIGITS] == b'\n')?)
            }
            Form::Text => {
                let at = bytes.len().checked_sub(SEAL.len() + DIGITS + 1)?;
                let (content, seal) = bytes.split_at(at);
                let own_line = content.is_empty() || content.ends_with(b"\n");
                (content, seal.strip_prefix(SEAL.as_bytes())?.strip_suffix(b"\n").filter(|_| own_line)?)
            }
        };
        (digits == checksum(content).as_bytes()).then(|| content.to_vec())
    }

    /// Whether bytes that do not decode may be a text that never had a seal.
    pub(crate) fn may_be_unsealed(self, bytes: &[u8]) -> bool {
        let has_seal = |text: &str| text.lines().any(|line| line.starts_with(SEAL.trim_end()));
        let text =
            std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0') && !text.trim().is_empty());
        self == Form::Text && text.is_some_and(|text| !has_seal(text))
    }
}

fn checksum(content: &[u8]) -> String {
    HEXLOWER.encode(blake3::hash(content).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_back_and_a_text_ends_its_last_line() {
        for content in [&b""[..], b"x", b"a = 1\n", b"\0\xff\n\n"] {
            assert_eq!(Form::Record.decode(&Form::Record.encode(content)).unwrap(), content);
        }
        for (content, back) in [("", ""), ("a = 1", "a = 1\n"), ("a = 1\n", "a = 1\n")] {
            let bytes = Form::Text.encode(content.as_bytes());
            assert_eq!(Form::Text.decode(&bytes).unwrap(), back.as_bytes());
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.lines().last().unwrap().starts_with("# sealed: blake3 "), "{text}");
        }
    }

    #[test]
    fn no_byte_may_change() {
        for form in [Form::Record, Form::Text] {
            let good = form.encode(b"owner = \"a\"\n");
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                assert_eq!(form.decode(&bad), None, "{form:?}, byte {at}");
                assert_eq!(form.decode(&good[..at]), None);
            }
        }
    }

    #[test]
    fn what_once_had_a_seal_or_is_no_text_is_not_taken_for_a_persons() {
        for bad in ["", "\n\n", "\0\0", "a = 1\n# sealed: blake3 00\n", "a = 1\n# sealed: blake3"] {
            assert!(!Form::Text.may_be_unsealed(bad.as_bytes()), "{bad:?}");
        }
        assert!(!Form::Text.may_be_unsealed(b"\xff\xfe"));
        assert!(Form::Text.may_be_unsealed(b"a = 1 # a comment\n"));
        assert!(!Form::Record.may_be_unsealed(b"a = 1\n"));
    }
}
