//! Records of existing clients in the DHT of nodes.
//!
//! A client's record proves itself, in a form of its own. It travels as the payload of a record of ours, or, too long for that, as content whose
//! id is there. The signer is a key that this node makes for each client, so that two clients' records under one key are two; what counts is the
//! signature within.

use dht_proto::record_types::{CLIENT_RECORD, client_record_key};
use dht_proto::{MAX_LIFETIME_MS, Record, Statement};
use mesh_macula::Record as ClientRecord;
use minicbor::{Decoder, Encoder};
use os_content_id::{Mcid, hash};
use os_identity::{NodeKey, domain};

/// What still fits into a record of ours.
pub const MAX_INLINE: usize = 768;

/// How a client's record is in one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    Inline(Vec<u8>),
    Content(Mcid),
}

/// A record of ours that carries a client's; `None` when that has expired.
pub fn carry(
    seed: &[u8; 32],
    key: &[u8; 32],
    client: &ClientRecord,
    carried: &Carried,
    now_ms: u64,
) -> Option<Record> {
    let expires_ms = client.expires_at_ms.min(now_ms.saturating_add(MAX_LIFETIME_MS));
    if expires_ms <= now_ms {
        return None;
    }
    let carrier = NodeKey::from_seed(&hash(&[&seed[..], client.key.as_bytes()].concat()));
    // A UUIDv7 begins with its time.
    let version = u64::from_be_bytes(*client.version.first_chunk().unwrap_or(&[0; 8]));
    let statement = Statement {
        record_type: CLIENT_RECORD,
        key: client_record_key(key),
        signer: carrier.node_id(),
        version,
        created_ms: now_ms,
        expires_ms,
        payload: payload(carried),
    };
    let signature = carrier.sign(domain::DHT_RECORD, &statement.signing_bytes());
    Some(statement.signed(signature))
}

fn payload(carried: &Carried) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.map(1)?;
        match carried {
            Carried::Inline(bytes) => e.u8(0)?.bytes(bytes)?,
            Carried::Content(mcid) => e.u8(1)?.bytes(&mcid.to_bytes())?,
        };
        Ok(())
    };
    // A Vec takes every write.
    let _ = write();
    e.into_writer()
}

/// What a record of ours carries, if it is one that does.
pub fn carried(record: &[u8]) -> Option<Carried> {
    let record = Record::from_bytes(record).ok()?;
    let mut d = Decoder::new(&record.statement.payload);
    if record.statement.record_type != CLIENT_RECORD || d.map().ok()? != Some(1) {
        return None;
    }
    match (d.u8().ok()?, d.bytes().ok()?) {
        (0, bytes) => Some(Carried::Inline(bytes.to_vec())),
        (1, mcid) => Mcid::try_from(mcid).ok().map(Carried::Content),
        _ => None,
    }
}

/// Of each signer's records of a type about something the newest; several nodes may carry the same.
pub fn newest(mut records: Vec<ClientRecord>) -> Vec<ClientRecord> {
    let what = |r: &ClientRecord| (r.key, r.record_type, r.subject.clone());
    records.sort_by(|a, b| what(a).cmp(&what(b)).then(b.version.cmp(&a.version)));
    records.dedup_by(|later, first| what(later) == what(first));
    records
}

#[cfg(test)]
mod tests {
    use mesh_macula::Value;
    use os_identity::NodeId;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn client_record(by: u8, version: u8) -> ClientRecord {
        ClientRecord {
            record_type: 0x20,
            key: NodeId::from_bytes([0; 32]),
            version: [version; 16],
            created_at_ms: NOW,
            expires_at_ms: NOW + 1000,
            payload: Value::map([]),
            subject: None,
            signature: [0; 64],
        }
        .sign(&NodeKey::from_seed(&[by; 32]))
    }

    #[test]
    fn a_record_is_carried_whole_and_by_a_key_for_its_signer() {
        let (client, other) = (client_record(1, 1), client_record(2, 1));
        let carried_in = Carried::Inline(client.encode());
        let of = |client: &ClientRecord| carry(&[7; 32], &[9; 32], client, &carried_in, NOW).unwrap();
        let record = of(&client);
        assert_eq!(record.verify(NOW), Ok(()));
        assert_eq!(carried(&record.to_bytes()), Some(carried_in.clone()));
        assert_eq!(record.statement.signer, of(&client).statement.signer);
        assert_ne!(record.statement.signer, of(&other).statement.signer);
        let long = Carried::Content(Mcid::of_raw(b"long"));
        let record = carry(&[7; 32], &[9; 32], &client, &long, NOW).unwrap();
        assert_eq!(carried(&record.to_bytes()), Some(long));
        assert!(carry(&[7; 32], &[9; 32], &client, &carried_in, NOW + 1000).is_none(), "expired");
        let largest = Carried::Inline(vec![0; MAX_INLINE]);
        assert_eq!(carry(&[7; 32], &[9; 32], &client, &largest, NOW).unwrap().verify(NOW), Ok(()));
        assert_eq!(carried(b"garbage"), None);
    }

    #[test]
    fn the_newest_of_each_signer_counts() {
        let (old, new, other) = (client_record(1, 1), client_record(1, 2), client_record(2, 1));
        let found = newest(vec![old.clone(), other.clone(), new.clone(), new.clone()]);
        assert_eq!(found.len(), 2);
        assert!(found.contains(&new) && found.contains(&other) && !found.contains(&old));
    }
}
