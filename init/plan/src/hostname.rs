//! The host name: `name` in `config.toml`. The rest of that file is the services' business, so whatever is wrong with it
//! must not matter here.

use serde::Deserialize;

pub const DEFAULT: &str = "macula";
const LENGTH_MAX: usize = 63;

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The name, if it is one (1 to 63 of `[a-z0-9-]`, RFC 1123), otherwise [`DEFAULT`].
pub fn from_config(text: &str) -> String {
    let fine = |name: &String| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=LENGTH_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
    };
    toml::from_str(text).ok().map(|named: Named| named.name).filter(fine).unwrap_or(DEFAULT.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_name_is_taken_from_whatever_file() {
        assert_eq!(from_config("version = 1\nname = \"node-a\"\n[mesh]\nport = 1\n"), "node-a");
        for bad in ["", "name = 3", "name = \"a b\"", "name = \"-x\"", "name = \"\"", "name = [", "[name]"] {
            assert_eq!(from_config(bad), DEFAULT, "{bad}");
        }
        assert_eq!(from_config(&format!("name = \"{}\"", "x".repeat(64))), DEFAULT);
    }
}
