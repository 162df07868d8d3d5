//! Nodes by the names that they announce in the local network.

use std::net::{IpAddr, UdpSocket};

use mdns_sd::{ServiceDaemon, ServiceInfo};
use serde_json::Value;

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

/// Announcements take their time on a busy machine, and a command waits three seconds for them.
fn patiently<T>(attempt: impl Fn() -> Option<T>) -> T {
    (0..20).find_map(|_| attempt()).expect("nothing is heard of the node")
}

fn answer(owner: &Owner, node: &str) -> Option<Value> {
    let output = owner.run(node, "status --json");
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
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

    let one =
        |found: &Value, name: &str| found.as_array().unwrap().iter().find(|n| n["name"] == name).cloned();
    let (first, second) = patiently(|| {
        let found = owner.json("", "find");
        Some((one(&found, &attic)?, one(&found, &cellar)?))
    });
    assert_eq!(first["node"], here.id);
    assert_eq!(first["addresses"][0], here.address);
    assert_eq!((&first["waits_for_owner"], &second["waits_for_owner"]), (&false.into(), &true.into()));

    let status = |node: &str| patiently(|| answer(&owner, node));
    assert_eq!(status(&attic)["name"], attic.as_str());
    let short = here.id[here.id.len() - 8..].to_lowercase();
    assert_eq!(status(&format!("macula-{short}.local"))["node"], here.id);
    // The name stands for whoever answered to it first.
    let known = owner.json("", "known");
    let by_name = |n: &&Value| n["address"] == format!("{attic}:4433");
    assert_eq!(known.as_array().unwrap().iter().find(by_name).unwrap()["node"], here.id);
    let met = |line: &str| line.contains(&attic) && line.contains("met before");
    patiently(|| owner.ok("", "find").lines().any(met).then_some(()));

    let impostor = TestNode::start_at(63, &owner.id, &at);
    let _too = Announced::new(&impostor, &attic, &[]);
    assert_eq!(status(&attic)["node"], here.id);
    let error = owner.error("nobody-of-this-name", "status");
    assert!(error.contains("maculactl find"), "{error}");
}
