//! What all links' tasks share: the report for D-Bus and the supervisor, and the name servers.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use services_api::report::{LinkReport, WifiNetwork, WifiReport};
use services_api::{bus, daemon};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::links::{Kind, Link};

/// As many as a resolver of the C library reads.
const NAME_SERVERS_MAX: usize = 3;
/// Whoever asks which Wi-Fi networks are there waits so long for a look around; then what is known must do.
const LOOK_MAX: Duration = Duration::from_secs(12);

#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    /// Somebody wants a look around.
    pub look: Notify,
    /// Counts looks.
    looks: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<u32, Link>,
    dhcp: BTreeMap<u32, &'static str>,
    name_servers: BTreeMap<u32, Vec<Ipv4Addr>>,
    /// What the radio does, and the name of its link.
    wifi: Option<(String, WifiReport)>,
    around: Vec<WifiNetwork>,
    looked_at: Option<Instant>,
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

    /// What the radio called `link` does.
    pub fn set_wifi(&self, link: &str, report: WifiReport) {
        let mut state = self.lock();
        let report = Some((link.to_owned(), report));
        if state.wifi != report {
            state.wifi = report;
            state.publish();
        }
    }

    /// After a look around.
    pub fn set_around(&self, around: Vec<WifiNetwork>) {
        let mut state = self.lock();
        (state.around, state.looked_at) = (around, Some(Instant::now()));
        drop(state);
        self.looks.send_modify(|count| *count += 1);
    }

    /// The networks in reach; `None` if no link is a radio.
    pub async fn wifi_networks(&self, max_age: Duration) -> Option<Vec<WifiNetwork>> {
        let mut looks = self.looks.subscribe();
        {
            let state = self.lock();
            if !state.links.values().any(|link| link.wireless) {
                return None;
            }
            if state.looked_at.is_some_and(|at| at.elapsed() <= max_age) {
                return Some(state.around.clone());
            }
        }
        self.look.notify_one();
        let _ = tokio::time::timeout(LOOK_MAX, looks.changed()).await;
        Some(self.lock().around.clone())
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
            wifi: link.wireless.then(|| self.wifi_of(link).cloned().unwrap_or_default()),
        }
    }

    fn wifi_of(&self, link: &Link) -> Option<&WifiReport> {
        self.wifi.as_ref().filter(|(name, _)| *name == link.name).map(|(_, report)| report)
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
                let wifi = self.wifi_of(link).map(wifi_text).unwrap_or_default();
                format!("{} {} ({dhcp}{wifi})", link.name, link.addresses.join(" "))
            })
            .collect();
        if texts.is_empty() { "no Ethernet link".into() } else { texts.join(", ") }
    }
}

/// Without the signal, which changes all the time.
fn wifi_text(report: &WifiReport) -> String {
    match (report.ssid.as_str(), report.note.as_str()) {
        ("", "") => String::new(),
        ("", note) => format!(", {note}"),
        (ssid, _) => format!(", in {ssid}"),
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
