//! `nodes`: the owner's nodes as one table. Begins with those that were met before or are named, and goes on to their peers.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use os_identity::NodeId;
use serde::Serialize;
use services_api::report::{EventReport, OsReport, PeerReport};

use super::Session;
use crate::fleet::{self, Member};
use crate::node::Node;
use crate::output::{Color, Palette, one_line, timestamp};
use crate::table::{Align, Table, cell, colored};

/// What a node may take for its answers, once it has been reached.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A node's line in the table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    pub name: String,
    /// `did:key`; empty when it has never answered.
    pub node: String,
    pub address: String,
    /// `up`, `installing`, `trial`, `rescue`, `foreign` (it is not ours), `unreachable`.
    pub state: &'static str,
    /// Why it is not `up`.
    pub why: String,
    pub version: String,
    pub slot: String,
    /// Connected peers.
    pub peers: Option<usize>,
    pub last_event: Option<EventReport>,
}

/// What a node said, or why it did not.
pub struct Asked {
    pub member: Member,
    pub answer: Result<Said>,
}

pub struct Said {
    pub status: OsReport,
    /// `mesh` may be down while the rest answers.
    pub peers: Option<Vec<PeerReport>>,
}

pub async fn nodes(s: &Session) -> Result<()> {
    let spinner = s.out.spinner("asking the nodes");
    let rows = survey(s).await;
    spinner.finish_and_clear();
    let rows = rows?;
    s.out.show(&rows, |palette| render(&rows, palette))
}

/// Wave by wave, until no answer tells of a node that was not asked yet.
async fn survey(s: &Session) -> Result<Vec<Row>> {
    let me = s.key().ok().map(|key| key.node_id());
    let mut met: BTreeSet<NodeId> = me.into_iter().collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut wave = s.members(true)?;
    while !wave.is_empty() && rows.len() < fleet::MEMBERS_MAX {
        wave.truncate(fleet::MEMBERS_MAX - rows.len());
        met.extend(wave.iter().filter_map(|m| m.id));
        let asked = ask(s, wave).await;
        met.extend(asked.iter().filter_map(|a| a.answer.as_ref().ok()?.status.node.parse::<NodeId>().ok()));
        let mut next: Vec<Member> = Vec::new();
        for peers in asked.iter().filter_map(|a| a.answer.as_ref().ok()?.peers.as_ref()) {
            let new = fleet::learned(peers, &met);
            met.extend(new.iter().filter_map(|m| m.id));
            next.extend(new);
        }
        rows.extend(asked.iter().map(row));
        wave = next;
    }
    Ok(once_each(rows))
}

async fn ask(s: &Session, members: Vec<Member>) -> Vec<Asked> {
    let ways = members.iter().map(|m| m.ways.len()).max().unwrap_or(1).max(1) as u32;
    let wait = s.wait().saturating_mul(ways) + ANSWER_WAIT;
    let answers = fleet::ask_all(members.clone(), wait, |member| {
        let s = s.clone();
        async move {
            let node = s.reach(&member).await?;
            let said = tokio::time::timeout(ANSWER_WAIT, say(&node)).await;
            node.close().await;
            said.unwrap_or_else(|_| Err(anyhow::anyhow!("did not answer within {} s", ANSWER_WAIT.as_secs())))
        }
    });
    members.into_iter().zip(answers.await).map(|(member, answer)| Asked { member, answer }).collect()
}

async fn say(node: &Node) -> Result<Said> {
    let (status, peers) = tokio::join!(node.status(), node.peers());
    Ok(Said { status: status?, peers: peers.ok() })
}

pub fn row(asked: &Asked) -> Row {
    let address = asked.member.label();
    match &asked.answer {
        Ok(said) => {
            let (status, mut why) = (&said.status, String::new());
            let state = match (&status.installing, &status.trial) {
                _ if !status.rescue.is_empty() => {
                    why = status.rescue.clone();
                    "rescue"
                }
                (Some(install), _) => {
                    why = format!("{} {}", install.version, install.phase);
                    "installing"
                }
                (None, Some(trial)) => {
                    why = trial.gate.clone();
                    "trial"
                }
                (None, None) => "up",
            };
            Row {
                name: status.name.clone(),
                node: status.node.clone(),
                address,
                state,
                why,
                version: status.version.clone(),
                slot: status.slot.clone(),
                peers: said.peers.as_ref().map(|peers| peers.iter().filter(|p| p.connected).count()),
                last_event: status.events.last().cloned(),
            }
        }
        Err(e) => {
            let why = one_line(e);
            let state = if why.contains("not its owner") { "foreign" } else { "unreachable" };
            let node = asked.member.id.map(|id| id.to_string()).unwrap_or_default();
            Row { node, address, state, why, ..Row::default() }
        }
    }
}

/// A node that was named by an address and met by another has one line.
fn once_each(rows: Vec<Row>) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    let new = |row: &Row| row.node.is_empty() || seen.insert(row.node.clone());
    let mut rows: Vec<Row> = rows.into_iter().filter(new).collect();
    rows.sort_by(|a, b| {
        (a.name.is_empty(), &a.name, &a.address).cmp(&(b.name.is_empty(), &b.name, &b.address))
    });
    rows
}

