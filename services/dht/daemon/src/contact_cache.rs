//! Whom the routing table knew, so that a restart does not begin with nobody. Only a cache: on any doubt it is thrown
//! away, and mDNS, seeds and connected peers fill the table again.
//!
//! The database is open only while it is read or written (sled's pool of seven threads, once started, stays). A crash
//! leaves the snapshot before, or one that is found damaged and dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use dht_proto::Contact;
use minicbor::{Decoder, Encoder};
use os_identity::NodeId;

const SNAPSHOT: &[u8] = b"contacts";
const MAX_CONTACTS: usize = 256;
/// sled's default of 1 GiB is not for a node of 512 MiB.
const CACHE_BYTES: u64 = 1024 * 1024;
const HASH_LEN: usize = 32;

pub struct ContactCache {
    path: PathBuf,
    /// What is on disk, as far as known.
    written: Option<Vec<u8>>,
}

impl ContactCache {
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    pub fn load(&mut self) -> Vec<Contact> {
        if !self.path.exists() {
            return Vec::new();
        }
        let read = with_database(&self.path, |db| {
            let Some(value) = db.get(SNAPSHOT)? else { return Ok(Vec::new()) };
            decode(&value)
        });
        read.unwrap_or_else(|e| {
            tracing::warn!("remembered contacts are thrown away: {e:#}");
            self.discard();
            Vec::new()
        })
    }

    /// Writes a snapshot unless it is the one on disk. A failure costs only the memory of it.
    pub fn save<'a>(&mut self, contacts: impl Iterator<Item = &'a Contact>) {
        let value = match encode(contacts.take(MAX_CONTACTS)) {
            Ok(value) => value,
            Err(e) => return tracing::warn!("contacts are not remembered: {e:#}"),
        };
        if self.written.as_ref() == Some(&value) {
            return;
        }
        let written = with_database(&self.path, |db| {
            db.insert(SNAPSHOT, value.as_slice())?;
            db.flush()?;
            Ok(())
        });
        match written {
            Ok(()) => self.written = Some(value),
            Err(e) => {
                tracing::warn!("contacts are not remembered: {e:#}");
                self.discard();
            }
        }
    }

    fn discard(&mut self) {
        self.written = None;
        let removed = match self.path.is_dir() {
            true => std::fs::remove_dir_all(&self.path),
            false => std::fs::remove_file(&self.path),
        };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {e}", self.path.display());
            }
            _ => {}
        }
    }
}

/// sled answers some damage with a panic; here that is an error like the others.
fn with_database<T>(path: &Path, act: impl FnOnce(&sled::Db) -> Result<T>) -> Result<T> {
    let attempt = || {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().with_context(|| format!("cannot open {}", path.display()))?;
        act(&db)
    };
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(anyhow!("{} is damaged beyond reading", path.display())))
}

fn encode<'a>(contacts: impl Iterator<Item = &'a Contact>) -> Result<Vec<u8>> {
    let mut contacts: Vec<&Contact> = contacts.collect();
    contacts.sort_by_key(|c| c.id);
    let mut e = Encoder::new(vec![0; HASH_LEN]);
    e.array(contacts.len() as u64)?;
    for contact in contacts {
        e.array(2)?.bytes(contact.id.as_bytes())?.array(contact.addresses.len() as u64)?;
        for address in contact.addresses.iter() {
            e.str(&address.to_string())?;
        }
    }
    let mut value = e.into_writer();
    let hash = *blake3::hash(&value[HASH_LEN..]).as_bytes();
    value[..HASH_LEN].copy_from_slice(&hash);
    Ok(value)
}

fn decode(value: &[u8]) -> Result<Vec<Contact>> {
    let (hash, body) = value.split_at_checked(HASH_LEN).context("snapshot is too short")?;
    ensure!(blake3::hash(body).as_bytes() == hash, "snapshot does not match its checksum");
    let mut d = Decoder::new(body);
    let count = d.array()?.context("list of unknown length")?.min(MAX_CONTACTS as u64);
    (0..count).map(|_| decode_contact(&mut d)).collect()
}

fn decode_contact(d: &mut Decoder<'_>) -> Result<Contact> {
    ensure!(d.array()? == Some(2), "a contact is an id and addresses");
    let id = NodeId::try_from(d.bytes()?)?;
    let mut addresses = Vec::new();
    for _ in 0..d.array()?.context("list of unknown length")? {
        addresses.push(d.str()?.parse()?);
    }
    Ok(Contact::new(id, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts() -> Vec<Contact> {
        let contact = |n: u8| {
            let addresses = [([10, 0, 0, n], 4433).into(), ([n; 16], 4433).into()];
            Contact::new(NodeId::from_bytes([n; 32]), addresses)
        };
        (1..=50).map(contact).collect()
    }

    #[test]
    fn contacts_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sled");
        assert!(ContactCache::new(path.clone()).load().is_empty());
        let mut cache = ContactCache::new(path.clone());
        cache.save(contacts()[..3].iter());
        cache.save(contacts().iter());
        assert_eq!(ContactCache::new(path).load(), contacts());
    }

    /// Whatever a crash or a bad card left behind: the service starts, with nobody, and remembers again.
    #[test]
    fn damage_costs_the_memory_and_nothing_else() {
        type Damage = fn(&Path);
        let damages: [Damage; 5] = [
            |path| overwrite(path, |bytes| bytes.iter_mut().for_each(|b| *b = 0xff)),
            |path| overwrite(path, |bytes| bytes.iter_mut().for_each(|b| *b ^= 0x55)),
            |path| overwrite(path, |bytes| bytes.truncate(bytes.len() / 2)),
            |path| overwrite(path, |bytes| bytes.clear()),
            |path| {
                std::fs::remove_dir_all(path).unwrap();
                std::fs::write(path, b"not a directory").unwrap();
            },
        ];
        std::panic::set_hook(Box::new(|_| ()));
        for (n, damage) in damages.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("cache.sled");
            ContactCache::new(path.clone()).save(contacts().iter());
            damage(&path);
            let mut cache = ContactCache::new(path.clone());
            assert!(cache.load().is_empty(), "damage {n}");
            cache.save(contacts().iter());
            assert_eq!(ContactCache::new(path).load(), contacts(), "after damage {n}");
        }
        let _ = std::panic::take_hook();
    }

    /// One flipped byte anywhere in the snapshot: all of it or nothing.
    #[test]
    fn a_flipped_byte_is_never_believed() {
        let mut value = encode(contacts()[..2].iter()).unwrap();
        for at in 0..value.len() {
            value[at] ^= 1;
            assert!(decode(&value).is_err(), "byte {at}");
            value[at] ^= 1;
        }
        assert_eq!(decode(&value).unwrap(), contacts()[..2]);
    }

    fn overwrite(dir: &Path, change: impl Fn(&mut Vec<u8>)) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let mut bytes = std::fs::read(&path).unwrap();
                change(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}
