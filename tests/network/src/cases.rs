//! What is tried, and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::lab::{Lab, Place, ip};
use crate::nat::{KINDS, Nat};
use crate::node::{Node, TICK, TICKER};
use crate::wire::Quality;

/// How long a relayed pair is watched that must stay relayed: longer than an attempt to meet halfway takes.
const WATCH: Duration = Duration::from_secs(9);
/// By when a pair that can meet must have met.
const UPGRADE: Duration = Duration::from_secs(25);
const PING_MS: u32 = 20_000;
/// 200 ms there and back.
const BAD_LINE: Quality = Quality { delay: Duration::from_millis(100), loss: 5 };
/// For the ticks that have piled up, or for the next two seconds' on a bad line.
const GOES_ON: Duration = Duration::from_secs(10);
/// A stream that nobody restarts goes on this soon after its node got another address.
const FOLLOWS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub enum Case {
    /// One node calls another; each is behind these routers, the one next to the Internet first.
    Pair { a: Vec<Nat>, b: Vec<Nat>, bad_line: bool },
    /// Both behind IPv6 routers, on an Internet without IPv4.
    Ipv6,
    /// The listener's own address changes while a stream brings it something.
    HostMoves,
    /// The address of its router changes, which nobody tells it.
    RouterMoves,
}

/// A line of the table.
pub struct Row {
    pub a: String,
    pub b: String,
    /// `direct` or `relayed`, in the end.
    pub way: String,
    pub first_byte: Duration,
    /// When it was direct, counted from the beginning of the call.
    pub direct_after: Option<Duration>,
    pub note: String,
}

/// For every day.
pub fn few() -> Vec<Case> {
    use Nat::*;
    vec![
        Case::HostMoves,
        pair(&[NoUdp], &[PortRestricted]),
        pair(&[Symmetric], &[PortRestricted]),
        pair(&[PortRestricted], &[PortRestricted]),
        pair(&[AddressRestricted], &[Symmetric]),
    ]
}

pub fn all() -> Vec<Case> {
    let mut cases: Vec<_> =
        KINDS.iter().flat_map(|a| KINDS.iter().map(move |b| pair(&[*a], &[*b]))).collect();
    let doubled = [Nat::PortRestricted, Nat::PortRestricted];
    cases.push(pair(&doubled, &[Nat::PortRestricted]));
    cases.push(pair(&doubled, &doubled));
    cases.push(pair(&[Nat::Symmetric, Nat::PortRestricted], &doubled));
    cases.push(pair(&[Nat::NoUdp], &[Nat::Open]));
    cases.push(pair(&[Nat::NoUdp], &[Nat::PortRestricted]));
    cases.push(pair(&[Nat::PortRestricted], &[Nat::NoUdp]));
    cases.push(pair(&[Nat::NoUdp], &[Nat::NoUdp]));
    cases.push(Case::Ipv6);
    let port_restricted = vec![Nat::PortRestricted];
    cases.push(Case::Pair { a: port_restricted.clone(), b: port_restricted, bad_line: true });
    cases.push(Case::HostMoves);
    cases.push(Case::RouterMoves);
    cases
}

fn pair(a: &[Nat], b: &[Nat]) -> Case {
    Case::Pair { a: a.to_vec(), b: b.to_vec(), bad_line: false }
}

impl Case {
    pub fn name(&self) -> String {
        match self {
            Case::Pair { a, b, bad_line } => {
                format!("{} to {}{}", words(a), words(b), if *bad_line { ", bad line" } else { "" })
            }
            Case::Ipv6 => "ipv6-only".into(),
            Case::HostMoves => "host-moves".into(),
            Case::RouterMoves => "router-moves".into(),
        }
    }

    pub async fn run(&self, number: usize) -> Result<Row> {
        let mut lab = Lab::new(number)?;
        match self {
            Case::Pair { a, b, bad_line } => {
                let quality = bad_line.then_some(BAD_LINE);
                let (place_a, place_b) = (lab.behind("a", a, quality)?, lab.behind("b", b, None)?);
                let middle = Middle::start(lab.public("relay", 1)?, lab.public("witness", 2)?).await?;
                // Of two routers the outer one decides, unless the inner one is worse.
                let meets = a.iter().all(|a| b.iter().all(|b| a.meets(*b)));
                let mut row = reach(&middle, place_a, place_b, meets).await?;
                (row.a, row.b) = (words(a), words(b));
                if *bad_line {
                    row.note = "5 % loss, 200 ms there and back".into();
                }
                Ok(row)
            }
            Case::Ipv6 => {
                let (place_a, place_b) = (lab.behind6("a")?, lab.behind6("b")?);
                let middle = Middle::start(lab.public6("relay", 1)?, lab.public6("witness", 2)?).await?;
                let mut row = reach(&middle, place_a, place_b, true).await?;
                (row.a, row.b) = ("ipv6-firewall".into(), "ipv6-firewall".into());
                row.note = "no IPv4".into();
                Ok(row)
            }
            Case::HostMoves | Case::RouterMoves => {
                move_along(&mut lab, matches!(self, Case::HostMoves)).await
            }
        }
    }
}

fn words(nats: &[Nat]) -> String {
    nats.iter().map(|nat| nat.word()).collect::<Vec<_>>().join(" + ")
}

/// Two nodes on the Internet that both others know: one relays, and two see enough to tell NATs apart.
struct Middle {
    relay: Node,
    witness: Node,
}

