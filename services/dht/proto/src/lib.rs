//! Kademlia without a clock, a socket or a task: events and the time go in, requests to send, results and the next
//! deadline come out. [`Node`] ties the parts together; the daemon and the simulator drive the same one.
//!
//! Every table, queue and message is bounded, and the same seed and events give the same actions.

mod contact;
mod key;
mod lookup;
mod message;
mod node;
mod publication;
mod record;
pub mod record_types;
mod republish;
mod routing_table;
mod store;
mod wire;

pub use contact::{Contact, MAX_ADDRESSES};
pub use key::{Distance, Key};
pub use lookup::{ALPHA, Goal, LOOKUP_MAX_MS, Lookup, Outcome, PATHS};
pub use message::{MAX_FRAME_LEN, MAX_RECORDS, Request, RequestBody, Response};
pub use node::{Action, Busy, Config, LookupId, Node, PutError, REQUEST_TIMEOUT_MS, RequestId};
pub use publication::Published;
pub use record::{
    CLOCK_SKEW_MS, MAX_LIFETIME_MS, MAX_PAYLOAD_LEN, MAX_RECORD_LEN, Record, RecordError, SignatureCheck,
    Statement,
};
pub use republish::{DRAFT_LIFETIME_MS, MAX_OWN_RECORDS, OwnRecords, REPUBLISH_MS, TooMany};
pub use routing_table::{BucketSummary, Entry, K, RoutingTable, Seen};
pub use store::{RecordStore, StoreLimits, StoreRefusal, Stored};
pub use wire::WireError;
