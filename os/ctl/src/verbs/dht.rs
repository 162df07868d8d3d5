//! `dht`: who has what, and how much of the table the node knows.

use anyhow::Result;

use services_api::control_dht::TableAnswer;
use services_api::report::DhtReport;

use super::Session;
use crate::cli::Dht;
use crate::output::{Color, Palette, clean, duration};
use crate::table::{Align, Table, cell, colored};

pub async fn dht(s: &Session, verb: Dht) -> Result<()> {
    match verb {
        Dht::Lookup { mcid } => {
            let spinner = s.out.spinner("asking the mesh");
            let found = s.ask(async |n| n.providers(&mcid).await).await;
            spinner.finish_and_clear();
            let providers = found?;
            s.out.show(&providers, |_| match providers.as_slice() {
                [] => "no node announced it (with --local: no other node)\n".into(),
                found => found.iter().map(|p| clean(p) + "\n").collect(),
            })
        }
        Dht::Table => {
            let (report, table) = s.ask(async |n| Ok((n.dht_report().await?, n.dht_table().await?))).await?;
            let json = serde_json::json!({ "report": report, "table": table });
            s.out.show(&json, |palette| render(&report, &table, palette))
        }
    }
}

fn render(report: &DhtReport, table: &TableAnswer, palette: Palette) -> String {
    let mut text = format!(
        "contacts        {} in {} buckets\nrecords stored  {}\nannounced       {}\n",
        report.contacts,
        report.buckets,
        report.records_stored,
        report.provided.len()
    );
    text.extend(report.provided.iter().map(|p| format!("  {}\n", clean(p))));
    let now = services_api::daemon::now_ms();
    let mut contacts = Table::new(&[
        ("CONTACT", Align::Left),
        ("SEEN", Align::Right),
        ("FAILURES", Align::Right),
        ("ADDRESSES", Align::Left),
    ]);
    for c in &table.contacts {
        let seen = format!("{} ago", duration(now.saturating_sub(c.last_seen_ms) / 1000));
        let failures =
            colored(if c.failures > 0 { Color::Yellow } else { Color::Plain }, c.failures.to_string());
        contacts.row(vec![cell(&c.node), cell(seen), failures, cell(c.addresses.join(" "))]);
    }
    if table.contacts.is_empty() { text } else { format!("{text}\n{}", contacts.render(palette, "")) }
}
