//! `content`: put, get, status.

use std::path::Path;

use anyhow::{Context, Result, bail};
use os_content_id::Mcid;
use services_api::report::{ContentReport, TransferReport};

use super::Session;
use crate::cli::Content;
use crate::output::{Color, Palette, bytes, clean};
use crate::table::{Align, Table, cell, colored};
use crate::transfer;

pub async fn content(s: &Session, verb: Content) -> Result<()> {
    match verb {
        Content::Put { file, name } => put(s, &file, name).await,
        Content::Get { mcid, out } => get(s, &mcid, &out).await,
        Content::Status => {
            let report = s.ask(async |n| n.content_report().await).await?;
            s.out.show(&report, |palette| render(&report, palette))
        }
    }
}

async fn put(s: &Session, file: &Path, name: Option<String>) -> Result<()> {
    let meta = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    if !meta.is_file() {
        bail!("{} is not a file", file.display());
    }
    let name = match name {
        Some(name) => name,
        None => file.file_name().map(|n| n.to_string_lossy().into_owned()).context("the file has no name")?,
    };
    let bar = s.out.bytes_bar(&name, meta.len());
    let stored = s.ask(async |n| transfer::put(n.remote()?, file, &name, meta.len(), &bar).await).await;
    bar.finish_and_clear();
    let mcid = stored?.to_string();
    s.out.show(&serde_json::json!({ "mcid": mcid, "bytes": meta.len() }), |_| format!("{mcid}\n"))
}

async fn get(s: &Session, mcid: &Mcid, out: &Path) -> Result<()> {
    let bar = s.out.bytes_bar("receiving", 0);
    let got = s.ask(async |n| transfer::get(n.remote()?, mcid, out, &bar).await).await;
    bar.finish_and_clear();
    let got = got.with_context(|| format!("cannot fetch {mcid}"))?;
    let json =
        serde_json::json!({ "mcid": mcid.to_string(), "name": got.name, "bytes": got.size, "file": out });
    s.out.show(&json, |_| format!("{}: {}, every byte checked\n", out.display(), bytes(got.size)))
}

fn render(r: &ContentReport, palette: Palette) -> String {
    let offered: String = r.offered.iter().map(|o| format!("offered  {}\n", clean(o))).collect();
    let mut table = Table::new(&[
        ("CONTENT", Align::Left),
        ("DONE", Align::Right),
        ("OF", Align::Right),
        ("STATE", Align::Left),
        ("FROM", Align::Left),
    ]);
    r.transfers.iter().for_each(|t| table.row(transfer_row(t)));
    let stored = format!("stored   {} blocks, {}\n", r.blocks, bytes(r.bytes));
    format!("{stored}{offered}\n{}", table.render(palette, "no transfer yet"))
}

fn transfer_row(t: &TransferReport) -> Vec<crate::table::Cell> {
    let state = match (t.finished, t.error.is_empty()) {
        (true, true) => colored(Color::Green, "done"),
        (false, true) => colored(Color::Yellow, "running"),
        (_, false) => colored(Color::Red, &t.error),
    };
    let got = t.from.iter().map(|(peer, n)| format!("{peer} {}", bytes(*n)));
    let dropped = t.dropped.iter().map(|(peer, why)| format!("{peer} dropped: {why}"));
    let from: Vec<String> = got.chain(dropped).collect();
    vec![cell(&t.mcid), cell(bytes(t.bytes_done)), cell(bytes(t.bytes_total)), state, cell(from.join(", "))]
}
