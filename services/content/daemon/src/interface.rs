//! `io.macula.Content1`: what other services of this node ask for.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use content_store::download::{Wanted, wanted};
use os_content_id::Mcid;
use services_api::bus;
use tokio::net::UnixStream;
use zbus::fdo;

use crate::node::Node;
use crate::peers::{MeshPeers, Peers};
use crate::{fetch, local, small, stored};

/// Chunks in one `Fetch`: a TiB of content.
const MAX_CHUNKS: usize = 4 * 1024 * 1024;

pub struct Content {
    node: Arc<Node<MeshPeers>>,
    uid: u32,
}

impl Content {
    pub fn new(node: Arc<Node<MeshPeers>>, uid: u32) -> Self {
        Self { node, uid }
    }

    /// Mesh, which talks to strangers, may give out what is here and bring parts, which make room for what is pinned; no more.
    fn not_for_mesh(&self) -> fdo::Result<()> {
        if self.uid == bus::uid::MESH {
            return Err(fdo::Error::AccessDenied("this is not for mesh".into()));
        }
        Ok(())
    }
}

#[zbus::interface(name = "io.macula.Content1")]
impl Content {
    async fn get(&self, mcid: Vec<u8>) -> fdo::Result<Vec<u8>> {
        small::get(&self.node, &bus::mcid(&mcid)?).await.map_err(bus::failed)
    }

    async fn manifest(&self, mcid: Vec<u8>) -> fdo::Result<Vec<u8>> {
        let list = small::manifest(&self.node, &bus::mcid(&mcid)?).await.map_err(bus::failed)?;
        Ok(list.encode())
    }

    async fn fetch(&self, mcid: Vec<u8>, chunks: Vec<u32>) -> fdo::Result<zbus::OwnedFd> {
        if chunks.len() > MAX_CHUNKS {
            return Err(fdo::Error::InvalidArgs(format!("at most {MAX_CHUNKS} chunks at once")));
        }
        let stream = start_fetch(&self.node, &bus::mcid(&mcid)?, Some(&chunks)).await.map_err(bus::failed)?;
        Ok(OwnedFd::from(stream.stream).into())
    }

    async fn offer(&self, manifest: Vec<u8>, path: String) -> fdo::Result<()> {
        self.not_for_mesh()?;
        let mcid = self.node.local.offer(manifest, PathBuf::from(path)).await.map_err(bus::failed)?;
        self.node.announce(mcid);
        Ok(())
    }

    async fn offer_file(&self, manifest: Vec<u8>, file: zbus::OwnedFd) -> fdo::Result<()> {
        self.not_for_mesh()?;
        let file = File::from(OwnedFd::from(file));
        let mcid = self.node.local.offer_file(manifest, file).await.map_err(bus::failed)?;
        self.node.announce(mcid);
        Ok(())
    }

    async fn withdraw(&self, mcid: Vec<u8>) -> fdo::Result<()> {
        self.not_for_mesh()?;
        let mcid = bus::mcid(&mcid)?;
        if self.node.local.offers.withdraw(&mcid) && !self.node.local.has_all(&mcid).await {
            self.node.announcer.unprovide(mcid);
        }
        Ok(())
    }

    async fn put(&self, block: Vec<u8>) -> fdo::Result<Vec<u8>> {
        self.not_for_mesh()?;
        let mcid = self.node.local.put_raw(block).await.map_err(bus::failed)?;
        self.node.announce(mcid);
        Ok(mcid.to_bytes().to_vec())
    }

    async fn put_part(&self, block: Vec<u8>) -> fdo::Result<Vec<u8>> {
        let mcid = self.node.local.put_part(block).await.map_err(bus::failed)?;
        Ok(mcid.to_bytes().to_vec())
    }

    async fn store(&self, name: String, size: u64) -> fdo::Result<zbus::OwnedFd> {
        Ok(OwnedFd::from(stored::take(&self.node, name, size).map_err(bus::failed)?).into())
    }

    async fn open(&self, mcid: Vec<u8>) -> fdo::Result<(u64, zbus::OwnedFd)> {
        let started = start_fetch(&self.node, &bus::mcid(&mcid)?, None).await.map_err(bus::failed)?;
        Ok((started.size, OwnedFd::from(started.stream).into()))
    }

    async fn put_manifest(&self, manifest: Vec<u8>) -> fdo::Result<bool> {
        let whole = self.node.local.put_manifest(manifest).await.map_err(bus::failed)?;
        whole.into_iter().for_each(|mcid| self.node.announce(mcid));
        Ok(whole.is_some())
    }

