//! The first bytes of connections and streams: hello and stream headers, in frames that arrive in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_proto::{Frames, Hello, MAX_HELLO, StreamHeader};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = StreamHeader::decode(bytes) {
        assert_eq!(StreamHeader::decode(&header.encode().unwrap()), Ok(header));
    }
    if let Ok(hello) = Hello::decode(bytes) {
        hello.seen_at();
        assert_eq!(
            hello.agree(&hello).is_ok(),
            hello.version >= hello.oldest && hello.required.iter().all(|w| hello.features.contains(w))
        );
    }
    let Some((piece, stream)) = bytes.split_first() else { return };
    let mut frames = Frames::new(MAX_HELLO);
    for part in stream.chunks(usize::from(*piece).max(1)) {
        frames.push(part);
        while let Ok(Some(frame)) = frames.next_frame() {
            assert!(frame.len() <= MAX_HELLO);
        }
    }
});
