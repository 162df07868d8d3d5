//! Apps: programs that are no part of the system. They get the same interface as services, and of it what their delegations name.
//!
//! The kernel says which uid is on the other end, the supervisor which app that is, `identity` by which key it is known. Each
//! wish is put to the same authority as a peer's, with that key as the one who asks. A right that ends closes what is open by it.

mod content;
mod interface;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use mesh_proto::rpc::{self, CallError, Code};
use mesh_proto::{StreamHeader, pubsub, punch};
use os_content_id::Mcid;
use os_identity::NodeId;
use os_ucan::{Ability, Resource};
use services_api::identity::IdentityProxy;
use services_api::{app, bus, control};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use zbus::fdo;

use crate::access::Asked;
use crate::authority::Pass;
use crate::links::Links;

pub use interface::AppServer;

/// Chains that an app can have shown on one connection.
const MAX_CHAINS: usize = 8;
/// Streams that one app holds open, over all its connections.
const MAX_STREAMS: usize = 256;
/// Procedures and protocols, and topics, that one app serves.
pub const MAX_SERVED: usize = 32;
/// Nobody has a longer name.
const MAX_NAME: usize = 64;
/// What the system itself says over the mesh: no app serves or opens it, whatever it was given.
const SYSTEM: [&str; 6] = ["ping/", "relay/", "punch/", "dht/", "content/", "time/"];

/// All apps that are or were connected, by uid.
#[derive(Default)]
pub struct Apps(Mutex<BTreeMap<u32, Arc<Semaphore>>>);

impl Apps {
    /// What an app's connection goes by.
    pub fn connected(&self, uid: u32) -> App {
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = apps.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(MAX_STREAMS))).clone();
        App { uid, streams, known: OnceCell::new(), chains: Mutex::default() }
    }
}

/// One connection of an app.
pub struct App {
    pub uid: u32,
    streams: Arc<Semaphore>,
    known: OnceCell<Known>,
    chains: Mutex<Vec<Vec<u8>>>,
}

/// Who an app is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: NodeId,
    pub name: String,
}

/// A right that an app has used, and the chain that it rests on.
pub struct Used {
    pub by: NodeId,
    pub pass: Pass,
    pub chain: Vec<u8>,
}

impl App {
    pub async fn known(&self) -> Result<&Known> {
        self.known.get_or_try_init(|| find(self.uid)).await
    }

    fn introduce(&self, chain: Vec<u8>) -> Result<()> {
        os_ucan::chain::decode(&chain)?;
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if !chains.contains(&chain) {
            ensure!(chains.len() < MAX_CHAINS, "{MAX_CHAINS} chains have been shown on this connection");
            chains.push(chain);
        }
        Ok(())
    }

    /// Puts a wish to the authority.
    pub async fn may(&self, links: &Links, ability: &str, resource: &str) -> fdo::Result<Used> {
        let asked = asked(ability, resource)?;
        let known = self.known().await.map_err(bus::failed)?;
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let checked = links.authority.check_any(known.id, &asked, &chains).await;
        let (pass, chain) = checked.map_err(|refusal| fdo::Error::AccessDenied(refusal.text))?;
        Ok(Used { by: known.id, pass, chain })
    }

    /// What an app asks for when it opens a stream: the local gate, whatever the far node thinks of it.
    pub async fn may_open(&self, links: &Links, node: NodeId, header: &StreamHeader) -> fdo::Result<Used> {
        let resource = header.resource.as_deref().unwrap_or("");
        let (ability, path) = match header.protocol.as_str() {
            rpc::PROTOCOL => ("macula/mesh/call", format!("rpc/{resource}")),
            pubsub::PROTOCOL => ("macula/mesh/subscribe", format!("topic/{resource}")),
            protocol => ("macula/mesh/open", stream_path(protocol, resource)?),
        };
        self.may(links, ability, &format!("macula:{node}/{path}")).await
    }

    pub async fn may_serve(&self, links: &Links, protocol: &str, resource: &str) -> fdo::Result<Used> {
        let path = match protocol {
            rpc::PROTOCOL => format!("rpc/{resource}"),
            protocol => stream_path(protocol, resource)?,
        };
        self.may(links, "macula/mesh/serve", &format!("macula:{}/{path}", links.me())).await
    }

    pub async fn may_publish(&self, links: &Links, topic: &str) -> fdo::Result<Used> {
        self.may(links, "macula/mesh/publish", &format!("macula:{}/topic/{topic}", links.me())).await
    }