    async fn announce(&self, mcid: Vec<u8>) -> fdo::Result<()> {
        let mcid = bus::mcid(&mcid)?;
        if !self.node.local.has_all(&mcid).await {
            return Err(fdo::Error::Failed(format!("{mcid} is not here")));
        }
        self.node.announce(mcid);
        Ok(())
    }

    fn report(&self) -> fdo::Result<String> {
        self.not_for_mesh()?;
        serde_json::to_string(&self.node.report()).map_err(bus::failed)
    }
}

/// A transfer that has begun.
pub struct Started {
    pub name: String,
    /// Bytes of the whole content.
    pub size: u64,
    /// The chunks' bytes come out here.
    pub stream: StdUnixStream,
}

/// Starts a transfer of these chunks, or of all of them, in the background.
pub async fn start_fetch<P: Peers>(
    node: &Arc<Node<P>>,
    mcid: &Mcid,
    chunks: Option<&[u32]>,
) -> Result<Started> {
    let (name, size, wanted) = plan(node, mcid, chunks).await?;
    let (theirs, ours) = StdUnixStream::pair().context("cannot make a socket pair")?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    let (node, mcid) = (node.clone(), *mcid);
    tokio::spawn(async move {
        // Waits for its turn; the consumer sees a stream on which nothing comes yet.
        let Ok(_permit) = node.transfer_permits.acquire().await else { return };
        if let Err(e) = fetch::run(node.clone(), mcid, wanted, ours).await {
            tracing::warn!("transfer of {mcid} ended early: {e:#}");
        }
    });
    Ok(Started { name, size, stream: theirs })
}

async fn plan<P: Peers>(
    node: &Arc<Node<P>>,
    mcid: &Mcid,
    chunks: Option<&[u32]>,
) -> Result<(String, u64, Vec<Wanted>)> {
    if !local::is_manifest(mcid) {
        // A raw block is its own only chunk; having it here makes its size known.
        let len = small::get(node, mcid).await?.len() as u32;
        let only = Wanted { index: 0, hash: mcid.hash, len };
        let chunks = chunks.unwrap_or(&[0]);
        anyhow::ensure!(chunks.iter().all(|i| *i == 0), "{mcid} is one block, its only chunk is 0");
        return Ok((String::new(), u64::from(len), vec![only; chunks.len()]));
    }
    let list = small::manifest(node, mcid).await?;
    let all: Vec<u32>;
    let indices = match chunks {
        Some(chunks) => chunks,
        None => {
            all = (0..list.manifest().chunk_count).collect();
            &all
        }
    };
    Ok((list.manifest().name.clone(), list.manifest().size, wanted(&list, indices)?))
}

#[cfg(test)]
mod tests {
    use content_store::{Offers, Store};
    use os_content_id::{ChunkList, ManifestBuilder};
    use services_api::bus::Link;
    use services_api::content::{ContentProxy, StoreAnswer};
    use services_api::mesh::{Streams, from_fd};
    use services_api::report::ContentReport;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use zbus::connection::Builder;

    use super::*;
    use crate::announce::Announcer;
    use crate::local::Local;

