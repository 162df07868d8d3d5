//! What must not be shown, and errors that do not show it.

use std::fmt;

/// Shown instead of a secret.
pub const HIDDEN: &str = "(hidden)";

/// A text that no log and no report may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Where and why a file is not taken. The parser's own error has the line of the file with it, whatever that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1 on.
    pub line: Option<usize>,
    /// The key at the beginning of that line.
    pub key: Option<String>,
    pub what: String,
}

impl Mistake {
    pub(crate) fn new(text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.as_bytes().get(..span.start));
        let line = before.map(|before| before.iter().filter(|b| **b == b'\n').count());
        let key = line.and_then(|n| key_of(text.split('\n').nth(n)?));
        Self { line: line.map(|n| n + 1), key, what: without_values(error.message()) }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        match &self.key {
            Some(key) => write!(f, "`{key}`: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

fn key_of(line: &str) -> Option<String> {
    let key = line.split_once('=')?.0.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!key.is_empty() && key.len() <= 64 && key.chars().all(plain)).then(|| key.to_owned())
}

/// serde quotes a string where it expected something else: `invalid type: string "...", expected a sequence`.
pub fn without_values(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(from), Some(to)) if from < to => format!("{}string{}", &message[..from], &message[to + 1..]),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_are_left_out() {
        let text = "invalid type: string \"a \\\", expected b\", expected a sequence";
        assert_eq!(without_values(text), "invalid type: string, expected a sequence");
        assert_eq!(
            without_values("unknown field `nmae`, expected `name`"),
            "unknown field `nmae`, expected `name`"
        );
        assert_eq!(format!("{:?}", Secret::new("x".into())), HIDDEN);
    }
}
