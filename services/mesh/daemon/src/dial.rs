//! Dialling: a peer's addresses first, and a little later whatever else may lead to it. What answers first is used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mesh_proto::Source;
use mesh_transport::Via;
use os_identity::NodeId;
use quinn::Connection;
use tokio::task::JoinSet;

use crate::links::Links;
use crate::{announced, relay, tunnels};

const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// Between the starts of attempts at a peer's several addresses (RFC 8305 calls it the connection attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long direct ways are tried alone.
const HEAD_START: Duration = Duration::from_millis(500);
/// Relays asked for one peer.
const MAX_RELAYS: usize = 4;

/// How long UDP is tried before TCP: it is worth waiting for.
const WITHOUT_UDP: Duration = Duration::from_secs(2);
/// Of a seed's addresses.
const MAX_TUNNELS: usize = 2;

type Attempts = JoinSet<Result<Connection>>;

impl Links {
    /// Connects to a peer in whatever way there is. `search`: even by relays that only the DHT knows.
    pub async fn dial(self: &Arc<Self>, node: NodeId, search: bool) -> Result<Connection> {
        let addresses = self.known_addresses(&node);
        let mut attempts = Attempts::new();
        let relays = self.relays_for(&node);
        let head_start = if addresses.is_empty() { Duration::ZERO } else { HEAD_START };
        if search {
            let links = self.clone();
            let after = if relays.is_empty() { head_start } else { head_start + HEAD_START };
            attempts.spawn(async move {
                tokio::time::sleep(after).await;
                announced::connect(&links, node).await
            });
        }
        self.try_relays(&mut attempts, node, relays, head_start);
        self.try_tunnels(&mut attempts, node, &addresses);
        self.try_addresses(&mut attempts, node, addresses);
        let result = within(DIAL_TIMEOUT, first(attempts)).await;
        match result {
            Ok(connection) => {
                self.add(node, connection.clone(), true);
                Ok(connection)
            }
            Err(e) => {
                self.dial_failed(&node, &format!("{e:#}"));
                Err(e)
            }
        }
    }

    /// Connects straight to one of these addresses.
    pub async fn dial_direct(
        self: &Arc<Self>,
        node: NodeId,
        addresses: Vec<SocketAddr>,
        patience: Duration,
    ) -> Result<Connection> {
        let mut attempts = Attempts::new();
        self.try_addresses(&mut attempts, node, addresses);
        let connection = within(patience, first(attempts)).await?;
        self.add(node, connection.clone(), true);
        Ok(connection)
    }

    pub fn known_addresses(&self, node: &NodeId) -> Vec<SocketAddr> {
        self.state().book.get(node).map(|p| p.addresses.clone()).unwrap_or_default()
    }

    fn try_addresses(&self, attempts: &mut Attempts, node: NodeId, addresses: Vec<SocketAddr>) {
        for (i, address) in addresses.into_iter().enumerate() {
            let dialer = self.dialer.clone();
            attempts.spawn(async move {
                tokio::time::sleep(ATTEMPT_DELAY * i as u32).await;
                let result = dialer.connect(v6(address), Some(&node)).await;
                result.map(|(connection, _)| connection).with_context(|| format!("{address}"))
            });
        }
    }

    fn try_relays(
        self: &Arc<Self>,
        attempts: &mut Attempts,
        node: NodeId,
        relays: Vec<NodeId>,
        after: Duration,
    ) {
        for relay in relays.into_iter().take(MAX_RELAYS) {
            let links = self.clone();
            attempts.spawn(async move {
                tokio::time::sleep(after).await;
                links.connect_through(relay, node).await.with_context(|| format!("through {relay}"))
            });
        }
    }

    /// Only to seeds, which the owner has named: a stranger's word makes no TCP connections.
    fn try_tunnels(self: &Arc<Self>, attempts: &mut Attempts, node: NodeId, addresses: &[SocketAddr]) {
        if self.state().book.get(&node).is_none_or(|p| p.source != Source::Seed) {
            return;
        }
        for address in addresses.iter().take(MAX_TUNNELS).copied() {
            let links = self.clone();
            attempts.spawn(async move {
                tokio::time::sleep(WITHOUT_UDP).await;
                tunnels::connect(&links, address, node).await.with_context(|| format!("{address} over TCP"))
            });
        }
    }

    /// Asks the relay first: it knows at once when the peer is not there.
    pub async fn connect_through(self: &Arc<Self>, relay: NodeId, node: NodeId) -> Result<Connection> {
        relay::ask(self, relay, node).await?;
        let address = self.paths.address(Via::Relay { relay, node });
        let (connection, _) = self.dialer.connect(address, Some(&node)).await?;
        Ok(connection)
    }

    /// Connected relays, nearest first.
    fn relays_for(&self, node: &NodeId) -> Vec<NodeId> {
        let state = self.state();
        let mut relays: Vec<_> = state
            .connections
            .iter()
            .filter(|(relay, _)| *relay != node)
            .filter_map(|(relay, links)| {
                let offering =
                    links.iter().filter(|l| l.carries() && l.heard.is_some_and(|h| h.offers_relay));
                Some((offering.map(|l| l.connection.rtt()).min()?, *relay))
            })
            .collect();
        relays.sort();
        relays.into_iter().map(|(_, relay)| relay).collect()
    }
}

/// The first attempt that succeeds; the others are given up.
async fn first(mut attempts: Attempts) -> Result<Connection> {
    let mut failures = Vec::new();
    while let Some(done) = attempts.join_next().await {
        match done? {
            Ok(connection) => return Ok(connection),
            Err(e) => failures.push(format!("{e:#}")),
        }
    }
    if failures.is_empty() {
        bail!("no address is known, and no relay is connected");
    }
    bail!("{}", failures.join("; "))
}

async fn within(limit: Duration, work: impl Future<Output = Result<Connection>>) -> Result<Connection> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(anyhow!("no answer within {} s", limit.as_secs())),
    }
}

/// The endpoint's socket is IPv6: IPv4 peers are reached through mapped addresses.
pub fn v6(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(a) => SocketAddr::from((a.ip().to_ipv6_mapped(), a.port())),
        v6 => v6,
    }
}
