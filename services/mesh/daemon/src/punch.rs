//! From a detour to a direct connection: meeting the peer halfway through both NATs (`punch/1`), again and again until it works, and
//! closing the detour once nobody uses it any more.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_proto::punch::{MAX_MEET, Meet, PROTOCOL};
use mesh_proto::{Limiter, MAX_PEERS, Mapping, Rate, StreamHeader, plausible};
use mesh_transport::{Via, close_code};
use os_identity::NodeId;
use quinn::{RecvStream, SendStream, VarInt};
use services_api::frame;

use crate::dial::v6;
use crate::link::Link;
use crate::links::Links;
use crate::{relay, streams};

/// How often one peer may ask to be met.
const EACH: Rate = Rate { burst: 4, per_s: 1 };
/// How often all together may: each time costs a few packets to addresses that a relay vouches for.
const ALL: Rate = Rate { burst: 32, per_s: 8 };
/// When doors are opened: a NAT forgets, and the first packet may be lost.
const KNOCKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(400)];
/// How long the peer may take to say something.
const WORD_WAIT: Duration = Duration::from_secs(8);
/// How long an attempt to get through may take: QUIC sends its first packet again after one second and after three.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much later the end dials that was asked, when it need not: the opener's packets come first as a rule.
const SECOND: Duration = Duration::from_millis(1200);
/// Between looks at whether a detour is still used.
const LOOK: Duration = Duration::from_secs(1);

/// Who asked to be met lately.
pub struct Punching {
    each: Mutex<Limiter<NodeId>>,
    all: Mutex<Limiter<()>>,
}

impl Default for Punching {
    fn default() -> Self {
        Self { each: Mutex::new(Limiter::new(EACH, MAX_PEERS)), all: Mutex::new(Limiter::new(ALL, 1)) }
    }
}

impl Punching {
    fn admits(&self, peer: &NodeId, now_ms: u64) -> bool {
        self.each.lock().unwrap_or_else(PoisonError::into_inner).allow(peer, now_ms)
            && self.all.lock().unwrap_or_else(PoisonError::into_inner).allow(&(), now_ms)
    }
}

/// Looks for direct ways to peers that are reached by a detour, for ever.
pub async fn keep_upgrading(links: Arc<Links>) {
    loop {
        let now = links.now();
        let due = links.state().upgrades.due(now);
        for node in due {
            let links = links.clone();
            tokio::spawn(async move {
                if let Err(e) = upgrade(&links, node).await {
                    tracing::debug!("no direct way to {node}: {e:#}");
                    let now = links.now();
                    links.state().upgrades.failed(&node, now);
                    links.upgrade.notify_one();
                }
            });
        }
        let next = links.state().upgrades.next_deadline();
        let wait = next.map_or(3_600_000, |at| at.saturating_sub(links.now()).max(50));
        let _ = tokio::time::timeout(Duration::from_millis(wait), links.upgrade.notified()).await;
    }
}

async fn upgrade(links: &Arc<Links>, node: NodeId) -> Result<()> {
    let link = links.live(&node).context("it has gone")?;
    match link.via {
        None => Ok(()),
        Some(Via::Tcp { .. }) => {
            links.dial_direct(node, links.known_addresses(&node), PATIENCE).await.map(drop)
        }
        Some(Via::Relay { relay, .. }) => {
            let (send, recv) = mesh_transport::open(&link.connection, &StreamHeader::new(PROTOCOL)).await?;
            let _in_use = link.users.enter();
            meet(links, node, relay, send, recv).await
        }
    }
}

/// As the end that asks.
async fn meet(
    links: &Arc<Links>,
    node: NodeId,
    relay: NodeId,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    let asked = Instant::now();
    send.write_all(&mine(links)?.frame()).await?;
    let Meet::Where { addresses, varies } = word(&mut recv).await? else { bail!("an answer out of order") };
    let round_trip = asked.elapsed();
    let targets = where_to_meet(links, relay, node, &addresses).await?;
    ensure!(!targets.is_empty(), "the relay sees it nowhere that could be dialled");
    send.write_all(&Meet::Go.frame()).await?;
    send.finish()?;
    tokio::time::sleep(round_trip / 2).await;
    let knocking = knock(links, &targets);
    // Whoever's NAT gives each destination another port has to be the one that dials.
    let wait = if varies { SECOND } else { Duration::ZERO };
    let (_, dialled) = tokio::join!(knocking, dial_unless_there(links, node, targets.clone(), wait));
    dialled
}