    async fn may_get(&self, links: &Links, mcid: &Mcid) -> fdo::Result<Used> {
        self.may(links, "macula/content/get", &format!("macula:{}/content/{mcid}", links.me())).await
    }

    async fn may_put(&self, links: &Links) -> fdo::Result<Used> {
        self.may(links, "macula/content/put", &format!("macula:{}/content", links.me())).await
    }

    /// For one more stream.
    pub fn stream_permit(&self) -> fdo::Result<OwnedSemaphorePermit> {
        let permit = self.streams.clone().try_acquire_owned();
        permit
            .map_err(|_| fdo::Error::LimitsExceeded(format!("an app has at most {MAX_STREAMS} streams open")))
    }
}

fn asked(ability: &str, resource: &str) -> fdo::Result<Asked> {
    let asked = || -> Result<Asked> {
        let asked = Asked { ability: Ability::parse(ability)?, resource: Resource::parse(resource)? };
        ensure!(asked.resource.is_concrete(), "`{resource}` names a family of things");
        Ok(asked)
    };
    asked().map_err(|e| fdo::Error::InvalidArgs(format!("{e:#}")))
}

fn stream_path(protocol: &str, resource: &str) -> fdo::Result<String> {
    if protocol == pubsub::PROTOCOL || is_system(protocol) {
        return Err(fdo::Error::AccessDenied(format!("`{protocol}` is not for apps")));
    }
    Ok(if resource.is_empty() {
        format!("stream/{protocol}")
    } else {
        format!("stream/{protocol}/{resource}")
    })
}

fn is_system(protocol: &str) -> bool {
    control::protocol::is_control(protocol)
        || protocol == punch::PROTOCOL
        || SYSTEM.iter().any(|system| protocol.starts_with(system))
}

/// Asks those who know. The name is a file of root's.
async fn find(uid: u32) -> Result<Known> {
    let path = bus::run_dir().join(app::DIR).join(uid.to_string()).join("name");
    let name = std::fs::read_to_string(&path)
        .with_context(|| format!("uid {uid} is no app: the supervisor has started none under it"))?;
    ensure!(name.len() <= MAX_NAME, "{} is too long", path.display());
    let identity = bus::connect("identity").await?;
    let id = IdentityProxy::new(&identity).await?.app_id(&name).await?;
    Ok(Known { id: NodeId::try_from(&id[..])?, name })
}

/// For wishes that no app has any business with.
pub fn not_for_apps(app: Option<&App>) -> fdo::Result<()> {
    match app {
        Some(_) => Err(fdo::Error::AccessDenied("this is not for apps".into())),
        None => Ok(()),
    }
}

/// As an app reads it.
pub fn refused(e: anyhow::Error) -> fdo::Error {
    match e.downcast::<CallError>() {
        Ok(refusal) if refusal.code == Code::FORBIDDEN => fdo::Error::AccessDenied(refusal.text),
        Ok(refusal) => fdo::Error::Failed(refusal.text),
        Err(other) => bus::failed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_own_protocols_are_closed_to_apps() {
        for protocol in [
            "control/1",
            "control-content/1",
            "dht/1",
            "content/1",
            "time/1",
            "ping/1",
            "relay/1",
            "punch/1",
            "pubsub/1",
        ] {
            assert!(stream_path(protocol, "x").is_err(), "{protocol}");
        }
        assert_eq!(stream_path("copy/2", "").unwrap(), "stream/copy/2");
        assert_eq!(stream_path("copy/2", "photos").unwrap(), "stream/copy/2/photos");
    }

    #[test]
    fn an_app_shows_few_chains_and_only_such() {
        let app = Apps::default().connected(10_000);
        assert!(app.introduce(b"garbage".to_vec()).is_err());
        let chain = |n: u8| os_ucan::chain::encode(&[[n]]).unwrap();
        for n in 0..MAX_CHAINS as u8 {
            app.introduce(chain(n)).unwrap();
            app.introduce(chain(n)).unwrap();
        }
        assert!(app.introduce(chain(99)).is_err());
    }

    #[test]
    fn the_streams_of_an_app_are_counted_over_its_connections() {
        let apps = Apps::default();
        let (one, two, other) = (apps.connected(10_000), apps.connected(10_000), apps.connected(10_001));
        let held: Vec<_> = (0..MAX_STREAMS).map(|_| one.stream_permit().unwrap()).collect();
        assert!(two.stream_permit().is_err() && other.stream_permit().is_ok());
        drop(held);
        assert!(two.stream_permit().is_ok());
    }
}
