//! The root file system: a tree, made into EROFS by `mkfs.erofs`, padded, with its dm-verity hash tree behind it.
//!
//! Deterministic: owner root, time 0, and a UUID that depends on the content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use image_layout::{BLOCK_BYTES, ROOT_BYTES, align_up, check_fits};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{At, BuildError, Result};
use crate::{tools, verity};

/// Empty folders that PID 1 mounts something on.
const MOUNT_POINTS: [&str; 7] = ["dev", "proc", "sys", "run", "tmp", "etc", "state"];
/// Compressed in clusters of 64 KiB: a compromise between size and what a small read costs.
const EROFS_OPTIONS: [&str; 5] = ["-zlz4hc", "-C65536", "-T0", "-x-1", "--all-root"];

/// Files of the root by their path, which is relative and has no `.` or `..`.
#[derive(Default)]
pub struct Tree(BTreeMap<String, Node>);

struct Node {
    executable: bool,
    source: Source,
}

enum Source {
    Copy(PathBuf),
    Bytes(Vec<u8>),
    Link(&'static str),
}

/// A finished root: EROFS, padding and hash tree in one file.
pub struct Root {
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub verity_root: String,
    pub verity_salt: String,
    /// Blocks of 4096 bytes before the hash tree.
    pub data_blocks: u64,
}

impl Tree {
    pub fn copy(&mut self, path: &str, executable: bool, from: &Path) -> Result<()> {
        self.add(path, executable, Source::Copy(from.to_path_buf()))
    }

    pub fn bytes(&mut self, path: &str, executable: bool, content: impl Into<Vec<u8>>) -> Result<()> {
        self.add(path, executable, Source::Bytes(content.into()))
    }

    /// A symbolic link to `target`, which is relative to the link's folder.
    pub fn link(&mut self, path: &str, target: &'static str) -> Result<()> {
        self.add(path, false, Source::Link(target))
    }

    fn add(&mut self, path: &str, executable: bool, source: Source) -> Result<()> {
        check_path(path)?;
        match self.0.insert(path.to_owned(), Node { executable, source }) {
            None => Ok(()),
            Some(_) => Err(BuildError::Input(format!("two files for /{path} in the root"))),
        }
    }

    /// Makes the image at `target`; `work` is an empty folder for the time being.
    pub fn make(&self, work: &Path, target: &Path) -> Result<Root> {
        let staged = work.join("root");
        let digest = self.stage(&staged)?;
        let uuid = uuid_from(digest);
        let mut command = tools::command("mkfs.erofs")?;
        command.args(EROFS_OPTIONS).arg(format!("-U{uuid}")).arg(target).arg(&staged);
        tools::run(&mut command)?;
        let root = append_verity(target)?;
        check_fits("the root file system with its hash tree", root.bytes, ROOT_BYTES)?;
        Ok(root)
    }

    /// Writes the tree to a folder; returns a hash of all that matters of it.
    fn stage(&self, folder: &Path) -> Result<[u8; 32]> {
        for point in MOUNT_POINTS {
            make_folder(&folder.join(point))?;
        }
        let mut hasher = Sha256::new_with_prefix(EROFS_OPTIONS.concat());
        for (path, node) in &self.0 {
            let target = folder.join(path);
            if let Some(parent) = target.parent() {
                make_folder(parent)?;
            }
            match &node.source {
                Source::Copy(from) => drop(std::fs::copy(from, &target).at("copy", from)?),
                Source::Bytes(bytes) => std::fs::write(&target, bytes).at("write", &target)?,
                Source::Link(to) => {
                    std::os::unix::fs::symlink(to, &target).at("link", &target)?;
                    hasher.update(format!("link {path}\0{to}\0"));
                    continue;
                }
            }
            let mode = if node.executable { 0o755 } else { 0o644 };
            set_mode(&target, mode)?;
            let content = Sha256::digest(std::fs::read(&target).at("read", &target)?);
            hasher.update(format!("{mode:o} {path}\0"));
            hasher.update(content);
        }
        // umask must not show
        set_modes_of_folders(folder)?;
        Ok(hasher.finalize().into())
    }
}

/// A GUID from the first bytes of a hash, marked as "custom" (RFC 9562, version 8).
pub fn uuid_from(digest: [u8; 32]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}

/// Pads the file to whole blocks and appends the hash tree.
pub fn append_verity(path: &Path) -> Result<Root> {
    let mut file = File::options().read(true).write(true).open(path).at("open", path)?;
    let length = align_up(file.metadata().at("inspect", path)?.len(), BLOCK_BYTES);
    file.set_len(length).at("pad", path)?;
    let salt = verity::salt(std::io::BufReader::new(&file)).at("read", path)?;
    file.seek(SeekFrom::Start(0)).at("read", path)?;
    let tree = verity::tree(std::io::BufReader::new(&file), &salt).at("read", path)?;
    let tree = tree.ok_or_else(|| BuildError::Input(format!("{} is empty", path.display())))?;
    file.seek(SeekFrom::Start(length)).at("write", path)?;
    file.write_all(&tree.blocks).at("write", path)?;
    Ok(Root {
        bytes: length + tree.blocks.len() as u64,
        verity_root: HEXLOWER.encode(&tree.root),
        verity_salt: HEXLOWER.encode(&salt),
        data_blocks: tree.data_blocks,
    })
}

fn check_path(path: &str) -> Result<()> {
    let good = |step: &str| !step.is_empty() && step != "." && step != ".." && !step.contains('\0');
    if path.split('/').all(good) {
        return Ok(());
    }
    Err(BuildError::Input(format!("{path:?} is not a relative path of a file in the root")))
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).at("create", path)
}

fn set_modes_of_folders(folder: &Path) -> Result<()> {
    set_mode(folder, 0o755)?;
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let path = entry.at("list", folder)?.path();
        if path.is_dir() && !path.is_symlink() {
            set_modes_of_folders(&path)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("set the mode of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_root_and_doubles_are_refused() {
        let mut tree = Tree::default();
        for path in ["/usr/bin/x", "../x", "usr//x", "", "usr/./x", "a\0b"] {
            assert!(tree.bytes(path, false, "x").is_err(), "{path:?}");
        }
        tree.bytes("usr/x", false, "x").unwrap();
        assert!(tree.bytes("usr/x", false, "y").unwrap_err().to_string().contains("/usr/x"));
    }
}
