//! What all links' tasks share: the report for D-Bus and the supervisor, and the name servers.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use services_api::report::LinkReport;
use services_api::{bus, daemon};

use crate::links::{Kind, Link};

/// As many as a resolver of the C library reads.
const NAME_SERVERS_MAX: usize = 3;

#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<u32, Link>,
    dhcp: BTreeMap<u32, &'static str>,
    name_servers: BTreeMap<u32, Vec<Ipv4Addr>>,
    /// As last told.
    status: String,
    resolver: String,
}

impl Shared {
    /// Takes what the kernel says. Links that are gone take their state with them.
    pub fn set_links(&self, links: BTreeMap<u32, Link>) {
        let mut state = self.lock();
        state.dhcp.retain(|index, _| links.contains_key(index));
        state.name_servers.retain(|index, _| links.contains_key(index));
        state.links = links;
        state.publish();
    }

    pub fn set_dhcp(&self, index: u32, text: &'static str) {
        let mut state = self.lock();
        if state.dhcp.insert(index, text) != Some(text) {
            state.publish();
        }
    }

    pub fn set_name_servers(&self, index: u32, servers: Vec<Ipv4Addr>) {
        let mut state = self.lock();
        state.name_servers.insert(index, servers);
        state.publish();
    }

    pub fn report(&self) -> Vec<LinkReport> {
        let state = self.lock();
        state.links.values().map(|link| state.link_report(link)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn link_report(&self, link: &Link) -> LinkReport {
        let mac = match link.kind {
            Kind::Ethernet(mac) => mac.map(|byte| format!("{byte:02x}")).join(":"),
            Kind::Loopback | Kind::Other => String::new(),
        };
        let dhcp = (*self.dhcp.get(&link.index).unwrap_or(&"none")).to_owned();
        LinkReport {
            name: link.name.clone(),
            up: link.carrier.present,
            mac,
            addresses: link.addresses.clone(),
            dhcp,
        }
    }

    /// Tells the supervisor and writes `resolv.conf`, each only if something changed.
    fn publish(&mut self) {
        let status = self.status_text();
        if status != self.status {
            daemon::status(&status);
            self.status = status;
        }
        let resolver = resolver_text(&self.name_servers);
        if resolver != self.resolver {
            match write_resolver(&resolver) {
                Ok(()) => self.resolver = resolver,
                Err(error) => tracing::warn!("cannot write {}: {error}", resolver_path().display()),
            }
        }
    }

    fn status_text(&self) -> String {
        let ethernet = self.links.values().filter(|link| matches!(link.kind, Kind::Ethernet(_)));
        let texts: Vec<String> = ethernet
            .map(|link| {
                let dhcp = self.dhcp.get(&link.index).unwrap_or(&"starting");
                format!("{} {} ({dhcp})", link.name, link.addresses.join(" "))
            })
            .collect();
        if texts.is_empty() { "no Ethernet link".into() } else { texts.join(", ") }
    }
}

fn resolver_text(name_servers: &BTreeMap<u32, Vec<Ipv4Addr>>) -> String {
    let mut servers: Vec<&Ipv4Addr> = Vec::new();
    for server in name_servers.values().flatten() {
        if servers.len() < NAME_SERVERS_MAX && !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

fn resolver_path() -> PathBuf {
    bus::run_dir().join("net/resolv.conf")
}

/// Readers see the old file or the new one, never a part.
fn write_resolver(text: &str) -> std::io::Result<()> {
    let path = resolver_path();
    let new = path.with_extension("new");
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    fs::write(&new, text)?;
    fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_few_and_different() {
        let server = |last| Ipv4Addr::new(192, 0, 2, last);
        let servers =
            BTreeMap::from([(2, vec![server(1), server(2)]), (3, vec![server(2), server(3), server(4)])]);
        assert_eq!(
            resolver_text(&servers),
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
        );
        assert_eq!(resolver_text(&BTreeMap::new()), "");
    }
}
