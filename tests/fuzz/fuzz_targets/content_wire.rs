//! Messages of the content exchange, manifests, content ids.
#![no_main]

use content_store::exchange::{Answer, Request};
use libfuzzer_sys::fuzz_target;
use os_content_id::{ChunkList, Mcid};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    let _ = Answer::decode(bytes);
    if let Ok(list) = ChunkList::decode_any(bytes) {
        assert_eq!(ChunkList::decode_any(&list.encode()), Ok(list));
    }
    let _ = Mcid::try_from(bytes);
    if let Some(mcid) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Mcid>().ok()) {
        assert_eq!(mcid.to_string().parse(), Ok(mcid));
    }
});
