//! `dht`: who has what, and how much of the table the node knows.

use anyhow::Result;

use super::Session;
use crate::cli::Dht;
use crate::output::clean;

pub async fn dht(s: &Session, verb: Dht) -> Result<()> {
    match verb {
        Dht::Lookup { mcid } => {
            let spinner = s.out.spinner("asking the mesh");
            let found = s.ask(async |n| n.providers(&mcid).await).await;
            spinner.finish_and_clear();
            let providers = found?;
            s.out.show(&providers, |_| match providers.as_slice() {
                [] => "nobody announced it\n".into(),
                found => found.iter().map(|p| clean(p) + "\n").collect(),
            })
        }
        Dht::Table => {
            let report = s.ask(async |n| n.dht_report().await).await?;
            s.out.show(&report, |_| {
                let provided: String = report.provided.iter().map(|p| format!("  {}\n", clean(p))).collect();
                format!(
                    "contacts        {} in {} buckets\nrecords stored  {}\nannounced       {}\n{provided}",
                    report.contacts,
                    report.buckets,
                    report.records_stored,
                    report.provided.len()
                )
            })
        }
    }
}
