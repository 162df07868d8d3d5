//! Many nodes in one file: a line of CSV or a `[[node]]` table of TOML for each, as changes to a config.toml.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use toml::{Table, Value};

/// More cards are not made in one go.
const NODES_MAX: usize = 1_000;
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Key of config.toml and its value in TOML.
pub type Changes = Vec<(String, String)>;

/// What a list says about each node, in its order. `me` is whom that word means.
pub fn read(path: &Path, me: Option<&str>) -> Result<Vec<Changes>> {
    let shown = path.display();
    let length = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    if length > BYTES_MAX {
        bail!("{shown} is larger than {BYTES_MAX} bytes");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let nodes = match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => from_csv(&text, me),
        Some("toml") => from_toml(&text),
        _ => Err(anyhow!("a list is a .csv or a .toml")),
    };
    let nodes = nodes.with_context(|| shown.to_string())?;
    match nodes.len() {
        0 => bail!("{shown} names no node"),
        n if n > NODES_MAX => bail!("{shown} names {n} nodes, more than {NODES_MAX}"),
        _ => Ok(nodes),
    }
}

fn from_csv(text: &str, me: Option<&str>) -> Result<Vec<Changes>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers()?.iter().map(str::to_lowercase).collect();
    if !columns.iter().any(|c| c == "name") {
        bail!("its first line must name the columns, and `name` be one of them");
    }
    let mut nodes = Vec::new();
    for (n, line) in reader.records().enumerate() {
        let line = line.map_err(|e| anyhow!("line {}: {}", n + 2, csv_mistake(&e)))?;
        let cells = columns.iter().map(String::as_str).zip(line.iter());
        nodes.push(row(cells, me).with_context(|| format!("line {}", n + 2))?);
    }
    Ok(nodes)
}

/// Without the line itself, which may hold a passphrase.
fn csv_mistake(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} cells, the first line {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8".into(),
        _ => "cannot be read as CSV".into(),
    }
}

fn row<'a>(cells: impl Iterator<Item = (&'a str, &'a str)>, me: Option<&str>) -> Result<Changes> {
    let mut changes = Changes::new();
    let mut wifi = Table::new();
    for (column, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
        let mut set = |key: &str, value: Value| changes.push((key.to_owned(), value.to_string()));
        match column {
            "name" | "realm" | "time_zone" => set(column, cell.into()),
            "timezone" => set("time_zone", cell.into()),
            "country" => set("network.country", cell.into()),
            "owner" => set("owner", who(cell, me)?.into()),
            "channel" => set("update.channel", cell.into()),
            "publisher" => set("update.publisher", who(cell, me)?.into()),
            "release_keys" | "release_key" => set("update.release_keys", keys(cell, me)?),
            "seeds" | "seed" => set("mesh.seeds", words(cell).map(Value::from).collect::<Vec<_>>().into()),
            "wifi_ssid" => drop(wifi.insert("ssid".into(), cell.into())),
            "wifi_passphrase" => drop(wifi.insert("passphrase".into(), cell.into())),
            key => set(key, typed(cell)),
        }
    }
    if wifi.contains_key("passphrase") && !wifi.contains_key("ssid") {
        bail!("a wifi_passphrase without a wifi_ssid");
    }
    if !wifi.is_empty() {
        changes.push(("network.wifi".into(), Value::Array(vec![wifi.into()]).to_string()));
    }
    Ok(changes)
}

fn words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split([' ', ';']).filter(|word| !word.is_empty())
}

fn keys(cell: &str, me: Option<&str>) -> Result<Value> {
    let keys = words(cell).map(|word| Ok(Value::from(who(word, me)?)));
    Ok(Value::Array(keys.collect::<Result<_>>()?))
}

fn who<'a>(cell: &'a str, me: Option<&'a str>) -> Result<&'a str> {
    match cell {
        "me" => me.context("`me` needs your key: `maculactl key new` makes it"),
        did => Ok(did),
    }
}

/// As it would stand in a config.toml, or a string without its quotes.
fn typed(cell: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("v = {cell}")).ok();
    parsed.and_then(|mut table| table.remove("v")).unwrap_or_else(|| cell.into())
}

fn from_toml(text: &str) -> Result<Vec<Changes>> {
    let list: Table = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count()) + 1;
        anyhow!("line {line} is not valid TOML")
    })?;
    if let Some(key) = list.keys().find(|key| *key != "node") {
        bail!("`{key}` is outside of a [[node]] table: what all nodes have in common goes into --config");
    }
    let nodes = list.get("node").and_then(Value::as_array).context("has no [[node]] table")?;
    nodes
        .iter()
        .map(|node| node_changes(node.as_table().context("`node` must be tables: [[node]]")?))
        .collect()
}

fn node_changes(node: &Table) -> Result<Changes> {
    let mut changes = Changes::new();
    flatten("", node, &mut changes);
    Ok(changes)
}

fn flatten(path: &str, table: &Table, changes: &mut Changes) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Table(inner) => flatten(&path, inner, changes),
            value => changes.push((path, value.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DID: &str = "did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx";

    fn config(changes: &Changes) -> os_config::Config {
        os_config::edit::set_all("", changes).unwrap().1
    }

    #[test]
    fn a_line_of_csv_is_a_node() {
        let text = format!(
            "Name, owner, wifi_ssid, wifi_passphrase, mesh.port, channel, publisher, release_keys, gateway.enabled\n\
             roof, me, home,\"correct, horse\", 5000, stable, {DID}, me {DID}, false\n\
             7,,,,,,,,\n"
        );
        let nodes = from_csv(&text, Some(DID)).unwrap();
        let roof = config(&nodes[0]);
        assert_eq!(roof.network.wifi[0].passphrase.as_ref().unwrap().reveal(), "correct, horse");
        assert_eq!((roof.mesh.port, roof.gateway.enabled, roof.update.release_keys.len()), (5000, false, 2));
        assert_eq!(roof.owner.unwrap().to_string(), DID);
        assert_eq!(config(&nodes[1]).name, "7");
        assert!(from_csv(&text, None).unwrap_err().to_string().contains("line 2"));
        assert!(from_csv("realm\nhome\n", None).unwrap_err().to_string().contains("name"));
        let short = format!("{:#}", from_csv("name,wifi_passphrase\na,hunter2,b\n", None).unwrap_err());
        assert!(short.contains("line 2: has 3 cells") && !short.contains("hunter2"), "{short}");
    }

    #[test]
    fn a_table_of_toml_is_a_node() {
        let text = "[[node]]\nname = \"roof\"\n[node.mesh]\nport = 5000\n[[node.network.wifi]]\nssid = \"home\"\n[[node]]\nname = \"attic\"\nstate.encryption = \"tpm\"\n";
        let nodes = from_toml(text).unwrap();
        let (roof, attic) = (config(&nodes[0]), config(&nodes[1]));
        assert_eq!(
            (roof.name.as_str(), roof.mesh.port, roof.network.wifi[0].ssid.as_str()),
            ("roof", 5000, "home")
        );
        assert!(attic.name == "attic" && attic.state.encryption.is_some());
        for (bad, word) in
            [("a = 1", "`a`"), ("node = 1", "[[node]]"), ("[[node]]\nname = hunter2", "line 2")]
        {
            let error = from_toml(bad).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hunter2"), "{bad}: {error}");
        }
    }
}
