//! Pairing: codes as people paste them, messages, and a node that is talked to by anybody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use os_identity::NodeId;
use pairing_proto::message::Message;
use pairing_proto::{NodeSide, Outcome, PairCode, Standing};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(code) = std::str::from_utf8(bytes).unwrap_or_default().parse::<PairCode>() {
        assert_eq!(code.uri().parse(), Ok(code.clone()));
        assert!(code.web().is_none_or(|web| web.parse() == Ok(code)));
    }
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let mut node = NodeSide::new(NodeId::from_bytes([1; 32]), Standing::Unowned);
    node.refresh(0, [&[1; 32], &[2; 32]]);
    for (now, part) in bytes.split(|byte| *byte == 0xff).enumerate() {
        let session = [part.first().copied().unwrap_or_default() % 3; 16];
        match node.step(now as u64, "fuzz", session, part, &[3; 32]) {
            Outcome::Say(answer) => assert!(Message::decode(&answer).is_ok()),
            other => panic!("nobody knows the code: {other:?}"),
        }
    }
});
