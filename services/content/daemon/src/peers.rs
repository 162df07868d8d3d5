//! The way to other nodes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_content_id::Mcid;
use os_identity::NodeId;
use services_api::bus::Link;
use services_api::dht::DhtProxy;
use services_api::mesh::Streams;
use tokio::net::UnixStream;

pub const PROTOCOL: &str = "content/1";
/// Connecting to a peer and opening a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Providers taken from one lookup.
const MAX_FOUND: usize = 64;

/// Who has a content, and a stream to them. The real one is [`MeshPeers`]; tests have one of socket pairs.
pub trait Peers: Send + Sync + 'static {
    fn providers(&self, content: &Mcid) -> impl Future<Output = Result<Vec<NodeId>>> + Send;

    fn open(&self, node: &NodeId) -> impl Future<Output = Result<UnixStream>> + Send;
}

pub struct MeshPeers {
    pub streams: Streams,
    pub dht: Arc<Link>,
}

impl Peers for MeshPeers {
    async fn providers(&self, content: &Mcid) -> Result<Vec<NodeId>> {
        let dht = DhtProxy::new(&self.dht.get().await?).await?;
        let found = dht.providers(&content.to_bytes()).await.context("the DHT does not answer")?;
        Ok(found.iter().take(MAX_FOUND).filter_map(|id| NodeId::try_from(id.as_slice()).ok()).collect())
    }

    async fn open(&self, node: &NodeId) -> Result<UnixStream> {
        self.streams.open(node, PROTOCOL, OPEN_TIMEOUT).await
    }
}
