//! The key that opens an encrypted state when TPM, PIN or passphrase do not: random, in a form that people can copy.

/// Letters that nobody mistakes for another one or for a digit, wherever they sit on a keyboard: those of systemd's recovery
/// keys ("modhex"), which lie at the same place in most layouts.
const LETTERS: &[u8; 16] = b"cbdefghijklnrtuv";
const BYTES: usize = 20;
const GROUP: usize = 8;

/// 160 random bits as `cccccccc-bbbbbbbb-...`: five groups of eight letters.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(String);

impl RecoveryKey {
    pub fn from_random(bytes: [u8; BYTES]) -> RecoveryKey {
        let letters =
            bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|nibble| LETTERS[nibble as usize]);
        RecoveryKey(grouped(letters))
    }

    /// What somebody typed, if it has the form: case and hyphens are as they please.
    pub fn parse(typed: &str) -> Option<RecoveryKey> {
        let letters: Vec<u8> = typed
            .bytes()
            .filter(|byte| *byte != b'-' && !byte.is_ascii_whitespace())
            .map(|byte| byte.to_ascii_lowercase())
            .collect();
        let good = letters.len() == 2 * BYTES && letters.iter().all(|letter| LETTERS.contains(letter));
        good.then(|| RecoveryKey(grouped(letters.into_iter())))
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

fn grouped(letters: impl Iterator<Item = u8>) -> String {
    let mut text = String::new();
    for (at, letter) in letters.enumerate() {
        if at > 0 && at % GROUP == 0 {
            text.push('-');
        }
        text.push(letter.into());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_are_typed() {
        let bytes: [u8; BYTES] = std::array::from_fn(|at| (at * 13) as u8);
        let key = RecoveryKey::from_random(bytes);
        assert_eq!(key.text().split('-').map(str::len).collect::<Vec<_>>(), [8; 5]);
        for typed in [key.text().to_owned(), key.text().to_uppercase(), key.text().replace('-', " ") + "\n"] {
            assert!(RecoveryKey::parse(&typed) == Some(key.clone()), "{typed}");
        }
        for other in ["", "1234", &key.text()[1..], &key.text().replace('c', "a"), "correct horse battery"] {
            assert!(RecoveryKey::parse(other).is_none(), "{other}");
        }
    }
}
