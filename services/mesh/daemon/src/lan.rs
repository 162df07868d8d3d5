//! Neighbours: announced and found by mDNS (DNS-SD, RFC 6763) as `_macula._udp`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mdns_sd::{ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use mesh_proto::Source;
use mesh_proto::lan::{ID, NAME, PAIR, SERVICE};
use os_identity::NodeId;

use crate::links::Links;

/// The console, for browsers and whatever lists such things. Its host is the node's own name.
const CONSOLE: &str = "_https._tcp.local.";
/// New addresses (a lease that came, a cable that was plugged in) are noticed within so many seconds.
const IP_CHECK_S: u32 = 5;

/// Announces this node and tells `links` of every neighbour, for ever.
pub async fn meet_neighbours(links: Arc<Links>, name: String, port: u16, console: bool) {
    loop {
        if let Err(e) = run(&links, &name, port, console).await {
            tracing::warn!("mDNS stopped: {e:#}; starting again in 10 s");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

async fn run(links: &Arc<Links>, name: &str, port: u16, console: bool) -> Result<()> {
    let daemon = ServiceDaemon::new().context("cannot start mDNS")?;
    daemon.set_ip_check_interval(IP_CHECK_S)?;
    let id = links.me().to_string();
    let short = links.me().short();
    let host = format!("macula-{}.local.", short.to_lowercase());
    let instance = format!("{name} {short}");
    let waits = links.owner.is_none().then_some((PAIR, "1"));
    let properties: Vec<(&str, &str)> = [(ID, id.as_str()), (NAME, name)].into_iter().chain(waits).collect();
    let info = ServiceInfo::new(SERVICE, &instance, &host, (), port, &properties[..])?.enable_addr_auto();
    daemon.register(info)?;
    // Nodes that nobody has named yet are all called the same.
    if console && links.owner.is_some() {
        let (host, path) = (format!("{name}.local."), &[("path", "/")][..]);
        daemon.register(ServiceInfo::new(CONSOLE, &instance, &host, (), port, path)?.enable_addr_auto())?;
    }
    let events = daemon.browse(SERVICE)?;
    while let Ok(event) = events.recv_async().await {
        if let ServiceEvent::ServiceResolved(found) = event {
            note(links, &found);
        }
    }
    daemon.shutdown().map(drop).context("mDNS ended")
}

/// Anybody on the link can claim any id here; the handshake finds out.
fn note(links: &Arc<Links>, found: &ResolvedService) {
    let Some(Ok(node)) = found.get_property_val_str(ID).map(str::parse::<NodeId>) else { return };
    let mut addresses: Vec<_> =
        found.get_addresses().iter().filter_map(|a| address(a, found.get_port())).collect();
    // Link-local ones work whatever DHCP does; try them after the others.
    addresses.sort_by_key(|a| matches!(a, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local()));
    links.learn(node, &addresses, Source::Mdns);
}

fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match (ip.to_ip_addr(), ip) {
        (IpAddr::V6(v6), ScopedIp::V6(scoped)) if v6.is_unicast_link_local() => {
            Some(SocketAddrV6::new(v6, port, 0, scoped.scope_id().index).into())
        }
        (ip, _) if ip.is_loopback() => None,
        (ip, _) => Some(SocketAddr::new(ip, port)),
    }
}

/// Addresses of this machine that others may dial: no loopback, no IPv6 link-local (it needs the dialler's interface).
pub fn own_addresses() -> Result<Vec<IpAddr>> {
    let mut out = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().context("cannot list addresses")? {
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) if !v6.ip().is_unicast_link_local() => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        if !ip.is_loopback() && !out.contains(&ip) {
            out.push(ip);
        }
    }
    Ok(out)
}
