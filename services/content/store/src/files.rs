//! Files named by hash. Each is written beside its place, synced, and renamed: after a power cut it is whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use os_content_id::{Hash, MAX_WIRE_MANIFEST, hash};

use crate::exchange::MAX_BLOCK;

/// Where everything lies below the store's directory.
pub(crate) struct Files {
    root: PathBuf,
    counter: AtomicU64,
}

/// Bytes written beside their place, not synced yet.
pub(crate) struct Pending {
    temporary: PathBuf,
    place: PathBuf,
}

impl Files {
    /// Makes the directories and removes what an interrupted write left.
    pub fn open(root: &Path) -> io::Result<Self> {
        let files = Self { root: root.to_path_buf(), counter: AtomicU64::new(0) };
        for dir in [files.tmp(), files.blocks(), files.manifests(), files.pins()] {
            fs::create_dir_all(dir)?;
        }
        // The directory itself stays: on a full disk it might not come back.
        for left in fs::read_dir(files.tmp())? {
            fs::remove_file(left?.path())?;
        }
        Ok(files)
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn blocks(&self) -> PathBuf {
        self.root.join("blocks")
    }

    fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    pub fn block_path(&self, hash: &Hash) -> PathBuf {
        let hex = HEXLOWER.encode(hash);
        self.blocks().join(&hex[..2]).join(hex)
    }

    pub fn manifest_path(&self, hash: &Hash) -> PathBuf {
        self.manifests().join(HEXLOWER.encode(hash))
    }

    /// The block, if its file holds it. A file that holds anything else is removed.
    pub fn read_block(&self, wanted: &Hash) -> io::Result<Option<Vec<u8>>> {
        let path = self.block_path(wanted);
        let Some(bytes) = read_bounded(&path, MAX_BLOCK)? else { return Ok(None) };
        if hash(&bytes) == *wanted {
            return Ok(Some(bytes));
        }
        tracing::warn!("removed {}: its content does not match its name", path.display());
        fs::remove_file(&path)?;
        Ok(None)
    }

    pub fn read_manifest(&self, hash: &Hash) -> io::Result<Option<Vec<u8>>> {
        read_bounded(&self.manifest_path(hash), MAX_WIRE_MANIFEST)
    }

    /// Writes beside `place`. [`Self::settle`] makes it last.
    pub fn write(&self, place: PathBuf, bytes: &[u8]) -> io::Result<Pending> {
        let name = self.counter.fetch_add(1, Ordering::Relaxed).to_string();
        let pending = Pending { temporary: self.tmp().join(name), place };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&pending.temporary)?;
        file.write_all(bytes)?;
        Ok(pending)
    }

    /// Syncs all that was written, once, and only then puts it in its place.
    pub fn settle(&self, pending: &mut Vec<Pending>) -> io::Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for p in pending.drain(..) {
            if let Some(dir) = p.place.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::rename(&p.temporary, &p.place)?;
        }
        Ok(())
    }

    /// One flush of the whole file system is cheaper than one per file, and reports write errors (Linux 5.8).
    pub fn sync(&self) -> io::Result<()> {
        nix::unistd::syncfs(File::open(&self.root)?).map_err(io::Error::from)
    }

    /// Bytes that this process may still write to the file system.
    pub fn free(&self) -> io::Result<u64> {
        let s = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(s.blocks_available() * s.fragment_size())
    }

    pub fn each_block(&self, mut see: impl FnMut(Hash, u64)) -> io::Result<()> {
        for dir in fs::read_dir(self.blocks())? {
            let dir = dir?.path();
            if dir.is_dir() {
                each_named(&dir, &mut see)?;
            }
        }
        Ok(())
    }

    pub fn each_manifest(&self, see: impl FnMut(Hash, u64)) -> io::Result<()> {
        each_named(&self.manifests(), see)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Removing twice is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn each_named(dir: &Path, mut see: impl FnMut(Hash, u64)) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let decoded = name.to_str().and_then(|n| HEXLOWER.decode(n.as_bytes()).ok());
        match decoded.and_then(|b| Hash::try_from(b).ok()) {
            Some(hash) => see(hash, entry.metadata()?.len()),
            None => tracing::warn!("{} is not named by a hash, left alone", entry.path().display()),
        }
    }
    Ok(())
}

/// `None` when there is no such file. One that is too long is cut, so that its hash cannot match.
pub(crate) fn read_bounded(path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let len = file.metadata()?.len().min(max as u64 + 1);
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
