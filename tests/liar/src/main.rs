//! A peer that lies: it joins the mesh as an honest node would, announces that it has some content, shows the right manifest, and
//! then serves every chunk with one byte flipped. The boot tests run it beside an honest provider.
//!
//! Usage: `liar ADDR:PORT NAME=FILE...`. It prints `announced <mcid>` for each file and `served N` as it lies.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use content_store::exchange::{Answer, MAX_REQUEST_FRAME, Request, encode_block, encode_manifest};
use dht_proto::record_types::Provider;
use dht_proto::{MAX_FRAME_LEN, RequestBody, Response};
use mesh_proto::StreamHeader;
use mesh_transport::Credentials;
use os_content_id::{ChunkList, Hash, ManifestBuilder, Mcid};
use os_identity::{NodeKey, domain};
use quinn::{Connection, RecvStream, SendStream};
use services_api::{daemon, frame};

const LIFETIME_MS: u64 = 3600 * 1000;

/// What it pretends to have.
struct Content {
    list: ChunkList,
    bytes: Vec<u8>,
    offsets: HashMap<Hash, usize>,
}

type Contents = Arc<HashMap<Mcid, Content>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let node: SocketAddr = arguments.next().context("usage: liar ADDR:PORT NAME=FILE...")?.parse()?;
    let contents: HashMap<_, _> = arguments.map(|a| read(&a)).collect::<Result<_>>()?;
    let key = NodeKey::generate()?;
    let connection = join(&key, node).await?;
    let announced: Vec<Mcid> = contents.keys().copied().collect();
    let serving = tokio::spawn(serve(connection.clone(), Arc::new(contents)));
    for mcid in announced {
        announce(&connection, &key, &mcid).await?;
        println!("announced {mcid}");
    }
    serving.await?
}

fn read(argument: &str) -> Result<(Mcid, Content)> {
    let (name, file) = argument.split_once('=').context("contents are given as NAME=FILE")?;
    let bytes = std::fs::read(Path::new(file)).with_context(|| format!("cannot read {file}"))?;
    let mut builder = ManifestBuilder::new(name);
    builder.update(&bytes);
    let list = builder.finish()?;
    let step = list.manifest().chunk_size as usize;
    let offsets = list.hashes().iter().enumerate().map(|(i, h)| (*h, i * step)).collect();
    Ok((list.mcid(), Content { list, bytes, offsets }))
}

async fn join(key: &NodeKey, node: SocketAddr) -> Result<Connection> {
    let session = NodeKey::generate()?;
    let now = daemon::now_ms() / 1000;
    let (leaf, ca) =
        os_certificate::certify(key, session.node_id().as_bytes(), now, os_certificate::LIFETIME_S)?;
    let credentials = Credentials { chain: vec![leaf, ca], session_key: session.to_pkcs8_der()?.to_vec() };
    let any: SocketAddr =
        if node.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let endpoint = mesh_transport::endpoint(any, &credentials, mesh_transport::system_clock, None)?;
    Ok(mesh_transport::connect(&endpoint, node, None).await?.0)
}

/// Tells the node, as a DHT peer would, that this content is to be had here.
async fn announce(connection: &Connection, key: &NodeKey, mcid: &Mcid) -> Result<()> {
    let provider = Provider { mcid: mcid.to_bytes(), addresses: Arc::from([]), withdrawn: false };
    let statement = provider.draft().statement(key.node_id(), 1, daemon::now_ms(), LIFETIME_MS);
    let signature = key.sign(domain::DHT_RECORD, &statement.signing_bytes());
    let record = Arc::new(statement.signed(signature));
    let request = dht_proto::Request { sender_addresses: Arc::from([]), body: RequestBody::Store { record } };
    for _ in 0..60 {
        match ask(connection, &request).await {
            Ok(Response::Stored(Ok(()))) => return Ok(()),
            Ok(other) => bail!("the node did not take the announcement: {other:?}"),
            // The node's DHT may still be on its way up.
            Err(e) => eprintln!("announcing again: {e:#}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("the node's DHT did not answer")
}

async fn ask(connection: &Connection, request: &dht_proto::Request) -> Result<Response> {
    let (mut send, mut recv) = mesh_transport::open(connection, &StreamHeader::new("dht/1")).await?;
    frame::write(&mut send, &request.to_bytes()).await?;
    send.finish()?;
    Ok(Response::from_bytes(&frame::expect(&mut recv, MAX_FRAME_LEN).await?)?)
}

async fn serve(connection: Connection, contents: Contents) -> Result<()> {
    let served = Arc::new(AtomicU64::new(0));
    loop {
        let (send, mut recv) = connection.accept_bi().await?;
        let (contents, served) = (contents.clone(), served.clone());
        tokio::spawn(async move {
            let header = mesh_transport::read_header(&mut recv).await?;
            if header.protocol == "content/1" {
                lie(send, recv, &contents, &served).await?;
            }
            anyhow::Ok(())
        });
    }
}

async fn lie(
    mut send: SendStream,
    mut recv: RecvStream,
    contents: &Contents,
    served: &AtomicU64,
) -> Result<()> {
    while let Some(bytes) = frame::read(&mut recv, MAX_REQUEST_FRAME).await? {
        match Request::decode(&bytes)? {
            Request::Have(mcid) => {
                let total = contents.get(&mcid).map_or(0, |c| c.list.manifest().chunk_count);
                frame::write(&mut send, &Answer::Have { held: total, total }.encode()).await?;
            }
            Request::Manifest(mcid) => {
                let known = contents.get(&mcid).map(|c| encode_manifest(&c.list.encode()));
                frame::write(&mut send, &known.unwrap_or_else(|| Answer::NoManifest.encode())).await?;
            }
            Request::Want { content, hashes } => {
                for hash in hashes {
                    frame::write(&mut send, &flipped(contents.get(&content), &hash)).await?;
                    println!("served {}", served.fetch_add(1, Ordering::Relaxed) + 1);
                }
            }
        }
    }
    Ok(())
}

/// The chunk, with a bit of its middle byte the other way round.
fn flipped(content: Option<&Content>, hash: &Hash) -> Vec<u8> {
    let chunk = content.and_then(|c| {
        let start = *c.offsets.get(hash)?;
        let end = c.bytes.len().min(start + c.list.manifest().chunk_size as usize);
        Some(c.bytes[start..end].to_vec())
    });
    match chunk {
        Some(mut bytes) => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x01;
            encode_block(hash, &bytes)
        }
        None => Answer::Missing(*hash).encode(),
    }
}
