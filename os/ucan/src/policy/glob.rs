//! `like` patterns: `*` is any number of characters, `\*` a star ("Glob Matching").

use super::{MAX_TEXT, PolicyError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    text: String,
    /// What stands between the wildcards: one more than there are wildcards.
    literals: Vec<String>,
}

impl Glob {
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::TooLong);
        }
        let mut literals = vec![String::new()];
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let escaped = c == '\\' && rest.next_if_eq(&'*').is_some();
            match literals.last_mut() {
                Some(last) if escaped => last.push('*'),
                Some(last) if c != '*' => last.push(c),
                _ => literals.push(String::new()),
            }
        }
        Ok(Self { text: text.to_owned(), literals })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Each literal is taken where it first fits: with one wildcard kind only, that never misses a match.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.literals.split_first() else { return false };
        let Some((last, middle)) = others.split_last() else { return text == first };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for literal in middle {
            match rest.split_once(literal.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_and_escaped_ones_do_not() {
        let matches = |pattern: &str, text: &str| Glob::parse(pattern).unwrap().matches(text);
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("a*c", "ac"),
            ("a*c", "abcabc"),
            ("*b*", "abc"),
            ("a**c", "abc"),
            ("a\\*c", "a*c"),
            ("a\\b", "a\\b"),
            ("*\\*", "x*"),
            ("*aab", "aaaab"),
            ("\u{e4}*", "\u{e4}\u{f6}"),
            ("*.ab*ab", "x.abab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("a*c", "abcd"),
            ("a\\*c", "abc"),
            ("ab*ba", "aba"),
            ("*.ab*ab", "x.ab"),
            ("a*", "ba"),
            ("*@example.com", "x@example.com.evil"),
            ("macula:a/*", "macula:ab/c"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_long() {
        let pattern = Glob::parse(&"a*".repeat(MAX_TEXT / 2)).unwrap();
        assert!(!pattern.matches(&("a".repeat(100) + &"b".repeat(100_000))));
    }
}
