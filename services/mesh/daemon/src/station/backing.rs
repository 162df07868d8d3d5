//! What the station asks of `dht` and `content`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dht_proto::record_types::{CLIENT_RECORD, client_record_key};
use mesh_macula::{Answer, Record, Work};
use os_content_id::{ChunkList, Codec, Hash, Mcid};
use services_api::content::ContentProxy;
use services_api::dht::DhtProxy;
use services_api::{bus, daemon, mesh};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use super::records::{self, Carried, MAX_INLINE};
use super::uploads::Uploads;

/// Things done for clients at once; the station tells a client whose call waits too long.
const MAX_AT_ONCE: usize = 32;
const MAX_RECORDS: usize = 64;
/// Manifests whose chunks are found by hash alone, as clients ask for them.
const MAX_LISTS: usize = 16;
const LOOK: Duration = Duration::from_secs(2);

pub struct NodeBacking {
    seed: [u8; 32],
    dht: bus::Link,
    content: bus::Link,
    turns: Semaphore,
    uploads: Mutex<Uploads>,
    lists: Mutex<VecDeque<Listed>>,
}

#[derive(Clone)]
struct Listed {
    mcid: Mcid,
    /// Of each chunk.
    places: Arc<BTreeMap<Hash, (u32, u32)>>,
}

impl mesh_station::Backing for NodeBacking {
    async fn work(&self, work: Work) -> Answer {
        let Ok(_turn) = self.turns.acquire().await else { return Answer::Failed("stopping".into()) };
        self.answer(work).await.unwrap_or_else(|e| Answer::Failed(format!("{e:#}")))
    }
}

