//! `find`: the nodes that announce themselves in the local network.

use std::collections::BTreeSet;

use anyhow::Result;
use os_identity::NodeId;

use super::Session;
use crate::known_nodes::KnownNodes;
use crate::neighbours::{self, Neighbour};
use crate::output::{Color, Palette};
use crate::table::{Align, Table, cell, colored};

pub async fn find(s: &Session) -> Result<()> {
    let spinner = s.out.spinner("looking for nodes in the local network");
    let found = neighbours::look(s.wait().min(neighbours::PATIENCE), |_| false).await;
    spinner.finish_and_clear();
    let mut found = found?;
    found.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    let met: BTreeSet<NodeId> = KnownNodes::load()?.iter().map(|(_, node)| *node).collect();
    let json: Vec<_> = found.iter().map(|n| json(n, met.contains(&n.node))).collect();
    s.out.show(&json, |palette| render(&found, &met, palette))
}

fn json(found: &Neighbour, met: bool) -> serde_json::Value {
    serde_json::json!({
        "name": found.name,
        "node": found.node.to_string(),
        "addresses": found.addresses,
        "waits_for_owner": found.waits,
        "met_before": met,
    })
}

fn render(found: &[Neighbour], met: &BTreeSet<NodeId>, palette: Palette) -> String {
    let columns = ["NAME", "ADDRESS", "", "NODE"].map(|name| (name, Align::Left));
    let mut table = Table::new(&columns);
    for one in found {
        let standing = match one.waits {
            true => colored(Color::Yellow, "waits for its owner: maculactl pair"),
            false if met.contains(&one.node) => colored(Color::Green, "met before"),
            false => cell(""),
        };
        let address = one.addresses.first().map(ToString::to_string).unwrap_or_default();
        table.row(vec![cell(&one.name), cell(address), standing, cell(one.node.to_string())]);
    }
    table.render(palette, "no node announces itself in this network; those behind a router do not either")
}
