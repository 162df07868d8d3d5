//! Orders that came over HTTP, put to the services as if whoever signed them had connected: the same protocol, the same door.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_gateway::Control;
use mesh_http::{Family, Method, Problem};
use mesh_proto::StreamHeader;
use mesh_proto::rpc::{CallError, Code};
use os_identity::NodeId;
use os_ucan::Ability;
use serde_json::Value;
use services_api::control::{self, NoAnswer, protocol};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::access::Access;
use crate::link::Opened;
use crate::links::Links;
use crate::streams;

/// As long as the services themselves take at most.
const WAIT: Duration = Duration::from_secs(120);
/// How soon another node has to be reached.
const REACH: Duration = Duration::from_secs(15);

fn protocol_of(family: Family) -> &'static str {
    match family {
        Family::Os => protocol::OS,
        Family::Content => protocol::CONTENT,
        Family::Dht => protocol::DHT,
        Family::Mesh => protocol::MESH,
        Family::Pairing => protocol::PAIRING,
    }
}

/// The ability that a method asks for: the last word is the protocol's, see [`protocol::ability`].
pub fn command(method: &Method) -> Result<Ability, Problem> {
    let text = format!("macula/{}/{}", method.family.word(), protocol::ability(&method.name));
    Ability::parse(&text).map_err(|e| Problem::bad_request(e.to_string(), "check the method's name"))
}

pub async fn call(
    links: &Arc<Links>,
    asked: Control,
    admit: impl FnOnce() -> Result<(), Problem> + Send,
) -> Result<Value, Problem> {
    let name = &asked.method.name;
    let header = StreamHeader {
        ucan: (!asked.chain.is_empty()).then(|| asked.chain.clone()),
        ..StreamHeader::of(protocol_of(asked.method.family), name)
    };
    let mut stream = match asked.at {
        None => {
            let opened = streams::open_for(links, asked.by, &header).await;
            opened.map_err(|refusal| refused(links, &asked.method, &refusal))?.0
        }
        Some(node) => reach(links, asked.by, node, &header).await?,
    };
    admit()?;
    let called = timeout(WAIT, control::call::<_, _, Value>(&mut stream, name, &asked.params)).await;
    match called {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) if e.is::<NoAnswer>() => Err(Problem::new(
            StatusCode::BAD_GATEWAY,
            format!("{e:#}"),
            "see whether its service runs, in the logs",
        )),
        Ok(Err(e)) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{e:#}"),
            "nothing was changed; see the detail",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {} s", WAIT.as_secs()),
            "look at the node's state before you try again: it may have been done",
        )),
    }
}

fn refused(links: &Links, method: &Method, refusal: &CallError) -> Problem {
    if refusal.code != Code::FORBIDDEN {
        return Problem::of_call(refusal);
    }
    let next = match (links.owner, command(method)) {
        (None, _) => "this node has no owner yet: pair it first".to_owned(),
        (_, Ok(ability)) => {
            format!("ask the node's owner to delegate {ability} to your key, or use the owner's key")
        }
        (_, Err(_)) => "use the owner's key".to_owned(),
    };
    Problem::new(StatusCode::FORBIDDEN, &*refusal.text, next)
}

/// A stream to another node, in this one's name: for its own owner alone, who has delegated to it what it is to ask there.
async fn reach(
    links: &Arc<Links>,
    by: NodeId,
    node: NodeId,
    header: &StreamHeader,
) -> Result<UnixStream, Problem> {
    let what = (header.protocol.as_str(), "another node");
    let checked = links.authority.check(by, &Access::Owner, what, &[]).await;
    checked.map_err(|e| Problem::new(StatusCode::FORBIDDEN, &*e.text, "use the owner's key"))?;
    let next = "see whether that node is up, and whether this one reaches it";
    let failed = |why: String| Problem::new(StatusCode::BAD_GATEWAY, why, next);
    let opened = timeout(REACH, links.open(node, header)).await;
    let opened =
        opened.map_err(|_| failed(format!("{node} was not reached within {} s", REACH.as_secs())))?;
    let Opened { send, recv, in_use } = opened.map_err(|e| failed(format!("{node}: {e:#}")))?;
    let (here, there) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    tokio::spawn(async move {
        streams::pump(send, recv, here).await;
        drop(in_use);
    });
    Ok(there)
}
