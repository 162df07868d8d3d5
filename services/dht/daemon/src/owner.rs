//! `control-dht/1`: the owner's calls (`services_api::control_dht`).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dht_proto::{Contact, Key, Outcome, Record};
use os_content_id::Mcid;
use services_api::control::{self, Answer, Call};
use services_api::control_dht::{
    BucketReport, ContactReport, LookupAnswer, LookupParams, ProvidersAnswer, RecordReport, SearchReport,
    TableAnswer,
};
use services_api::mesh::Incoming;

use crate::handle::{Handle, Table};

pub async fn serve(handle: Handle, incoming: Incoming) -> Result<()> {
    let serve = |call: Call, stream| async move { (answer(&handle, call).await, stream) };
    control::serve_one(incoming.stream, &incoming.resource, serve).await
}

async fn answer(handle: &Handle, call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "put_record" => control::ok(&handle.put(&call.params::<Vec<u8>>()?).await?),
        "revoke" => control::ok(&handle.revoke(&call.params::<Vec<u8>>()?).await?),
        "lookup" => {
            let params: LookupParams = call.params()?;
            let outcome = handle.find(key_from_hex(&params.key)?, params.record_type).await?;
            let records = outcome.records.iter().map(record_report).collect();
            control::ok(&LookupAnswer { key: params.key, records, search: search_report(&outcome) })
        }
        "providers" => {
            let answer = providers(handle, &call).await?;
            control::ok(&answer.providers.into_iter().map(|p| p.node).collect::<Vec<String>>())
        }
        "search_providers" => control::ok(&providers(handle, &call).await?),
        "table" => control::ok(&table_answer(&handle.table().await?)),
        "report" => control::ok(&handle.report().await?),
        _ => Err(call.unknown()),
    }
}

async fn providers(handle: &Handle, call: &Call) -> Result<ProvidersAnswer> {
    let mcid: Mcid = call.params::<String>()?.parse().context("not an MCID")?;
    let found = handle.providers(&mcid.to_bytes()).await?;
    let mut providers: Vec<ContactReport> = found.contacts.iter().map(contact_report).collect();
    if found.here {
        providers.insert(0, contact_report(&Contact::new(handle.node(), [])));
    }
    Ok(ProvidersAnswer { mcid: mcid.to_string(), providers, search: search_report(&found.outcome) })
}

fn search_report(outcome: &Outcome) -> SearchReport {
    SearchReport {
        hops: outcome.hops,
        requests: outcome.requests,
        failures: outcome.failures,
        elapsed_ms: outcome.elapsed_ms,
        complete: outcome.complete,
        closest: outcome.closest.iter().map(contact_report).collect(),
    }
}

fn contact_report(contact: &Contact) -> ContactReport {
    let addresses = contact.addresses.iter().map(SocketAddr::to_string).collect();
    ContactReport { node: contact.id.to_string(), addresses, ..ContactReport::default() }
}

fn record_report(record: &Arc<Record>) -> RecordReport {
    let statement = &record.statement;
    RecordReport {
        record_type: statement.record_type,
        signer: statement.signer.to_string(),
        version: statement.version,
        created_ms: statement.created_ms,
        expires_ms: statement.expires_ms,
        record: hex(&record.to_bytes()),
    }
}

fn table_answer(table: &Table) -> TableAnswer {
    let contact = |entry: &dht_proto::Entry| ContactReport {
        last_seen_ms: entry.last_seen_ms,
        failures: entry.failures,
        ..contact_report(&entry.contact)
    };
    let bucket = |b: &dht_proto::BucketSummary| BucketReport {
        index: b.index,
        contacts: b.contacts as u32,
        doubtful: b.doubtful as u32,
        waiting: b.waiting as u32,
    };
    TableAnswer {
        node: table.node.to_string(),
        contacts: table.entries.iter().map(contact).collect(),
        buckets: table.buckets.iter().map(bucket).collect(),
        own_records: table.own_records as u32,
    }
}

fn key_from_hex(text: &str) -> Result<Key> {
    ensure!(text.len() == 64 && text.is_ascii(), "a key is 64 hex digits");
    let mut bytes = [0; Key::LEN];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).context("a key is 64 hex digits")?;
    }
    Ok(Key::from_bytes(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_hex_only() {
        let key = Key::hash(&[b"key"]);
        assert_eq!(key_from_hex(&key.to_string()).unwrap(), key);
        for bad in ["", "00", &"g".repeat(64), &"ä".repeat(32), &"0".repeat(65)] {
            assert!(key_from_hex(bad).is_err(), "{bad}");
        }
    }
}
