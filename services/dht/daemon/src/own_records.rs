//! What this node has promised to publish, across restarts: the content it provides and the records it was given.
//!
//! One small file, `{0: version, 1: [mcid], 2: [record]}` in CBOR, replaced as a whole (`services_api::durable`), so a
//! crash leaves the promises from before or after a change. A file that does not read is reported and started anew:
//! content announces again what it holds, and the owner's records come from the owner.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use dht_proto::Record;
use dht_proto::record_types::MCID_LEN;
use minicbor::{Decoder, Encoder};
use services_api::durable;

const FORMAT: u8 = 1;
/// Together they stay below `dht_proto::MAX_OWN_RECORDS`, and the file below the 1 MiB that `durable` reads.
const MAX_PROVIDED: usize = 600;
const MAX_RECORDS: usize = 400;

pub type McidBytes = [u8; MCID_LEN];

pub struct OwnFile {
    path: PathBuf,
    provided: BTreeSet<McidBytes>,
    records: Vec<Arc<Record>>,
}

impl OwnFile {
    /// Reads what is there. Records that have expired meanwhile are left out.
    pub fn load(path: PathBuf, now_ms: u64) -> Self {
        let (mut provided, mut records) = (BTreeSet::new(), Vec::new());
        if let Some(bytes) = durable::read(&path) {
            match decode(&bytes) {
                Ok(read) => (provided, records) = read,
                Err(e) => tracing::error!("{} is not what this release writes: {e:#}", path.display()),
            }
        } else if path.exists() {
            tracing::error!("{} and its previous copy are damaged: starting with none", path.display());
        }
        records.retain(|r| r.is_live(now_ms));
        Self { path, provided, records }
    }

    pub fn provided(&self) -> impl Iterator<Item = &McidBytes> {
        self.provided.iter()
    }

    pub fn records(&self) -> &[Arc<Record>] {
        &self.records
    }

    /// On disk when it returns. True if it was not provided before.
    pub fn provide(&mut self, mcid: McidBytes) -> Result<bool> {
        if self.provided.contains(&mcid) {
            return Ok(false);
        }
        ensure!(self.provided.len() < MAX_PROVIDED, "this node announces {MAX_PROVIDED} contents already");
        self.provided.insert(mcid);
        self.write().inspect_err(|_| {
            self.provided.remove(&mcid);
        })?;
        Ok(true)
    }

    /// On disk when it returns. True if it was provided before.
    pub fn unprovide(&mut self, mcid: &McidBytes) -> Result<bool> {
        if !self.provided.remove(mcid) {
            return Ok(false);
        }
        self.write().inspect_err(|_| {
            self.provided.insert(*mcid);
        })?;
        Ok(true)
    }

    /// On disk when it returns, in the place of an earlier version.
    pub fn put(&mut self, record: Arc<Record>, now_ms: u64) -> Result<()> {
        let place = |r: &Record| (r.statement.key, r.statement.record_type, r.statement.signer);
        let before = self.records.clone();
        self.records.retain(|r| r.is_live(now_ms) && place(r) != place(&record));
        if self.records.len() >= MAX_RECORDS {
            bail!("this node publishes {MAX_RECORDS} records for others already: wait until one expires");
        }
        self.records.push(record);
        self.write().inspect_err(|_| self.records = before)
    }

    /// A record that a newer one took the place of. The file follows with the next change: until then it only costs a
    /// refusal after a restart.
    pub fn forget(&mut self, record: &Record) {
        self.records.retain(|r| **r != *record);
    }

    fn write(&mut self) -> Result<()> {
        let bytes = self.encode().context("cannot encode the list of own records")?;
        durable::write(&self.path, &bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut e = Encoder::new(Vec::new());
        e.map(3)?.u8(0)?.u8(FORMAT)?.u8(1)?.array(self.provided.len() as u64)?;
        for mcid in &self.provided {
            e.bytes(mcid)?;
        }
        e.u8(2)?.array(self.records.len() as u64)?;
        for record in &self.records {
            e.bytes(&record.to_bytes())?;
        }
        Ok(e.into_writer())
    }
}

fn decode(bytes: &[u8]) -> Result<(BTreeSet<McidBytes>, Vec<Arc<Record>>)> {
    let mut d = Decoder::new(bytes);
    ensure!(d.map()? == Some(3) && d.u8()? == 0, "no format version");
    let format = d.u8()?;
    ensure!(format == FORMAT, "format version {format}, this release reads {FORMAT}");
    let (mut provided, mut records) = (BTreeSet::new(), Vec::new());
    ensure!(d.u8()? == 1, "no list of contents");
    for _ in 0..d.array()?.context("list of unknown length")?.min(MAX_PROVIDED as u64) {
        provided.insert(d.bytes()?.try_into()?);
    }
    ensure!(d.u8()? == 2, "no list of records");
    for _ in 0..d.array()?.context("list of unknown length")?.min(MAX_RECORDS as u64) {
        records.push(Arc::new(Record::from_bytes(d.bytes()?)?));
    }
    Ok((provided, records))
}

#[cfg(test)]
mod tests {
    use dht_proto::Key;
    use dht_proto::record_types::Draft;
    use os_identity::{NodeKey, domain};

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn record(version: u64, lifetime_ms: u64) -> Arc<Record> {
        let key = NodeKey::from_seed(&[1; 32]);
        let draft = Draft { record_type: 0x7f, key: Key::hash(&[b"key"]), payload: vec![1, 2, 3] };
        let statement = draft.statement(key.node_id(), version, NOW, lifetime_ms);
        let signature = key.sign(domain::DHT_RECORD, &statement.signing_bytes());
        Arc::new(statement.signed(signature))
    }

    #[test]
    fn promises_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own-records.cbor");
        let mut own = OwnFile::load(path.clone(), NOW);
        assert!(own.provide([1; MCID_LEN]).unwrap());
        assert!(!own.provide([1; MCID_LEN]).unwrap());
        own.provide([2; MCID_LEN]).unwrap();
        own.unprovide(&[1; MCID_LEN]).unwrap();
        own.put(record(1, 1000), NOW).unwrap();
        own.put(record(2, 1000), NOW).unwrap();
        let again = OwnFile::load(path.clone(), NOW);
        assert_eq!(again.provided().collect::<Vec<_>>(), [&[2; MCID_LEN]]);
        assert_eq!(again.records(), [record(2, 1000)]);
        assert!(OwnFile::load(path, NOW + 24 * 3600 * 1000).records().is_empty(), "expired meanwhile");
    }

    #[test]
    fn a_damaged_file_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own-records.cbor");
        std::fs::write(&path, b"garbage").unwrap();
        let mut own = OwnFile::load(path.clone(), NOW);
        assert_eq!(own.provided().count(), 0);
        own.provide([3; MCID_LEN]).unwrap();
        assert_eq!(OwnFile::load(path.clone(), NOW).provided().count(), 1);
        durable::write(&path, &[0xa3, 0, 99]).unwrap();
        assert_eq!(OwnFile::load(path, NOW).provided().count(), 0, "a format from the future");
    }

    #[test]
    fn what_cannot_be_written_is_not_promised() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = OwnFile::load(dir.path().join("missing/own-records.cbor"), NOW);
        assert!(own.provide([1; MCID_LEN]).is_err());
        assert!(own.put(record(1, 1000), NOW).is_err());
        assert_eq!((own.provided().count(), own.records().len()), (0, 0));
    }
}
