//! Nodes joined by socket pairs instead of mesh and DHT, for tests: everything else is the real thing.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, anyhow};
use content_store::exchange::MAX_BLOCK_FRAME;
use content_store::{ContentWriter, Offers, Store};
use os_content_id::{ChunkList, ManifestBuilder, Mcid};
use os_identity::NodeId;
use services_api::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::announce::Announcer;
use crate::gate::Gate;
use crate::interface::start_fetch;
use crate::local::Local;
use crate::node::Node;
use crate::peers::Peers;
use crate::{owner, serve, small};

const CHUNK: usize = 256 * 1024;

/// What happens to the answers of a peer on their way.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A byte of every n-th answer is flipped.
    Flips(usize),
    /// The stream ends after n answers, each time.
    Ends(usize),
    /// Each answer takes so long, in milliseconds.
    Slow(u64),
    Unreachable,
}

#[derive(Default, Clone)]
struct Net(Arc<Mutex<HashMap<NodeId, (Local, Fault)>>>);

impl Net {
    fn add(&self, n: u8, local: &Local, fault: Fault) -> NodeId {
        let id = NodeId::from_bytes([n; 32]);
        self.0.lock().unwrap().insert(id, (local.clone(), fault));
        id
    }
}

impl Peers for Net {
    async fn providers(&self, _: &Mcid) -> Result<Vec<NodeId>> {
        Ok(self.0.lock().unwrap().keys().copied().collect())
    }

    async fn open(&self, node: &NodeId) -> Result<UnixStream> {
        let (local, fault) = self.0.lock().unwrap().get(node).cloned().ok_or_else(|| anyhow!("unknown"))?;
        if fault == Fault::Unreachable {
            return Err(anyhow!("no route"));
        }
        let (near, middle) = UnixStream::pair()?;
        let (other_middle, far) = UnixStream::pair()?;
        let pass = Gate::new((1, 1)).enter(*node);
        tokio::spawn(async move { serve::serve(far, &local, pass).await });
        tokio::spawn(carry(middle, other_middle, fault));
        Ok(near)
    }
}

/// The man in the middle.
async fn carry(asker: UnixStream, server: UnixStream, fault: Fault) -> io::Result<()> {
    let (mut from_asker, mut to_asker) = asker.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_asker, &mut to_server).await });
    let mut answers = 0;
    while let Some(mut answer) = frame::read(&mut from_server, MAX_BLOCK_FRAME).await? {
        answers += 1;
        match fault {
            Fault::Flips(n) if answers % n == 0 => {
                let middle = answer.len() / 2;
                answer[middle] ^= 1;
            }
            Fault::Ends(n) if answers > n => return Ok(()),
            Fault::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            _ => {}
        }
        frame::write(&mut to_asker, &answer).await?;
    }
    Ok(())
}

struct Home {
    node: Arc<Node<Net>>,
    announced: mpsc::Receiver<(Mcid, bool)>,
    dir: tempfile::TempDir,
}

fn home(net: &Net) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path(), 256 << 20, 1).unwrap());
    let local = Local::new(store, Arc::new(Offers::new(vec![dir.path().to_path_buf()])));
    let (announcer, announced) = Announcer::recording();
    Home { node: Arc::new(Node::new(local, net.clone(), announcer)), announced, dir }
}

impl Home {
    fn store(&self) -> &Arc<Store> {
        &self.node.local.store
    }

    fn put(&self, bytes: &[u8]) -> Mcid {
        let mut w = ContentWriter::new(self.store().clone(), "blob", bytes.len() as u64).unwrap();
        bytes.chunks(CHUNK).for_each(|c| w.push(c).unwrap());
        w.finish(1).unwrap()
    }

    /// What comes out of a fetch, until its end.
    async fn fetch(&self, mcid: &Mcid, chunks: Option<&[u32]>) -> Vec<u8> {
        let started = start_fetch(&self.node, mcid, chunks).await.unwrap();
        started.stream.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        UnixStream::from_std(started.stream).unwrap().read_to_end(&mut bytes).await.unwrap();
        // The report is final a moment after the stream's end.
        for _ in 0..200 {
            let t = self.node.transfers.list().pop().unwrap();
            if t.finished || !t.error.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bytes
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i >> 18) as u8 ^ (i % 251) as u8).collect()
}

