//! A node to talk to: over the mesh as its owner, or, on the node itself, over D-Bus.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use dht_proto::Key;
use mesh_proto::{MAX_RESOURCE, StreamHeader};
use os_content_id::Mcid;
use serde::de::DeserializeOwned;
use services_api::control::protocol;
use services_api::control_dht::{LookupAnswer, LookupParams, TableAnswer};
use services_api::report::{
    AuditAnswer, ConfigChange, ConfigChanged, ConfigParams, ContentReport, DhtReport, InstallParams,
    KillParams, LinkReport, LogLine, LogsPage, LogsParams, LogsSince, OsReport, PeerReport, PowerParams,
    ProbeResult, ResetParams, UnitParams, UnitReport,
};
use services_api::{bus, content, dht, identity, mesh, network, reconciler, supervisor, update};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect::Remote;

pub enum Node {
    Remote(Remote),
    /// The services' own sockets under `/run/macula`.
    Local,
}

/// The proxy of a local service.
macro_rules! local {
    ($proxy:path, $service:literal) => {{
        let connection = bus::connect($service).await?;
        <$proxy>::new(&connection).await.map_err(said)?
    }};
}

/// Bytes to and from a procedure or topic.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Node {
    /// A stream to what the node's services and apps serve (`docs/protocol.md`, section 4).
    pub async fn open(&self, protocol: &str, resource: &str, wait: Duration) -> Result<Box<dyn Stream>> {
        if !mesh_proto::is_resource(resource) {
            bail!("`{resource}` is no name: 1 to {MAX_RESOURCE} printable ASCII characters without spaces");
        }
        let deadline_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        match self {
            Node::Remote(r) => {
                let header =
                    StreamHeader { deadline_ms: Some(deadline_ms), ..StreamHeader::of(protocol, resource) };
                let (send, recv) = r.open_with(header).await?;
                Ok(Box::new(tokio::io::join(recv, send)))
            }
            Node::Local => {
                let me = local!(identity::IdentityProxy<'_>, "identity").node_id().await.map_err(said)?;
                let mesh = local!(mesh::MeshProxy<'_>, "mesh");
                let opened = mesh.open_stream(&me, protocol, resource, &[], deadline_ms).await;
                Ok(Box::new(mesh::from_fd(opened.map_err(said)?)?))
            }
        }
    }

    pub async fn status(&self) -> Result<OsReport> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "status", &()).await,
            Node::Local => parse(local!(update::UpdateProxy<'_>, "update").status().await),
        }
    }

    pub async fn units(&self) -> Result<Vec<UnitReport>> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "units", &()).await,
            Node::Local => parse(local!(supervisor::SupervisorProxy<'_>, "supervisor").units().await),
        }
    }

    /// Oldest first; an empty unit means all.
    pub async fn logs(&self, unit: &str, max_lines: u32) -> Result<Vec<LogLine>> {
        match self {
            Node::Remote(r) => {
                let params = LogsParams { unit: unit.to_string(), max_lines };
                r.call(protocol::OS, "logs", &params).await
            }
            Node::Local => {
                parse(local!(supervisor::SupervisorProxy<'_>, "supervisor").logs(unit, max_lines).await)
            }
        }
    }

    /// The next page of the log, waited for as long as `place` says.
    pub async fn logs_since(&self, place: &LogsSince) -> Result<LogsPage> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "logs_since", place).await,
            Node::Local => {
                let LogsSince { unit, run, after, max_lines, wait_ms } = place;
                let supervisor = local!(supervisor::SupervisorProxy<'_>, "supervisor");
                parse(supervisor.logs_since(unit, run, *after, *max_lines, *wait_ms).await)
            }
        }
    }

    pub async fn restart(&self, unit: &str) -> Result<()> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "restart", &UnitParams { unit: unit.to_string() }).await,
            Node::Local => {
                local!(supervisor::SupervisorProxy<'_>, "supervisor").restart(unit).await.map_err(said)
            }
        }
    }

    pub async fn kill(&self, unit: &str, signal: i32) -> Result<()> {
        match self {
            Node::Remote(r) => {
                r.call(protocol::OS, "kill", &KillParams { unit: unit.to_string(), signal }).await
            }
            Node::Local => {
                local!(supervisor::SupervisorProxy<'_>, "supervisor").kill(unit, signal).await.map_err(said)
            }
        }
    }

    pub async fn probe(&self, unit: &str) -> Result<Vec<ProbeResult>> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "probe", &UnitParams { unit: unit.to_string() }).await,
            Node::Local => parse(local!(supervisor::SupervisorProxy<'_>, "supervisor").probe(unit).await),
        }
    }

    pub async fn install(&self, release: Mcid, again: bool) -> Result<()> {
        match self {
            Node::Remote(r) => {
                let params = InstallParams { release: release.to_string(), again };
                r.call(protocol::OS, "install", &params).await
            }
            Node::Local => {
                let update = local!(update::UpdateProxy<'_>, "update");
                update.install(&release.to_bytes(), again).await.map_err(said)
            }
        }
    }

    pub async fn rollback(&self) -> Result<()> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "rollback", &()).await,
            Node::Local => local!(update::UpdateProxy<'_>, "update").rollback().await.map_err(said),
        }
    }

    pub async fn reboot(&self, reason: &str) -> Result<()> {
        match self {
            Node::Remote(r) => {
                r.call(protocol::OS, "reboot", &PowerParams { reason: reason.to_string() }).await
            }
            Node::Local => {
                local!(supervisor::SupervisorProxy<'_>, "supervisor").reboot(reason).await.map_err(said)
            }
        }
    }

    pub async fn rescue(&self, reason: &str) -> Result<()> {
        match self {
            Node::Remote(r) => {
                r.call(protocol::OS, "rescue", &PowerParams { reason: reason.to_string() }).await
            }
            Node::Local => {
                local!(supervisor::SupervisorProxy<'_>, "supervisor").rescue(reason).await.map_err(said)
            }
        }
    }

    pub async fn poweroff(&self, reason: &str) -> Result<()> {
        match self {
            Node::Remote(r) => {
                r.call(protocol::OS, "poweroff", &PowerParams { reason: reason.to_string() }).await
            }
            Node::Local => {
                local!(supervisor::SupervisorProxy<'_>, "supervisor").poweroff(reason).await.map_err(said)
            }
        }
    }

    /// The audit log's segments, oldest first, as they are on the node.
    pub async fn audit(&self) -> Result<Vec<Vec<u8>>> {
        let answer: AuditAnswer = self.remote()?.call(protocol::OS, "audit", &()).await?;
        Ok(answer.segments)
    }

    /// The text of the node's configuration, or one key's value.
    pub async fn config(&self, key: Option<String>) -> Result<String> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "config", &ConfigParams { key }).await,
            Node::Local => {
                let text = local!(update::UpdateProxy<'_>, "update").config().await.map_err(said)?;
                Ok(os_config::edit::show(&text, key.as_deref())?)
            }
        }
    }

    /// The same with its secrets.
    pub async fn config_secrets(&self, key: Option<String>) -> Result<String> {
        self.remote()?.call(protocol::OS, "config_secrets", &ConfigParams { key }).await
    }

    pub async fn change_config(&self, change: &ConfigChange) -> Result<ConfigChanged> {
        self.remote()?.call(protocol::OS, "config_change", change).await
    }

    pub async fn reset(&self, params: &ResetParams) -> Result<()> {
        let remote = self.remote().context("at the node itself, choose `factory reset` in its boot menu")?;
        remote.call(protocol::OS, "reset", params).await
    }

    pub async fn recovery_key(&self) -> Result<String> {
        self.remote()?.call(protocol::OS, "recovery_key", &()).await
    }

    pub async fn links(&self) -> Result<Vec<LinkReport>> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "links", &()).await,
            Node::Local => parse(local!(network::NetworkProxy<'_>, "network").links().await),
        }
    }

    pub async fn plan(&self) -> Result<String> {
        match self {
            Node::Remote(r) => r.call(protocol::OS, "plan", &()).await,
            Node::Local => local!(reconciler::ReconcilerProxy<'_>, "reconciler").plan().await.map_err(said),
        }
    }

    pub async fn peers(&self) -> Result<Vec<PeerReport>> {
        match self {
            Node::Remote(r) => r.call(protocol::MESH, "peers", &()).await,
            Node::Local => parse(local!(mesh::MeshProxy<'_>, "mesh").peers().await),
        }
    }

    pub async fn content_report(&self) -> Result<ContentReport> {
        match self {
            Node::Remote(r) => r.call(protocol::CONTENT, "report", &()).await,
            Node::Local => parse(local!(content::ContentProxy<'_>, "content").report().await),
        }
    }

    pub async fn dht_report(&self) -> Result<DhtReport> {
        match self {
            Node::Remote(r) => r.call(protocol::DHT, "report", &()).await,
            Node::Local => parse(local!(dht::DhtProxy<'_>, "dht").report().await),
        }
    }

    /// `did:key` texts of whoever announced the content.
    pub async fn providers(&self, mcid: &Mcid) -> Result<Vec<String>> {
        match self {
            Node::Remote(r) => r.call(protocol::DHT, "providers", &mcid.to_string()).await,
            Node::Local => {
                let found =
                    local!(dht::DhtProxy<'_>, "dht").providers(&mcid.to_bytes()).await.map_err(said)?;
                let text = |id: &Vec<u8>| os_identity::NodeId::try_from(id.as_slice()).map(|n| n.to_string());
                Ok(found.iter().map(text).collect::<Result<_, _>>()?)
            }
        }
    }

    /// The records (CBOR) of a type under a key, as the DHT has them, not yet verified.
    pub async fn records(&self, record_type: u8, key: &Key) -> Result<Vec<Vec<u8>>> {
        match self {
            Node::Remote(r) => {
                let params = LookupParams { key: key.to_string(), record_type: Some(record_type) };
                let found: LookupAnswer = r.call(protocol::DHT, "lookup", &params).await?;
                let bytes = found.records.iter().map(|f| HEXLOWER_PERMISSIVE.decode(f.record.as_bytes()));
                bytes.collect::<Result<_, _>>().context("the node's records are not in hex")
            }
            Node::Local => {
                local!(dht::DhtProxy<'_>, "dht").get_records(record_type, key.as_bytes()).await.map_err(said)
            }
        }
    }

    /// Looks at the followed channel now. Only the node's own console can ask for that.
    pub async fn refresh(&self) -> Result<()> {
        match self {
            Node::Remote(_) => bail!(
                "which release? Say --channel NAME or --release MCID; a node that follows a channel updates by itself"
            ),
            Node::Local => {
                local!(reconciler::ReconcilerProxy<'_>, "reconciler").refresh().await.map_err(said)
            }
        }
    }

    /// The routing table. Over D-Bus there are only its totals, see [`Self::dht_report`].
    pub async fn dht_table(&self) -> Result<TableAnswer> {
        match self {
            Node::Remote(r) => r.call(protocol::DHT, "table", &()).await,
            Node::Local => Ok(TableAnswer::default()),
        }
    }

    /// A statement that takes a delegation back.
    pub async fn revoke(&self, statement: &[u8]) -> Result<()> {
        match self {
            Node::Remote(r) => r.call(protocol::DHT, "revoke", &statement.to_vec()).await,
            Node::Local => local!(dht::DhtProxy<'_>, "dht").revoke(statement).await.map_err(said),
        }
    }

    /// A signed record into the DHT. How many nodes took it.
    pub async fn put_record(&self, record: &[u8]) -> Result<u32> {
        match self {
            Node::Remote(r) => r.call(protocol::DHT, "put_record", &record.to_vec()).await,
            Node::Local => local!(dht::DhtProxy<'_>, "dht").put_record(record).await.map_err(said),
        }
    }

    /// For what only works over the mesh.
    pub fn remote(&self) -> Result<&Remote> {
        match self {
            Node::Remote(remote) => Ok(remote),
            Node::Local => bail!("this needs --node ADDR and the owner's key, it does not work with --local"),
        }
    }

    pub async fn close(self) {
        if let Node::Remote(remote) = self {
            remote.close().await;
        }
    }
}

/// Addresses under which this node can be reached, best first.
pub async fn local_addresses() -> Result<Vec<String>> {
    local!(mesh::MeshProxy<'_>, "mesh").local_addresses().await.map_err(said)
}

fn parse<T: DeserializeOwned>(answer: zbus::Result<String>) -> Result<T> {
    serde_json::from_str(&answer.map_err(said)?).context("the service's report does not parse")
}

/// What the service said, without the D-Bus words around it.
fn said(error: zbus::Error) -> anyhow::Error {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => anyhow!(text),
        other => other.into(),
    }
}
