//! A station on the loopback, with records and content in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_macula::{Answer, Config, Record, Request, Station, Work};
use mesh_station::Backing;
use os_content_id::{CHUNK_SIZE, ChunkList, ManifestBuilder, Mcid};
use os_identity::NodeKey;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct TestStation {
    pub port: u16,
    pub node_id: [u8; 32],
    pub memory: Arc<Memory>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl TestStation {
    pub fn start() -> Self {
        let key = NodeKey::generate().unwrap();
        let node_id = *key.node_id().as_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let endpoint = mesh_station::endpoint(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &key, now).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let memory = Arc::new(Memory::default());
        let station = Station::new(key, Config::default(), |_: &Request<'_>| Ok(()), now);
        let (stop, stopping) = oneshot::channel();
        let serving =
            mesh_station::serve(mesh_station::connections(&endpoint), station, memory.clone(), async {
                if stopping.await.is_err() {
                    std::future::pending::<()>().await;
                }
            });
        Self { port, node_id, memory, stop: Some(stop), serving: Some(tokio::spawn(serving)) }
    }

    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub async fn stopped(&mut self) {
        self.serving.take().unwrap().await.unwrap();
    }
}

#[derive(Default)]
pub struct Memory {
    records: Mutex<Vec<([u8; 32], Record)>>,
    blocks: Mutex<BTreeMap<Mcid, Vec<u8>>>,
    manifests: Mutex<BTreeMap<Mcid, ChunkList>>,
}

impl Backing for Memory {
    async fn work(&self, work: Work) -> Answer {
        match work {
            Work::PutRecord { key, record } => self.records.lock().unwrap().push((key, record)),
            Work::FindRecord { key } | Work::FindRecords { key } => {
                return self.records(|(k, _)| *k == key);
            }
            Work::FindRecordsByType { record_type } => {
                return self.records(|(_, r)| r.record_type == record_type);
            }
            Work::PutBlock { mcid, bytes } => drop(self.blocks.lock().unwrap().insert(mcid, bytes)),
            Work::GetBlock(mcid) => return Answer::Block(self.blocks.lock().unwrap().get(&mcid).cloned()),
            Work::PutManifest(list) => drop(self.manifests.lock().unwrap().insert(list.mcid(), list)),
            Work::GetManifest(mcid) => {
                return Answer::Manifest(self.manifests.lock().unwrap().get(&mcid).cloned());
            }
        }
        Answer::Done
    }
}

impl Memory {
    fn records(&self, wanted: impl Fn(&&([u8; 32], Record)) -> bool) -> Answer {
        let records = self.records.lock().unwrap();
        Answer::Records(records.iter().filter(wanted).map(|(_, record)| record.clone()).collect())
    }

    /// Content as the node itself would put it together.
    pub fn content(&self, mcid: &[u8; 34]) -> Option<Vec<u8>> {
        let mcid = Mcid::try_from(mcid.as_slice()).unwrap();
        let (blocks, manifests) = (self.blocks.lock().unwrap(), self.manifests.lock().unwrap());
        let Some(list) = manifests.get(&mcid) else { return blocks.get(&mcid).cloned() };
        let block = |hash: &[u8; 32]| {
            blocks.iter().find(|(mcid, _)| mcid.hash == *hash).map(|(_, bytes)| bytes.clone())
        };
        list.hashes().iter().map(block).collect::<Option<Vec<_>>>().map(|blocks| blocks.concat())
    }

    pub fn put_natively(&self, data: &[u8], name: &str) -> [u8; 34] {
        let list = chunk_list(data, name);
        for chunk in data.chunks(CHUNK_SIZE as usize) {
            self.blocks.lock().unwrap().insert(Mcid::of_raw(chunk), chunk.to_vec());
        }
        let mcid = list.mcid();
        self.manifests.lock().unwrap().insert(mcid, list);
        mcid.to_bytes()
    }
}

fn chunk_list(data: &[u8], name: &str) -> ChunkList {
    let mut builder = ManifestBuilder::new(name);
    builder.update(data);
    builder.finish().unwrap()
}

/// What this node calls the content.
pub fn native_mcid(data: &[u8], name: &str) -> [u8; 34] {
    match data.len() <= CHUNK_SIZE as usize {
        true => Mcid::of_raw(data).to_bytes(),
        false => chunk_list(data, name).mcid().to_bytes(),
    }
}
