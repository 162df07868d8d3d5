//! `diagnose`: what somebody who helps needs to see of a node, in one file, without secrets.
//!
//! Reports are of types that this program knows, so that what it does not know does not get in; the configuration passes a list of
//! harmless keys, free text a filter (`crate::redact`). What does not answer is said in the bundle and on the screen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use services_api::daemon::now_ms;

use super::{Session, audit, units};
use crate::node::Node;
use crate::output::{Color, Palette, bytes, clean, one_line, timestamp};
use crate::table::{Align, Table, cell, colored};
use crate::{redact, whole_file};

const LOG_LINES: u32 = 4_000;
const AUDIT_RECORDS: usize = 500;
/// Of one part.
const WAIT: Duration = Duration::from_secs(20);
const PACK_LEVEL: i32 = 9;

const README: &str = "\
A support bundle of one Macula OS node, collected by its owner with `maculactl diagnose`.

parts.json says what is here and what the node did not answer. Times are UTC, or milliseconds since the node's boot in logs.txt.
Left out or shown as (hidden): keys, tokens, passphrases, pairing codes, comments in the configuration, and every setting that is not
known to be harmless. What the node's apps log can hold anything: look into logs.txt before you pass this on.
";

/// One file of the bundle.
#[derive(Debug, Serialize)]
pub struct Part {
    pub file: &'static str,
    pub bytes: usize,
    /// Why it is missing; empty when it is there.
    pub missing: String,
    #[serde(skip)]
    content: Vec<u8>,
}

pub async fn diagnose(s: &Session, out: Option<PathBuf>) -> Result<()> {
    let spinner = s.out.spinner("asking the node");
    let collected = s.ask(async |node| Ok(collect(node).await)).await;
    spinner.finish_and_clear();
    let (name, parts) = collected?;
    let seconds = now_ms() / 1000;
    let path = out.unwrap_or_else(|| PathBuf::from(file_name(&name, seconds)));
    let packed = pack(&parts, seconds).context("cannot pack the bundle")?;
    whole_file::write_private(&path, &packed)?;
    let json = serde_json::json!({ "file": path, "bytes": packed.len(), "parts": parts });
    s.out.show(&json, |palette| render(&parts, &path, packed.len(), palette))
}

fn file_name(node: &str, seconds: u64) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let name: String = node.chars().filter(|c| plain(*c)).take(63).collect();
    let time: String = timestamp(seconds).replace(' ', "-").replace(':', "");
    format!("macula-{}-{time}.tar.zst", if name.is_empty() { "node" } else { &name })
}

/// All parts at once: a service that hangs holds up no other.
async fn collect(node: &Node) -> (String, Vec<Part>) {
    let status = wait(node.status()).await;
    let name = status.as_ref().map(|s| s.name.clone()).unwrap_or_default();
    let (units, links, peers, content, dht, table, plan, config, logs, records) = tokio::join!(
        wait(node.units()),
        wait(node.links()),
        wait(node.peers()),
        wait(node.content_report()),
        wait(node.dht_report()),
        wait(node.dht_table()),
        wait(node.plan()),
        wait(node.config(None)),
        wait(node.logs("", LOG_LINES)),
        wait(node.audit()),
    );
    let logs = logs.map(|lines| redact::text(&units::render_logs(&lines, Palette::default())));
    let tail = |segments: Vec<Vec<u8>>| {
        let records = audit::readable(&segments);
        records[records.len().saturating_sub(AUDIT_RECORDS)..].to_vec()
    };
    let parts = vec![
        part("README.txt", Ok(README.into())),
        part("collected.json", json(Ok(collected()))),
        part("status.json", json(status)),
        part("units.json", json(units)),
        part("links.json", json(links)),
        part("peers.json", json(peers)),
        part("content.json", json(content)),
        part("dht.json", json(dht)),
        part("dht-table.json", json(table)),
        part("plan.txt", plan.map(|text| redact::text(&text))),
        part("config.toml", config.map(|text| redact::config(&text))),
        part("logs.txt", logs),
        part("audit.json", json(records.map(tail))),
    ];
    (name, parts)
}

async fn wait<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(WAIT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(anyhow!("no answer within {} s", WAIT.as_secs())),
    }
}

fn collected() -> serde_json::Value {
    serde_json::json!({
        "maculactl": env!("CARGO_PKG_VERSION"),
        "at": timestamp(now_ms() / 1000),
    })
}

/// Reasons and other texts inside reports are free text, too.
fn json<T: Serialize>(answer: Result<T>) -> Result<String> {
    let mut value = serde_json::to_value(answer?)?;
    redact_strings(&mut value);
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

fn redact_strings(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = redact::text(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(redact_strings),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(redact_strings),
        _ => {}
    }
}

fn part(file: &'static str, answer: Result<String>) -> Part {
    match answer {
        Ok(text) => Part { file, bytes: text.len(), missing: String::new(), content: text.into_bytes() },
        Err(e) => Part { file, bytes: 0, missing: redact::text(&one_line(&e)), content: Vec::new() },
    }
}

fn pack(parts: &[Part], seconds: u64) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), PACK_LEVEL)?);
    let index = serde_json::to_vec_pretty(parts)?;
    let there = parts.iter().filter(|part| part.missing.is_empty());
    let files = there.map(|part| (part.file, part.content.as_slice()));
    for (file, content) in files.chain([("parts.json", index.as_slice())]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, Path::new("macula-diagnose").join(file), content)?;
    }
    Ok(archive.into_inner()?.finish()?)
}

fn render(parts: &[Part], path: &Path, size: usize, palette: Palette) -> String {
    let mut table = Table::new(&[("PART", Align::Left), ("SIZE", Align::Right), ("", Align::Left)]);
    for part in parts {
        let missing = colored(Color::Red, &part.missing);
        let size = if part.missing.is_empty() { bytes(part.bytes as u64) } else { String::new() };
        table.row(vec![cell(part.file), cell(size), missing]);
    }
    format!(
        "{}\n{} ({}): without keys, tokens, passphrases and pairing codes. What apps log can hold anything; look before you pass it on: \
         tar --zstd -xf {}\n",
        table.render(palette, ""),
        path.display(),
        bytes(size as u64),
        clean(&path.display().to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain() {
        assert_eq!(file_name("../ro of", 0), "macula-roof-1970-01-01-000000.tar.zst");
        assert_eq!(file_name("", 0), "macula-node-1970-01-01-000000.tar.zst");
    }

    #[test]
    fn texts_inside_reports_are_filtered() {
        let shown = json(Ok(serde_json::json!({ "a": [{ "why": "bad passphrase=hunter2" }] }))).unwrap();
        assert!(!shown.contains("hunter2") && shown.contains("why"), "{shown}");
    }
}