impl NodeBacking {
    /// `seed` makes the keys that carry clients' records.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            dht: bus::Link::new("dht"),
            content: bus::Link::new("content"),
            turns: Semaphore::new(MAX_AT_ONCE),
            uploads: Mutex::default(),
            lists: Mutex::default(),
        }
    }

    async fn dht(&self) -> Result<DhtProxy<'static>> {
        Ok(DhtProxy::new(&self.dht.get().await?).await?)
    }

    async fn content(&self) -> Result<ContentProxy<'static>> {
        Ok(ContentProxy::new(&self.content.get().await?).await?)
    }

    async fn answer(&self, work: Work) -> Result<Answer> {
        Ok(match work {
            Work::PutRecord { key, record } => self.put_record(&key, &record).await?,
            Work::FindRecord { key } | Work::FindRecords { key } => {
                let ours = client_record_key(&key);
                let found = self.dht().await?.get_records(CLIENT_RECORD, ours.as_bytes()).await?;
                let records = self.read(&found).await;
                let here = records.into_iter().filter(|r| r.dht_key().is_ok_and(|k| k == key));
                Answer::Records(records::newest(here.collect()))
            }
            Work::FindRecordsByType { record_type } => {
                let held = self.dht().await?.held_records(CLIENT_RECORD).await?;
                let records = self.read(&held).await.into_iter().filter(|r| r.record_type == record_type);
                Answer::Records(records::newest(records.collect()))
            }
            Work::PutBlock { mcid, bytes } => self.put_block(&mcid, &bytes).await?,
            Work::GetBlock(mcid) => Answer::Block(self.get_block(&mcid).await),
            Work::PutManifest(list) => {
                let whole = self.content().await?.put_manifest(&list.encode()).await?;
                self.uploads().manifest(list, whole, daemon::now_ms());
                Answer::Done
            }
            Work::GetManifest(mcid) => Answer::Manifest(self.get_manifest(&mcid).await),
        })
    }

    async fn put_record(&self, key: &[u8; 32], record: &Record) -> Result<Answer> {
        let bytes = record.encode();
        let carried = if bytes.len() <= MAX_INLINE {
            Carried::Inline(bytes)
        } else {
            let mcid = self.content().await?.put_part(&bytes).await?;
            self.content().await?.announce(&mcid).await?;
            Carried::Content(Mcid::try_from(mcid.as_slice())?)
        };
        let ours = records::carry(&self.seed, key, record, &carried, daemon::now_ms());
        let ours = ours.context("the record has expired")?;
        self.dht().await?.carry_record(&ours.to_bytes()).await?;
        Ok(Answer::Done)
    }

    /// Clients' records out of ours. What does not hold is left out.
    async fn read(&self, ours: &[Vec<u8>]) -> Vec<Record> {
        let mut found = Vec::new();
        for bytes in ours.iter().take(MAX_RECORDS) {
            let client = match records::carried(bytes) {
                Some(Carried::Inline(bytes)) => Ok(bytes),
                Some(Carried::Content(mcid)) => self.block(&mcid).await,
                None => continue,
            };
            let record = client.ok().and_then(|bytes| Record::decode(&bytes).ok());
            found.extend(record.filter(|r| r.verify(daemon::now_ms()).is_ok()));
        }
        found
    }

    async fn put_block(&self, mcid: &Mcid, bytes: &[u8]) -> Result<Answer> {
        let put = self.content().await?.put_part(bytes).await?;
        ensure!(put == mcid.to_bytes(), "the block is not {mcid}");
        let whole = self.uploads().block(mcid.hash, daemon::now_ms());
        for list in whole {
            self.content().await?.put_manifest(&list.encode()).await?;
        }
        Ok(Answer::Done)
    }

    async fn get_block(&self, mcid: &Mcid) -> Option<Vec<u8>> {
        let found = match self.listed(&mcid.hash) {
            Some((list, index, len)) => self.chunk(&list, index, len).await,
            None => self.block(mcid).await,
        };
        found.inspect_err(|e| tracing::debug!("a client's {mcid}: {e:#}")).ok()
    }

    async fn block(&self, mcid: &Mcid) -> Result<Vec<u8>> {
        Ok(self.content().await?.get(&mcid.to_bytes()).await?)
    }

    /// A part of content that others may have, too: they announce the whole, not its parts.
    async fn chunk(&self, list: &Mcid, index: u32, len: u32) -> Result<Vec<u8>> {
        let stream = self.content().await?.fetch(&list.to_bytes(), &[index]).await?;
        let mut bytes = Vec::with_capacity(len as usize);
        mesh::from_fd(stream)?.take(u64::from(len)).read_to_end(&mut bytes).await?;
        if bytes.len() != len as usize {
            bail!("nobody who answers has it");
        }
        Ok(bytes)
    }

    async fn get_manifest(&self, mcid: &Mcid) -> Option<ChunkList> {
        let get = async {
            let wire = self.content().await?.manifest(&mcid.to_bytes()).await?;
            Ok::<_, anyhow::Error>(ChunkList::decode(&wire, mcid)?)
        };
        let list = get.await.inspect_err(|e| tracing::debug!("a client's {mcid}: {e:#}")).ok()?;
        self.remember(&list);
        Some(list)
    }

    fn remember(&self, list: &ChunkList) {
        let mcid = list.mcid();
        let mut lists = self.lists();
        if lists.iter().any(|listed| listed.mcid == mcid) {
            return;
        }
        let place = |(index, hash): (u32, &Hash)| {
            (*hash, (index, list.manifest().chunk_len(index).unwrap_or_default()))
        };
        let places = Arc::new((0u32..).zip(list.hashes()).map(place).collect());
        lists.truncate(MAX_LISTS - 1);
        lists.push_front(Listed { mcid, places });
    }

    fn listed(&self, hash: &Hash) -> Option<(Mcid, u32, u32)> {
        let found = |l: &Listed| l.places.get(hash).map(|(index, len)| (l.mcid, *index, *len));
        self.lists().iter().find_map(found)
    }

    /// Tells the mesh of blocks that clients brought as content of their own, for ever.
    pub async fn announce_blocks(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let due = self.uploads().due(daemon::now_ms());
            for hash in due {
                let mcid = Mcid { codec: Codec::Raw, hash };
                let announced = async { anyhow::Ok(self.content().await?.announce(&mcid.to_bytes()).await?) };
                if let Err(e) = announced.await {
                    tracing::info!("{mcid}, which a client brought, is not announced: {e:#}");
                }
            }
        }
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists(&self) -> MutexGuard<'_, VecDeque<Listed>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
