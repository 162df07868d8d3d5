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
    let remote = reach(target, owner, wait).await?;
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

/// Connects to whoever is there, or to the node that `target` names by its id.
pub async fn reach(target: &Target, owner: &NodeKey, wait: Duration) -> Result<Remote> {
    let credentials = credentials(owner)?;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .with_context(|| format!("cannot find the address of `{}`", target.host))?
        .collect();
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
