//! Revocations; what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use os_ucan::revocation::Revocation;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(revocation) = Revocation::from_bytes(bytes) {
        assert_eq!(revocation.to_bytes(), bytes);
    }
});
