//! What comes in datagrams of relays and peers, and on the streams by which detours are made and left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_proto::punch::{Meet, Seen};
use mesh_proto::relayed::{Halves, MUST_PASS, Part, Relayed};

fuzz_target!(|bytes: &[u8]| {
    if let Some(relayed) = Relayed::decode(bytes) {
        assert_eq!(relayed.encode(), bytes);
        for max in [0, 40, 700, 1150, 1500] {
            let parts = relayed.clone().fit(max, 7);
            assert!(parts.len() <= 2 && parts.iter().all(|part| part.len() <= max));
            let must_pass = relayed.part == Part::Whole && relayed.bytes.len() <= MUST_PASS && max >= 700;
            assert!(!must_pass || !parts.is_empty());
        }
    }
    if let Ok(meet) = Meet::decode(bytes) {
        assert_eq!(Meet::decode(&meet.frame()[4..]), Ok(meet));
    }
    if let Ok(seen) = Seen::decode(bytes) {
        seen.address();
    }
    // Halves in whatever order and number.
    let mut halves = Halves::default();
    for datagram in bytes.chunks(48) {
        if let Some(relayed) = Relayed::decode(datagram) {
            halves.push(relayed.part, relayed.bytes);
        }
    }
});
