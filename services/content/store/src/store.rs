//! What is kept on this node, and for how long.
//!
//! Below the store's directory: `blocks/<xx>/<hex>`, `manifests/<hex>` (wire form), `pins/<hex>`, `index/` (sled), `tmp/`.
//! The files are the truth. The index is compared with them on every open, and rebuilt when it does not work. A crash
//! leaves at most blocks that no content lists: they count as content of their own, not used lately, and go first.

mod scan;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use os_content_id::{ChunkList, Codec, Hash, MAX_NAME, Mcid};

use crate::exchange::MAX_BLOCK;
use crate::files::{Files, remove};
use crate::index::{BlockEntry, Broken, ContentEntry, Index};
use crate::pins::{MAX_PINS, Pins};
use scan::Scan;

/// What a file of any size takes up at least.
const FILE_UNIT: u64 = 4096;
/// Left free on the file system for everybody else.
const FREE_MARGIN: u64 = 8 * 1024 * 1024;
/// Largest default quota.
const QUOTA_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bounds the index, whatever the sizes.
const MAX_CONTENTS: usize = 65_536;
/// A use is noted at most this often, in milliseconds: flash wears out.
const TOUCH_MS: u64 = 10 * 60 * 1000;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} failed: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("the disk is full: {needed} more bytes are needed, {free} are free; remove apps or contents")]
    DiskFull { needed: u64, free: u64 },
    #[error(
        "the content store is full: {needed} bytes do not fit its {quota} bytes beside {pinned} bytes that are pinned"
    )]
    Quota { needed: u64, quota: u64, pinned: u64 },
    #[error("a raw block has at most {MAX_BLOCK} bytes, got {0}")]
    BlockSize(usize),
    #[error("a content's name has at most {MAX_NAME} bytes")]
    Name,
    #[error("{MAX_PINS} contents are pinned already")]
    Pins,
    #[error("{expected} bytes were announced, {found} came")]
    Size { expected: u64, found: u64 },
    #[error("a block was removed while the content was being stored; put it again")]
    Changed,
    #[error("{0} is not stored here")]
    Absent(Mcid),
    #[error(transparent)]
    Manifest(#[from] os_content_id::ManifestError),
    #[error(transparent)]
    Index(#[from] Broken),
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// What is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub blocks: u64,
    /// As the file system counts.
    pub bytes: u64,
}

pub struct Store {
    pub(crate) files: Files,
    quota: u64,
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub index: Index,
    pins: Pins,
    used: u64,
    blocks: u64,
    contents: usize,
    /// Blocks of contents being stored right now, with how many writers need each.
    pub busy: HashMap<Hash, u32>,
    evicted: Vec<Mcid>,
}

/// A quarter of the file system, at most 4 GiB.
pub fn default_quota(dir: &Path) -> io::Result<u64> {
    let s = nix::sys::statvfs::statvfs(dir)?;
    Ok((s.blocks() * s.fragment_size() / 4).min(QUOTA_MAX))
}

pub(crate) fn failed(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { needed: MAX_BLOCK as u64, free: 0 }
        }
        _ => StoreError::Io { what, source },
    }
}

pub(crate) fn charge(bytes: u64) -> u64 {
    bytes.max(1).div_ceil(FILE_UNIT) * FILE_UNIT
}

impl Store {
    /// Opens or makes the store. `now`: milliseconds since 1970, as everywhere here.
    pub fn open(root: &Path, quota: u64, now: u64) -> Result<Self> {
        let files = Files::open(root).map_err(failed("opening the content store"))?;
        let inner = Mutex::new(Inner::open(&files, now)?);
        Ok(Self { files, quota, inner })
    }

    /// A block by its hash, verified.
    pub fn block(&self, hash: &Hash) -> Result<Option<Vec<u8>>> {
        let found = self.files.read_block(hash).map_err(failed("reading a block"))?;
        if found.is_none() {
            self.with(|inner, _| inner.forget_block(hash))?;
        }
        Ok(found)
    }

