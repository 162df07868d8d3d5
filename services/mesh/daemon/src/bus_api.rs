//! `io.macula.Mesh1`, and the services that take streams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mesh_proto::rpc::{CallError, Code};
use mesh_proto::{MAX_ADDRESSES, MAX_PROTOCOL, MAX_RESOURCE, Source, StreamHeader, pubsub};
use os_identity::NodeId;
use services_api::bus;
use services_api::mesh::StreamHandlerProxy;
use tokio::net::UnixListener;
use zbus::Connection;

use crate::access::Access;
use crate::apps::{self, App, AppServer, MAX_SERVED, Used};
use crate::link::Opened;
use crate::links::Links;
use crate::streams;

/// Protocols served at once.
const MAX_PROTOCOLS: usize = 256;

/// Which service takes the streams of which protocol and resource; an empty resource stands for all others.
#[derive(Default)]
pub struct Handlers(Mutex<HashMap<(String, String), Handler>>);

#[derive(Clone)]
pub struct Handler {
    pub proxy: StreamHandlerProxy<'static>,
    pub access: Access,
    /// The service's.
    pub uid: u32,
}

impl Handler {
    fn is_alive(&self) -> bool {
        !self.proxy.inner().connection().is_closed()
    }
}

impl Handlers {
    /// The live handler of a protocol. Whether somebody may use it is another question.
    pub fn find(&self, protocol: &str, resource: &str) -> Result<Handler, CallError> {
        let handlers = self.lock();
        let of = |resource: &str| handlers.get(&(protocol.to_owned(), resource.to_owned()));
        let alive = |resource: &str| of(resource).filter(|handler| handler.is_alive());
        let Some(handler) = alive(resource).or_else(|| alive("")) else {
            let what = if resource.is_empty() { protocol } else { resource };
            return Err(CallError::new(Code::UNKNOWN_PROCEDURE, format!("nobody serves `{what}` here")));
        };
        Ok(handler.clone())
    }

    /// Tells every service, once each, that a peer came or went. Apps are not told whom this node knows.
    pub async fn peer_changed(&self, peer: NodeId, connected: bool) {
        let mut told: Vec<Connection> = Vec::new();
        let services = |h: &&Handler| !bus::uid::APPS.contains(&h.uid);
        let handlers: Vec<_> = self.lock().values().filter(services).map(|h| h.proxy.clone()).collect();
        for proxy in handlers {
            let connection = proxy.inner().connection();
            if connection.is_closed() || told.iter().any(|c| same(c, connection)) {
                continue;
            }
            told.push(connection.clone());
            if let Err(e) = proxy.peer_changed(peer.as_bytes(), connected).await {
                tracing::debug!("a service did not take the news of a peer: {e}");
            }
        }
    }

    fn register(&self, served: (String, String), handler: Handler) -> Result<()> {
        let mut handlers = self.lock();
        handlers.retain(|_, h| h.is_alive());
        if handlers.get(&served).is_some_and(|other| other.uid != handler.uid) {
            let (protocol, resource) = served;
            return Err(anyhow!("`{protocol}` `{resource}` is served by somebody else"));
        }
        let own = handlers.values().filter(|h| h.uid == handler.uid).count();
        if bus::uid::APPS.contains(&handler.uid) && own >= MAX_SERVED && !handlers.contains_key(&served) {
            return Err(anyhow!("an app serves at most {MAX_SERVED} procedures and protocols"));
        }
        if handlers.len() >= MAX_PROTOCOLS && !handlers.contains_key(&served) {
            return Err(anyhow!("{MAX_PROTOCOLS} protocols are served already"));
        }
        handlers.insert(served, handler);
        Ok(())
    }

