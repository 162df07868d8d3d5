//! Where the node of a code is in the local network.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use pairing_proto::Fingerprint;

use crate::neighbours::{self, Neighbour};

/// Addresses of the node with this fingerprint or, without one, of the only node that waits for an owner.
pub async fn in_the_network(fingerprint: Option<Fingerprint>, wait: Duration) -> Result<Vec<SocketAddr>> {
    let is_it = |neighbour: &Neighbour| fingerprint == Some(Fingerprint::of(&neighbour.node));
    let mut found = neighbours::look(wait, |found| found.iter().any(is_it)).await?;
    match (found.iter().position(is_it), fingerprint) {
        (Some(at), _) => Ok(found.swap_remove(at).addresses),
        (None, Some(_)) => bail!(
            "the node of this code is not in the local network ({} others are); say where it is with --node ADDR",
            found.len()
        ),
        (None, None) => the_one_that_waits(found),
    }
}

fn the_one_that_waits(found: Vec<Neighbour>) -> Result<Vec<SocketAddr>> {
    let mut waiting: Vec<_> = found.into_iter().filter(|neighbour| neighbour.waits).collect();
    match (waiting.pop(), waiting.len()) {
        (Some(one), 0) => Ok(one.addresses),
        (None, _) => {
            bail!("no node in the local network waits for an owner; say where it is with --node ADDR")
        }
        (Some(_), others) => bail!(
            "{} nodes in the local network wait for an owner: say the whole code, or which one with --node ADDR",
            others + 1
        ),
    }
}

#[cfg(test)]
mod tests {
    use os_identity::NodeId;

    use super::*;

    #[test]
    fn a_typed_secret_finds_its_node_only_where_one_waits() {
        let neighbour = |seed: u8, waits| Neighbour {
            node: NodeId::from_bytes([seed; 32]),
            name: String::new(),
            host: String::new(),
            waits,
            addresses: vec![SocketAddr::from(([192, 0, 2, seed], 4433))],
        };
        let found = the_one_that_waits(vec![neighbour(1, false), neighbour(2, true)]).unwrap();
        assert_eq!(found[0].ip().to_string(), "192.0.2.2");
        for (neighbours, word) in [
            (vec![neighbour(1, false)], "no node"),
            (vec![neighbour(1, true), neighbour(2, true)], "2 nodes"),
        ] {
            assert!(the_one_that_waits(neighbours).unwrap_err().to_string().contains(word));
        }
    }
}
