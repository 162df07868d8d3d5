//! The mesh: the one process that talks to other nodes.
//!
//! It holds this boot's session key, never the node key; it writes nothing to disk and sees no slot. Other services get
//! streams to peers as passed file descriptors. What a crash loses is connections: peers and services make new ones.

mod access;
mod access_log;
mod admission;
mod announced;
mod apps;
mod authority;
mod bus_api;
mod dial;
mod gateway;
mod guests;
mod hello;
mod lan;
mod link;
mod links;
mod moved;
mod punch;
mod relay;
mod revocations;
mod session;
mod station;
mod streams;
mod topics;
mod tunnels;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_gateway::TcpPort;
use mesh_proto::Source;
use mesh_transport::tcp::TunnelTls;
use mesh_transport::{AlpnPort, Dialer};
use os_config::Config;
use services_api::{bus, clock, daemon};
use tokio::net::TcpListener;

use links::Links;
use relay::Relaying;
use tunnels::Tunnels;

const RETRY: Duration = Duration::from_secs(10);
const BYTES_PER_MBIT: u32 = 1_000_000 / 8;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let config = Config::load().context("config.toml is not usable; correct it and restart mesh")?;
    let listener = bus::listen("mesh")?;
    let session = session::Session::certified().await?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.mesh.port));
    let credentials = session.credentials()?;
    let certain = clock::certain_unix;
    let (endpoint, paths, outgoing) =
        mesh_transport::endpoint_with_paths(address, &credentials, certain, Some(session.reset_key()))?;
    tracing::info!("node {} listens on UDP {}", session.node(), endpoint.local_addr()?);

    let port = Arc::new(AlpnPort::new(endpoint.clone()));
    let tls = Arc::new(TunnelTls::new(&credentials, certain)?);
    let dialer = Arc::new(Dialer::new(endpoint, &credentials, certain)?);
    session.install(&dialer, &port, &tls)?;
    let relaying = Relaying::new(config.mesh.relay.then_some(config.mesh.relay_mbit * BYTES_PER_MBIT));
    let tunnels = Tunnels::new(tls.clone());
    let links = Links::new(session.node(), config.owner, (dialer.clone(), paths), relaying, tunnels);
    for seed in &config.mesh.seeds {
        links.learn(seed.node, &[seed.address], Source::Seed);
    }
    tokio::spawn(links.clone().accept_peers());
    tokio::spawn(links.clone().keep_dialing());
    let tcp_links = links.clone();
    let tcp = Arc::new(TcpPort::new(move |from| tcp_links.admits_connection(from)));
    tokio::spawn(relay::carry(links.clone(), outgoing));
    tokio::spawn(punch::keep_upgrading(links.clone()));
    tokio::spawn(moved::watch(links.clone()));
    station::open(&links, &port, config.clients.clone()).await?;
    tokio::spawn(session::keep_fresh(session::RENEW, session::next, (dialer, port.clone(), tls)));
    if config.gateway.enabled {
        tokio::spawn(gateway::run(links.clone(), config.clone(), port, tcp.clone()));
    }
    if config.mesh.mdns {
        tokio::spawn(lan::meet_neighbours(
            links.clone(),
            config.name.clone(),
            config.mesh.port,
            config.gateway.enabled,
        ));
    }
    if config.mesh.relay {
        tokio::spawn(tunnels::take(links.clone(), tcp.clone()));
    }
    if config.gateway.enabled || config.mesh.relay {
        tokio::spawn(listen_on_tcp(tcp, config.mesh.port));
    }
    tokio::spawn(show_status(links.clone()));
    daemon::ready();
    bus_api::serve(listener, links).await
}

/// A port that is taken is no reason to go without QUIC.
async fn listen_on_tcp(tcp: Arc<TcpPort>, port: u16) {
    loop {
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => tcp.clone().serve(listener).await,
            Err(e) => tracing::error!("cannot bind TCP {port}: {e}; again in {} s", RETRY.as_secs()),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn show_status(links: Arc<Links>) {
    let mut shown = usize::MAX;
    loop {
        let peers = links.connected_nodes().len();
        if peers != shown {
            daemon::status(&format!("{peers} peers connected"));
            shown = peers;
        }
        links.changed().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
