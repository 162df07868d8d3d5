//! Content served by reference: out of a slot's partition, or any other file that somebody else keeps.
//!
//! Nothing in such a file is trusted: each chunk is hashed whenever it is read, and one that does not match is simply not
//! there. Offers live in memory; whoever made one makes it again after a restart.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use os_content_id::{ChunkList, Hash, Mcid, hash};

use crate::exchange::MAX_BLOCK;

pub const MAX_OFFERS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    #[error("{path} may not be offered, only what is below {roots}")]
    Forbidden { path: PathBuf, roots: String },
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is neither a file nor a block device")]
    Kind(PathBuf),
    #[error("{path} has {found} bytes, the content {size}")]
    Short { path: PathBuf, found: u64, size: u64 },
    #[error("chunk {index} in {path} does not match its hash")]
    Mismatch { path: PathBuf, index: u32 },
    #[error("chunks of {0} bytes cannot be served, at most {MAX_BLOCK} can")]
    ChunkSize(u32),
    #[error("{MAX_OFFERS} contents are offered already; withdraw one first")]
    Full,
}

/// One content and the file that holds it from its first byte.
pub struct Offer {
    list: ChunkList,
    path: PathBuf,
    file: File,
    /// Chunk indices in the order of their hashes.
    by_hash: Vec<u32>,
}

impl Offer {
    /// Opens the file and looks whether its first and last chunk are what they should be.
    pub fn open(list: ChunkList, path: &Path) -> Result<Self, OfferError> {
        // O_NONBLOCK: opening a pipe must not wait for its other end.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        let file =
            options.open(path).map_err(|source| OfferError::Io { path: path.to_path_buf(), source })?;
        Self::of_file(list, file, path)
    }

    /// As [`Self::open`], for a file that somebody else has opened; `path` is only its name for people.
    pub fn of_file(list: ChunkList, file: File, path: &Path) -> Result<Self, OfferError> {
        let chunk_size = list.manifest().chunk_size;
        if chunk_size as usize > MAX_BLOCK {
            return Err(OfferError::ChunkSize(chunk_size));
        }
        check_readable(&file, path, list.manifest().size)?;
        let mut by_hash: Vec<u32> = (0..list.manifest().chunk_count).collect();
        by_hash.sort_by_key(|i| list.hashes()[*i as usize]);
        let offer = Self { list, path: path.to_path_buf(), file, by_hash };
        let last = offer.list.manifest().chunk_count.checked_sub(1);
        for index in last.into_iter().flat_map(|last| [0, last]) {
            if offer.read(index).is_none() {
                return Err(OfferError::Mismatch { path: path.to_path_buf(), index });
            }
        }
        Ok(offer)
    }

    pub fn list(&self) -> &ChunkList {
        &self.list
    }

    /// The chunk with this hash, verified; `None` when the content has no such chunk or the file no longer holds it.
    pub fn chunk(&self, wanted: &Hash) -> Option<Vec<u8>> {
        let hashes = self.list.hashes();
        let place = self.by_hash.binary_search_by_key(wanted, |i| hashes[*i as usize]).ok()?;
        let found = self.read(self.by_hash[place]);
        if found.is_none() {
            tracing::warn!("{} no longer holds a chunk of {}", self.path.display(), self.list.mcid());
        }
        found
    }

    fn read(&self, index: u32) -> Option<Vec<u8>> {
        let m = self.list.manifest();
        let mut bytes = vec![0; m.chunk_len(index)? as usize];
        self.file.read_exact_at(&mut bytes, u64::from(index) * u64::from(m.chunk_size)).ok()?;
        (hash(&bytes) == self.list.hashes()[index as usize]).then_some(bytes)
    }
}

fn check_readable(mut file: &File, path: &Path, size: u64) -> Result<(), OfferError> {
    let failed = |source| OfferError::Io { path: path.to_path_buf(), source };
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OfferError::Kind(path.to_path_buf()));
    }
    let found = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if found < size {
        return Err(OfferError::Short { path: path.to_path_buf(), found, size });
    }
    Ok(())
}

/// All that is offered.
pub struct Offers {
    /// Directories whose files may be offered.
    roots: Vec<PathBuf>,
    offers: RwLock<BTreeMap<Mcid, Arc<Offer>>>,
}

