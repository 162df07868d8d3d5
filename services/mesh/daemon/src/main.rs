//! The mesh: the one process that talks to other nodes.
//!
//! It holds this boot's session key, never the node key; it writes nothing to disk and sees no slot. Other services get
//! streams to peers as passed file descriptors. What a crash loses is connections: peers and services make new ones.

mod access;
mod access_log;
mod admission;
mod authority;
mod bus_api;
mod gateway;
mod guests;
mod hello;
mod lan;
mod links;
mod revocations;
mod session;
mod station;
mod streams;
mod topics;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_proto::Source;
use mesh_transport::AlpnPort;
use os_config::Config;
use services_api::{bus, clock, daemon};

use links::Links;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let config = Config::load().context("config.toml is not usable; correct it and restart mesh")?;
    let listener = bus::listen("mesh")?;
    let session = session::Session::certified().await?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.mesh.port));
    let credentials = session.credentials()?;
    let endpoint =
        mesh_transport::endpoint(address, &credentials, clock::certain_unix, Some(session.reset_key()))?;
    tracing::info!("node {} listens on UDP {}", session.node(), endpoint.local_addr()?);

    let port = Arc::new(AlpnPort::new(endpoint.clone()));
    session.install(&endpoint, &port)?;
    let links = Links::new(session.node(), config.owner, endpoint.clone());
    for seed in &config.mesh.seeds {
        links.learn(seed.node, &[seed.address], Source::Seed);
    }
    tokio::spawn(links.clone().accept_peers());
    tokio::spawn(links.clone().keep_dialing());
    station::open(&links, &port, config.clients.clone()).await?;
    tokio::spawn(session.keep_fresh(endpoint, port.clone()));
    if config.gateway.enabled {
        tokio::spawn(gateway::run(links.clone(), config.clone(), port));
    }
    if config.mesh.mdns {
        tokio::spawn(lan::meet_neighbours(links.clone(), config.name.clone(), config.mesh.port));
    }
    tokio::spawn(show_status(links.clone()));
    daemon::ready();
    bus_api::serve(listener, links).await
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
