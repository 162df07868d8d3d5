//! `Resource`: what it may be done with. And `Path`, which abilities share.

use std::fmt;

use os_identity::NodeId;

use crate::error::TokenError;

/// Longest text of a resource.
const MAX_RESOURCE: usize = 256;
const MAX_SCHEME: usize = 16;
const MAX_SEGMENTS: usize = 12;
const MAX_SEGMENT: usize = 128;

/// A thing such as `macula:did:key:z6Mk.../app/web`, or a family of them.
///
/// ```text
/// resource = "*" / scheme ":" owner *12( "/" segment ) [ "/*" ]
/// scheme   = a-z *15( a-z / 0-9 )
/// owner    = did:key of a node / "*" / segment *( ":" segment )
/// segment  = 1*128( a-z / 0-9 / "-" / "_" / "." / "~" ), but not "." or ".."
/// ```
///
/// `macula:OWNER/...` are this system's: the owner is a node (its did:key) or a realm (its id, 64 hexadecimal digits). `x` is
/// that one thing, `x/*` is `x` and everything beneath it, `*` is everything. An owner `*` is any owner: `macula:*/content/*`. Macula's
/// own names (`mri:proc:io.macula/acme/echo`) have the same form. One thing has one spelling, so comparing is
/// comparing bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// None: everything there is.
    named: Option<Named>,
    path: Path,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    scheme: String,
    owner: String,
}

impl Resource {
    pub fn everything() -> Self {
        Self { named: None, path: Path::everything() }
    }

    /// The node itself, such as for a restart of it.
    pub fn node(node: &NodeId) -> Self {
        let named = Named { scheme: "macula".to_owned(), owner: node.to_string() };
        Self { named: Some(named), path: Path::default() }
    }

    pub fn parse(text: &str) -> Result<Self, TokenError> {
        Self::read(text).map_err(|why| TokenError::Resource { text: text.chars().take(160).collect(), why })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self::everything());
        }
        if text.len() > MAX_RESOURCE {
            return Err("it is longer than 256 bytes");
        }
        let (scheme, rest) = text.split_once(':').ok_or("it has no scheme, such as `macula:`")?;
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let begins = scheme.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !begins || scheme.len() > MAX_SCHEME || !scheme.bytes().all(lower) {
            return Err("a scheme is up to 16 of a-z and 0-9");
        }
        let (owner, path) = rest.split_once('/').map_or((rest, None), |(owner, path)| (owner, Some(path)));
        check_owner(owner)?;
        let path = path.map_or(Ok(Path::default()), |path| Path::parse(path, MAX_SEGMENTS, check_segment))?;
        Ok(Self { named: Some(Named { scheme: scheme.to_owned(), owner: owner.to_owned() }), path })
    }

    /// Whether it is one thing rather than a family.
    pub fn is_concrete(&self) -> bool {
        !self.path.reaches_beneath() && self.named.as_ref().is_some_and(|n| n.owner != "*")
    }

    /// Whether whoever has this has `other`, too.
    pub fn covers(&self, other: &Self) -> bool {
        let owner = match (&self.named, &other.named) {
            (None, _) => return true,
            (Some(_), None) => return false,
            (Some(mine), Some(theirs)) => {
                mine.scheme == theirs.scheme && (mine.owner == "*" || mine.owner == theirs.owner)
            }
        };
        owner && self.path.covers(&other.path)
    }
}

fn check_owner(owner: &str) -> Result<(), &'static str> {
    if owner == "*" {
        return Ok(());
    }
    if owner.starts_with("did:") {
        let key = owner.parse::<NodeId>().map(|_| ());
        return key.map_err(|_| "its owner is a did, but not an Ed25519 did:key");
    }
    owner.split(':').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'~');
    match segment {
        "" => Err("it has an empty segment"),
        "." | ".." => Err("`.` and `..` are no segments"),
        s if s.len() > MAX_SEGMENT => Err("a segment is longer than 128 bytes"),
        s if s.bytes().any(|b| b.is_ascii_uppercase()) => Err("capitals are not allowed"),
        s if !s.bytes().all(good) => Err("a segment is made of a-z, 0-9, `-`, `_`, `.` and `~`"),
        _ => Ok(()),
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(named) = &self.named else { return f.write_str("*") };
        write!(f, "{}:{}", named.scheme, named.owner)?;
        if !self.path.text().is_empty() {
            write!(f, "/{}", self.path.text())?;
        }
        if self.path.reaches_beneath() { f.write_str("/*") } else { Ok(()) }
    }
}

/// Segments with slashes between them, perhaps with all that is beneath them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path {
    text: String,
    beneath: bool,
}

