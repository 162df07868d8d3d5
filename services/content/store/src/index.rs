//! The index, in sled: what is here, how large, when it was last used. It can be thrown away at any time: all of it but
//! the times comes back from the files.
//!
//! sled may return an error or panic on a database that a power cut left; both end here as [`Broken`]. When the disk does
//! not even take a new one (full, read-only), the index is in memory, so that what is stored can still be served.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use os_content_id::{Hash, Mcid};

const LOCK_WAITS: u32 = 40;
const LOCK_WAIT: Duration = Duration::from_millis(50);

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
    blocks: Table,
    contents: Table,
}

enum Table {
    Sled(sled::Tree),
    /// When the disk does not take a database: lasts until the next start.
    Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>),
}

impl Index {
    pub fn open(path: &Path) -> Result<Self, Broken> {
        guard(|| {
            let config = sled::Config::default()
                .path(path)
                .cache_capacity(1024 * 1024)
                .flush_every_ms(Some(10_000))
                .mode(sled::Mode::LowSpace);
            let db = open_when_free(&config)?;
            let open = |name| db.open_tree(name).map(Table::Sled);
            Ok(Self { blocks: open("blocks")?, contents: open("contents")? })
        })
    }

    /// One that needs no disk.
    pub fn in_memory() -> Self {
        Self { blocks: Table::Memory(Mutex::default()), contents: Table::Memory(Mutex::default()) }
    }

    pub fn block(&self, hash: &Hash) -> Result<Option<BlockEntry>, Broken> {
        self.blocks.get(hash)?.map(|v| parse_block(&v)).transpose()
    }

    pub fn set_block(&self, hash: &Hash, e: BlockEntry) -> Result<(), Broken> {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&e.size.to_be_bytes());
        value[4..].copy_from_slice(&e.refs.to_be_bytes());
        self.blocks.insert(hash, &value)
    }

    pub fn remove_block(&self, hash: &Hash) -> Result<(), Broken> {
        self.blocks.remove(hash)
    }

    pub fn content(&self, mcid: &Mcid) -> Result<Option<ContentEntry>, Broken> {
        self.contents.get(&mcid.to_bytes())?.map(|v| parse_content(&v)).transpose()
    }

    pub fn set_content(&self, mcid: &Mcid, e: ContentEntry) -> Result<(), Broken> {
        let mut value = [0; 17];
        value[..8].copy_from_slice(&e.last_use.to_be_bytes());
        value[8..16].copy_from_slice(&e.size.to_be_bytes());
        value[16] = u8::from(e.complete) | u8::from(e.announced) << 1;
        self.contents.insert(&mcid.to_bytes(), &value)
    }

    pub fn remove_content(&self, mcid: &Mcid) -> Result<(), Broken> {
        self.contents.remove(&mcid.to_bytes())
    }

    pub fn blocks(&self) -> Result<Vec<(Hash, BlockEntry)>, Broken> {
        self.blocks.list(|k, v| {
            let hash = Hash::try_from(k).map_err(|_| Broken("a block's key has another length".into()))?;
            Ok((hash, parse_block(v)?))
        })
    }

    pub fn contents(&self) -> Result<Vec<(Mcid, ContentEntry)>, Broken> {
        self.contents.list(|k, v| {
            let mcid = Mcid::try_from(k).map_err(|e| Broken(e.to_string()))?;
            Ok((mcid, parse_content(v)?))
        })
    }

    pub fn flush(&self) -> Result<(), Broken> {
        match &self.contents {
            Table::Sled(tree) => guard(|| Ok(tree.flush().map(drop)?)),
            Table::Memory(_) => Ok(()),
        }
    }
}

impl Table {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match self {
            Table::Sled(tree) => guard(|| Ok(tree.get(key)?.map(|v| v.to_vec()))),
            Table::Memory(map) => Ok(locked(map).get(key).cloned()),
        }
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        match self {
            Table::Sled(tree) => guard(|| Ok(tree.insert(key, value).map(drop)?)),
            Table::Memory(map) => {
                locked(map).insert(key.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    fn remove(&self, key: &[u8]) -> Result<(), Broken> {
        match self {
            Table::Sled(tree) => guard(|| Ok(tree.remove(key).map(drop)?)),
            Table::Memory(map) => {
                locked(map).remove(key);
                Ok(())
            }
        }
    }

    fn list<T>(&self, read: impl Fn(&[u8], &[u8]) -> Result<T, Broken>) -> Result<Vec<T>, Broken> {
        match self {
            Table::Sled(tree) => guard(|| {
                let one = |kv: sled::Result<(sled::IVec, sled::IVec)>| {
                    let (k, v) = kv?;
                    read(&k, &v)
                };
                tree.iter().map(one).collect()
            }),
            Table::Memory(map) => locked(map).iter().map(|(k, v)| read(k, v)).collect(),
        }
    }
}

/// sled's threads may hold the lock of a database for a moment after it was dropped.
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 0..LOCK_WAITS {
        match config.open() {
            Err(sled::Error::Io(e)) if e.to_string().contains("acquire lock") => {
                std::thread::sleep(LOCK_WAIT)
            }
            other => return other,
        }
    }
    config.open()
}

fn locked(map: &Mutex<BTreeMap<Vec<u8>, Vec<u8>>>) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
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
