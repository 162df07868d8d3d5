//! What `control-dht/1` takes and answers beside `services_api::report`. Fields that are not shown are left out.

use serde::{Deserialize, Serialize};

/// Of `lookup`.
#[derive(Debug, Serialize)]
pub struct LookupParams {
    /// 64 hex digits.
    pub key: String,
    pub record_type: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LookupAnswer {
    pub records: Vec<FoundRecord>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FoundRecord {
    /// CBOR in hex.
    pub record: String,
}

/// Of `table`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    pub contacts: Vec<Contact>,
    pub buckets: Vec<Bucket>,
    pub own_records: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contact {
    pub node: String,
    pub addresses: Vec<String>,
    pub last_seen_ms: u64,
    pub failures: u8,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// 255 is the far half of the key space.
    pub index: u8,
    pub contacts: u32,
    pub doubtful: u32,
    pub waiting: u32,
}
