//! Requests, responses and records of the DHT.
#![no_main]

use dht_proto::{Record, Request, Response, record_types};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::from_bytes(bytes) {
        let _ = record.verify(record.statement.created_ms);
        assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
    }
    let _ = Request::from_bytes(bytes);
    let _ = Response::from_bytes(bytes);
    let _ = record_types::NodeAddress::parse(bytes);
    let _ = record_types::Provider::parse(bytes);
    let _ = record_types::ChannelHead::parse(bytes);
    let _ = record_types::parse_revocation(bytes);
});
