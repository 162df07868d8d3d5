//! Signed requests, as the console makes them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ipld_core::ipld::Ipld;
use os_identity::{NodeId, NodeKey};
use os_ucan::invocation::{self, Order};
use os_ucan::{TokenId, chain};
use sha2::{Digest, Sha256};

use super::Machine;
use super::curl::ask;
use super::owned::OWNER;

pub fn owner() -> NodeKey {
    NodeKey::from_seed(&[OWNER; 32])
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The epoch that a node is in, as its refusal says.
pub async fn epoch(machine: &Machine) -> Vec<u8> {
    let (status, _, body) = ask(machine, "/control/os/status", &["--data", ""]).await;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 401, "{problem}");
    assert!(problem["time"].as_u64().unwrap().abs_diff(now()) < 60, "{problem}");
    HEXLOWER.decode(problem["epoch"].as_str().unwrap().as_bytes()).unwrap()
}

/// An order about `node`, which carries it out.
pub fn order(node: NodeId, epoch: &[u8], command: &str, path: &str, body: &str) -> Order {
    let hash: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    let mut nonce = vec![0; 16];
    getrandom::fill(&mut nonce).unwrap();
    Order {
        subject: node.into(),
        audience: None,
        command: command.to_owned(),
        args: BTreeMap::from([
            ("epoch".to_owned(), Ipld::Bytes(epoch.to_vec())),
            ("uri".to_owned(), Ipld::String(format!("macula:{node}"))),
            ("path".to_owned(), Ipld::String(path.to_owned())),
            ("body".to_owned(), Ipld::Bytes(hash.to_vec())),
        ]),
        proofs: vec![],
        nonce,
        expires: Some(now() + 60),
    }
}

/// The header of an order, with its proofs, the leaf first.
pub fn header(order: &Order, key: &NodeKey, tokens: &[Vec<u8>]) -> String {
    let order = Order { proofs: tokens.iter().rev().map(|t| TokenId::of(t)).collect(), ..order.clone() };
    let mut header =
        format!("authorization: Macula {}", BASE64URL_NOPAD.encode(&invocation::issue(&order, key).unwrap()));
    for line in chain::to_text(tokens).lines() {
        header.push(',');
        header.push_str(line);
    }
    header
}