impl Path {
    pub fn everything() -> Self {
        Self { text: String::new(), beneath: true }
    }

    /// `a/b`, `a/b/*` or `*`.
    pub fn parse(
        text: &str,
        max_segments: usize,
        check: impl Fn(&str) -> Result<(), &'static str>,
    ) -> Result<Self, &'static str> {
        let (path, beneath) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None if text == "*" => return Ok(Self::everything()),
            None => (text, false),
        };
        if path.split('/').count() > max_segments {
            return Err("it has too many segments");
        }
        if path.contains('*') {
            return Err("a `*` stands alone at the end");
        }
        path.split('/').try_for_each(check)?;
        Ok(Self { text: path.to_owned(), beneath })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn reaches_beneath(&self) -> bool {
        self.beneath
    }

    pub fn with_beneath(self) -> Self {
        Self { beneath: true, ..self }
    }

    pub fn exact(self) -> Self {
        Self { beneath: false, ..self }
    }

    /// Whole segments only: `a/b/*` covers `a/b/c`, never `a/bc`.
    pub fn covers(&self, other: &Self) -> bool {
        if !self.beneath {
            return self == other;
        }
        match other.text.strip_prefix(&self.text) {
            Some(rest) => self.text.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "macula:did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

    fn covers(wide: &str, narrow: &str) -> bool {
        let parse = |text: &str| Resource::parse(&text.replace("NODE", NODE)).unwrap();
        parse(wide).covers(&parse(narrow))
    }

    #[test]
    fn covers_whole_segments_only() {
        for (wide, narrow) in [
            ("*", "*"),
            ("*", "NODE/app/web"),
            ("NODE", "NODE"),
            ("NODE/*", "NODE"),
            ("NODE/*", "NODE/app/web"),
            ("NODE/app/*", "NODE/app"),
            ("NODE/app/*", "NODE/app/web/*"),
            ("macula:*/*", "NODE/*"),
            ("macula:*/app/web", "NODE/app/web"),
            ("macula:*", "NODE"),
            ("mri:proc:io.macula/acme/*", "mri:proc:io.macula/acme/echo"),
        ] {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
        }
        for (wide, narrow) in [
            ("NODE/*", "*"),
            ("NODE", "NODE/app"),
            ("NODE", "NODE/*"),
            ("NODE/app/web", "NODE/app/web2"),
            ("NODE/app/we/*", "NODE/app/web"),
            ("NODE/app/*", "NODE/apps/web"),
            ("NODE/*", "macula:*/app"),
            ("macula:*", "NODE/app"),
            ("macula:*/*", "mri:proc:io.macula/acme"),
            ("macula:a/*", "macula:ab/c"),
            ("macula:a/*", "macula:a:b/c"),
        ] {
            assert!(!covers(wide, narrow), "{wide} must not cover {narrow}");
        }
    }

    #[test]
    fn has_one_spelling() {
        let realm = format!("macula:{}/topic/x_v1", "0f".repeat(32));
        for good in
            ["*", NODE, "macula:*", "macula:*/*", "macula:a/b.c/~d", &realm, "mri:proc:io.macula/acme/echo"]
        {
            assert_eq!(Resource::parse(good).unwrap().to_string(), good);
        }
        let upper = NODE.to_uppercase();
        let many = format!("macula:a{}", "/b".repeat(13));
        let long = format!("macula:a/{}", "b".repeat(129));
        let longer = format!("macula:a/{0}/{0}", "b".repeat(126));
        for bad in [
            "",
            "a",
            ":",
            "macula:",
            "macula:/a",
            "macula:a/",
            "macula:a//b",
            "macula:a/../b",
            "macula:..",
            "macula:a/.",
            "macula:a/*/b",
            "macula:a/b*",
            "macula:a*",
            "macula:**",
            "macula:a/**",
            "*/*",
            "*:*",
            "*:a",
            "macula:*/*/*",
            "Macula:a",
            "macula:A",
            "macula:a/B",
            "macula:a b",
            "macula:a%2e",
            "macula:a\\b",
            "macula:a?b",
            "macula:a#b",
            "macula:\u{e4}",
            "macula:did:web:a",
            "macula:did:key:z6Mk",
            "macula:a::b",
            "0macula:a",
            &upper,
            &many,
            &long,
            &longer,
        ] {
            assert!(Resource::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_family_is_no_single_thing() {
        let concrete = |text: &str| Resource::parse(text).unwrap().is_concrete();
        assert!(concrete(NODE) && concrete("macula:a/b"));
        assert!(
            !concrete("*") && !concrete("macula:*") && !concrete("macula:a/*") && !concrete("macula:*/b")
        );
    }
}
