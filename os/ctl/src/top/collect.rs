//! Asks the nodes, for as long as somebody looks: a task for each, which comes back when its node was away.

use std::time::Duration;

use anyhow::Result;
use services_api::report::LogsSince;
use tokio::sync::mpsc;

use super::model::{Event, Snapshot};
use crate::fleet::Member;
use crate::node::Node;
use crate::output::one_line;
use crate::verbs::Session;
use crate::verbs::follow::{LogPlace, back_off};

const EVERY: Duration = Duration::from_secs(2);
/// Who is silent for so long is away.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_LINES: u32 = 100;

pub fn begin(s: &Session, members: Vec<Member>, events: &mpsc::Sender<Event>) {
    for (at, member) in members.into_iter().enumerate() {
        tokio::spawn(look_after(s.clone(), at, member, events.clone()));
    }
}

/// Ends when nobody looks any more.
async fn look_after(s: Session, at: usize, member: Member, events: mpsc::Sender<Event>) {
    let mut place = LogPlace::default();
    let mut failures = 0;
    while !events.is_closed() {
        let error = match s.reach(&member).await {
            Ok(node) => {
                let ended = listen(&node, at, &mut place, &mut failures, &events).await;
                node.close().await;
                ended.err()
            }
            Err(e) => Some(e),
        };
        if let Some(e) = error {
            let _ = events.send(Event::Away { at, why: one_line(&e) }).await;
        }
        tokio::time::sleep(back_off(failures)).await;
        failures += 1;
    }
}

/// Until the connection breaks, or nobody looks.
async fn listen(
    node: &Node,
    at: usize,
    place: &mut LogPlace,
    failures: &mut u32,
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    while !events.is_closed() {
        let snapshot = tokio::time::timeout(PATIENCE, ask(node)).await??;
        *failures = 0;
        if events.send(Event::Answered { at, snapshot: Box::new(snapshot) }).await.is_err() {
            break;
        }
        // What comes within the pause is asked for then, and not waited for: one question at a time.
        let wanted = LogsSince { wait_ms: 0, ..place.ask("", FIRST_LINES) };
        // An older node has no such log, and is still worth looking at.
        if let Ok(Ok(page)) = tokio::time::timeout(PATIENCE, node.logs_since(&wanted)).await {
            place.take(&page);
            let _ = events.send(Event::Logged { at, lines: page.lines }).await;
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

async fn ask(node: &Node) -> Result<Snapshot> {
    let (status, units, peers, content) =
        tokio::join!(node.status(), node.units(), node.peers(), node.content_report());
    Ok(Snapshot {
        status: status?,
        units: units.unwrap_or_default(),
        peers: peers.unwrap_or_default(),
        content: content.unwrap_or_default(),
    })
}