impl Offers {
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, offers: RwLock::default() }
    }

    /// Offers the content; one that was offered before is replaced.
    pub fn offer(&self, list: ChunkList, path: &Path) -> Result<Mcid, OfferError> {
        let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !plain || !self.roots.iter().any(|r| path.starts_with(r)) {
            let roots: Vec<_> = self.roots.iter().map(|r| r.display().to_string()).collect();
            return Err(OfferError::Forbidden { path: path.to_path_buf(), roots: roots.join(" and ") });
        }
        self.add(Offer::open(list, path)?)
    }

    /// As [`Self::offer`], out of a file that whoever may read it has opened.
    pub fn offer_file(&self, list: ChunkList, file: File) -> Result<Mcid, OfferError> {
        let name = PathBuf::from(list.manifest().name.clone());
        self.add(Offer::of_file(list, file, &name)?)
    }

    fn add(&self, offer: Offer) -> Result<Mcid, OfferError> {
        let (mcid, offer) = (offer.list.mcid(), Arc::new(offer));
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        if offers.len() >= MAX_OFFERS && !offers.contains_key(&mcid) {
            return Err(OfferError::Full);
        }
        offers.insert(mcid, offer);
        Ok(mcid)
    }

    /// Whether it was offered.
    pub fn withdraw(&self, mcid: &Mcid) -> bool {
        self.offers.write().unwrap_or_else(PoisonError::into_inner).remove(mcid).is_some()
    }

    pub fn get(&self, mcid: &Mcid) -> Option<Arc<Offer>> {
        self.offers.read().unwrap_or_else(PoisonError::into_inner).get(mcid).cloned()
    }

    pub fn list(&self) -> Vec<Mcid> {
        self.offers.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// A chunk out of any offer: releases share most of theirs.
    pub fn chunk(&self, hash: &Hash) -> Option<Vec<u8>> {
        let all: Vec<_> =
            self.offers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.iter().find_map(|o| o.chunk(hash))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use os_content_id::ManifestBuilder;

    use super::*;

    fn content(len: usize) -> (Vec<u8>, ChunkList) {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 1000 % 251) as u8 ^ (i % 7) as u8).collect();
        let mut b = ManifestBuilder::new("root.img");
        b.update(&bytes);
        (bytes, b.finish().unwrap())
    }

    #[test]
    fn chunks_come_verified_out_of_a_larger_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root-a");
        let (bytes, list) = content(700_000);
        std::fs::write(&path, [&bytes[..], &[9; 5000]].concat()).unwrap();
        let offers = Offers::new(vec![dir.path().to_path_buf()]);
        let mcid = offers.offer(list.clone(), &path).unwrap();
        for (i, h) in list.hashes().iter().enumerate() {
            let end = (i + 1) * MAX_BLOCK;
            assert_eq!(offers.chunk(h).unwrap(), bytes[i * MAX_BLOCK..end.min(bytes.len())]);
        }
        assert_eq!(offers.chunk(&[0; 32]), None);
        // Somebody writes into the file: that chunk is gone, the others are not.
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"!", 300_000).unwrap();
        assert_eq!(offers.get(&mcid).unwrap().chunk(&list.hashes()[1]), None);
        assert!(offers.get(&mcid).unwrap().chunk(&list.hashes()[2]).is_some());
        assert!(offers.withdraw(&mcid) && !offers.withdraw(&mcid));
        assert_eq!(offers.chunk(&list.hashes()[2]), None);
    }

    #[test]
    fn what_may_not_or_cannot_be_served_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).unwrap();
        let (bytes, list) = content(700_000);
        let offers = Offers::new(vec![inside.clone()]);
        let refusal = |path: &Path| offers.offer(list.clone(), path).unwrap_err().to_string();
        std::fs::write(dir.path().join("out"), &bytes).unwrap();
        assert!(refusal(&dir.path().join("out")).contains("may not be offered"));
        assert!(refusal(&inside.join("../out")).contains("may not be offered"));
        assert!(refusal(Path::new("in/out")).contains("may not be offered"));
        assert!(refusal(&inside.join("none")).contains("cannot read"));
        assert!(refusal(&inside).contains("may not be offered") || refusal(&inside).contains("neither"));
        std::fs::write(inside.join("short"), &bytes[1..]).unwrap();
        assert!(refusal(&inside.join("short")).contains("has 699999 bytes"));
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(inside.join("flipped"), &flipped).unwrap();
        assert!(refusal(&inside.join("flipped")).contains("chunk 2"));
    }
}
