//! Who announces itself in the local network: mDNS (DNS-SD, RFC 6763), as `_macula._udp`. Anybody can announce anything: what it is
//! worth is found out by whoever connects.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result};
use mdns_sd::{ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};
use mesh_proto::lan::{ID, NAME, PAIR, SERVICE};
use os_identity::NodeId;

/// Whatever a network says, no more is kept.
const MAX: usize = 1024;
/// Labels of a host name: longer ones announce nothing that could be asked for.
const MAX_NAME: usize = 63;
/// Whoever is there has answered by then.
pub const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub node: NodeId,
    /// Empty: it does not say.
    pub name: String,
    /// `macula-<end of its id>`, under `.local`.
    pub host: String,
    /// It has no owner yet.
    pub waits: bool,
    /// Those that work from everywhere before link-local ones.
    pub addresses: Vec<SocketAddr>,
}

impl Neighbour {
    /// Whether a person who says `label` can mean this one.
    pub fn is_called(&self, label: &str) -> bool {
        self.name.eq_ignore_ascii_case(label) || self.host.eq_ignore_ascii_case(label)
    }
}

/// Looks until `enough` of those found so far, or until `wait` is over.
pub async fn look(wait: Duration, enough: impl Fn(&[Neighbour]) -> bool) -> Result<Vec<Neighbour>> {
    let daemon = ServiceDaemon::new().context("cannot look for nodes in the local network (mDNS)")?;
    let events = daemon.browse(SERVICE)?;
    let mut found: Vec<Neighbour> = Vec::new();
    let looking = async {
        while let Ok(event) = events.recv_async().await {
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let Some(neighbour) = neighbour(&service) else { continue };
            found.retain(|other| other.node != neighbour.node);
            if found.len() < MAX {
                found.push(neighbour);
            }
            if enough(&found) {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(wait, looking).await;
    let _ = daemon.shutdown();
    Ok(found)
}

fn neighbour(service: &ResolvedService) -> Option<Neighbour> {
    let node = service.get_property_val_str(ID)?.parse().ok()?;
    let port = service.get_port();
    let mut addresses: Vec<_> = service.get_addresses().iter().filter_map(|ip| address(ip, port)).collect();
    addresses.sort_by_key(|address| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) if !v6.ip().is_unicast_link_local() => 1,
        SocketAddr::V6(_) => 2,
    });
    let name = service.get_property_val_str(NAME).filter(|name| name.len() <= MAX_NAME).unwrap_or_default();
    let host = service.get_hostname().trim_end_matches('.').trim_end_matches(".local");
    let waits = service.get_property_val_str(PAIR) == Some("1");
    Some(Neighbour { node, name: name.to_owned(), host: host.to_owned(), waits, addresses })
}

fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match (ip.to_ip_addr(), ip) {
        (IpAddr::V6(v6), ScopedIp::V6(scoped)) if v6.is_unicast_link_local() => {
            Some(SocketAddrV6::new(v6, port, 0, scoped.scope_id().index).into())
        }
        (ip, _) => Some(SocketAddr::new(ip, port)),
    }
}
