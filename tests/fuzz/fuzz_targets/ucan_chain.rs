//! A chain as it travels and as text; what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use os_ucan::chain;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokens) = chain::decode(bytes) {
        assert_eq!(chain::encode(&tokens).as_deref(), Ok(bytes));
        os_ucan::review::review(&tokens, 0, |_, _| false);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = chain::from_text(text);
    }
});
