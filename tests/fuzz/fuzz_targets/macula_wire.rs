//! What existing Macula clients send: frames, records, manifests. What is taken is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_macula::{FrameBuffer, Received, Record, manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = mesh_macula::decode(bytes) {
        assert_eq!(value.encode(), bytes, "one encoding for each value");
        let _ = Record::from_call(value.clone());
        if let Ok(list) = manifest::from_wire(value) {
            assert_eq!(manifest::from_wire(manifest::to_wire(&list).unwrap()), Ok(list));
        }
    }
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
        let _ = (record.dht_key(), record.verify(0));
    }
    let _ = Received::decode(bytes);
    let mut buffer = FrameBuffer::default();
    for piece in bytes.chunks(7) {
        buffer.push(piece);
        while let Ok(Some(frame)) = buffer.next(1000) {
            assert!(frame.len() <= 1000);
        }
    }
});
