//! The initramfs: our init, e2fsck, what opens an encrypted state, the modules it takes to open the root, and what a factory reset writes.
//!
//! Two compressed archives, one behind the other, as the kernel allows: the large one seldom changes and is kept in
//! the cache, the one with `init` is made at every build.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use data_encoding::HEXLOWER;
use image_layout::PRISTINE_STATE;
use sha2::{Digest, Sha256};

use crate::cpio::Archive;
use crate::error::{At, Result};
use crate::modules::Selection;

/// The slowest level that the kernel's decompressor takes.
const ZSTD_LEVEL: i32 = 19;
/// Folders that PID 1 mounts something on before it has a root.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Level for what changes at every build and is large: half the size costs twenty times the time.
const ZSTD_LEVEL_QUICK: i32 = 9;
/// Folders that the rescue system needs besides: its root is the initramfs.
const RESCUE_MOUNT_POINTS: [&str; 2] = ["tmp", "state"];

/// The compressed archives. `tools` are programs and libraries by path (relative).
pub fn make(
    init: &[u8],
    tools: &BTreeMap<String, Vec<u8>>,
    pristine_state: &[u8],
    modules: &Selection,
    cache: &Path,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for point in MOUNT_POINTS {
        archive.folder(point);
    }
    for (path, content) in tools {
        archive.file(path, 0o755, content);
    }
    archive.file(PRISTINE_STATE, 0o644, pristine_state);
    archive.file("etc/macula/modules.toml", 0o644, modules.toml.as_bytes());
    for (name, content) in &modules.files {
        archive.file(&format!("lib/modules/{name}"), 0o644, content);
    }
    let mut bytes = compress_cached(&archive.finish(), &cache.join("initramfs"))?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, init);
    bytes.extend(compress(&archive.finish())?);
    Ok(bytes)
}

/// The compressed archive that makes an initramfs the rescue system, to be put behind the others. Path (relative), whether
/// it is a program, content.
pub fn rescue(files: &[(String, bool, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    RESCUE_MOUNT_POINTS.iter().for_each(|point| archive.folder(point));
    for (path, executable, content) in files {
        archive.file(path, if *executable { 0o755 } else { 0o644 }, content);
    }
    compress_at(ZSTD_LEVEL_QUICK, &archive.finish())
}

fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    compress_at(ZSTD_LEVEL, archive)
}

fn compress_at(level: i32, archive: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(archive, level).at("compress", Path::new("the initramfs"))
}

/// As [`compress`], but kept in `folder` under a hash of what decides about the result.
fn compress_cached(archive: &[u8], folder: &Path) -> Result<Vec<u8>> {
    let versions = format!("{} {ZSTD_LEVEL}\0", zstd::zstd_safe::version_number());
    let key = Sha256::new_with_prefix(versions).chain_update(archive).finalize();
    let file = folder.join(format!("{}.zst", HEXLOWER.encode(&key)));
    if let Ok(bytes) = std::fs::read(&file)
        && zstd::bulk::decompress(&bytes, archive.len()).is_ok_and(|unpacked| unpacked == archive)
    {
        return Ok(bytes);
    }
    let bytes = compress(archive)?;
    std::fs::create_dir_all(folder).at("create", folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder).at("create a file in", folder)?;
    temporary.write_all(&bytes).at("write to", folder)?;
    temporary.persist(&file).map_err(|error| error.error).at("rename to", &file)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spoilt_cache_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let first = compress_cached(&[7; 9000], dir.path()).unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        for spoilt in [&b"rubbish"[..], &compress(&[8; 9000]).unwrap()] {
            std::fs::write(&file, spoilt).unwrap();
            assert_eq!(compress_cached(&[7; 9000], dir.path()).unwrap(), first);
            assert_eq!(std::fs::read(&file).unwrap(), first);
        }
    }
}
