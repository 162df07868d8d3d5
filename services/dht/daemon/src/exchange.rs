//! Requests and responses over mesh streams: one of each per stream.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use dht_proto::record_types::MAX_RELAYS;
use dht_proto::{Contact, MAX_FRAME_LEN, Request, Response};
use services_api::frame;
use services_api::mesh::{Incoming, Streams};
use services_api::report::PeerReport;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::handle::Handle;

pub const PROTOCOL: &str = "dht/1";
/// For all of one exchange. Below `dht_proto::REQUEST_TIMEOUT_MS`, so that we report before the node gives up.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks a node, connecting first where needed.
pub async fn ask(streams: Streams, to: Contact, request: Request) -> Result<Response> {
    let exchange = async {
        let mut stream = streams.open(&to.id, PROTOCOL, DEADLINE).await?;
        frame::write(&mut stream, &request.to_bytes()).await?;
        stream.shutdown().await?;
        let bytes = frame::expect(&mut stream, MAX_FRAME_LEN).await.context("no response")?;
        Response::from_bytes(&bytes).context("response does not decode")
    };
    timeout(DEADLINE, exchange).await.context("no response in time")?
}

/// Answers one stream that a peer opened.
pub async fn answer(handle: Handle, incoming: Incoming) -> Result<()> {
    let Incoming { peer, mut stream, .. } = incoming;
    let exchange = async {
        let bytes = frame::expect(&mut stream, MAX_FRAME_LEN).await.context("no request")?;
        let request = Request::from_bytes(&bytes).context("request does not decode")?;
        let response = handle.request(peer, request).await?;
        send_last(&mut stream, &response.to_bytes()).await
    };
    timeout(DEADLINE, exchange).await.context("request took too long")?
}

async fn send_last(stream: &mut UnixStream, bytes: &[u8]) -> Result<()> {
    frame::write(stream, bytes).await?;
    Ok(stream.shutdown().await?)
}

/// Tells mesh where a node may be.
pub async fn teach(streams: &Streams, contact: &Contact) -> Result<()> {
    if contact.addresses.is_empty() {
        return Ok(());
    }
    let addresses = contact.addresses.iter().map(SocketAddr::to_string).collect();
    streams
        .mesh()
        .await?
        .learn(contact.id.as_bytes(), addresses)
        .await
        .context("mesh did not learn an address")
}

/// What mesh knows of this node's addresses and of connected peers.
pub struct Surroundings {
    pub addresses: Vec<SocketAddr>,
    pub peers: Vec<Contact>,
    /// Those of the peers that carry packets for this node.
    pub relays: Vec<Contact>,
}

pub async fn look_around(streams: Streams) -> Result<Surroundings> {
    let mesh = streams.mesh().await?;
    let addresses = parsed(&mesh.local_addresses().await?);
    let peers: Vec<PeerReport> =
        serde_json::from_str(&mesh.peers().await?).context("mesh's list of peers")?;
    let connected = || peers.iter().filter(|p| p.connected);
    let relays = connected().filter(|p| p.relay).filter_map(contact_of).take(MAX_RELAYS).collect();
    Ok(Surroundings { addresses, peers: connected().filter_map(contact_of).collect(), relays })
}

fn contact_of(peer: &PeerReport) -> Option<Contact> {
    let id = peer.node.parse().ok()?;
    let mut addresses = parsed(std::slice::from_ref(&peer.address));
    addresses.extend(parsed(&peer.addresses));
    Some(Contact::new(id, addresses))
}

/// Link-local addresses with a zone mean nothing to anybody else: they do not parse, and are left out.
fn parsed(texts: &[String]) -> Vec<SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