impl Middle {
    async fn start(relay: Place, witness: Place) -> Result<Self> {
        let relay = Node::start(1, relay, &[], "relay = true").await?;
        Ok(Self { witness: Node::start(2, witness, &[&relay], "").await?, relay })
    }

    async fn join(&self, seed: u8, place: Place) -> Result<Node> {
        let node = Node::start(seed, place, &[&self.relay, &self.witness], "").await?;
        node.wait_for(&self.relay, Duration::from_secs(15)).await?;
        Ok(node)
    }
}

/// `a` knows of `b` what the DHT would tell it, and calls it.
async fn reach(middle: &Middle, place_a: Place, place_b: Place, meets: bool) -> Result<Row> {
    let (a, b) = (middle.join(3, place_a).await?, middle.join(4, place_b).await?);
    // Until both have been told by both others where they are seen.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let addresses = b.mesh().await?.local_addresses().await?;
    let id = b.key.node_id();
    a.mesh().await?.learn(id.as_bytes(), addresses).await?;
    let _service = b.serve_ticks().await?;
    let began = Instant::now();
    let mut stream = listen(&a, &b).await.with_context(|| format!("\n{}\n--\n{}", a.log(), b.log()))?;
    let first_byte = began.elapsed();
    let direct_after = direct(&a, &b, began, if meets { UPGRADE } else { WATCH }).await?;
    let way = if direct_after.is_some() { "direct" } else { "relayed" };
    let told = || format!("{way} where it must not be\n{}\n--\n{}", a.log(), b.log());
    ensure!(direct_after.is_some() == meets, told());
    // What began on a detour goes on, and something new goes as well.
    let ticks = async { stream.read_exact(&mut [0; 20]).await };
    tokio::time::timeout(GOES_ON, ticks).await.context("the first stream stands still")??;
    a.mesh().await?.ping(id.as_bytes(), PING_MS).await.context("no second answer")?;
    let (row_a, row_b) = (String::new(), String::new());
    Ok(Row { a: row_a, b: row_b, way: way.into(), first_byte, direct_after, note: String::new() })
}

/// The ticker's stream, when its first byte is there.
async fn listen(a: &Node, b: &Node) -> Result<UnixStream> {
    let id = b.key.node_id();
    let fd = a.mesh().await?.open_stream(id.as_bytes(), TICKER, "", &[], PING_MS).await?;
    let mut stream = services_api::mesh::from_fd(fd)?;
    stream.read_u8().await.context("no tick at all")?;
    Ok(stream)
}

async fn direct(a: &Node, b: &Node, began: Instant, limit: Duration) -> Result<Option<Duration>> {
    while began.elapsed() < limit {
        if a.peer(b).await?.is_some_and(|p| p.via.is_empty()) {
            return Ok(Some(began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

/// The node behind a router listens to a stream of the other one, says nothing itself, and is suddenly somewhere else.
async fn move_along(lab: &mut Lab, host: bool) -> Result<Row> {
    let place = lab.behind("a", &[Nat::PortRestricted], None)?;
    let b = Node::start(2, lab.public("b", 2)?, &[], "").await?;
    let a = Node::start(3, place.clone(), &[&b], "").await?;
    a.wait_for(&b, Duration::from_secs(15)).await?;
    let _service = b.serve_ticks().await?;
    let began = Instant::now();
    let mut stream = listen(&a, &b).await?;
    let first_byte = began.elapsed();
    for _ in 0..10 {
        stream.read_u8().await?;
    }
    // Whatever it had to acknowledge is acknowledged: it has nothing to say of its own.
    tokio::time::sleep(TICK / 2).await;
    let before = b.peer(&a).await?.context("they are not connected")?.address;
    let moved = Instant::now();
    if host {
        move_host(&place)?
    } else {
        move_router(&place)?
    }
    let mut longest = TICK;
    let mut last = Instant::now();
    while moved.elapsed() < Duration::from_secs(12) {
        let tick = tokio::time::timeout(Duration::from_secs(30), stream.read_u8()).await;
        tick.context("the stream stands still")?.context("the stream ended")?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let after = b.peer(&a).await?.context("they are no longer connected")?.address;
    ensure!(before != after, "nothing has moved: {before}");
    let limit = if host { FOLLOWS } else { Duration::from_secs(12) };
    ensure!(longest < limit, "the stream stood still for {longest:?}");
    let note = format!("the same stream goes on after {:.1} s", longest.as_secs_f64());
    let what = if host {
        "port-restricted, its own address changes"
    } else {
        "port-restricted, its router's address changes"
    };
    let direct_after = Some(first_byte);
    Ok(Row { a: what.into(), b: "open".into(), way: "direct".into(), first_byte, direct_after, note })
}

/// Another lease.
fn move_host(place: &Place) -> Result<()> {
    let network = place.address.trim_end_matches('2');
    ip(&place.space, &format!("addr del {}/24 dev eth0", place.address))?;
    ip(&place.space, &format!("addr add {network}9/24 dev eth0"))?;
    ip(&place.space, &format!("route add default via {network}1"))
}

fn move_router(place: &Place) -> Result<()> {
    let router = place.router.as_deref().context("no router")?;
    // With the address go the mappings that were made of it.
    ip(router, "addr del 203.0.113.101/24 dev wan")?;
    ip(router, "addr add 203.0.113.201/24 dev wan")
}
