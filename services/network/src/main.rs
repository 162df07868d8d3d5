//! The node's links: brings up loopback and every Ethernet link, now and when it appears, and gets each an address by
//! DHCPv4, or a link-local one where no server answers. IPv6 is the kernel's work (link-local, router advertisements).
//!
//! Where there is a radio, iwd runs and joins the Wi-Fi networks of `config.toml` (`wifi`); then it is a link like the others.
//!
//! Name servers go to `/run/macula/net/resolv.conf`. Nothing is kept on disk: after a crash the addresses stay until
//! their leases end, and the next start asks for them again.

mod client;
mod lease;
mod link_local;
mod links;
mod packet;
mod sockets;
mod state;
mod wifi;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{FutureExt, StreamExt};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use services_api::{bus, daemon};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::LinkClient;
use crate::links::{Carrier, Kind, Link};
use crate::state::Shared;

/// Changes come in bursts; one look at all links afterwards is enough.
const BURST: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let listener = bus::listen("network")?;
    let shared = Arc::new(Shared::default());
    // Watching begins before the first look, so nothing falls between the two.
    let (monitor, _, mut changes) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ])
    .context("cannot watch the links")?;
    tokio::spawn(monitor);
    let mut manager = Manager::new(shared.clone())?;
    manager.refresh().await?;
    daemon::ready();
    let clients = [bus::uid::MESH, bus::uid::UPDATE, bus::uid::CONSOLE, bus::uid::PAIRING];
    let serve = bus::serve(listener, &clients, |builder, _| {
        builder.serve_at("/io/macula/Network", Network { shared: shared.clone() })
    });
    let manage = async {
        while changes.next().await.is_some() {
            tokio::time::sleep(BURST).await;
            while changes.next().now_or_never().flatten().is_some() {}
            manager.refresh().await?;
        }
        bail!("the kernel's messages about links have ended")
    };
    tokio::select! { ended = serve => ended, ended = manage => ended }
}

/// One client for each Ethernet link.
struct Manager {
    handle: Handle,
    shared: Arc<Shared>,
    clients: HashMap<u32, Client>,
    /// Once there has been a radio.
    wifi: Option<JoinHandle<()>>,
}

struct Client {
    mac: [u8; 6],
    name: String,
    carrier: watch::Sender<Carrier>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Manager {
    fn new(shared: Arc<Shared>) -> Result<Self> {
        let (connection, handle, _) = new_connection().context("cannot talk to the kernel about links")?;
        tokio::spawn(connection);
        Ok(Self { handle, shared, clients: HashMap::new(), wifi: None })
    }

    /// Looks at all links and makes our clients match them.
    async fn refresh(&mut self) -> Result<()> {
        let links = links::snapshot(&self.handle).await?;
        self.clients.retain(|index, client| links.get(index).is_some_and(|link| client.matches(link)));
        for link in links.values().filter(|link| link.kind != Kind::Other) {
            if !link.up
                && !link.wireless
                && let Err(error) = links::bring_up(&self.handle, link).await
            {
                tracing::warn!("{error:#}");
            }
            if let Kind::Ethernet(mac) = link.kind {
                self.watch(link, mac)?;
            }
        }
        if self.wifi.is_none() && links.values().any(|link| link.wireless) {
            self.wifi = Some(tokio::spawn(wifi::run(self.shared.clone())));
        }
        self.shared.set_links(links);
        Ok(())
    }

    fn watch(&mut self, link: &Link, mac: [u8; 6]) -> Result<()> {
        let carrier = link.carrier;
        if let Some(client) = self.clients.get(&link.index) {
            client.carrier.send_if_modified(|old| std::mem::replace(old, carrier) != carrier);
            return Ok(());
        }
        tracing::info!("{}: new link, carrier {}", link.name, if carrier.present { "up" } else { "down" });
        let (sender, receiver) = watch::channel(carrier);
        let (handle, shared) = (self.handle.clone(), self.shared.clone());
        let client = LinkClient::new(link.index, &link.name, mac, handle, shared, receiver)?;
        let task = tokio::spawn(client.run());
        self.clients.insert(link.index, Client { mac, name: link.name.clone(), carrier: sender, task });
        Ok(())
    }
}

impl Client {
    /// Still the same link: an index is used again, a name and an address can change.
    fn matches(&self, link: &Link) -> bool {
        link.kind == Kind::Ethernet(self.mac) && link.name == self.name
    }
}

struct Network {
    shared: Arc<Shared>,
}

#[zbus::interface(name = "io.macula.Network1")]
impl Network {
    fn links(&self) -> zbus::fdo::Result<String> {
        serde_json::to_string(&self.shared.report()).map_err(bus::failed)
    }

    async fn wifi_networks(&self, max_age_s: u32) -> zbus::fdo::Result<String> {
        let networks = self.shared.wifi_networks(Duration::from_secs(max_age_s.into())).await;
        serde_json::to_string(&networks).map_err(bus::failed)
    }
}
