//! Several nodes at once: which ones the options mean, the way to each, and questions to all of them side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use os_identity::NodeId;
use services_api::report::PeerReport;
use tokio::task::JoinSet;

use crate::known_nodes::KnownNodes;
use crate::target::Target;

/// So many nodes are asked at a time.
pub const AT_ONCE: usize = 8;
/// A realm's table is for people; whoever has more has it as JSON, from several machines.
pub const MEMBERS_MAX: usize = 256;
/// Of one node, tried one after the other.
const WAYS_MAX: usize = 4;

/// One node, as far as it is known before it has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: Option<NodeId>,
    /// Addresses, best first. None: the services of this machine.
    pub ways: Vec<Target>,
    /// Whether meeting it is to be remembered: not what other nodes tell about.
    pub remember: bool,
}

impl Member {
    pub fn local() -> Self {
        Self { id: None, ways: Vec::new(), remember: false }
    }

    pub fn at(target: Target) -> Self {
        Self { id: target.pin, ways: vec![target], remember: true }
    }

    /// What to call it until it has said its name.
    pub fn label(&self) -> String {
        self.ways.first().map_or_else(|| "this node".into(), ToString::to_string)
    }
}

/// The nodes that were met before, each once, however many addresses it answered at.
pub fn known(nodes: &KnownNodes) -> Vec<Member> {
    let mut by_id: BTreeMap<NodeId, Vec<Target>> = BTreeMap::new();
    for (address, id) in nodes.iter() {
        if let Ok(target) = address.parse::<Target>() {
            by_id.entry(*id).or_default().push(target);
        }
    }
    let members = by_id.into_iter();
    members.map(|(id, ways)| Member { id: Some(id), ways: few(ways), remember: true }).collect()
}

/// The nodes that `peers` tells about and `met` does not hold yet. Who has no address of its own, such as somebody's maculactl, is
/// no node that could be asked.
pub fn learned(peers: &[PeerReport], met: &BTreeSet<NodeId>) -> Vec<Member> {
    let member = |peer: &PeerReport| {
        let id: NodeId = peer.node.parse().ok().filter(|id| !met.contains(id))?;
        let reached = Some(&peer.address).filter(|_| peer.direction == "outgoing");
        let mut ways: Vec<Target> = Vec::new();
        for address in reached.into_iter().chain(&peer.addresses) {
            let target = address.parse::<Target>().ok().map(|t| Target { pin: Some(id), ..t });
            ways.extend(target.filter(|t| !ways.contains(t)));
        }
        (!ways.is_empty()).then(|| Member { id: Some(id), ways: few(ways), remember: false })
    };
    peers.iter().filter_map(member).collect()
}

fn few(mut ways: Vec<Target>) -> Vec<Target> {
    ways.truncate(WAYS_MAX);
    ways
}

/// Asks all of them, [`AT_ONCE`] side by side, each within `wait`. Answers come in the order of `of`.
pub async fn ask_all<M, T, F>(of: Vec<M>, wait: Duration, ask: impl Fn(M) -> F) -> Vec<Result<T>>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut answers: Vec<Option<Result<T>>> = of.iter().map(|_| None).collect();
    let mut waiting = of.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((at, member)) = waiting.next()
        {
            let asked = tokio::time::timeout(wait, ask(member));
            running.spawn(async move { (at, asked.await.unwrap_or_else(|_| Err(too_slow(wait)))) });
        }
        match running.join_next().await {
            Some(Ok((at, answer))) => answers[at] = Some(answer),
            // It panicked, which the panic's own message has told.
            Some(Err(_)) => {}
            None => break,
        }
    }
    answers.into_iter().map(|a| a.unwrap_or_else(|| Err(anyhow!("was not asked to the end")))).collect()
}

fn too_slow(wait: Duration) -> Error {
    anyhow!("did not answer within {} s", wait.as_secs())
}
