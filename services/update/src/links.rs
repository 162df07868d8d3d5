//! The services that this one asks: content, supervisor, identity, mesh.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use os_content_id::{ChunkList, Mcid};
use serde::de::DeserializeOwned;
use services_api::bus::Link;
use services_api::content::ContentProxy;
use services_api::identity::IdentityProxy;
use services_api::mesh::Streams;
use services_api::network::NetworkProxy;
use services_api::reconciler::ReconcilerProxy;
use services_api::report::{ContentReport, PeerReport, TransferReport, UnitReport};
use services_api::supervisor::SupervisorProxy;
use tokio::runtime::Handle;

use crate::assemble::Source;

/// A stream from the content service that is silent for this long is given up.
const STREAM_SILENCE: Duration = Duration::from_secs(120);

pub struct Links {
    content: Link,
    supervisor: Link,
    identity: Link,
    network: Link,
    reconciler: Link,
    pub streams: Streams,
}

impl Links {
    pub fn new(streams: Streams) -> Self {
        Self {
            content: Link::new("content"),
            supervisor: Link::new("supervisor"),
            identity: Link::new("identity"),
            network: Link::new("network"),
            reconciler: Link::new("reconciler"),
            streams,
        }
    }

    pub async fn content(&self) -> Result<ContentProxy<'static>> {
        Ok(ContentProxy::new(&self.content.get().await?).await?)
    }

    /// The connection itself, to notice when the content service goes.
    pub async fn content_connection(&self) -> Result<zbus::Connection> {
        self.content.get().await
    }

    pub async fn supervisor(&self) -> Result<SupervisorProxy<'static>> {
        Ok(SupervisorProxy::new(&self.supervisor.get().await?).await?)
    }

    pub async fn units(&self) -> Result<Vec<UnitReport>> {
        from_json(&self.supervisor().await?.units().await?)
    }

    pub async fn network(&self) -> Result<NetworkProxy<'static>> {
        Ok(NetworkProxy::new(&self.network.get().await?).await?)
    }

    pub async fn reconciler(&self) -> Result<ReconcilerProxy<'static>> {
        Ok(ReconcilerProxy::new(&self.reconciler.get().await?).await?)
    }

    /// This node's id as text.
    pub async fn node_id(&self) -> Result<String> {
        let identity = IdentityProxy::new(&self.identity.get().await?).await?;
        Ok(services_api::bus::node_id(&identity.node_id().await?)?.to_string())
    }

    pub async fn peers(&self) -> Result<Vec<PeerReport>> {
        from_json(&self.streams.mesh().await?.peers().await?)
    }
}

pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).context("a service answered in a form that this one does not read")
}

/// The content service as a [`Source`], for the install's own thread.
pub struct ContentSource<'a> {
    pub links: &'a Links,
    pub runtime: Handle,
}

impl ContentSource<'_> {
    pub fn transfers(&self, mcid: &Mcid) -> Result<Vec<TransferReport>> {
        let text =
            self.runtime.block_on(async { anyhow::Ok(self.links.content().await?.report().await?) })?;
        let report: ContentReport = from_json(&text)?;
        let mcid = mcid.to_string();
        Ok(report.transfers.into_iter().filter(|t| t.mcid == mcid).collect())
    }
}

impl ContentSource<'_> {
    /// Providers that were given up on while this was fetched, and why.
    pub fn dropped(&self, contents: &[Mcid]) -> Vec<(String, String)> {
        let transfers = contents.iter().filter_map(|mcid| self.transfers(mcid).ok()).flatten();
        transfers.flat_map(|t| t.dropped).collect()
    }
}

impl Source for ContentSource<'_> {
    fn manifest(&self, mcid: &Mcid) -> Result<ChunkList> {
        let bytes = self.runtime.block_on(async {
            let content = self.links.content().await?;
            anyhow::Ok(content.manifest(&mcid.to_bytes()).await?)
        });
        let bytes = bytes.with_context(|| format!("no manifest of {mcid}"))?;
        Ok(ChunkList::decode(&bytes, mcid)?)
    }

    fn fetch(&self, mcid: &Mcid, chunks: &[u32]) -> Result<Box<dyn Read>> {
        let fd = self.runtime.block_on(async {
            let content = self.links.content().await?;
            anyhow::Ok(content.fetch(&mcid.to_bytes(), chunks).await?)
        });
        let fd = fd.with_context(|| format!("the content service does not fetch {mcid}"))?;
        let stream = UnixStream::from(std::os::fd::OwnedFd::from(fd));
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(STREAM_SILENCE))?;
        Ok(Box::new(stream))
    }

    fn complaint(&self, mcid: &Mcid) -> String {
        match self.transfers(mcid) {
            Ok(transfers) => transfers.last().map(complaint_of).unwrap_or_else(|| "no provider known".into()),
            Err(e) => format!("{e:#}"),
        }
    }
}

fn complaint_of(transfer: &TransferReport) -> String {
    let dropped: Vec<String> =
        transfer.dropped.iter().map(|(who, why)| format!("{who} was dropped: {why}")).collect();
    match (transfer.error.as_str(), dropped.as_slice()) {
        ("", []) => "the stream ended early".into(),
        ("", dropped) => dropped.join("; "),
        (error, []) => error.into(),
        (error, dropped) => format!("{error}; {}", dropped.join("; ")),
    }
}

/// Asks the supervisor to reboot until it does.
pub async fn reboot(links: &Links, reason: &str) -> Result<()> {
    for _ in 0..60 {
        let asked = async { anyhow::Ok(links.supervisor().await?.reboot(reason).await?) };
        match asked.await {
            Ok(()) => return Ok(()),
            Err(e) => tracing::warn!("cannot reboot ({reason}): {e:#}"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    bail!("the supervisor does not reboot")
}
