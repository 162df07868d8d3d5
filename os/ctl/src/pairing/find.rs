//! Where the node of a code is: as the code says, as the user says, or by mDNS.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mdns_sd::{ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};
use os_identity::NodeId;
use pairing_proto::Fingerprint;

const SERVICE: &str = "_macula._udp.local.";
const ID: &str = "id";
const PAIR: &str = "pair";

/// A neighbour that announces itself. Anybody can announce anything: what it is worth is found out by pairing.
struct Neighbour {
    node: NodeId,
    waits: bool,
    addresses: Vec<SocketAddr>,
}

/// Addresses of the node with this fingerprint or, without one, of the only node that waits for an owner.
pub async fn in_the_network(fingerprint: Option<Fingerprint>, wait: Duration) -> Result<Vec<SocketAddr>> {
    let daemon = ServiceDaemon::new().context("cannot look for nodes in the local network (mDNS)")?;
    let events = daemon.browse(SERVICE)?;
    let mut found: Vec<Neighbour> = Vec::new();
    let look = async {
        while let Ok(event) = events.recv_async().await {
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let Some(neighbour) = neighbour(&service) else { continue };
            if fingerprint.is_some_and(|wanted| wanted == Fingerprint::of(&neighbour.node)) {
                return Some(neighbour.addresses);
            }
            found.retain(|other| other.node != neighbour.node);
            found.push(neighbour);
        }
        None
    };
    let known = tokio::time::timeout(wait, look).await.ok().flatten();
    let _ = daemon.shutdown();
    match (known, fingerprint) {
        (Some(addresses), _) => Ok(addresses),
        (None, Some(_)) => bail!(
            "the node of this code is not in the local network ({} others are); say where it is with --node ADDR",
            found.len()
        ),
        (None, None) => the_one_that_waits(found),
    }
}

fn the_one_that_waits(found: Vec<Neighbour>) -> Result<Vec<SocketAddr>> {
    let mut waiting: Vec<_> = found.into_iter().filter(|neighbour| neighbour.waits).collect();
    match (waiting.pop(), waiting.len()) {
        (Some(one), 0) => Ok(one.addresses),
        (None, _) => {
            bail!("no node in the local network waits for an owner; say where it is with --node ADDR")
        }
        (Some(_), others) => bail!(
            "{} nodes in the local network wait for an owner: say the whole code, or which one with --node ADDR",
            others + 1
        ),
    }
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
    Some(Neighbour { node, waits: service.get_property_val_str(PAIR) == Some("1"), addresses })
}

fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match (ip.to_ip_addr(), ip) {
        (IpAddr::V6(v6), ScopedIp::V6(scoped)) if v6.is_unicast_link_local() => {
            Some(SocketAddrV6::new(v6, port, 0, scoped.scope_id().index).into())
        }
        (ip, _) => Some(SocketAddr::new(ip, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_secret_finds_its_node_only_where_one_waits() {
        let neighbour = |seed: u8, waits| Neighbour {
            node: NodeId::from_bytes([seed; 32]),
            waits,
            addresses: vec![SocketAddr::from(([192, 0, 2, seed], 4433))],
        };
        let found = the_one_that_waits(vec![neighbour(1, false), neighbour(2, true)]).unwrap();
        assert_eq!(found[0].ip().to_string(), "192.0.2.2");
        for (neighbours, word) in [
            (vec![neighbour(1, false)], "no node"),
            (vec![neighbour(1, true), neighbour(2, true)], "2 nodes"),
        ] {
            assert!(the_one_that_waits(neighbours).unwrap_err().to_string().contains(word));
        }
    }
}
