//! A repository of releases as a folder of plain files, to be carried from one signer to the next:
//!
//! `1.root.json`, `2.root.json`, ..., `root.json` (the newest), `targets.json`, `snapshot.json`, `timestamp.json`,
//! `statements/<board>/<version>.cbor`.
//!
//! What decides is in `os_release::author`. A crash while it is saved leaves files of which the next `release sign` makes a
//! whole again: each file is the old or the new one, and what is named is written before what names it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use os_release::author::Repository;
use os_release::{ROOTS_MAX, Release, target_path};
use os_tuf::{Envelope, METADATA_MAX, Role, Targets};

use crate::whole_file;

/// Whether there is one in the folder.
pub fn exists(dir: &Path) -> bool {
    dir.join("root.json").exists()
}

pub fn load(dir: &Path) -> Result<Repository> {
    if !exists(dir) {
        bail!(
            "{} holds no releases: `maculactl release create` begins them, --repo DIR names another folder",
            dir.display()
        );
    }
    let mut roots = Vec::new();
    while let Some(root) = read(&dir.join(format!("{}.root.json", roots.len() + 1)))? {
        roots.push(root);
        if roots.len() > ROOTS_MAX {
            bail!("more than {ROOTS_MAX} roots");
        }
    }
    let file = |role: Role| read(&dir.join(format!("{role}.json")));
    let targets = file(Role::Targets)?;
    let statements = match &targets {
        Some(bytes) => statements(dir, bytes).with_context(|| dir.display().to_string())?,
        None => Vec::new(),
    };
    let (snapshot, timestamp) = (file(Role::Snapshot)?, file(Role::Timestamp)?);
    Ok(Repository { roots, targets, snapshot, timestamp, statements })
}

/// Statements that the targets do not name are left from an interrupted change, or withdrawn.
fn statements(dir: &Path, targets: &[u8]) -> Result<Vec<Vec<u8>>> {
    let targets = Targets::read(&Envelope::parse(Role::Targets.word(), targets)?)?;
    let statement = |path: &String| {
        let file = statement_path(dir, path)?;
        read(&file)?.with_context(|| format!("{} is missing; the targets name it", file.display()))
    };
    targets.targets.keys().map(statement).collect()
}

/// `releases/<board>/<version>`, which somebody else may have written.
fn statement_path(dir: &Path, target: &str) -> Result<PathBuf> {
    let parts: Vec<&str> = target.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && !part.starts_with('.');
    match parts.as_slice() {
        ["releases", rest @ ..] if rest.len() == 2 && rest.iter().all(plain) => {
            Ok(dir.join("statements").join(rest[0]).join(format!("{}.cbor", rest[1])))
        }
        _ => bail!("`{target}` is not releases/<board>/<version>"),
    }
}

pub fn save(dir: &Path, repository: &Repository) -> Result<()> {
    for statement in &repository.statements {
        let file = statement_path(dir, &target_path(&Release::decode(statement)?))?;
        let folder = file.parent().unwrap_or(dir);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        write(&file, statement)?;
    }
    let files = [
        (Role::Targets, &repository.targets),
        (Role::Snapshot, &repository.snapshot),
        (Role::Timestamp, &repository.timestamp),
    ];
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (index, root) in repository.roots.iter().enumerate() {
        write(&dir.join(format!("{}.root.json", index + 1)), root)?;
    }
    for (role, bytes) in files {
        if let Some(bytes) = bytes {
            write(&dir.join(format!("{role}.json")), bytes)?;
        }
    }
    match repository.roots.last() {
        Some(newest) => write(&dir.join("root.json"), newest),
        None => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    whole_file::write(path, bytes)
}

/// `None` when it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        Ok(meta) if meta.len() > METADATA_MAX as u64 => {
            bail!("{} is {} bytes, at most {METADATA_MAX} are allowed", path.display(), meta.len())
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use os_content_id::Mcid;
    use os_identity::NodeKey;
    use os_release::author::keyring;
    use os_release::{Artifact, Release, Role as Part, Version};

    pub const NOW: u64 = 1_800_000_000;

    pub fn release(minor: u64) -> Release {
        let artifact = |role, verity_root| Artifact { role, mcid: Mcid::of_raw(b"x"), size: 1, verity_root };
        Release {
            board: "x86-generic".into(),
            version: Version::new(0, minor, 0),
            min_version: Version::new(0, 0, 0),
            artifacts: vec![artifact(Part::Root, Some([1; 32])), artifact(Part::Uki, None)],
            created_unix: NOW,
            expires_unix: NOW + 90 * 86_400,
            notes: String::new(),
        }
    }

    /// Signed, with releases 0.1.0 to 0.`count`.0.
    pub fn signed(key: &NodeKey, count: u64) -> Repository {
        let mut repository = Repository::begin(&keyring(&[key.node_id()], 1), NOW).unwrap();
        for minor in 1..=count {
            repository.add(&release(minor), NOW).unwrap();
        }
        repository.sign(key, NOW).unwrap();
        repository
    }

    #[test]
    fn a_repository_is_the_same_after_saving() {
        let (dir, key) = (tempfile::tempdir().unwrap(), NodeKey::from_seed(&[1; 32]));
        let mut repository = signed(&key, 2);
        save(dir.path(), &repository).unwrap();
        assert_eq!(load(dir.path()).unwrap(), repository);
        repository.next_root(&keyring(&[key.node_id()], 1), NOW).unwrap();
        repository.sign(&key, NOW).unwrap();
        save(dir.path(), &repository).unwrap();
        assert_eq!(load(dir.path()).unwrap(), repository);
        assert!(load(dir.path()).unwrap().bundle().is_ok());
    }

    #[test]
    fn damage_is_named() {
        let (dir, key) = (tempfile::tempdir().unwrap(), NodeKey::from_seed(&[1; 32]));
        let error = || format!("{:#}", load(dir.path()).unwrap_err());
        assert!(error().contains("release create"));
        save(dir.path(), &signed(&key, 1)).unwrap();
        fs::remove_file(dir.path().join("statements/x86-generic/0.1.0.cbor")).unwrap();
        assert!(error().contains("0.1.0.cbor is missing"));
        fs::write(dir.path().join("targets.json"), b"{").unwrap();
        assert!(error().contains("targets metadata is malformed"));
        fs::write(dir.path().join("targets.json"), vec![b' '; METADATA_MAX + 1]).unwrap();
        assert!(error().contains("at most"));
        for bad in
            ["releases/a", "releases/../b", "other/a/b", "releases//b", "releases/a/b/c", "releases/.a/b"]
        {
            assert!(statement_path(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