    /// A manifest, proven to be the MCID's own.
    pub fn manifest(&self, mcid: &Mcid) -> Result<Option<ChunkList>> {
        let bytes = self.files.read_manifest(&mcid.hash).map_err(failed("reading a manifest"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        match ChunkList::decode(&bytes, mcid) {
            Ok(list) => Ok(Some(list)),
            Err(e) => {
                tracing::warn!("a stored manifest is not {mcid} ({e}), removed");
                self.with(|inner, files| inner.remove_content(files, mcid))?;
                remove(&self.files.manifest_path(&mcid.hash)).map_err(failed("removing a manifest"))?;
                Ok(None)
            }
        }
    }

    /// How many of a content's blocks are here, of how many; `None` when nothing is known about it.
    pub fn held(&self, mcid: &Mcid) -> Result<Option<(u32, u32)>> {
        let list = match mcid.codec {
            Codec::Raw => return self.with(|i, _| Ok(i.index.block(&mcid.hash)?.map(|_| (1, 1)))),
            Codec::Manifest => self.manifest(mcid)?,
        };
        let Some(list) = list else { return Ok(None) };
        let total = list.manifest().chunk_count;
        self.with(|inner, _| {
            if inner.index.content(mcid)?.is_some_and(|c| c.complete) {
                return Ok(Some((total, total)));
            }
            let mut held = 0;
            for hash in list.hashes() {
                held += u32::from(inner.index.block(hash)?.is_some());
            }
            Ok(Some((held, total)))
        })
    }

    /// Notes that the content was used.
    pub fn touch(&self, mcid: &Mcid, now: u64) -> Result<()> {
        self.with(|inner, _| match inner.index.content(mcid)? {
            Some(c) if c.last_use + TOUCH_MS < now => {
                Ok(inner.index.set_content(mcid, ContentEntry { last_use: now, ..c })?)
            }
            _ => Ok(()),
        })
    }

    /// Stores one raw block. `announced`: whether the mesh is told that it is here.
    pub fn put_raw(&self, bytes: &[u8], announced: bool, now: u64) -> Result<Mcid> {
        if bytes.len() > MAX_BLOCK {
            return Err(StoreError::BlockSize(bytes.len()));
        }
        let mcid = Mcid::of_raw(bytes);
        let here = self.block(&mcid.hash)?.is_some();
        self.with(|inner, files| {
            if !here || inner.index.block(&mcid.hash)?.is_none() {
                inner.make_room(files, self.quota, bytes.len() as u64)?;
                let pending = files.write(files.block_path(&mcid.hash), bytes);
                let mut pending = vec![pending.map_err(failed("writing a block"))?];
                files.settle(&mut pending).map_err(failed("writing a block"))?;
                inner.add_block(&mcid.hash, bytes.len() as u32)?;
            }
            let entry = ContentEntry { last_use: now, size: bytes.len() as u64, complete: true, announced };
            inner.set_content(&mcid, entry, [mcid.hash])
        })?;
        Ok(mcid)
    }

    /// Keeps a manifest whose blocks are elsewhere.
    pub fn put_manifest(&self, list: &ChunkList, now: u64) -> Result<()> {
        let mcid = list.mcid();
        let bytes = list.encode();
        self.with(|inner, files| {
            if inner.index.content(&mcid)?.is_some() {
                return Ok(());
            }
            inner.make_room(files, self.quota, bytes.len() as u64)?;
            self.write_manifest(&mcid, &bytes)?;
            inner.add_bytes(bytes.len() as u64);
            let size = list.manifest().size;
            let entry = ContentEntry { last_use: now, size, complete: false, announced: false };
            inner.set_content(&mcid, entry, [])
        })
    }

    /// Keeps a manifest, and knows the content as whole if all its blocks are here: then it is true, and to be announced.
    pub fn put_whole(&self, list: &ChunkList, now: u64) -> Result<bool> {
        self.put_manifest(list, now)?;
        let mcid = list.mcid();
        let hashes: BTreeSet<Hash> = list.hashes().iter().copied().collect();
        self.with(|inner, _| {
            for hash in &hashes {
                if inner.index.block(hash)?.is_none() {
                    return Ok(false);
                }
            }
            let size = list.manifest().size;
            inner.set_content(
                &mcid,
                ContentEntry { last_use: now, size, complete: true, announced: true },
                hashes.iter().copied(),
            )?;
            Ok(true)
        })
    }

    pub(crate) fn write_manifest(&self, mcid: &Mcid, bytes: &[u8]) -> Result<()> {
        let place = self.files.manifest_path(&mcid.hash);
        let mut pending = vec![self.files.write(place, bytes).map_err(failed("writing a manifest"))?];
        self.files.settle(&mut pending).map_err(failed("writing a manifest"))
    }

    /// Keeps a content from being removed, under a name of its own; what had that name before may go.
    pub fn pin(&self, name: &str, mcid: &Mcid) -> Result<()> {
        if name.len() > MAX_NAME {
            return Err(StoreError::Name);
        }
        self.with(|inner, files| {
            if inner.pins.is_full_for(name) {
                return Err(StoreError::Pins);
            }
            inner.index.content(mcid)?.filter(|c| c.complete).ok_or(StoreError::Absent(*mcid))?;
            inner.pins.set(files, name, *mcid).map_err(failed("pinning"))
        })
    }

    pub fn unpin(&self, name: &str) -> Result<()> {
        self.with(|inner, files| inner.pins.clear(files, name).map_err(failed("unpinning")))
    }

    pub fn pins(&self) -> Vec<(String, Mcid)> {
        self.lock().pins.list().map(|(n, m)| (n.clone(), *m)).collect()
    }

    /// Contents that the mesh should know to be here, the most recently used first.
    pub fn to_announce(&self, limit: usize) -> Result<Vec<Mcid>> {
        let mut all = self.with(|inner, _| Ok(inner.index.contents()?))?;
        all.retain(|(_, c)| c.announced && c.complete);
        all.sort_by_key(|(_, c)| std::cmp::Reverse(c.last_use));
        Ok(all.into_iter().take(limit).map(|(m, _)| m).collect())
    }

    /// Announced contents that were removed to make room since the last call.
    pub fn take_evicted(&self) -> Vec<Mcid> {
        std::mem::take(&mut self.lock().evicted)
    }

    pub fn usage(&self) -> Usage {
        let inner = self.lock();
        Usage { blocks: inner.blocks, bytes: inner.used }
    }

    pub fn quota(&self) -> u64 {
        self.quota
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f`; when the index turns out to be broken, rebuilds it and runs `f` once more.
    pub(crate) fn with<T>(&self, f: impl Fn(&mut Inner, &Files) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        match f(&mut inner, &self.files) {
            Err(StoreError::Index(e)) => {
                tracing::warn!("{e}; rebuilding it");
                inner.rebuild(&self.files)?;
                f(&mut inner, &self.files)
            }
            other => other,
        }
    }

    pub(crate) fn room_for(&self, bytes: u64) -> Result<()> {
        self.with(|inner, files| inner.make_room(files, self.quota, bytes))
    }
}

impl Inner {
    fn open(files: &Files, now: u64) -> Result<Self> {
        let pins = Pins::open(files).map_err(failed("reading the pins"))?;
        let first = Index::open(&files.index()).map_err(StoreError::from);
        match first.and_then(|index| Self::compare(files, index, pins, now)) {
            Ok(inner) => return Ok(inner),
            Err(StoreError::Index(e)) => tracing::warn!("{e}; rebuilding it"),
            Err(e) => return Err(e),
        }
        Self::fresh(files, now)
    }

    /// With a new, empty index in place of whatever is there.
    fn fresh(files: &Files, now: u64) -> Result<Self> {
        let pins = || Pins::open(files).map_err(failed("reading the pins"));
        let cleared = clear(&files.index()).map_err(failed("removing the broken index"));
        let index = cleared.and_then(|()| Ok(Index::open(&files.index())?));
        match index.and_then(|index| Self::compare(files, index, pins()?, now)) {
            Ok(inner) => Ok(inner),
            Err(e) => {
                tracing::warn!(
                    "no index on disk ({e}): when contents were last used is forgotten at the next start"
                );
                Self::compare(files, Index::in_memory(), pins()?, now)
            }
        }
    }

    fn rebuild(&mut self, files: &Files) -> Result<()> {
        let fresh = Self::fresh(files, 0)?;
        let busy = std::mem::take(&mut self.busy);
        let evicted = std::mem::take(&mut self.evicted);
        *self = Self { busy, evicted, ..fresh };
        Ok(())
    }

    /// Brings the index in line with the files.
    fn compare(files: &Files, index: Index, pins: Pins, now: u64) -> Result<Self> {
        let scan = Scan::run(files)?;
        let mut known: HashMap<Mcid, ContentEntry> = index.contents()?.into_iter().collect();
        let mut inner = Self {
            index,
            pins,
            used: scan.used,
            blocks: scan.blocks.len() as u64,
            contents: 0,
            busy: HashMap::new(),
            evicted: Vec::new(),
        };
        let mut refs: HashMap<Hash, u32> = HashMap::new();
        for (mcid, size, unique) in &scan.manifests {
            let complete = unique.iter().all(|h| scan.blocks.contains_key(h));
            for hash in unique.iter().filter(|_| complete) {
                *refs.entry(*hash).or_default() += 1;
            }
            let fresh = ContentEntry { last_use: now, size: *size, complete, announced: complete };
            inner.restore_content(mcid, known.remove(mcid), fresh)?;
        }
        for (hash, size) in &scan.blocks {
            let mcid = Mcid { codec: Codec::Raw, hash: *hash };
            let old = known.remove(&mcid);
            let count = refs.entry(*hash).or_default();
            if old.is_some() || *count == 0 {
                *count += 1;
                let announced = inner.pins.contains(&mcid);
                let fresh = ContentEntry { last_use: 0, size: u64::from(*size), complete: true, announced };
                inner.restore_content(&mcid, old, fresh)?;
            }
            let entry = BlockEntry { size: *size, refs: *count };
            if inner.index.block(hash)? != Some(entry) {
                inner.index.set_block(hash, entry)?;
            }
        }
        for mcid in known.keys() {
            inner.index.remove_content(mcid)?;
        }
        for (hash, _) in inner.index.blocks()? {
            if !scan.blocks.contains_key(&hash) {
                inner.index.remove_block(&hash)?;
            }
        }
        inner.index.flush()?;
        Ok(inner)
    }

    fn restore_content(&mut self, mcid: &Mcid, old: Option<ContentEntry>, fresh: ContentEntry) -> Result<()> {
        self.contents += 1;
        let entry = match old {
            Some(o) => {
                ContentEntry { last_use: o.last_use, announced: o.announced && fresh.complete, ..fresh }
            }
            None => fresh,
        };
        if old != Some(entry) {
            self.index.set_content(mcid, entry)?;
        }
        Ok(())
    }

    /// Adds a block that no content counts yet.
    pub fn add_block(&mut self, hash: &Hash, size: u32) -> Result<()> {
        if self.index.block(hash)?.is_none() {
            self.index.set_block(hash, BlockEntry { size, refs: 0 })?;
            self.blocks += 1;
            self.used += charge(u64::from(size));
        }
        Ok(())
    }

    pub fn add_bytes(&mut self, bytes: u64) {
        self.used += charge(bytes);
    }

    /// The block's file is gone.
    pub fn forget_block(&mut self, hash: &Hash) -> Result<()> {
        if let Some(entry) = self.index.block(hash)? {
            self.index.remove_block(hash)?;
            self.blocks = self.blocks.saturating_sub(1);
            self.used = self.used.saturating_sub(charge(u64::from(entry.size)));
            let raw = Mcid { codec: Codec::Raw, hash: *hash };
            if self.index.content(&raw)?.is_some() {
                self.index.remove_content(&raw)?;
                self.contents = self.contents.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Removes a block that nobody needs.
    pub fn drop_block(&mut self, files: &Files, hash: &Hash) -> Result<()> {
        let unneeded = self.index.block(hash)?.is_some_and(|b| b.refs == 0);
        if unneeded && !self.busy.contains_key(hash) {
            remove(&files.block_path(hash)).map_err(failed("removing a block"))?;
            self.forget_block(hash)?;
        }
        Ok(())
    }

    /// Makes the content known; `hashes` are its blocks, each once, all of them here.
    pub fn set_content(
        &mut self,
        mcid: &Mcid,
        entry: ContentEntry,
        hashes: impl IntoIterator<Item = Hash>,
    ) -> Result<()> {
        let old = self.index.content(mcid)?;
        let counted = old.is_some_and(|o| o.complete);
        for hash in hashes {
            let block = self.index.block(&hash)?.ok_or(StoreError::Changed)?;
            if !counted || block.refs == 0 {
                self.index.set_block(&hash, BlockEntry { refs: block.refs + 1, ..block })?;
            }
        }
        let announced = entry.announced || old.is_some_and(|o| o.announced);
        self.index.set_content(mcid, ContentEntry { announced, ..entry })?;
        self.contents += usize::from(old.is_none());
        Ok(())
    }

    /// Forgets a content; its manifest's file goes first, then the blocks that nothing else needs.
    fn remove_content(&mut self, files: &Files, mcid: &Mcid) -> Result<()> {
        let Some(entry) = self.index.content(mcid)? else { return Ok(()) };
        let mut hashes = BTreeSet::from([mcid.hash]);
        if mcid.codec == Codec::Manifest {
            let bytes =
                files.read_manifest(&mcid.hash).map_err(failed("reading a manifest"))?.unwrap_or_default();
            let list = ChunkList::decode(&bytes, mcid).ok();
            hashes = list.map(|l| l.hashes().iter().copied().collect()).unwrap_or_default();
            remove(&files.manifest_path(&mcid.hash)).map_err(failed("removing a manifest"))?;
            self.used = self.used.saturating_sub(charge(bytes.len() as u64));
        }
        self.index.remove_content(mcid)?;
        self.contents = self.contents.saturating_sub(1);
        if entry.announced {
            self.evicted.push(*mcid);
        }
        for hash in hashes.iter().filter(|_| entry.complete) {
            if let Some(b) = self.index.block(hash)? {
                self.index.set_block(hash, BlockEntry { refs: b.refs.saturating_sub(1), ..b })?;
                self.drop_block(files, hash)?;
            }
        }
        Ok(())
    }

    /// Removes the least recently used contents that are not pinned, until so many bytes more fit.
    fn make_room(&mut self, files: &Files, quota: u64, bytes: u64) -> Result<()> {
        let needed = charge(bytes);
        let free = || files.free().map_err(failed("asking for free space"));
        let in_quota = |s: &Self| s.used + needed <= quota && s.contents < MAX_CONTENTS;
        if in_quota(self) && free()? >= needed + FREE_MARGIN {
            return Ok(());
        }
        let mut all = self.index.contents()?;
        all.sort_by_key(|(_, c)| c.last_use);
        let pinned: HashSet<Mcid> = self.pins.list().map(|(_, m)| *m).collect();
        for (mcid, _) in all.into_iter().filter(|(m, _)| !pinned.contains(m)) {
            if in_quota(self) && free()? >= needed + FREE_MARGIN {
                return Ok(());
            }
            tracing::info!("removed {mcid} to make room");
            self.remove_content(files, &mcid)?;
        }
        match (in_quota(self), free()?) {
            (false, _) => Err(StoreError::Quota { needed, quota, pinned: self.used }),
            (true, free) if free < needed + FREE_MARGIN => Err(StoreError::DiskFull { needed, free }),
            _ => Ok(()),
        }
    }
}

/// Removes whatever is at the path.
fn clear(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
