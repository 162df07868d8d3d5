//! Tokens of both formats, and a JWT with any payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use os_ucan::{Token, TokenId};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(token) = Token::decode(bytes) {
        assert_eq!(token.id, TokenId::of(bytes));
        let _ = token.verify();
    }
    let _ = os_ucan::ipld::from_json(bytes);
});
