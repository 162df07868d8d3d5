//! Ten thousand peers that are connected and say nothing.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_transport::{client_config, system_clock};
use os_identity::NodeKey;
use quinn::Endpoint;

use crate::support::{Machine, resident_kib};
use crate::{bare, figure, say};

pub const BARE_SERVER: &str = "bare-server";
const PEERS: usize = 10_000;
/// From one address so many may come at once.
const PER_ADDRESS: usize = 50;

pub async fn idle() {
    say("10,000 idle peers");
    let plain = bare_server().await;
    let node = Machine::start(104, &[]).await;
    let before = node.resident_kib();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
    let connections = connect(to, |endpoint| {
        let credentials = bare::credentials(&NodeKey::generate().unwrap());
        let config = client_config(&credentials, system_clock).unwrap();
        endpoint.connect_with(config, to, "macula.node").unwrap()
    });
    let connections = connections.await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let there = connections.iter().filter(|c| c.close_reason().is_none()).count();
    let grown = node.resident_kib() - before;
    figure("connected peers that idle", there as f64, "", None);
    figure("memory of mesh for them", grown as f64 / 1024.0, "MiB", None);
    figure("memory for each", grown as f64 / there as f64, "KiB", Some(plain));
}

/// A server of bare QUIC in a process of its own: KiB for each of as many connections.
async fn bare_server() -> f64 {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .arg(BARE_SERVER)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let to: SocketAddr = line.trim().parse().unwrap();
    let before = resident_kib(process.id());
    let config = bare::client_config();
    let connections = connect(to, |e| e.connect_with(config.clone(), to, "macula.node").unwrap()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let grown = resident_kib(process.id()) - before;
    process.kill().unwrap();
    process.wait().unwrap();
    grown as f64 / connections.len() as f64
}

/// What [`bare_server`] starts: says where it listens, and keeps what comes.
pub async fn serve_bare() {
    let server = bare::server();
    println!("{}", server.local_addr().unwrap());
    let mut kept = Vec::with_capacity(PEERS);
    while let Some(incoming) = server.accept().await {
        kept.push(incoming.await.unwrap());
    }
}

async fn connect(to: SocketAddr, dial: impl Fn(&Endpoint) -> quinn::Connecting) -> Vec<quinn::Connection> {
    let mut connections = Vec::with_capacity(PEERS);
    for network in 0..PEERS / PER_ADDRESS {
        let ip = Ipv4Addr::new(127, 1, (network / 250) as u8, (network % 250 + 1) as u8);
        let endpoint = Endpoint::client(SocketAddr::new(IpAddr::V4(ip), 0)).unwrap();
        for _ in 0..PER_ADDRESS {
            connections.push(dial(&endpoint).await.expect("a peer is let in"));
        }
        if network % 20 == 19 {
            say(&format!("{} connected to {to}", connections.len()));
        }
    }
    connections
}
