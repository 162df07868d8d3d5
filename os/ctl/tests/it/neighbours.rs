//! Nodes by the names that they announce in the local network.

use std::net::{IpAddr, UdpSocket};

use mdns_sd::{ServiceDaemon, ServiceInfo};

use crate::owner::Owner;
use crate::test_node::TestNode;

/// This machine as others in its network know it. No packet is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("203.0.113.1:9").expect("this machine has a way out of itself");
    socket.local_addr().unwrap().ip()
}

/// Until it is dropped.
struct Announced(ServiceDaemon);

impl Announced {
    fn new(node: &TestNode, name: &str, more: &[(&str, &str)]) -> Self {
        let daemon = ServiceDaemon::new().unwrap();
        let (ip, port) = node.address.rsplit_once(':').unwrap();
        let short = &node.id[node.id.len() - 8..];
        let properties = [&[("id", node.id.as_str()), ("name", name)], more].concat();
        let (instance, host) = (format!("{name} {short}"), format!("macula-{}.local.", short.to_lowercase()));
        let (ip, port): (IpAddr, u16) = (ip.parse().unwrap(), port.parse().unwrap());
        let info =
            ServiceInfo::new("_macula._udp.local.", &instance, &host, ip, port, &properties[..]).unwrap();
        daemon.register(info).unwrap();
        Self(daemon)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

#[test]
fn a_node_is_found_and_addressed_by_its_name() {
    let owner = Owner::new();
    let at = format!("{}:0", own_address());
    // Names that no other machine in this network has.
    let process = std::process::id();
    let (attic, cellar) = (format!("attic-{process}"), format!("cellar-{process}"));
    let here = TestNode::start_at(61, &owner.id, &at);
    here.state.lock().unwrap().name.clone_from(&attic);
    let waiting = TestNode::start_at(62, &owner.id, &at);
    let _announced =
        [Announced::new(&here, &attic, &[]), Announced::new(&waiting, &cellar, &[("pair", "1")])];

    let found = owner.json("", "find");
    let one = |name: &str| found.as_array().unwrap().iter().find(|n| n["name"] == name).cloned();
    let (first, second) = (one(&attic).unwrap(), one(&cellar).unwrap());
    assert_eq!(first["node"], here.id);
    assert_eq!(first["addresses"][0], here.address);
    assert_eq!((&first["waits_for_owner"], &second["waits_for_owner"]), (&false.into(), &true.into()));

    assert_eq!(owner.json(&attic, "status")["name"], attic.as_str());
    let short = here.id[here.id.len() - 8..].to_lowercase();
    assert_eq!(owner.json(&format!("macula-{short}.local"), "status")["node"], here.id);
    // The name stands for whoever answered to it first.
    let known = owner.json("", "known");
    let by_name = |n: &&serde_json::Value| n["address"] == format!("{attic}:4433");
    assert_eq!(known.as_array().unwrap().iter().find(by_name).unwrap()["node"], here.id);
    assert!(owner.ok("", "find").lines().any(|l| l.contains(&attic) && l.contains("met before")));

    let impostor = TestNode::start_at(63, &owner.id, &at);
    let _too = Announced::new(&impostor, &attic, &[]);
    assert_eq!(owner.json(&attic, "status")["node"], here.id);
    let error = owner.error("nobody-of-this-name", "status");
    assert!(error.contains("maculactl find"), "{error}");
}
