//! `control-dht/1`: the owner's calls. Each answer says what was done to get it.
//!
//! | method | parameters | answer |
//! |---|---|---|
//! | `put_record` | record, as bytes | how many other nodes took it |
//! | `revoke` | statement that takes a delegation back, as bytes | none |
//! | `lookup` | [`LookupParams`] | [`LookupAnswer`] |
//! | `providers` | MCID as text | who announced it, this node included: list of `did:key` |
//! | `search_providers` | MCID as text | [`ProvidersAnswer`]: the same, and how it was found |
//! | `table` | none | [`TableAnswer`] |
//! | `report` | none | `services_api::report::DhtReport` |

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LookupParams {
    /// 64 hex digits.
    pub key: String,
    /// All types if absent.
    #[serde(default)]
    pub record_type: Option<u8>,
}

/// What a search did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchReport {
    pub hops: u16,
    pub requests: u32,
    pub failures: u32,
    pub elapsed_ms: u64,
    /// False if time ran out first.
    pub complete: bool,
    /// Nodes that answered, closest to the key first.
    pub closest: Vec<ContactReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContactReport {
    pub node: String,
    pub addresses: Vec<String>,
    /// Milliseconds since 1970; 0 where it was not asked for.
    pub last_seen_ms: u64,
    pub failures: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordReport {
    pub record_type: u8,
    pub signer: String,
    pub version: u64,
    pub created_ms: u64,
    pub expires_ms: u64,
    /// The whole record, CBOR in hex.
    pub record: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupAnswer {
    pub key: String,
    pub records: Vec<RecordReport>,
    pub search: SearchReport,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProvidersAnswer {
    pub mcid: String,
    pub providers: Vec<ContactReport>,
    pub search: SearchReport,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableAnswer {
    pub node: String,
    pub contacts: Vec<ContactReport>,
    pub buckets: Vec<BucketReport>,
    /// Records that this node itself publishes.
    pub own_records: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketReport {
    /// 255 is the far half of the key space.
    pub index: u8,
    pub contacts: u32,
    pub doubtful: u32,
    pub waiting: u32,
}
