//! The examples of `docs/protocol.md` are what this crate sends.

use std::time::Duration;

use mesh_proto::pubsub::{Feed, Keep, Log, Subscriber};
use mesh_proto::rpc::{Call, CallError, Code, Mode, Role};
use mesh_proto::{Hello, StreamHeader};

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A topic's publisher in epoch 7 that has published three events, and what it sends for one more.
fn topic() -> Vec<Vec<u8>> {
    let mut log = Log::new(7, Keep { events: 10, bytes: 1000 });
    (0..3).for_each(|_| log.publish(b"").map(drop).unwrap());
    let mut feed = Feed::default();
    let subscribe = Subscriber::default().connected();
    feed.received(&subscribe, &log).unwrap();
    log.publish(b"rain").unwrap();
    [subscribe].into_iter().chain(std::iter::from_fn(|| feed.next(&log).map(|f| f.to_vec()))).collect()
}

#[test]
fn the_examples_are_true() {
    let document = include_str!("../../../../docs/protocol.md");
    let bytes_in_it: String = document.split_whitespace().collect();
    let wait = Duration::from_secs(5).as_millis() as u32;
    let header = StreamHeader { deadline_ms: Some(wait), ..StreamHeader::of("rpc/1", "home/light/on_v1") };
    let mut caller = Call::new(Role::Caller, Mode::Unary, None, 0);
    let mut callee = Call::new(Role::Callee, Mode::Unary, None, 0);
    let mut examples = vec![
        Hello::new(&[], Some(([192, 0, 2, 1], 4433).into())).frame(),
        framed(&header.encode().unwrap()),
        caller.message(b"hello!!").unwrap(),
        caller.end().unwrap(),
        callee.fail(&CallError::new(Code::FORBIDDEN, "not for you..")).unwrap(),
    ];
    examples.extend(topic());
    for example in examples {
        let hex: String = example.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(bytes_in_it.contains(&hex), "{hex} is not in docs/protocol.md");
    }
}
