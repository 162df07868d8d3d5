//! The way to a node: QUIC with the owner's key as our identity, and a stream per call.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use mesh_proto::StreamHeader;
use mesh_transport::{Credentials, close_code, system_clock};
use os_identity::{NodeId, NodeKey};
use quinn::{Connection, Endpoint, ReadError, RecvStream, SendStream, VarInt, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use services_api::control;
use services_api::report::PeerReport;

use crate::known_nodes::KnownNodes;
use crate::neighbours::{self, Neighbour};
use crate::target::Target;

/// How long a method may take: the longest is a DHT lookup over slow peers.
const CALL_WAIT: Duration = Duration::from_secs(60);
const OWNER_WAIT: Duration = Duration::from_secs(5);

pub struct Remote {
    endpoint: Endpoint,
    connection: Connection,
    /// Who we are.
    key: NodeId,
    pub node: NodeId,
    /// Delegations that each stream shows.
    ucan: Option<Vec<u8>>,
}

/// Connects and makes sure that it is the node the owner means.
pub async fn connect(
    target: &Target,
    owner: &NodeKey,
    known: &mut KnownNodes,
    wait: Duration,
) -> Result<Remote> {
    let remote = reach(target, known.at(target), owner, wait).await?;
    match remote.check_identity(target, known) {
        Ok(new) => {
            remote.say_if(new, target);
            Ok(remote)
        }
        Err(e) => {
            remote.close().await;
            Err(e)
        }
    }
}

/// Connects to whoever is there, or to the node that `target` names by its id. `expected` is the node that is known there.
pub async fn reach(
    target: &Target,
    expected: Option<NodeId>,
    owner: &NodeKey,
    wait: Duration,
) -> Result<Remote> {
    let credentials = credentials(owner)?;
    let addresses = places(target, expected).await?;
    let mut last = anyhow!("`{}` has no address", target.host);
    for address in addresses {
        match dial(address, &credentials, wait).await {
            Ok((endpoint, connection, node)) => {
                let remote = Remote { endpoint, connection, key: owner.node_id(), node, ucan: None };
                if let Some(pin) = target.pin.filter(|pin| *pin != node) {
                    remote.close().await;
                    bail!("{target} is {node}, not {pin} as --node says");
                }
                return Ok(remote);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Addresses of a target. A name is looked for among the neighbours first: those know their names themselves.
pub async fn places(target: &Target, expected: Option<NodeId>) -> Result<Vec<SocketAddr>> {
    if let Some(label) = target.label() {
        let wanted = target.pin.or(expected);
        let enough = |found: &[Neighbour]| found.iter().any(|n| n.is_called(label) && wanted == Some(n.node));
        // Where there is no mDNS, name servers may still know the name.
        let found = neighbours::look(neighbours::PATIENCE, enough).await.unwrap_or_default();
        let addresses = called(found, label, wanted)?;
        if !addresses.is_empty() {
            return Ok(addresses);
        }
    }
    let looked_up = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let context = || match target.label() {
        Some(label) => {
            format!(
                "no node called `{label}` is in the local network (`maculactl find` lists them), and the name has no address"
            )
        }
        None => format!("cannot find the address of `{}`", target.host),
    };
    Ok(looked_up.with_context(context)?.collect())
}

/// Where the neighbour of this name is. Empty: nowhere.
fn called(found: Vec<Neighbour>, label: &str, wanted: Option<NodeId>) -> Result<Vec<SocketAddr>> {
    let mut called: Vec<_> = found.into_iter().filter(|n| n.is_called(label)).collect();
    if called.iter().any(|n| wanted == Some(n.node)) {
        called.retain(|n| wanted == Some(n.node));
    }
    if called.len() > 1 {
        let each = |n: &Neighbour| n.addresses.first().map(|a| format!("  --node {}@{a}", n.node));
        let which: Vec<_> = called.iter().filter_map(each).collect();
        bail!("{} nodes are called `{label}`; say which:\n{}", called.len(), which.join("\n"));
    }
    Ok(called.pop().map(|one| one.addresses).unwrap_or_default())
}

/// Connects to whoever is there.
pub async fn dial(
    address: SocketAddr,
    credentials: &Credentials,
    wait: Duration,
) -> Result<(Endpoint, Connection, NodeId)> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = mesh_transport::endpoint(SocketAddr::new(any, 0), credentials, system_clock, None)?;
    match tokio::time::timeout(wait, mesh_transport::connect(&endpoint, address, None)).await {
        Ok(Ok((connection, node))) => Ok((endpoint, connection, node)),
        Ok(Err(e)) => Err(e.context(format!("cannot connect to {address}"))),
        Err(_) => bail!(
            "no node answered at {address} within {} s: is it up, and does UDP port {} reach it?",
            wait.as_secs(),
            address.port()
        ),
    }
}

pub fn credentials(owner: &NodeKey) -> Result<Credentials> {
    let session = NodeKey::generate()?;
    let (now, lifetime) = (system_clock(), os_certificate::LIFETIME_S);
    let (leaf, ca) = os_certificate::certify(owner, session.node_id().as_bytes(), now, lifetime)?;
    Ok(Credentials { chain: vec![leaf, ca], session_key: session.to_pkcs8_der()?.to_vec() })
}

impl Remote {
    /// The connection was made by [`dial`].
    pub fn of((endpoint, connection, node): (Endpoint, Connection, NodeId), key: NodeId) -> Self {
        Self { endpoint, connection, key, node, ucan: None }
    }

    pub fn showing(self, ucan: Option<Vec<u8>>) -> Self {
        Self { ucan, ..self }
    }

    /// Trust on first use: whether the node that answered is the one that is known there. True: it is now, and was not.
    pub fn check_identity(&self, target: &Target, known: &mut KnownNodes) -> Result<bool> {
        let new = known.check(&target.to_string(), self.node, target.pin.is_some())?;
        Ok(new && target.pin.is_none())
    }

    pub fn say_if(&self, new: bool, target: &Target) {
        if new {
            eprintln!("first contact with {target}: it is {}, remembered", self.node);
        }
    }

    /// A stream for one of the owner's methods.
    pub async fn open(&self, protocol: &str, method: &str) -> Result<(SendStream, RecvStream)> {
        // The owner may call any method, and older nodes know streams without.
        match &self.ucan {
            Some(_) if !method.is_empty() => self.open_with(StreamHeader::of(protocol, method)).await,
            _ => self.open_with(StreamHeader::new(protocol)).await,
        }
    }

    pub async fn open_with(&self, header: StreamHeader) -> Result<(SendStream, RecvStream)> {
        let header = StreamHeader { ucan: self.ucan.clone(), ..header };
        match mesh_transport::open(&self.connection, &header).await {
            Ok(stream) => Ok(stream),
            Err(e) => Err(self.explain(&header.protocol, e).await),
        }
    }

    pub async fn call<P, T>(&self, protocol: &str, method: &str, params: &P) -> Result<T>
    where
        P: Serialize,
        T: DeserializeOwned,
    {
        let (send, recv) = self.open(protocol, method).await?;
        let mut stream = tokio::io::join(recv, send);
        match tokio::time::timeout(CALL_WAIT, control::call(&mut stream, method, params)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(self.explain(protocol, e).await),
            Err(_) => bail!("the node did not answer `{method}` within {} s", CALL_WAIT.as_secs()),
        }
    }

    /// Says what a stream's end means, where its code tells.
    pub async fn explain(&self, protocol: &str, error: Error) -> Error {
        let code = error.chain().find_map(stream_code);
        match code {
            Some(close_code::REFUSED) if protocol != control::protocol::MESH && self.is_owner().await => {
                anyhow!("the service behind `{protocol}` is not up: try again, the node may be starting")
            }
            Some(close_code::REFUSED) => anyhow!(
                "the node refused `{protocol}`: this key is not its owner; its config.toml should say owner = \"{}\"",
                self.key
            ),
            Some(close_code::BUSY) => anyhow!("the node has too many streams for `{protocol}`: try again"),
            Some(close_code::GONE) => {
                anyhow!(
                    "the service behind `{protocol}` went away: try again, `maculactl units` shows its state"
                )
            }
            _ => error,
        }
    }

    /// Mesh itself answers its owner whatever else is up.
    async fn is_owner(&self) -> bool {
        let ask = async {
            let header = StreamHeader::new(control::protocol::MESH);
            let (send, recv) = mesh_transport::open(&self.connection, &header).await?;
            control::call(&mut tokio::io::join(recv, send), "peers", &()).await
        };
        let answer: Result<Result<Vec<PeerReport>>, _> = tokio::time::timeout(OWNER_WAIT, ask).await;
        answer.is_ok_and(|a| a.is_ok())
    }

    /// Says good-bye, so that the node does not have to find out by itself.
    pub async fn close(self) {
        self.connection.close(VarInt::from_u32(close_code::DONE), b"done");
        let _ = tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }
}

/// The application code with which the far end closed a stream, wherever it hides in the error.
fn stream_code(cause: &(dyn std::error::Error + 'static)) -> Option<u32> {
    let cause = match cause.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref()? as &(dyn std::error::Error + 'static),
        None => cause,
    };
    let code = match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => *code,
        _ => return None,
    };
    u32::try_from(code.into_inner()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(seed: u8, name: &str) -> Neighbour {
        let node = NodeId::from_bytes([seed; 32]);
        let addresses = vec![SocketAddr::from(([192, 0, 2, seed], 4433))];
        Neighbour { node, name: name.into(), host: format!("macula-{seed}"), waits: false, addresses }
    }

    #[test]
    fn a_name_means_one_node_or_none() {
        let all = [neighbour(1, "kitchen"), neighbour(2, "attic"), neighbour(3, "attic")];
        let place = |label: &str, wanted: Option<NodeId>| called(all.to_vec(), label, wanted);
        assert_eq!(place("Kitchen", None).unwrap()[0].to_string(), "192.0.2.1:4433");
        assert_eq!(place("macula-2", None).unwrap()[0].to_string(), "192.0.2.2:4433");
        assert_eq!(place("cellar", None).unwrap(), []);
        let error = place("attic", None).unwrap_err().to_string();
        for seed in [2, 3] {
            let node = NodeId::from_bytes([seed; 32]);
            assert!(error.contains(&format!("--node {node}@192.0.2.{seed}:4433")), "{error}");
        }
        // Whoever was met under that name before is meant, whatever others call themselves.
        let third = Some(NodeId::from_bytes([3; 32]));
        assert_eq!(place("attic", third).unwrap()[0].to_string(), "192.0.2.3:4433");
    }
}
