//! The node that is to be owned: what it is, and the services that act for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_config::Config;
use os_identity::NodeId;
use os_slots::BootInfo;
use pairing_proto::setup::Network;
use pairing_proto::{Introduction, Standing};
use services_api::bus::{self, Link};
use services_api::identity::IdentityProxy;
use services_api::mesh::Streams;
use services_api::network::NetworkProxy;
use services_api::pairing::Adoption;
use services_api::report::WifiNetwork;
use services_api::update::AdoptionProxy;

const BOOT_INFO: &str = "boot.json";
/// So long `network` may look for Wi-Fi networks while a claimant waits.
const LOOK_MAX: Duration = Duration::from_secs(15);

pub struct Node {
    pub id: NodeId,
    /// As it was when this process started, and as this process has had it changed since. `None`: it cannot be read.
    pub config: Option<Config>,
    pub board: String,
    pub version: String,
    pub state_dir: PathBuf,
    pub links: Arc<Links>,
}

pub struct Links {
    identity: Link,
    update: Link,
    network: Link,
    pub mesh: Streams,
}

impl Node {
    /// Waits for `identity`.
    pub async fn load(mesh: Streams) -> Self {
        let links = Links {
            identity: Link::new("identity"),
            update: Link::new("update"),
            network: Link::new("network"),
            mesh,
        };
        let id = bus::retry("identity", || links.node_id()).await;
        let config = Config::load().inspect_err(|e| tracing::error!("nobody can be paired: {e}")).ok();
        let boot = boot_info().inspect_err(|e| tracing::warn!("{e:#}")).ok();
        Self {
            id,
            config,
            board: boot.as_ref().map(|boot| boot.board.clone()).unwrap_or_default(),
            version: boot.map(|boot| boot.version).unwrap_or_default(),
            state_dir: std::env::var_os("STATE_DIRECTORY").map_or("/state/pairing".into(), PathBuf::from),
            links: Arc::new(links),
        }
    }

    /// A file that cannot be read may hold an owner.
    pub fn standing(&self) -> Standing {
        match &self.config {
            Some(config) if config.owner.is_none() => Standing::Unowned,
            _ => Standing::Owned,
        }
    }

    /// `networks`: see [`Links::networks`].
    pub fn introduction(&self, addresses: Vec<String>, networks: Option<Vec<Network>>) -> Introduction {
        let config = self.config.as_ref();
        Introduction {
            name: config.map(|config| config.name.clone()).unwrap_or_default(),
            board: self.board.clone(),
            version: self.version.clone(),
            addresses,
            can: crate::hand_over::abilities(networks.is_some()),
            networks,
            role: Default::default(),
        }
    }
}

impl Links {
    async fn node_id(&self) -> Result<NodeId> {
        Ok(bus::node_id(&self.identity().await?.node_id().await?)?)
    }

    pub async fn identity(&self) -> Result<IdentityProxy<'static>> {
        Ok(IdentityProxy::new(&self.identity.get().await?).await?)
    }

    pub async fn adopt(&self, adoption: &Adoption) -> Result<()> {
        let text = serde_json::to_string(adoption)?;
        self.update().await?.adopt(&text).await.map_err(said)
    }

    /// The Wi-Fi networks in reach, not older than `max_age_s`. `None`: this node has no Wi-Fi, or `network` does not say.
    pub async fn networks(&self, max_age_s: u32) -> Option<Vec<Network>> {
        let ask = async {
            let network = NetworkProxy::new(&self.network.get().await?).await?;
            let networks: Option<Vec<WifiNetwork>> =
                serde_json::from_str(&network.wifi_networks(max_age_s).await?)?;
            anyhow::Ok(networks)
        };
        let answer = tokio::time::timeout(LOOK_MAX, ask).await.context("no answer").and_then(|said| said);
        let networks =
            answer.inspect_err(|e| tracing::warn!("which Wi-Fi networks there are: {e:#}")).ok()??;
        let network = |seen: WifiNetwork| Network { ssid: seen.ssid, dbm: seen.dbm, secured: seen.secured };
        Some(networks.into_iter().map(network).collect())
    }

    pub async fn update(&self) -> Result<AdoptionProxy<'static>> {
        Ok(AdoptionProxy::new(&self.update.get().await?).await?)
    }
}

/// What a service answered, without D-Bus around it: people read it.
pub fn said(error: zbus::Error) -> anyhow::Error {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => anyhow::anyhow!(text),
        other => other.into(),
    }
}

fn boot_info() -> Result<BootInfo> {
    let path = bus::run_dir().join(BOOT_INFO);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what PID 1 writes", path.display()))
}
