//! Machines with an owner, and the owner's tokens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::{Ability, Capability, Delegation, Did, Resource, Subject, jwt};

use super::Machine;

pub const OWNER: u8 = 70;

/// A token that the owner issues to a node, good for a minute.
pub fn token(node: NodeId, ability: &str, resource: &str) -> String {
    let owner = NodeKey::from_seed(&[OWNER; 32]);
    let did = |id: NodeId| Did::parse(&id.to_string()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let delegation = Delegation {
        issuer: did(owner.node_id()),
        audience: did(node),
        subject: Subject::Implied,
        capabilities: vec![Capability {
            ability: Ability::parse(ability).unwrap(),
            resource: Resource::parse(resource).unwrap(),
        }],
        policy: Policy::default(),
        not_before: None,
        expires: Some(now + 60),
        nonce: vec![7; 12],
        meta: BTreeMap::new(),
        proofs: vec![],
    };
    String::from_utf8(jwt::issue(&delegation, &owner).unwrap()).unwrap()
}

/// The gateway comes up a moment after the mesh.
pub async fn machine(seed: u8, seeds: &[&Machine], public: &str) -> Machine {
    let owner = NodeKey::from_seed(&[OWNER; 32]);
    let machine =
        Machine::start_with(seed, seeds, Some(&owner), &format!("[gateway]\npublic = [{public}]")).await;
    listening(&machine).await;
    machine
}

pub async fn listening(machine: &Machine) {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(("::1", machine.port)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "no gateway");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
