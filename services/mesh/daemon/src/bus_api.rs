//! `io.macula.Mesh1`, and the services that take streams.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mesh_proto::{MAX_ADDRESSES, MAX_PROTOCOL, Source};
use os_identity::NodeId;
use services_api::bus;
use services_api::mesh::StreamHandlerProxy;
use tokio::net::UnixListener;
use zbus::Connection;

use crate::links::Links;
use crate::{lan, streams};

/// Protocols served at once.
const MAX_PROTOCOLS: usize = 256;

/// Which service takes the streams of which protocol.
#[derive(Default)]
pub struct Handlers(Mutex<HashMap<String, Handler>>);

#[derive(Clone)]
struct Handler {
    proxy: StreamHandlerProxy<'static>,
    owner_only: bool,
}

impl Handlers {
    /// The live handler of a protocol, when this peer may use it.
    pub fn find(&self, protocol: &str, peer_is_owner: bool) -> Option<StreamHandlerProxy<'static>> {
        let handlers = self.lock();
        let handler = handlers.get(protocol)?;
        let alive = !handler.proxy.inner().connection().is_closed();
        (alive && (peer_is_owner || !handler.owner_only)).then(|| handler.proxy.clone())
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

    fn register(&self, protocol: String, handler: Handler) -> Result<()> {
        let mut handlers = self.lock();
        handlers.retain(|_, h| !h.proxy.inner().connection().is_closed());
        if handlers.len() >= MAX_PROTOCOLS && !handlers.contains_key(&protocol) {
            return Err(anyhow!("{MAX_PROTOCOLS} protocols are served already"));
        }
        handlers.insert(protocol, handler);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handler>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The peer-to-peer connections have no names; the object server is one per connection.
fn same(a: &Connection, b: &Connection) -> bool {
    std::ptr::eq(a.object_server(), b.object_server())
}

pub async fn serve(listener: UnixListener, links: Arc<Links>) -> Result<()> {
    let services =
        [bus::uid::DHT, bus::uid::CONTENT, bus::uid::RECONCILER, bus::uid::UPDATE, bus::uid::CONSOLE];
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
        timeout_ms: u32,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        bus::not_for_the_console(self.uid)?;
        let node = bus::node_id(&node)?;
        check_protocol(&protocol)?;
        let opened = within(timeout_ms, self.links.open(node, &protocol)).await;
        let (send, recv) = opened.map_err(bus::failed)?;
        let (here, there) = streams::socket_pair().map_err(bus::failed)?;
        tokio::spawn(streams::pump(send, recv, here));
        Ok(there.into())
    }

    async fn serve(
        &self,
        protocol: String,
        access: String,
        #[zbus(connection)] connection: &Connection,
    ) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        check_protocol(&protocol)?;
        let owner_only = match access.as_str() {
            "peer" => false,
            "owner" => true,
            other => {
                return Err(zbus::fdo::Error::InvalidArgs(format!("access `{other}` is not peer or owner")));
            }
        };
        let proxy = StreamHandlerProxy::new(connection).await?;
        tracing::debug!("uid {} serves `{protocol}` to {access}", self.uid);
        let handler = Handler { proxy: proxy.clone(), owner_only };
        self.links.handlers.register(protocol, handler).map_err(bus::failed)?;
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

    fn learn(&self, node: Vec<u8>, addresses: Vec<String>) -> zbus::fdo::Result<()> {
        bus::not_for_the_console(self.uid)?;
        let node = bus::node_id(&node)?;
        let parsed = addresses.iter().take(MAX_ADDRESSES).filter_map(|a| a.parse().ok());
        let usable: Vec<SocketAddr> = parsed.filter(is_dialable).collect();
        self.links.learn(node, &usable, Source::Dht);
        Ok(())
    }

    fn local_addresses(&self) -> zbus::fdo::Result<Vec<String>> {
        let port = self.links.local_port();
        let own = lan::own_addresses().map_err(bus::failed)?;
        Ok(own.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect())
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

/// Strangers' addresses: nothing that would make this node talk to itself, to a whole network, or to a link it cannot name.
fn is_dialable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local
}