    /// The real interface on a socket pair, with neither mesh nor DHT behind it.
    async fn served(dir: &std::path::Path, uid: u32) -> (zbus::Connection, zbus::Connection) {
        let store = Arc::new(Store::open(dir, 64 << 20, 1).unwrap());
        let local = Local::new(store, Arc::new(Offers::new(vec![dir.to_path_buf()])));
        let (streams, _) = Streams::serve(&[]);
        let peers = MeshPeers { streams, dht: Arc::new(Link::new("no-such-service")) };
        let node = Arc::new(Node::new(local, peers, Announcer::recording().0));
        let (a, b) = StdUnixStream::pair().unwrap();
        let server = Builder::unix_stream(a).server(zbus::Guid::generate()).p2p();
        let server = server.serve_at("/io/macula/Content", Content::new(node, uid)).build();
        let (server, client) = tokio::join!(server, Builder::unix_stream(b).p2p().build());
        (server.unwrap(), client.unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn mesh_may_not_all() {
        let dir = tempfile::tempdir().unwrap();
        let (_server, client) = served(dir.path(), bus::uid::MESH).await;
        let content = ContentProxy::new(&client).await.unwrap();
        let id = Mcid::of_raw(b"statement").to_bytes();
        let refused = |result: zbus::Result<()>| result.unwrap_err().to_string().contains("not for mesh");
        assert!(refused(content.put(b"statement").await.map(drop)));
        assert!(refused(content.withdraw(&id).await));
        assert!(refused(content.offer(&[], "/x").await));
        assert!(refused(content.report().await.map(drop)));
        assert!(!refused(content.fetch(&id, &[4_000_000]).await.map(drop)), "this it may try");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn apps_store_through_mesh_and_get_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let (_server, client) = served(dir.path(), bus::uid::MESH).await;
        let content = ContentProxy::new(&client).await.unwrap();
        let bytes: Vec<u8> = (0..600_000usize).map(|i| (i % 251) as u8).collect();
        let store = async |name: &str, size: u64, bytes: &[u8]| {
            let mut stream = from_fd(content.store(name, size).await.unwrap()).unwrap();
            // Whoever is refused early need not take it all.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            StoreAnswer::parse(&answer).unwrap()
        };
        let mut list = ManifestBuilder::new("photo.jpeg");
        list.update(&bytes);
        let mcid = list.finish().unwrap().mcid();
        assert_eq!(store("photo.jpeg", 600_000, &bytes).await, StoreAnswer::Stored(mcid));
        let (size, stream) = content.open(&mcid.to_bytes()).await.unwrap();
        let mut back = Vec::new();
        from_fd(stream).unwrap().read_to_end(&mut back).await.unwrap();
        assert!(size == 600_000 && back == bytes);
        for (name, size, bytes, why) in [
            ("short", 10, &bytes[..9], "bytes early"),
            ("huge", 1 << 40, &bytes[..10], "huge"),
            (&"n".repeat(5000), 1, &bytes[..1], "name"),
        ] {
            let StoreAnswer::Refused(refused) = store(name, size, bytes).await else { panic!("{name}") };
            assert!(refused.contains(why), "{refused}");
        }
        let small = store("", 5, b"hello").await;
        assert_eq!(small, StoreAnswer::Stored(Mcid::of_raw(b"hello")));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn callers_put_offer_and_fetch() {
        let dir = tempfile::tempdir().unwrap();
        let (_server, client) = served(dir.path(), bus::uid::UPDATE).await;
        let content = ContentProxy::new(&client).await.unwrap();
        let id = content.put(b"statement").await.unwrap();
        assert_eq!(content.get(&id).await.unwrap(), b"statement");

        let mut parts = ManifestBuilder::with_chunk_size("parts", 4);
        parts.update(b"one two three");
        let parts = parts.finish().unwrap();
        assert!(!content.put_manifest(&parts.encode()).await.unwrap(), "its blocks are not here");
        for part in b"one two three".chunks(4) {
            content.put_part(part).await.unwrap();
        }
        assert!(content.put_manifest(&parts.encode()).await.unwrap());
        let mut whole = Vec::new();
        let indices: Vec<u32> = (0..4).collect();
        let stream = content.fetch(&parts.mcid().to_bytes(), &indices).await.unwrap();
        from_fd(stream).unwrap().read_to_end(&mut whole).await.unwrap();
        assert_eq!(whole, b"one two three");
        content.announce(&id).await.unwrap();
        assert!(content.announce(&Mcid::of_raw(b"elsewhere").to_bytes()).await.is_err());

        let bytes: Vec<u8> = (0..900_000usize).map(|i| (i % 253) as u8).collect();
        let mut builder = ManifestBuilder::new("root.img");
        builder.update(&bytes);
        let list = builder.finish().unwrap();
        let path = dir.path().join("slot");
        std::fs::write(&path, &bytes).unwrap();
        let refused = content.offer(&list.encode(), "/proc/self/mem").await.unwrap_err();
        assert!(refused.to_string().contains("may not be offered"), "{refused}");
        content.offer(&list.encode(), path.to_str().unwrap()).await.unwrap();

        content.withdraw(&list.mcid().to_bytes()).await.unwrap();
        let file = OwnedFd::from(File::open(&path).unwrap());
        content.offer_file(&list.encode(), file.into()).await.unwrap();

        let mcid = list.mcid().to_bytes();
        let wire = content.manifest(&mcid).await.unwrap();
        assert_eq!(ChunkList::decode(&wire, &list.mcid()), Ok(list));
        let mut stream = from_fd(content.fetch(&mcid, &[3, 0]).await.unwrap()).unwrap();
        let mut fetched = Vec::new();
        stream.read_to_end(&mut fetched).await.unwrap();
        assert!(fetched == [&bytes[786_432..], &bytes[..262_144]].concat());

        let report: ContentReport = serde_json::from_str(&content.report().await.unwrap()).unwrap();
        assert_eq!((report.blocks, report.offered.len(), report.transfers.len()), (5, 1, 2));
        assert!(content.get(b"short").await.is_err());
        assert!(content.fetch(&mcid, &[4]).await.is_err());
        content.withdraw(&mcid).await.unwrap();
    }
}
