//! Existing Macula clients on this node (ALPN `macula`): who is welcome, and what they ask of the node's DHT and content.

mod backing;
mod records;
mod uploads;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_macula::{Action, Request, Station};
use mesh_transport::AlpnPort;
use os_config::{Clients, Welcome};
use os_identity::{NodeId, NodeKey};
use os_ucan::{Ability, Authorizer, Resource, chain};
use services_api::identity::IdentityProxy;
use services_api::{bus, daemon};
use tokio::sync::mpsc;

use crate::links::Links;

/// Connections that the station has not taken yet.
const MAX_COMING: usize = 64;
const MAX_VERIFIED: usize = 1024;
/// The certificate is made anew before anybody could mind its age.
const RENEW: Duration = Duration::from_secs(24 * 3600);

/// Welcomes clients as the configuration says, in the background.
pub async fn open(links: &Arc<Links>, port: &Arc<AlpnPort>, clients: Clients) -> Result<()> {
    if clients.macula == Welcome::Nobody {
        return Ok(());
    }
    let key = key().await.context("no key for the station")?;
    tracing::info!("a station for existing clients, known as {}", key.node_id());
    let config = mesh_macula::Config {
        realms: clients.realms.iter().map(|name| mesh_macula::realm_id(name)).collect(),
        ..mesh_macula::Config::default()
    };
    let backing = Arc::new(backing::NodeBacking::new(*key.seed()));
    tokio::spawn(backing.clone().announce_blocks());
    let policy = Policy::new(links, clients);
    let again = NodeKey::from_seed(&key.seed());
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(std::io::Error::from)?;
    let station =
        Station::new(key, config, move |r: &Request<'_>| policy.allows(r), u64::from_le_bytes(seed));
    let (sender, connections) = mpsc::channel(MAX_COMING);
    links.guests.welcome(mesh_macula::ALPN, move |connection| {
        // Dropped, it closes: a station that does not keep up is full.
        let _ = sender.try_send(connection);
    });
    tokio::spawn(keep_certificate(port.clone(), again));
    tokio::spawn(mesh_station::serve(connections, station, backing, std::future::pending()));
    Ok(())
}

async fn key() -> Result<NodeKey> {
    let identity = IdentityProxy::new(&bus::connect_patiently("identity").await).await?;
    let seed: [u8; 32] = identity.station_seed().await?.try_into().ok().context("a seed is 32 bytes")?;
    Ok(NodeKey::from_seed(&seed))
}

async fn keep_certificate(port: Arc<AlpnPort>, key: NodeKey) {
    loop {
        let spoken = mesh_station::server_tls(&key, daemon::now_ms() / 1000).and_then(|tls| port.speak(tls));
        if let Err(e) = spoken {
            tracing::error!("existing clients cannot be served: {e:#}");
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// Who may do what. The owner's key and those listed may do all that a client can; others, where anybody is welcome, bring neither
/// records nor content, unless they show that this was delegated to them.
struct Policy {
    links: Arc<Links>,
    welcome: Welcome,
    listed: BTreeSet<NodeId>,
    authorizer: Mutex<Authorizer>,
}

impl Policy {
    fn new(links: &Arc<Links>, clients: Clients) -> Self {
        Self {
            links: links.clone(),
            welcome: clients.macula,
            listed: clients.keys.into_iter().chain(links.owner).collect(),
            authorizer: Mutex::new(Authorizer::new(MAX_VERIFIED)),
        }
    }

    fn allows(&self, request: &Request<'_>) -> Result<(), String> {
        if self.listed.contains(request.node) {
            return Ok(());
        }
        if self.welcome != Welcome::Anybody {
            return Err(format!("{} is not a client of this node", request.node));
        }
        match request.action {
            Action::PutRecord { .. } => self.delegated(request, "macula/dht/put", "dht"),
            Action::PutContent(mcid) => {
                self.delegated(request, "macula/content/put", &format!("content/{mcid}"))
            }
            _ => Ok(()),
        }
    }

    fn delegated(&self, request: &Request<'_>, ability: &str, what: &str) -> Result<(), String> {
        let text = |e: os_ucan::TokenError| e.to_string();
        let ability = Ability::parse(ability).map_err(text)?;
        let resource = Resource::parse(&format!("macula:{}/{what}", self.links.me())).map_err(text)?;
        let shown = if request.ucan.is_empty() { Vec::new() } else { shown(request.ucan)? };
        let root = self.links.owner.ok_or("this node has no owner who could have delegated anything")?;
        let asked = os_ucan::Request {
            invoker: *request.node,
            root,
            ability: &ability,
            resource: &resource,
            now: request.unix_ms / 1000,
        };
        let mut authorizer = self.authorizer.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = |token: &_, key: &_| self.links.authority.revocations.is_revoked(&(*token, *key));
        authorizer.authorize(&asked, &shown, revoked).map(drop).map_err(|refusal| refusal.to_string())
    }
}

/// A client shows one token, or a chain as nodes write it.
fn shown(ucan: &[u8]) -> Result<Vec<u8>, String> {
    match chain::decode(ucan) {
        Ok(_) => Ok(ucan.to_vec()),
        Err(_) => chain::encode(&[ucan]).map_err(|e| e.to_string()),
    }
}
