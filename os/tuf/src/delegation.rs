//! Targets roles that a targets role trusts for some paths.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::error::{Result, malformed};
use crate::json::{self, Object};
use crate::metadata::{Key, RoleKeys, read_keys};
use crate::{KEYS_MAX, NAMES_MAX};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegations {
    pub keys: BTreeMap<String, Key>,
    /// In order of preference.
    pub roles: Vec<Delegation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    pub name: String,
    pub keys: RoleKeys,
    /// A path of this role is looked for nowhere else afterwards.
    pub terminating: bool,
    paths: Paths,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Paths {
    /// Shell patterns; `*` and `?` stop at a `/`.
    Patterns(Vec<String>),
    /// Beginnings of the path's SHA-256 in hex.
    HashPrefixes(Vec<String>),
}

impl Delegations {
    pub(crate) fn read(object: Object<'_>) -> Result<Self> {
        let keys = read_keys(object.object("keys")?)?;
        if object.maybe("succinct_roles").is_some() {
            return Err(malformed(object.role, "succinct_roles are not supported"));
        }
        let roles = object.list("roles", KEYS_MAX)?.iter();
        let roles = roles.map(|role| Delegation::read(Object::of(object.role, "roles", role)?));
        Ok(Self { keys, roles: roles.collect::<Result<_>>()? })
    }

    pub fn role(&self, name: &str) -> Option<&Delegation> {
        self.roles.iter().find(|role| role.name == name)
    }
}

impl Delegation {
    fn read(object: Object<'_>) -> Result<Self> {
        let name = object.text("name")?.to_string();
        if ["", "root", "targets", "snapshot", "timestamp"].contains(&name.as_str()) {
            return Err(malformed(object.role, format!("`{name}` cannot be delegated to")));
        }
        let terminating = object.need("terminating")?.as_bool();
        let terminating =
            terminating.ok_or_else(|| malformed(object.role, "`terminating` is no yes or no"))?;
        let texts = |field: &str| -> Result<Vec<String>> {
            let list = object.list(field, NAMES_MAX)?.iter();
            list.map(|text| json::text(object.role, field, text).map(String::from)).collect()
        };
        let paths = match (object.maybe("paths"), object.maybe("path_hash_prefixes")) {
            (Some(_), None) => Paths::Patterns(texts("paths")?),
            (None, Some(_)) => Paths::HashPrefixes(texts("path_hash_prefixes")?),
            _ => return Err(malformed(object.role, "a delegation has paths or path_hash_prefixes")),
        };
        Ok(Self { name, keys: RoleKeys::read(object)?, terminating, paths })
    }

    /// Whether this role may speak for a target path.
    pub fn covers(&self, path: &str) -> bool {
        match &self.paths {
            Paths::Patterns(patterns) => patterns.iter().any(|pattern| matches(pattern, path)),
            Paths::HashPrefixes(prefixes) => {
                let hash = HEXLOWER.encode(&Sha256::digest(path));
                prefixes.iter().any(|prefix| hash.starts_with(prefix.as_str()))
            }
        }
    }
}

/// Part by part between slashes, in time proportional to pattern times path.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_matches(pattern, part) => {}
            _ => return false,
        }
    }
}

fn part_matches(pattern: &str, part: &str) -> bool {
    let (pattern, part): (Vec<char>, Vec<char>) = (pattern.chars().collect(), part.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < part.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == part[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, matched)) = star {
            star = Some((at, matched + 1));
            (p, t) = (at + 1, matched + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_shells_do_and_stop_at_slashes() {
        let yes = [
            ("*", "a"),
            ("*.md", "README.md"),
            ("foo-?.tgz", "foo-1.tgz"),
            ("r/*/*", "r/x/y"),
            ("**b*", "aabc"),
        ];
        let no =
            [("*", "a/b"), ("*.md", "r/README.md"), ("foo-?", "foo-10"), ("a", "A"), ("r/*", "r"), ("", "a")];
        assert!(yes.iter().all(|(pattern, path)| matches(pattern, path)));
        for (pattern, path) in no {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        assert!(!matches(&"*a".repeat(250), &"a".repeat(249)));
    }
}
