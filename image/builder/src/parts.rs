//! The packages that images are made of, pinned by hash in `image/parts.lock.toml`.
//!
//! A download is kept in the cache under its SHA-256 and checked each time it is used; what a package holds is
//! unpacked once, beside it. Both appear by renaming, so a crash leaves nothing but a temporary file.

mod fetch;
mod mirror;
mod update;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use fetch::fetch;
pub use mirror::debian_mirror;
pub use update::{Change, add, update};

use crate::error::{At, BuildError, Result};
use crate::progress::Progress;
use crate::tools;
use crate::turn;

/// Largest accepted lock file and part.
const LOCK_MAX: u64 = 1 << 20;
const PART_MAX: u64 = 2 << 30;

/// The lock file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// A time at which all parts were in the archive, as snapshot.debian.org writes it: `20261123T080000Z`.
    pub snapshot: String,
    /// Debian architecture of the parts.
    pub architecture: String,
    #[serde(rename = "part")]
    pub parts: Vec<Part>,
}

/// One pinned package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What boards call it.
    pub name: String,
    /// Debian suite that `update` looks in.
    pub suite: String,
    /// Binary package.
    pub package: String,
    /// A meta package whose dependency names `package` in newer versions, where the name changes with the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<String>,
    pub version: String,
    /// Below the archive's root, such as `pool/main/s/systemd/systemd-boot-efi_262-1_amd64.deb`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Lock {
    pub fn read(path: &Path) -> Result<Lock> {
        let failed = |reason: String| BuildError::Lock { path: path.to_path_buf(), reason };
        if std::fs::metadata(path).at("read", path)?.len() > LOCK_MAX {
            return Err(failed(format!("is larger than {LOCK_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).at("read", path)?;
        let lock: Lock = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
        lock.check().map_err(failed)?;
        Ok(lock)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |reason: String| BuildError::Lock { path: path.to_path_buf(), reason };
        self.check().map_err(failed)?;
        let body = toml::to_string(self).map_err(|error| failed(error.to_string()))?;
        let head = "# Packages that images are built from. Written by `cargo xtask parts update`; commit the result.\n\n";
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, format!("{head}{body}")).at("write", &temporary)?;
        std::fs::rename(&temporary, path).at("replace", path)
    }

    pub fn part(&self, name: &str) -> Result<&Part> {
        self.parts.iter().find(|part| part.name == name).ok_or_else(|| BuildError::Part {
            part: name.to_owned(),
            reason: "the board asks for it, but image/parts.lock.toml has no part of that name".to_owned(),
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let stamp = self.snapshot.as_bytes();
        let digits = stamp.iter().filter(|byte| byte.is_ascii_digit()).count();
        if stamp.len() != 16 || digits != 14 || stamp[8] != b'T' || stamp[15] != b'Z' {
            return Err(format!("`snapshot = {:?}` is not a time like 20261123T080000Z", self.snapshot));
        }
        for (index, part) in self.parts.iter().enumerate() {
            part.check().map_err(|reason| format!("part `{}`: {reason}", part.name))?;
            if self.parts[..index].iter().any(|other| other.name == part.name) {
                return Err(format!("part `{}` is there twice", part.name));
            }
        }
        Ok(())
    }
}

impl Part {
    /// The package's file once [`fetch`] has run.
    pub fn file(&self, cache: &Path) -> PathBuf {
        cache.join("parts").join(format!("{}.deb", self.sha256))
    }

    fn check(&self) -> std::result::Result<(), String> {
        let word = |text: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || "+-._:~".contains(c);
            !text.is_empty() && text.len() <= 200 && text.chars().all(good) && !text.starts_with('-')
        };
        let words = [
            ("name", &self.name),
            ("suite", &self.suite),
            ("package", &self.package),
            ("version", &self.version),
        ];
        if let Some((key, value)) = words.iter().find(|(_, value)| !word(value)) {
            return Err(format!("`{key} = {value:?}` has characters that no package has"));
        }
        let steps: Vec<_> = self.path.split('/').collect();
        if steps.first() != Some(&"pool") || !steps.iter().all(|step| word(step) && *step != "..") {
            return Err(format!("`path = {:?}` is not a path below pool/", self.path));
        }
        if self.sha256.len() != 64
            || !self.sha256.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        {
            return Err(format!("`sha256 = {:?}` is not 64 lower-case hexadecimal digits", self.sha256));
        }
        if self.size == 0 || self.size > PART_MAX {
            return Err(format!("`size = {}` is not between 1 and {PART_MAX}", self.size));
        }
        Ok(())
    }
}

/// Unpacked parts, by name.
pub struct Unpacked(BTreeMap<String, PathBuf>);

impl Unpacked {
    /// Root of the files of a part.
    pub fn root(&self, part: &str) -> Result<&Path> {
        let reason = || "is not unpacked".to_owned();
        self.0
            .get(part)
            .map(PathBuf::as_path)
            .ok_or_else(|| BuildError::Part { part: part.to_owned(), reason: reason() })
    }
}

/// Fetches the named parts and unpacks those that are not unpacked yet.
pub fn unpack(lock: &Lock, names: &[&str], cache: &Path, progress: &Progress) -> Result<Unpacked> {
    let wanted = names.iter().map(|name| lock.part(name).cloned()).collect::<Result<Vec<_>>>()?;
    let wanted = Lock { parts: wanted, ..lock.clone() };
    let _turn = turn::wait(cache)?;
    fetch(&wanted, cache, progress)?;
    let mut roots = BTreeMap::new();
    for part in wanted.parts {
        let root = cache.join("unpacked").join(&part.sha256);
        if !root.is_dir() {
            let step = progress.step(&format!("unpack {}", part.name));
            unpack_to(&part, cache, &root)?;
            step.done(&part.version);
        }
        roots.insert(part.name, root);
    }
    Ok(Unpacked(roots))
}

fn unpack_to(part: &Part, cache: &Path, root: &Path) -> Result<()> {
    let parent = cache.join("unpacked");
    std::fs::create_dir_all(&parent).at("create", &parent)?;
    let temporary =
        tempfile::Builder::new().prefix(".new-").tempdir_in(&parent).at("create a folder in", &parent)?;
    let content = temporary.path().join("root");
    tools::run(tools::command("dpkg-deb")?.arg("--extract").arg(part.file(cache)).arg(&content))?;
    match std::fs::rename(&content, root) {
        Err(_) if root.is_dir() => Ok(()), // another build was faster
        result => result.at("rename to", root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "snapshot = '20261123T080000Z'\narchitecture = 'amd64'\n[[part]]\nname = 'a'\nsuite = 'trixie'\n\
        package = 'p'\nversion = '1:2+b3'\npath = 'pool/main/p/p_2+b3_amd64.deb'\nsize = 5\n\
        sha256 = '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'\n";

    #[test]
    fn the_lock_of_this_tree_is_valid_and_survives_rewriting() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parts.lock.toml");
        let lock = Lock::read(&path).unwrap();
        assert!(lock.part("kernel").is_ok() && lock.part("toaster").is_err());
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("parts.lock.toml");
        lock.write(&copy).unwrap();
        assert_eq!(Lock::read(&copy).unwrap(), lock);
    }

    #[test]
    fn a_bad_lock_is_refused_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock.toml");
        for (from, to, wanted) in [
            ("size = 5", "size = 0", "size"),
            ("'0123", "'X123", "sha256"),
            ("pool/main/p", "pool/main/../..", "path"),
            ("pool/main", "/pool/main", "path"),
            ("'p'", "'-o x'", "package"),
            ("20261123T080000Z", "yesterday", "snapshot"),
            ("size = 5", "size = 5\ncolour = 'red'", "colour"),
        ] {
            std::fs::write(&file, GOOD.replace(from, to)).unwrap();
            let error = Lock::read(&file).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("lock.toml"), "{to}: {error}");
        }
        std::fs::write(&file, GOOD).unwrap();
        Lock::read(&file).unwrap();
    }
}