pub fn state_color(state: &str) -> Color {
    match state {
        "up" => Color::Green,
        "unreachable" | "rescue" => Color::Red,
        "foreign" => Color::Dim,
        _ => Color::Yellow,
    }
}

pub fn render(rows: &[Row], palette: Palette) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NAME", Left),
        ("STATE", Left),
        ("VERSION", Left),
        ("SLOT", Left),
        ("PEERS", Right),
        ("ADDRESS", Left),
        ("ID", Left),
        ("LAST EVENT, OR WHY NOT", Left),
    ]);
    for r in rows {
        let event = r.last_event.as_ref();
        let said = match r.why.is_empty() {
            true => {
                event.map(|e| format!("{} {}: {}", timestamp(e.at_unix), e.kind, e.text)).unwrap_or_default()
            }
            false => r.why.clone(),
        };
        // The end of an id is what logs show, too.
        let id = r.node.char_indices().nth_back(7).map_or("", |(at, _)| &r.node[at..]);
        table.row(vec![
            cell(if r.name.is_empty() { "-" } else { &r.name }),
            colored(state_color(r.state), r.state),
            cell(&r.version),
            cell(&r.slot),
            cell(r.peers.map(|n| n.to_string()).unwrap_or_default()),
            cell(&r.address),
            cell(id),
            cell(said),
        ]);
    }
    table.render(palette, "no node")
}

#[cfg(test)]
mod tests {
    use super::*;
    use services_api::report::TrialReport;

    fn up(name: &str, seed: u8) -> Asked {
        let id = os_identity::NodeKey::from_seed(&[seed; 32]).node_id();
        let event = EventReport { kind: "committed".into(), text: "0.2.0".into(), ..Default::default() };
        let status = OsReport {
            node: id.to_string(),
            name: name.into(),
            version: "0.2.0".into(),
            slot: "B".into(),
            events: vec![event],
            ..OsReport::default()
        };
        let peers =
            Some(vec![PeerReport { connected: true, ..PeerReport::default() }, PeerReport::default()]);
        let target = format!("10.0.0.{seed}").parse().unwrap();
        Asked { member: Member::at(target), answer: Ok(Said { status, peers }) }
    }

    #[test]
    fn nodes_that_do_not_answer_are_lines_too() {
        let mut trial = up("attic", 3);
        if let Ok(said) = &mut trial.answer {
            said.status.trial = Some(TrialReport { gate: "waits for mesh".into(), ..Default::default() });
            said.peers = None;
        }
        let gone = Asked {
            member: Member::at("10.0.0.2".parse().unwrap()),
            answer: Err(anyhow::anyhow!("no node answered")),
        };
        let foreign = Asked {
            member: Member::at("10.0.0.9".parse().unwrap()),
            answer: Err(anyhow::anyhow!("this key is not its owner; ...")),
        };
        let rows =
            once_each([up("kitchen", 1), gone, trial, foreign, up("kitchen", 1)].iter().map(row).collect());
        let ids: Vec<&str> = rows.iter().map(|r| &r.node[r.node.len().saturating_sub(8)..]).collect();
        let expected = format!(
            "\
NAME     STATE        VERSION  SLOT  PEERS  ADDRESS        ID        LAST EVENT, OR WHY NOT
attic    trial        0.2.0    B            10.0.0.3:4433  {}  waits for mesh
kitchen  up           0.2.0    B         1  10.0.0.1:4433  {}  1970-01-01 00:00:00 committed: 0.2.0
-        unreachable                        10.0.0.2:4433            no node answered
-        foreign                            10.0.0.9:4433            this key is not its owner; ...
",
            ids[0], ids[1]
        );
        assert_eq!(render(&rows, Palette::default()), expected);
    }

    #[test]
    fn peers_are_asked_once_and_only_where_they_can_be() {
        let ids: Vec<NodeId> = (1..5).map(|n| os_identity::NodeKey::from_seed(&[n; 32]).node_id()).collect();
        let peer = |n: usize, direction: &str, addresses: &[&str]| PeerReport {
            node: ids[n].to_string(),
            direction: direction.into(),
            address: format!("192.0.2.{n}:4433"),
            addresses: addresses.iter().map(|a| a.to_string()).collect(),
            ..PeerReport::default()
        };
        let peers = [
            peer(0, "outgoing", &[]),
            // Somebody's maculactl.
            peer(1, "incoming", &[]),
            peer(2, "incoming", &["10.0.0.2:4433", "10.0.0.2:4433", "nonsense:x", "[fd00::1]:1"]),
            peer(3, "outgoing", &["192.0.2.3:4433"]),
        ];
        let learned = fleet::learned(&peers, &[ids[0]].into());
        assert_eq!(learned.len(), 2);
        let shown = |m: &Member| m.ways.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&learned[0]), ["10.0.0.2:4433", "[fd00::1]:1"]);
        assert_eq!(shown(&learned[1]), ["192.0.2.3:4433"]);
        assert!(learned.iter().all(|m| m.ways.iter().all(|t| t.pin == m.id) && !m.remember));
    }
}
