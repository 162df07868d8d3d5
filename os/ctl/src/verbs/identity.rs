//! `key` and `known`: who we are, and whom we have met.

use anyhow::Result;

use super::Session;
use crate::cli::{Key, Known};
use crate::key_file;
use crate::known_nodes::KnownNodes;
use crate::table::{Align, Table, cell};

pub fn key(s: &Session, verb: Key) -> Result<()> {
    let path = s.key_path()?;
    let (key, new) = match verb {
        Key::New => (key_file::create(&path)?, true),
        Key::Show => (key_file::load(&path)?, false),
    };
    let id = key.node_id().to_string();
    let shown = path.display().to_string();
    s.out.show(&serde_json::json!({ "id": id, "file": shown }), |_| {
        if new {
            eprintln!("new key in {shown}: keep a copy in a safe place, it cannot be made again");
        }
        format!("{id}\n")
    })
}

pub fn known(s: &Session, verb: Option<Known>) -> Result<()> {
    let mut known = KnownNodes::load()?;
    if let Some(Known::Forget { address }) = verb {
        let node = known.forget(&address.to_string())?;
        return s.out.done(&format!("forgot that {node} answers at {address}"));
    }
    let nodes: Vec<_> =
        known.iter().map(|(a, n)| serde_json::json!({ "address": a, "node": n.to_string() })).collect();
    s.out.show(&nodes, |palette| {
        let mut table = Table::new(&[("ADDRESS", Align::Left), ("NODE", Align::Left)]);
        known.iter().for_each(|(address, node)| table.row(vec![cell(address), cell(node.to_string())]));
        table.render(palette, "no node is known yet")
    })
}
