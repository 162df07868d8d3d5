//! Invocations.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = os_ucan::invocation::Invocation::decode(bytes);
});
