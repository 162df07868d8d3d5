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
}

impl Handlers {
    /// The live handler of a protocol. Whether somebody may use it is another question.
    pub fn find(&self, protocol: &str, resource: &str) -> Result<Handler, CallError> {
        let handlers = self.lock();
        let of = |resource: &str| handlers.get(&(protocol.to_owned(), resource.to_owned()));
        let alive = |handler: &&Handler| !handler.proxy.inner().connection().is_closed();
        let Some(handler) = of(resource).filter(alive).or_else(|| of("").filter(alive)) else {
            let what = if resource.is_empty() { protocol } else { resource };
            return Err(CallError::new(Code::UNKNOWN_PROCEDURE, format!("nobody serves `{what}` here")));
        };
        Ok(handler.clone())
    }

    /// Tells every service, once each, that a peer came or went.
    pub async fn peer_changed(&self, peer: NodeId, connected: bool) {
        let mut told: Vec<Connection> = Vec::new();
        let handlers: Vec<_> = self.lock().values().map(|h| h.proxy.clone()).collect();
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
        handlers.retain(|_, h| !h.proxy.inner().connection().is_closed());
        if handlers.len() >= MAX_PROTOCOLS && !handlers.contains_key(&served) {
            return Err(anyhow!("{MAX_PROTOCOLS} protocols are served already"));
        }
        handlers.insert(served, handler);
        Ok(())
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
    bus::serve(listener, &services, |builder, uid| {
        builder.serve_at("/io/macula/Mesh", Mesh { links: links.clone(), uid })
    })
    .await
}

struct Mesh {
    links: Arc<Links>,
    uid: u32,
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
        if node == self.links.me() {
            return Ok(streams::open_here(&self.links, &header).await.map_err(bus::failed)?.into());
        }
        let opened = within(timeout_ms, self.links.open(node, &header)).await;
        let Opened { send, recv, in_use } = opened.map_err(bus::failed)?;
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
        let handler = Handler { proxy: proxy.clone(), access };
        self.links.handlers.register((protocol, resource), handler).map_err(bus::failed)?;
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

    fn serve_topic(&self, topic: String, access: String) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        if topic.is_empty() {
            return Err(zbus::fdo::Error::InvalidArgs("a topic has a name".into()));
        }
        check_resource(&topic)?;
        let access = self.access(&access, pubsub::PROTOCOL, &topic)?;
        self.links.topics.open(topic, self.uid, access).map_err(bus::failed)
    }

    fn revoked(&self, statement: Vec<u8>) -> zbus::fdo::Result<()> {
        if ![bus::uid::DHT, bus::uid::ROOT].contains(&self.uid) {
            return Err(zbus::fdo::Error::AccessDenied("`dht` says what was taken back".into()));
        }
        self.links.authority.revocations.learn(&statement).map_err(bus::failed)
    }

    fn publish(&self, topic: String, event: Vec<u8>) -> zbus::fdo::Result<u64> {
        bus::not_for_the_console(self.uid)?;
        self.links.topics.publish(&topic, self.uid, &event).map_err(bus::failed)
    }

    fn learn(&self, node: Vec<u8>, addresses: Vec<String>) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        let node = bus::node_id(&node)?;
        let parsed = addresses.iter().take(MAX_ADDRESSES).filter_map(|a| a.parse().ok());
        let usable: Vec<SocketAddr> = parsed.filter(mesh_proto::is_dialable).collect();
        self.links.learn(node, &usable, Source::Dht);
        Ok(())
    }

    fn local_addresses(&self) -> zbus::fdo::Result<Vec<String>> {
        let all = self.links.own_addresses().map_err(bus::failed)?;
        Ok(all.iter().map(SocketAddr::to_string).collect())
    }

    async fn ping(&self, node: Vec<u8>, timeout_ms: u32) -> zbus::fdo::Result<u64> {
        let node = bus::node_id(&node)?;
        let took = within(timeout_ms, streams::ping(&self.links, node)).await.map_err(bus::failed)?;
        Ok(took.as_micros() as u64)
    }

    fn peers(&self) -> zbus::fdo::Result<String> {
        serde_json::to_string(&self.links.report()).map_err(bus::failed)
    }
}

impl Mesh {
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
