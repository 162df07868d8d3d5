//! `Ability`: what may be done.

use std::fmt;

use crate::error::TokenError;
use crate::resource::Path;

/// Longest text of an ability.
const MAX_ABILITY: usize = 128;
const MAX_SEGMENTS: usize = 8;
const MAX_SEGMENT: usize = 63;

/// A verb such as `macula/os/update`, or a family of them.
///
/// ```text
/// ability  = "*" / path [ "/*" ]
/// path     = segment *7( "/" segment )
/// segment  = 1*63( a-z / 0-9 / "-" / "_" )
/// ```
///
/// `a/b` is that one verb. `a/b/*` is `a/b` and everything beneath it, `*` is every verb. UCAN 1.0 writes the last two as the
/// commands `/a/b` and `/` ("Command", "Segment Structure") and has no way to say the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ability(Path);

impl Ability {
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let wrong = |why| TokenError::Ability { text: text.chars().take(80).collect(), why };
        if text.len() > MAX_ABILITY {
            return Err(wrong("it is longer than 128 bytes"));
        }
        if text == "*" {
            return Ok(Self(Path::everything()));
        }
        let path = Path::parse(text, MAX_SEGMENTS, check_segment).map_err(wrong)?;
        if path.text().is_empty() { Err(wrong("it is empty")) } else { Ok(Self(path)) }
    }

    /// From UCAN 1.0's `cmd`: `/a/b` covers what is beneath it.
    pub fn from_command(command: &str) -> Result<Self, TokenError> {
        let wrong = |why| TokenError::Ability { text: command.chars().take(80).collect(), why };
        let path = command.strip_prefix('/').ok_or_else(|| wrong("a command begins with a slash"))?;
        match path {
            "" => Ok(Self(Path::everything())),
            _ if path.contains('*') => Err(wrong("a command has no wildcard")),
            _ => Self::parse(path).map(|ability| Self(ability.0.with_beneath())),
        }
    }

    /// UCAN 1.0's `cmd`, if it can say this.
    pub fn command(&self) -> Option<String> {
        self.0.reaches_beneath().then(|| format!("/{}", self.0.text()))
    }

    /// This verb and all beneath it: the least that UCAN 1.0 can say.
    #[must_use]
    pub fn with_beneath(&self) -> Self {
        Self(self.0.clone().with_beneath())
    }

    /// Whether it is one verb rather than a family.
    pub fn is_concrete(&self) -> bool {
        !self.0.reaches_beneath()
    }

    /// Whether whoever has this has `other`, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }

    /// The one verb that a command names when it is invoked.
    pub(crate) fn concrete(&self) -> Self {
        Self(self.0.clone().exact())
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    match segment {
        "" => Err("it has an empty segment"),
        s if s.len() > MAX_SEGMENT => Err("a segment is longer than 63 bytes"),
        s if s.bytes().any(|b| b.is_ascii_uppercase()) => Err("capitals are not allowed"),
        s if !s.bytes().all(good) => Err("a segment is made of a-z, 0-9, `-` and `_`"),
        _ => Ok(()),
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.text(), self.0.reaches_beneath()) {
            ("", _) => f.write_str("*"),
            (path, true) => write!(f, "{path}/*"),
            (path, false) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ability(text: &str) -> Ability {
        Ability::parse(text).unwrap()
    }

    #[test]
    fn covers_whole_segments_only() {
        for (wide, narrow) in [
            ("*", "*"),
            ("*", "macula/os/update"),
            ("*", "macula/*"),
            ("macula/os/*", "macula/os/update"),
            ("macula/os/*", "macula/os/*"),
            ("macula/os/*", "macula/os"),
            ("macula/os/*", "macula/os/update/*"),
            ("macula/os/update", "macula/os/update"),
        ] {
            assert!(ability(wide).covers(&ability(narrow)), "{wide} covers {narrow}");
        }
        for (wide, narrow) in [
            ("macula/*", "*"),
            ("macula/os/update", "macula/os/update/*"),
            ("macula/os/update", "macula/os/update/now"),
            ("macula/os/up", "macula/os/update"),
            ("macula/os/up/*", "macula/os/update"),
            ("macula/os/*", "macula/osx/update"),
            ("macula/os/update", "macula/os/*"),
            ("macula/os/update", "macula/os/reboot"),
        ] {
            assert!(!ability(wide).covers(&ability(narrow)), "{wide} must not cover {narrow}");
        }
    }

    #[test]
    fn has_one_spelling() {
        for good in ["*", "a", "a/*", "macula/os/update", "a-b/c_d/0"] {
            assert_eq!(ability(good).to_string(), good);
        }
        let long = ["a"; 9].join("/");
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "*/a",
            "a/*/b",
            "a/**",
            "**",
            "A",
            "a/B",
            "a/./b",
            "a/..",
            "a b",
            "a/b*",
            "a\\b",
            "a%2fb",
            "\u{e4}",
            "a\0",
            "\u{ff0f}",
            &long,
            &"a".repeat(64),
            &"a".repeat(200),
        ] {
            assert!(Ability::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands_are_families() {
        let command = |text: &str| Ability::from_command(text).unwrap();
        assert_eq!(command("/").to_string(), "*");
        assert_eq!(command("/macula/os").to_string(), "macula/os/*");
        assert_eq!(command("/macula/os").command().unwrap(), "/macula/os");
        assert_eq!(command("/").command().unwrap(), "/");
        assert_eq!(ability("macula/os").command(), None);
        assert_eq!(ability("macula/os").with_beneath().command().unwrap(), "/macula/os");
        // The specification's own example of a half segment.
        assert!(command("/crypto").covers(&command("/crypto/sign")));
        assert!(!command("/crypto").covers(&command("/cryptocurrency")));
        for bad in ["", "a", "//", "/a/", "/a//b", "/*", "/a/*", "/A", "/a/.."] {
            assert!(Ability::from_command(bad).is_err(), "{bad}");
        }
    }
}
