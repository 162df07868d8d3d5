//! The index, in sled: what is here, how large, when it was last used. It can be thrown away at any time: all of it but
//! the times comes back from the files.
//!
//! sled may return an error or panic on a database that a power cut left; both end here as [`Broken`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use os_content_id::{Hash, Mcid};

/// The index cannot be used and should be rebuilt.
#[derive(Debug, thiserror::Error)]
#[error("the content index does not work: {0}")]
pub struct Broken(pub(crate) String);

impl From<sled::Error> for Broken {
    fn from(e: sled::Error) -> Self {
        Broken(e.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub size: u32,
    /// Contents that need it: complete manifests that list it, and the raw block's own name.
    pub refs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentEntry {
    pub last_use: u64,
    /// Bytes of content.
    pub size: u64,
    /// All of its blocks are here and counted; otherwise it is a manifest alone.
    pub complete: bool,
    pub announced: bool,
}

pub(crate) struct Index {
    blocks: sled::Tree,
    contents: sled::Tree,
    db: sled::Db,
}

impl Index {
    pub fn open(path: &Path) -> Result<Self, Broken> {
        guard(|| {
            let config = sled::Config::default()
                .path(path)
                .cache_capacity(1024 * 1024)
                .flush_every_ms(Some(10_000))
                .mode(sled::Mode::LowSpace);
            let db = config.open()?;
            Ok(Self { blocks: db.open_tree("blocks")?, contents: db.open_tree("contents")?, db })
        })
    }

    pub fn block(&self, hash: &Hash) -> Result<Option<BlockEntry>, Broken> {
        guard(|| self.blocks.get(hash)?.map(|v| parse_block(&v)).transpose())
    }

    pub fn set_block(&self, hash: &Hash, e: BlockEntry) -> Result<(), Broken> {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&e.size.to_be_bytes());
        value[4..].copy_from_slice(&e.refs.to_be_bytes());
        guard(|| Ok(self.blocks.insert(hash, &value).map(drop)?))
    }

    pub fn remove_block(&self, hash: &Hash) -> Result<(), Broken> {
        guard(|| Ok(self.blocks.remove(hash).map(drop)?))
    }

    pub fn content(&self, mcid: &Mcid) -> Result<Option<ContentEntry>, Broken> {
        guard(|| self.contents.get(mcid.to_bytes())?.map(|v| parse_content(&v)).transpose())
    }

    pub fn set_content(&self, mcid: &Mcid, e: ContentEntry) -> Result<(), Broken> {
        let mut value = [0; 17];
        value[..8].copy_from_slice(&e.last_use.to_be_bytes());
        value[8..16].copy_from_slice(&e.size.to_be_bytes());
        value[16] = u8::from(e.complete) | u8::from(e.announced) << 1;
        guard(|| Ok(self.contents.insert(mcid.to_bytes(), &value).map(drop)?))
    }

    pub fn remove_content(&self, mcid: &Mcid) -> Result<(), Broken> {
        guard(|| Ok(self.contents.remove(mcid.to_bytes()).map(drop)?))
    }

    pub fn blocks(&self) -> Result<Vec<(Hash, BlockEntry)>, Broken> {
        guard(|| {
            self.blocks
                .iter()
                .map(|kv| {
                    kv.map_err(Broken::from).and_then(|(k, v)| {
                        let hash = Hash::try_from(&*k)
                            .map_err(|_| Broken("a block's key has another length".into()))?;
                        Ok((hash, parse_block(&v)?))
                    })
                })
                .collect()
        })
    }

    pub fn contents(&self) -> Result<Vec<(Mcid, ContentEntry)>, Broken> {
        guard(|| {
            self.contents
                .iter()
                .map(|kv| {
                    kv.map_err(Broken::from).and_then(|(k, v)| {
                        let mcid = Mcid::try_from(&*k).map_err(|e| Broken(e.to_string()))?;
                        Ok((mcid, parse_content(&v)?))
                    })
                })
                .collect()
        })
    }

    pub fn flush(&self) -> Result<(), Broken> {
        guard(|| Ok(self.db.flush().map(drop)?))
    }
}

fn parse_block(v: &[u8]) -> Result<BlockEntry, Broken> {
    let v: [u8; 8] = v.try_into().map_err(|_| Broken("a block's entry has another length".into()))?;
    let [a, b, c, d, e, f, g, h] = v;
    Ok(BlockEntry { size: u32::from_be_bytes([a, b, c, d]), refs: u32::from_be_bytes([e, f, g, h]) })
}

fn parse_content(v: &[u8]) -> Result<ContentEntry, Broken> {
    let v: &[u8; 17] = v.try_into().map_err(|_| Broken("a content's entry has another length".into()))?;
    let number = |part: &[u8]| part.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    Ok(ContentEntry {
        last_use: number(&v[..8]),
        size: number(&v[8..16]),
        complete: v[16] & 1 != 0,
        announced: v[16] & 2 != 0,
    })
}

fn guard<T>(f: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(Broken(format!("sled panicked: {text}")))
    })
}