    /// The right to serve it has ended.
    fn withdraw(&self, served: &(String, String), connection: &Connection) {
        let mut handlers = self.lock();
        if handlers.get(served).is_some_and(|h| same(h.proxy.inner().connection(), connection)) {
            handlers.remove(served);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Handler>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The peer-to-peer connections have no names; the object server is one per connection.
fn same(a: &Connection, b: &Connection) -> bool {
    std::ptr::eq(a.object_server(), b.object_server())
}

pub async fn serve(listener: UnixListener, links: Arc<Links>) -> Result<()> {
    let services = [
        bus::uid::DHT,
        bus::uid::CONTENT,
        bus::uid::RECONCILER,
        bus::uid::UPDATE,
        bus::uid::CONSOLE,
        bus::uid::PAIRING,
    ];
    let allowed = |uid| services.contains(&uid) || bus::uid::APPS.contains(&uid);
    bus::serve_where(listener, allowed, |builder, uid| {
        if !bus::uid::APPS.contains(&uid) {
            return builder.serve_at(PATH, Mesh { links: links.clone(), uid, app: None });
        }
        let app = Arc::new(links.apps.connected(uid));
        builder
            .serve_at(PATH, Mesh { links: links.clone(), uid, app: Some(app.clone()) })
            .serve_at(PATH, AppServer::new(app, links.clone()))
    })
    .await
}

const PATH: &str = "/io/macula/Mesh";

struct Mesh {
    links: Arc<Links>,
    uid: u32,
    /// If the client is one.
    app: Option<Arc<App>>,
}

#[zbus::interface(name = "io.macula.Mesh1")]
impl Mesh {
    async fn open_stream(
        &self,
        node: Vec<u8>,
        protocol: String,
        resource: String,
        ucan: Vec<u8>,
        timeout_ms: u32,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        bus::not_for_the_console(self.uid)?;
        let node = bus::node_id(&node)?;
        check_protocol(&protocol)?;
        check_resource(&resource)?;
        let header = StreamHeader {
            ucan: (!ucan.is_empty()).then_some(ucan),
            deadline_ms: Some(timeout_ms),
            resource: (!resource.is_empty()).then_some(resource),
            ..StreamHeader::new(&protocol)
        };
        if let Some(app) = &self.app {
            return self.open_for(app, node, header, timeout_ms).await;
        }
        if node == self.links.me() {
            return Ok(streams::open_here(&self.links, &header).await.map_err(bus::failed)?.into());
        }
        let Opened { send, recv, in_use } =
            within(timeout_ms, self.links.open(node, &header)).await.map_err(bus::failed)?;
        let (here, there) = streams::socket_pair().map_err(bus::failed)?;
        tokio::spawn(async move {
            streams::pump(send, recv, here).await;
            drop(in_use);
        });
        Ok(there.into())
    }

    async fn serve(
        &self,
        protocol: String,
        resource: String,
        access: String,
        #[zbus(connection)] connection: &Connection,
    ) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        check_protocol(&protocol)?;
        check_resource(&resource)?;
        let proxy = StreamHandlerProxy::new(connection).await?;
        tracing::debug!("uid {} serves `{protocol}` `{resource}` to {access}", self.uid);
        let access = self.access(&access, &protocol, &resource)?;
        let used = match &self.app {
            Some(app) => Some(app.may_serve(&self.links, &protocol, &resource).await?),
            None => None,
        };
        let served = (protocol, resource);
        let handler = Handler { proxy: proxy.clone(), access, uid: self.uid };
        self.links.handlers.register(served.clone(), handler).map_err(bus::failed)?;
        if let Some(used) = used {
            tokio::spawn(self.withdraw_after(used, served, connection.clone()));
            return Ok(());
        }
        // After the answer: who is connected now is news to a service that has just come.
        let peers = self.links.connected_nodes();
        tokio::spawn(async move {
            for peer in peers {
                if proxy.peer_changed(peer.as_bytes(), true).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    async fn serve_topic(&self, topic: String, access: String) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        if topic.is_empty() {
            return Err(zbus::fdo::Error::InvalidArgs("a topic has a name".into()));
        }
        check_resource(&topic)?;
        let access = self.access(&access, pubsub::PROTOCOL, &topic)?;
        if let Some(app) = &self.app {
            app.may_publish(&self.links, &topic).await?;
        }
        self.links.topics.open(topic, self.uid, access).map_err(bus::failed)
    }

    fn revoked(&self, statement: Vec<u8>) -> zbus::fdo::Result<()> {
        if ![bus::uid::DHT, bus::uid::ROOT].contains(&self.uid) {
            return Err(zbus::fdo::Error::AccessDenied("`dht` says what was taken back".into()));
        }
        self.links.authority.revocations.learn(&statement).map_err(bus::failed)
    }

    async fn publish(&self, topic: String, event: Vec<u8>) -> zbus::fdo::Result<u64> {
        bus::not_for_the_console(self.uid)?;
        if let Some(app) = &self.app {
            app.may_publish(&self.links, &topic).await?;
        }
        self.links.topics.publish(&topic, self.uid, &event).map_err(bus::failed)
    }

    fn learn(&self, node: Vec<u8>, addresses: Vec<String>) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        apps::not_for_apps(self.app.as_deref())?;
        let node = bus::node_id(&node)?;
        let parsed = addresses.iter().take(MAX_ADDRESSES).filter_map(|a| a.parse().ok());
        let usable: Vec<SocketAddr> = parsed.filter(mesh_proto::is_dialable).collect();
        self.links.learn(node, &usable, Source::Dht);
        Ok(())
    }

    fn local_addresses(&self) -> zbus::fdo::Result<Vec<String>> {
        apps::not_for_apps(self.app.as_deref())?;
        let all = self.links.own_addresses().map_err(bus::failed)?;
        Ok(all.iter().map(SocketAddr::to_string).collect())
    }

    async fn ping(&self, node: Vec<u8>, timeout_ms: u32) -> zbus::fdo::Result<u64> {
        apps::not_for_apps(self.app.as_deref())?;
        let node = bus::node_id(&node)?;
        let took = within(timeout_ms, streams::ping(&self.links, node)).await.map_err(bus::failed)?;
        Ok(took.as_micros() as u64)
    }

    fn peers(&self) -> zbus::fdo::Result<String> {
        apps::not_for_apps(self.app.as_deref())?;
        serde_json::to_string(&self.links.report()).map_err(bus::failed)
    }
}

impl Mesh {
    /// Whoever is an app goes through the local gate first, and out as this node; to this node's own services it is itself.
    async fn open_for(
        &self,
        app: &App,
        node: NodeId,
        mut header: StreamHeader,
        timeout_ms: u32,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        let used = app.may_open(&self.links, node, &header).await?;
        let permit = app.stream_permit()?;
        let (here, there) = streams::socket_pair().map_err(bus::failed)?;
        let links = self.links.clone();
        if node == self.links.me() {
            header.ucan.get_or_insert_with(|| used.chain.clone());
            let service = streams::open_as(&self.links, used.by, &header).await.map_err(apps::refused)?;
            tokio::spawn(async move {
                tokio::select! {
                    () = streams::splice(service, here) => {}
                    () = links.authority.over(&used.pass) => {}
                }
                drop(permit);
            });
            return Ok(there.into());
        }
        let opened = within(timeout_ms, self.links.open(node, &header)).await;
        let Opened { send, recv, in_use } = opened.map_err(apps::refused)?;
        tokio::spawn(async move {
            tokio::select! {
                () = streams::pump(send, recv, here) => {}
                () = links.authority.over(&used.pass) => {}
            }
            drop((in_use, permit));
        });
        Ok(there.into())
    }

    /// Takes back what an app serves when its right to it ends.
    fn withdraw_after(
        &self,
        used: Used,
        served: (String, String),
        connection: Connection,
    ) -> impl Future<Output = ()> + Send + 'static {
        let links = self.links.clone();
        async move {
            tokio::select! {
                () = links.authority.over(&used.pass) => links.handlers.withdraw(&served, &connection),
                () = connection.closed() => {}
            }
        }
    }

    fn access(&self, word: &str, protocol: &str, resource: &str) -> zbus::fdo::Result<Access> {
        let access = Access::parse(word)
            .and_then(|access| access.check_name(&self.links.me(), protocol, resource).map(|()| access));
        access.map_err(|e| zbus::fdo::Error::InvalidArgs(format!("{e:#}")))
    }
}

async fn within<T>(timeout_ms: u32, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = Duration::from_millis(u64::from(timeout_ms.clamp(1, 60_000)));
    tokio::time::timeout(limit, work).await.with_context(|| format!("not within {} ms", limit.as_millis()))?
}

fn check_protocol(word: &str) -> zbus::fdo::Result<()> {
    if (1..=MAX_PROTOCOL).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(zbus::fdo::Error::InvalidArgs("a protocol word is 1 to 64 printable ASCII characters".into()))
    }
}

fn check_resource(name: &str) -> zbus::fdo::Result<()> {
    if name.is_empty() || mesh_proto::is_resource(name) {
        return Ok(());
    }
    let text = format!("a procedure or topic is named with 1 to {MAX_RESOURCE} printable ASCII characters");
    Err(zbus::fdo::Error::InvalidArgs(text))
}