/// As the end that is asked.
pub async fn answer(
    links: &Arc<Links>,
    peer: NodeId,
    link: &Link,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<()> {
    let Some(Via::Relay { relay, .. }) = link.via.filter(|_| links.punching.admits(&peer, links.now()))
    else {
        streams::refuse(&mut send, &mut recv, close_code::TOO_MUCH);
        bail!("asks to be met where that is of no use, or too often");
    };
    let Meet::Where { addresses, varies } = word(&mut recv).await? else { bail!("a word out of order") };
    let targets = where_to_meet(links, relay, peer, &addresses).await?;
    let mine = mine(links)?;
    let i_vary = matches!(mine, Meet::Where { varies: true, .. });
    send.write_all(&mine.frame()).await?;
    send.finish()?;
    ensure!(word(&mut recv).await? == Meet::Go, "a word out of order");
    let wait = if i_vary && !varies { Duration::ZERO } else { SECOND };
    let knocking = knock(links, &targets);
    let (_, dialled) = tokio::join!(knocking, dial_unless_there(links, peer, targets.clone(), wait));
    dialled
}

fn mine(links: &Links) -> Result<Meet> {
    let addresses = links.own_addresses()?;
    let state = links.state();
    let varies = [false, true].iter().any(|v6| state.observed.mapping(*v6) == Mapping::Varies);
    Ok(Meet::located(addresses, if varies { Mapping::Varies } else { Mapping::Unknown }))
}

async fn word(recv: &mut RecvStream) -> Result<Meet> {
    let frame = tokio::time::timeout(WORD_WAIT, frame::expect(recv, MAX_MEET)).await;
    Ok(Meet::decode(&frame.context("it says nothing")??)?)
}

/// What of the peer's claims its relay bears out.
async fn where_to_meet(
    links: &Arc<Links>,
    relay: NodeId,
    peer: NodeId,
    claimed: &[SocketAddr],
) -> Result<Vec<SocketAddr>> {
    let Some(seen) = relay::ask(links, relay, peer).await? else { return Ok(Vec::new()) };
    let me = links.links_of(&relay).iter().find_map(|l| l.heard?.sees_me_at);
    Ok(plausible(claimed, seen, me))
}

async fn knock(links: &Links, targets: &[SocketAddr]) {
    let began = Instant::now();
    for at in KNOCKS {
        tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
        for target in targets {
            if let Err(e) = links.paths.open_door(v6(*target)) {
                tracing::trace!("cannot send to {target}: {e}");
            }
        }
    }
}

/// Dials after `wait`, unless the peer has got through by then.
async fn dial_unless_there(
    links: &Arc<Links>,
    node: NodeId,
    targets: Vec<SocketAddr>,
    wait: Duration,
) -> Result<()> {
    let is_direct = || links.links_of(&node).iter().any(|l| l.via.is_none());
    let began = Instant::now();
    while began.elapsed() < wait {
        if is_direct() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match links.dial_direct(node, targets, PATIENCE).await {
        Err(_) if is_direct() => Ok(()),
        result => result.map(drop),
    }
}

/// There is a direct connection: closes the detours that this end opened, as soon as nobody uses them and for as long as there is
/// something better.
pub async fn retire_detours(links: &Arc<Links>, node: NodeId) {
    loop {
        let all = links.links_of(&node);
        let detours: Vec<_> = all.iter().filter(|l| l.outgoing && l.via.is_some()).collect();
        if detours.is_empty() || all.iter().all(|l| l.via.is_some()) {
            return;
        }
        for detour in detours.iter().filter(|l| l.users.count() == 0) {
            detour.connection.close(VarInt::from_u32(close_code::DONE), b"there is a direct way now");
        }
        tokio::time::sleep(LOOK).await;
    }
}
