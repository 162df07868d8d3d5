//! Relays of a peer that this node shares none with: the peer announces them in the DHT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_proto::is_dialable;
use os_identity::NodeId;
use quinn::Connection;
use services_api::bus;
use services_api::dht::DhtProxy;
use tokio::sync::Semaphore;

use crate::links::Links;

/// Searches at once.
const MAX_SEARCHES: usize = 8;
/// Of one peer, and addresses of each.
const MAX_RELAYS: usize = 2;
const MAX_ADDRESSES: usize = 4;
/// How long a relay may take to answer, and then to say hello.
const PATIENCE: Duration = Duration::from_secs(3);

type Relay = (NodeId, Vec<SocketAddr>);

/// The way to ask.
pub struct Announced {
    dht: bus::Link,
    searches: Semaphore,
}

impl Default for Announced {
    fn default() -> Self {
        Self { dht: bus::Link::new("dht"), searches: Semaphore::new(MAX_SEARCHES) }
    }
}

impl Announced {
    async fn relays_of(&self, node: &NodeId) -> Result<Vec<Relay>> {
        let _search = self.searches.try_acquire().context("too many are asked for already")?;
        let dht = DhtProxy::new(&self.dht.get().await?).await?;
        let told = dht.find_relays(node.as_bytes()).await?;
        Ok(told.iter().filter_map(|(id, addresses)| usable(id, addresses)).take(MAX_RELAYS).collect())
    }
}

fn usable(id: &[u8], addresses: &[String]) -> Option<Relay> {
    let parsed = addresses.iter().filter_map(|text| text.parse().ok());
    Some((NodeId::try_from(id).ok()?, parsed.filter(is_dialable).take(MAX_ADDRESSES).collect()))
}

/// Connects through the first of the peer's relays that works.
pub async fn connect(links: &Arc<Links>, node: NodeId) -> Result<Connection> {
    let relays = links.announced.relays_of(&node).await.context("relays in the DHT")?;
    let mut failures = Vec::new();
    for (relay, addresses) in relays.into_iter().filter(|(relay, _)| *relay != links.me() && *relay != node) {
        match connect_through(links, relay, addresses, node).await {
            Ok(connection) => return Ok(connection),
            Err(e) => failures.push(format!("its relay {relay}: {e:#}")),
        }
    }
    if failures.is_empty() {
        bail!("it announces no relay in the DHT");
    }
    bail!("{}", failures.join("; "))
}

async fn connect_through(
    links: &Arc<Links>,
    relay: NodeId,
    addresses: Vec<SocketAddr>,
    node: NodeId,
) -> Result<Connection> {
    if links.live(&relay).is_none() {
        links.dial_direct(relay, addresses, PATIENCE).await?;
    }
    // What it offers comes with its hello.
    let heard = async {
        while !links.links_of(&relay).iter().any(|l| l.heard.is_some()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.context("it says no hello")?;
    links.connect_through(relay, node).await
}
