//! Three real mesh processes: two that know each other's name alone, and a relay that both are connected to.

use std::time::{Duration, Instant};

use crate::support::{Machine, Procedure};
use services_api::report::PeerReport;

const PATIENCE: Duration = Duration::from_secs(20);

async fn way(from: &Machine, to: &Machine) -> Option<PeerReport> {
    let peers: Vec<PeerReport> = serde_json::from_str(&from.mesh().await.peers().await.unwrap()).unwrap();
    peers.into_iter().find(|p| p.node == to.key.node_id().to_string() && p.connected)
}

async fn meet(a: &Machine, b: &Machine) {
    for _ in 0..200 {
        if way(a, b).await.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("they do not meet");
}

/// Over loopback, where no relay vouches for an address: the detour stays.
#[tokio::test(flavor = "current_thread")]
async fn a_relay_carries_calls_between_peers_that_know_only_names() {
    let relay = Machine::start_with(31, &[], None, "relay = true").await;
    let a = Machine::start(32, &[&relay]).await;
    let b = Machine::start(33, &[&relay]).await;
    let _service = b.serve("test/double_v1", "peer", Procedure::Double).await;
    meet(&a, &relay).await;
    meet(&b, &relay).await;
    let began = Instant::now();
    // Larger than any packet, so that packets of all sizes have to get through.
    let message = vec![7; 500_000];
    assert_eq!(a.call(&b, "test/double_v1", &message, PATIENCE).await, Ok(message.repeat(2)));
    println!("1.5 MB through the relay took {:?}", began.elapsed());
    for (from, to) in [(&a, &b), (&b, &a)] {
        let way = way(from, to).await.unwrap();
        assert_eq!(way.via, relay.key.node_id().to_string());
        assert_eq!(way.address, "");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_that_offers_no_relay_carries_nothing() {
    let middle = Machine::start(34, &[]).await;
    let a = Machine::start(35, &[&middle]).await;
    let b = Machine::start(36, &[&middle]).await;
    meet(&a, &middle).await;
    meet(&b, &middle).await;
    let error = a.mesh().await.ping(b.key.node_id().as_bytes(), 5000).await.unwrap_err().to_string();
    assert!(error.contains("in the DHT"), "{error}");
}

/// `dht`, which knows one relay and its address.
struct Dht(Vec<u8>, String);

#[zbus::interface(name = "io.macula.Dht1")]
impl Dht {
    fn find_relays(&self, _node: Vec<u8>) -> Vec<(Vec<u8>, Vec<String>)> {
        vec![(self.0.clone(), vec![self.1.clone()])]
    }
}

/// The relay's address is a real one of this machine, since strangers' loopback addresses are not dialled.
#[tokio::test(flavor = "current_thread")]
async fn a_stranger_finds_the_relay_in_the_dht() {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Some(ip) = probe.connect("192.0.2.1:9").ok().and_then(|()| probe.local_addr().ok()).map(|a| a.ip())
    else {
        return println!("this machine has no address but loopback: nothing to try");
    };
    let relay = Machine::start_with(41, &[], None, "relay = true").await;
    let b = Machine::start(42, &[&relay]).await;
    meet(&b, &relay).await;
    let a = Machine::start(43, &[]).await;
    let (id, at) = (relay.key.node_id().as_bytes().to_vec(), format!("{ip}:{}", relay.port));
    let listener = a.listen_as("dht");
    tokio::spawn(async move {
        services_api::bus::serve(listener, &[], |builder, _| {
            builder.serve_at("/io/macula/Dht", Dht(id.clone(), at.clone()))
        })
        .await
    });
    a.mesh().await.ping(b.key.node_id().as_bytes(), 10_000).await.unwrap();
    assert!(way(&a, &relay).await.is_some_and(|p| p.relay && p.via.is_empty()));
}

/// The cap is the relay's: 2 Mbit/s, of which one peer gets half.
#[tokio::test(flavor = "current_thread")]
async fn a_relay_carries_no_more_than_its_cap() {
    let relay = Machine::start_with(37, &[], None, "relay = true\nrelay_mbit = 2").await;
    let a = Machine::start(38, &[&relay]).await;
    let b = Machine::start(39, &[&relay]).await;
    let _service = b.serve("test/count_v1", "peer", Procedure::Count).await;
    meet(&a, &relay).await;
    meet(&b, &relay).await;
    let began = Instant::now();
    let mut call = a.open_call(&b, "test/count_v1", mesh_proto::rpc::Mode::Both, PATIENCE).await;
    let sent = 600_000;
    call.sender().send(&vec![0; sent]).await.unwrap();
    assert_eq!(call.next().await.unwrap(), Some(sent.to_string().into_bytes()));
    let rate = sent as f64 * 8e-6 / began.elapsed().as_secs_f64();
    println!("{rate:.2} Mbit/s");
    assert!(rate < 1.3, "{rate} Mbit/s where 1 is allowed");
}
