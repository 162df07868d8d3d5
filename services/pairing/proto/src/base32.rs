//! Crockford's base32 (<https://www.crockford.com/base32.html>), without check symbol: what people read off a screen and type, and
//! what a QR code holds in its dense alphanumeric mode.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};

const ALPHABET: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    // The alphabet is valid, so this does not fail.
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
});

/// Upper case.
pub fn encode(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// Takes either case, `o` for `0`, `i` and `l` for `1`, and skips hyphens. `None` if it is anything else.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    BASE32.decode(canonical(text)?.as_bytes()).ok()
}

/// The symbols as [`encode`] writes them.
pub fn canonical(text: &str) -> Option<String> {
    text.chars().filter(|c| *c != '-').map(symbol).collect()
}

/// Five random bits of a byte.
pub fn of_bits(byte: u8) -> char {
    char::from(ALPHABET.as_bytes()[usize::from(byte % 32)])
}

fn symbol(c: char) -> Option<char> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    ALPHABET.contains(c).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_mistype_is_understood() {
        assert_eq!(encode(b"\x00\x44\x32\x14\xc7"), "0123456 7".replace(' ', ""));
        assert_eq!(canonical("oil0-abcz").as_deref(), Some("0110ABCZ"));
        assert_eq!(canonical("uber"), None, "U is no symbol");
        assert_eq!(canonical("a b"), None);
        assert_eq!(decode(&encode(b"sixteen bytes ok")).unwrap(), b"sixteen bytes ok");
        assert_eq!(decode(&encode(b"sixteen bytes ok").to_lowercase()).unwrap(), b"sixteen bytes ok");
    }
}
