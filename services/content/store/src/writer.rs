//! Storing content as it streams in, in constant memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use os_content_id::{
    CHUNK_SIZE, ChunkList, Hash, MAX_NAME, MAX_WIRE_MANIFEST, Manifest, Mcid, hash, merkle_root,
};

use crate::exchange::MAX_BLOCK;
use crate::files::Pending;
use crate::index::ContentEntry;
use crate::store::{Result, Store, StoreError, charge, failed};

/// Blocks written between two syncs: 8 MiB.
const BATCH: usize = 32;

/// Takes a content chunk by chunk. Dropped before [`Self::finish`], it leaves nothing behind.
pub struct ContentWriter {
    store: Arc<Store>,
    name: String,
    size: u64,
    received: u64,
    hashes: Vec<Hash>,
    /// Each hash that is marked busy in the store, once.
    marked: BTreeSet<Hash>,
    pending: Vec<Pending>,
    /// Hash and size of what is pending.
    fresh: Vec<(Hash, u32)>,
}

impl ContentWriter {
    /// For content of `size` bytes that goes by `name` in its manifest.
    pub fn new(store: Arc<Store>, name: &str, size: u64) -> Result<Self> {
        if name.len() > MAX_NAME {
            return Err(StoreError::Name);
        }
        let list_bytes = size.div_ceil(u64::from(CHUNK_SIZE)) * 34;
        if size > store.quota() || list_bytes > MAX_WIRE_MANIFEST as u64 / 2 {
            return Err(StoreError::Quota { needed: size, quota: store.quota(), pinned: 0 });
        }
        Ok(Self {
            store,
            name: name.to_string(),
            size,
            received: 0,
            hashes: Vec::new(),
            marked: BTreeSet::new(),
            pending: Vec::new(),
            fresh: Vec::new(),
        })
    }

    /// The next chunk: [`CHUNK_SIZE`] bytes, fewer only for the last one.
    pub fn push(&mut self, chunk: &[u8]) -> Result<()> {
        self.received += chunk.len() as u64;
        let full = chunk.len() == MAX_BLOCK || self.received == self.size;
        if chunk.len() > MAX_BLOCK || self.received > self.size || !full {
            return Err(StoreError::Size { expected: self.size, found: self.received });
        }
        let hash = hash(chunk);
        self.hashes.push(hash);
        if !self.marked.insert(hash) {
            return Ok(());
        }
        self.store.with(|inner, _| {
            *inner.busy.entry(hash).or_default() += 1;
            Ok(())
        })?;
        if self.store.block(&hash)?.is_some() {
            // On disk already; make sure that it is known as well.
            return self.store.with(|inner, _| inner.add_block(&hash, chunk.len() as u32));
        }
        self.store.room_for(
            chunk.len() as u64 + self.fresh.iter().map(|(_, n)| charge(u64::from(*n))).sum::<u64>(),
        )?;
        let files = &self.store.files;
        self.pending.push(files.write(files.block_path(&hash), chunk).map_err(failed("writing a block"))?);
        self.fresh.push((hash, chunk.len() as u32));
        if self.pending.len() == BATCH { self.settle() } else { Ok(()) }
    }

    /// Makes the content whole and known. A single chunk becomes a raw block, more get a manifest.
    pub fn finish(mut self, now: u64) -> Result<Mcid> {
        if self.received != self.size {
            return Err(StoreError::Size { expected: self.size, found: self.received });
        }
        if self.hashes.is_empty() {
            self.push(&[])?;
        }
        self.settle()?;
        let entry = ContentEntry { last_use: now, size: self.size, complete: true, announced: true };
        let mcid = if let [hash] = self.hashes[..] {
            let mcid = Mcid { codec: os_content_id::Codec::Raw, hash };
            self.store.with(|inner, _| inner.set_content(&mcid, entry, [hash]))?;
            mcid
        } else {
            self.finish_manifest(entry)?
        };
        self.store.files.sync().map_err(failed("syncing the content"))?;
        Ok(mcid)
    }

    fn finish_manifest(&mut self, entry: ContentEntry) -> Result<Mcid> {
        let hashes = std::mem::take(&mut self.hashes);
        let manifest = Manifest {
            name: self.name.clone(),
            size: self.size,
            chunk_size: CHUNK_SIZE,
            chunk_count: hashes.len() as u32,
            root_hash: merkle_root(&hashes),
        };
        let list = ChunkList::new(manifest, hashes)?;
        let (mcid, bytes) = (list.mcid(), list.encode());
        self.store.room_for(bytes.len() as u64)?;
        self.store.with(|inner, _| {
            if inner.index.content(&mcid)?.is_none() {
                self.store.write_manifest(&mcid, &bytes)?;
                inner.add_bytes(bytes.len() as u64);
            }
            inner.set_content(&mcid, entry, self.marked.iter().copied())
        })?;
        Ok(mcid)
    }

    fn settle(&mut self) -> Result<()> {
        self.store.files.settle(&mut self.pending).map_err(failed("writing blocks"))?;
        for (hash, size) in std::mem::take(&mut self.fresh) {
            self.store.with(|inner, _| inner.add_block(&hash, size))?;
        }
        Ok(())
    }
}

impl Drop for ContentWriter {
    fn drop(&mut self) {
        let marked = std::mem::take(&mut self.marked);
        let cleaned = self.store.with(|inner, files| {
            for hash in &marked {
                match inner.busy.get_mut(hash) {
                    Some(n) if *n > 1 => *n -= 1,
                    _ => drop(inner.busy.remove(hash)),
                }
                // After a finished content its blocks are counted, and stay.
                inner.drop_block(files, hash)?;
            }
            Ok(())
        });
        if let Err(e) = cleaned {
            tracing::warn!("blocks of an unfinished content stay until room is needed: {e}");
        }
    }
}
