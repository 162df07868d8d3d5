//! What an HTTP client can say: path, range, token.
#![no_main]

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use mesh_http::{Bearer, check_leaf, part, place_of, route};
use os_identity::NodeId;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (me, at) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    if let Ok(route) = route(text) {
        let _ = (route.asks(&me, &at).is_ok(), route.asks(&me, &me).is_ok());
    }
    for size in [0, 1, 1000, u64::MAX] {
        let _ = part(text, size);
    }
    let _ = place_of(text);
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        if let Ok(Some(bearer)) = Bearer::of(&headers) {
            let _ = check_leaf(bearer.chain());
        }
    }
});