fn list(bytes: &[u8]) -> ChunkList {
    let mut b = ManifestBuilder::new("blob");
    b.update(bytes);
    b.finish().unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn content_comes_from_several_peers_and_nothing_is_kept() {
    let (net, bytes) = (Net::default(), pattern(20 * CHUNK + 77));
    let (a, b, here) = (home(&net), home(&net), home(&net));
    let mcid = a.put(&bytes);
    assert_eq!(b.put(&bytes), mcid);
    net.add(1, &a.node.local, Fault::Slow(5));
    net.add(2, &b.node.local, Fault::Slow(5));
    assert!(here.fetch(&mcid, None).await == bytes);
    let t = here.node.report().transfers.pop().unwrap();
    assert_eq!((t.bytes_done, t.bytes_total, t.finished), (bytes.len() as u64, bytes.len() as u64, true));
    assert_eq!(t.from.len(), 2, "both gave something: {:?}", t.from);
    assert!(t.from.iter().all(|(who, _)| who.starts_with("did:key:z")));
    assert!(t.dropped.is_empty() && t.error.is_empty());
    assert_eq!(here.store().usage().blocks, 0);
    // Some chunks, in any order, with one twice.
    let some = here.fetch(&mcid, Some(&[20, 3, 3])).await;
    let c3 = &bytes[3 * CHUNK..4 * CHUNK];
    assert!(some == [&bytes[20 * CHUNK..], c3, c3].concat());
    assert!(start_fetch(&here.node, &mcid, Some(&[21])).await.is_err());
}

#[tokio::test(flavor = "current_thread")]
async fn a_peer_that_flips_a_byte_is_dropped_and_named() {
    let (net, bytes) = (Net::default(), pattern(30 * CHUNK));
    let (a, here) = (home(&net), home(&net));
    let mcid = a.put(&bytes);
    // The third answer is the first after `have` and one good chunk; manifests come on a stream of their own.
    let liar = net.add(1, &a.node.local, Fault::Flips(3));
    net.add(2, &a.node.local, Fault::Slow(3));
    assert!(here.fetch(&mcid, None).await == bytes);
    let t = here.node.report().transfers.pop().unwrap();
    assert!(t.finished);
    let (who, why) = &t.dropped[0];
    assert_eq!(*who, liar.to_string());
    assert!(why.starts_with("chunk ") && why.ends_with("does not match its hash"), "{why}");
    // The next transfer does not even ask it.
    assert!(here.fetch(&mcid, Some(&[0, 1, 2])).await == bytes[..3 * CHUNK]);
    let t = here.node.report().transfers.pop().unwrap();
    assert!(t.from.iter().all(|(who, _)| *who != liar.to_string()), "{:?}", t.from);
    assert_eq!(t.dropped[0].0, liar.to_string());
}

#[tokio::test(flavor = "current_thread")]
async fn broken_streams_are_opened_again() {
    let (net, bytes) = (Net::default(), pattern(6 * CHUNK));
    let (a, here) = (home(&net), home(&net));
    let mcid = a.put(&bytes);
    net.add(1, &a.node.local, Fault::Ends(3));
    net.add(2, &a.node.local, Fault::Unreachable);
    assert!(here.fetch(&mcid, None).await == bytes);
    let t = here.node.report().transfers.pop().unwrap();
    assert!(t.dropped.iter().any(|(_, why)| why.contains("no route")), "{:?}", t.dropped);
}

#[tokio::test(flavor = "current_thread")]
async fn a_transfer_that_gets_nothing_says_who_was_tried() {
    let net = Net::default();
    let mut here = home(&net);
    Arc::get_mut(&mut here.node).unwrap().stall_ms = 2_000;
    let bytes = pattern(2 * CHUNK);
    here.node.local.cache_manifest(list(&bytes)).await;
    let mcid = list(&bytes).mcid();
    let empty = home(&net);
    net.add(1, &empty.node.local, Fault::None);
    assert!(here.fetch(&mcid, None).await.is_empty());
    let t = here.node.report().transfers.pop().unwrap();
    assert!(!t.finished);
    assert!(t.error.contains("chunk 0 could not be had within 2 s"), "{}", t.error);
    assert!(t.error.contains("has nothing of it"), "{}", t.error);
}

#[tokio::test(flavor = "current_thread")]
async fn small_objects_are_verified_and_kept() {
    let net = Net::default();
    let (a, here) = (home(&net), home(&net));
    let (raw, big) = (a.put(b"statement"), a.put(&pattern(2 * CHUNK)));
    net.add(1, &a.node.local, Fault::Flips(1));
    net.add(2, &a.node.local, Fault::None);
    assert_eq!(small::get(&here.node, &raw).await.unwrap(), b"statement");
    assert_eq!(small::manifest(&here.node, &big).await.unwrap().mcid(), big);
    net.0.lock().unwrap().clear();
    assert_eq!(small::get(&here.node, &raw).await.unwrap(), b"statement");
    assert_eq!(small::manifest(&here.node, &big).await.unwrap().mcid(), big);
    assert!(small::get(&here.node, &big).await.is_err());
    assert_eq!(here.fetch(&raw, Some(&[0])).await, b"statement");
}

#[tokio::test(flavor = "current_thread")]
async fn offered_files_are_served_and_used_here() {
    let (net, bytes) = (Net::default(), pattern(4 * CHUNK));
    let (a, here) = (home(&net), home(&net));
    let path = a.dir.path().join("slot");
    std::fs::write(&path, &bytes).unwrap();
    let mcid = a.node.local.offer(list(&bytes).encode(), path.clone()).await.unwrap();
    net.add(1, &a.node.local, Fault::None);
    assert!(here.fetch(&mcid, None).await == bytes);
    // Locally as well, without a peer.
    let own = here.dir.path().join("slot");
    std::fs::write(&own, &bytes).unwrap();
    here.node.local.offer(list(&bytes).encode(), own).await.unwrap();
    net.0.lock().unwrap().clear();
    assert!(here.fetch(&mcid, None).await == bytes);
    assert_eq!(here.node.report().transfers.pop().unwrap().from, [("local".to_string(), bytes.len() as u64)]);
    assert_eq!(here.node.report().offered, [mcid.to_string()]);
    assert!(a.node.local.offer(list(&bytes).encode(), "/etc/passwd".into()).await.is_err());
}

/// One owner's call; the answer, then what follows it.
async fn call<T: serde::de::DeserializeOwned>(
    here: &Home,
    method: &str,
    params: &impl serde::Serialize,
    body: &[u8],
) -> (Result<T>, Vec<u8>) {
    let (mut near, far) = UnixStream::pair().unwrap();
    let node = here.node.clone();
    tokio::spawn(async move { owner::serve(far, "", &node).await });
    services_api::control::send(&mut near, method, params).await.unwrap();
    let (mut r, mut w) = near.into_split();
    let body = body.to_vec();
    let writing = tokio::spawn(async move {
        let _ = w.write_all(&body).await;
    });
    let answer = services_api::control::answer(&mut r).await;
    writing.await.unwrap();
    let mut rest = Vec::new();
    r.read_to_end(&mut rest).await.unwrap();
    (answer, rest)
}

#[tokio::test(flavor = "current_thread")]
async fn the_owner_puts_and_gets() {
    use services_api::report::{ContentReport, GetAnswer, PutParams};
    let net = Net::default();
    let mut here = home(&net);
    for bytes in [pattern(3 * CHUNK + 1), b"small".to_vec(), vec![]] {
        let params = PutParams { name: "blob".into(), size: bytes.len() as u64 };
        let mcid: String = call(&here, "put", &params, &bytes).await.0.unwrap();
        let id: Mcid = mcid.parse().unwrap();
        if bytes.len() > CHUNK {
            assert_eq!(id, list(&bytes).mcid());
        } else {
            assert_eq!(id, Mcid::of_raw(&bytes));
        }
        assert_eq!(here.announced.recv().await, Some((id, true)));
        assert_eq!(here.store().pins(), [("blob".to_string(), id)]);
        assert!(call::<bool>(&here, "has", &mcid, b"").await.0.unwrap());
        let (answer, body) = call::<GetAnswer>(&here, "get", &mcid, b"").await;
        assert_eq!(answer.unwrap().size, bytes.len() as u64);
        assert!(body == bytes);
    }
    let params = PutParams { name: "huge".into(), size: 1 << 40 };
    let e = call::<String>(&here, "put", &params, &[1; 100_000]).await.0.unwrap_err();
    assert!(format!("{e:#}").contains("does not fit") || format!("{e:#}").contains("do not fit"), "{e:#}");
    let none = Mcid::of_raw(b"none").to_string();
    assert!(!call::<bool>(&here, "has", &none, b"").await.0.unwrap());
    assert!(call::<bool>(&here, "has", &"junk", b"").await.0.is_err());
    assert!(call::<bool>(&here, "fly", &(), b"").await.0.is_err());
    let report: ContentReport = call(&here, "report", &(), b"").await.0.unwrap();
    assert_eq!(report.blocks, 4 + 1 + 1);
}

#[tokio::test(flavor = "current_thread")]
async fn strange_requests_end_the_stream_with_a_reason() {
    use content_store::exchange::Answer;
    let net = Net::default();
    let here = home(&net);
    let local = here.node.local.clone();
    let (mut near, far) = UnixStream::pair().unwrap();
    let pass = Gate::new((1, 1)).enter(NodeId::from_bytes([1; 32]));
    let serving = tokio::spawn(async move { serve::serve(far, &local, pass).await });
    frame::write(&mut near, b"GET / HTTP/1.1").await.unwrap();
    let answer = Answer::decode(&frame::expect(&mut near, 4096).await.unwrap());
    assert!(matches!(answer, Ok(Answer::Refused(why)) if why.contains("not understood")));
    assert!(serving.await.unwrap().is_err());
    let local = here.node.local.clone();
    let (mut near, far) = UnixStream::pair().unwrap();
    tokio::spawn(async move { serve::serve(far, &local, None).await });
    let answer = Answer::decode(&frame::expect(&mut near, 4096).await.unwrap());
    assert!(matches!(answer, Ok(Answer::Refused(why)) if why.contains("busy")));
}
