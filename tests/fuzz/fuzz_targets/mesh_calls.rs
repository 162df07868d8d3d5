//! Both ends of a call and of a topic, fed with whatever a peer sends, in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_proto::pubsub::{Feed, Keep, Log, Subscriber};
use mesh_proto::rpc::{Call, Mode, Role};

fuzz_target!(|bytes: &[u8]| {
    let Some((how, stream)) = bytes.split_first() else { return };
    let pieces = || stream.chunks(usize::from(how >> 3).max(1));
    let role = if how & 1 == 0 { Role::Caller } else { Role::Callee };
    let mode = [Mode::Unary, Mode::Server, Mode::Client, Mode::Both][usize::from(how >> 1 & 3)];
    let mut call = Call::new(role, mode, Some(10), 0);
    for piece in pieces() {
        call.received(piece);
        while call.poll().is_some() {}
    }
    call.timer(11);
    call.closed();

    let mut subscriber = Subscriber::default();
    subscriber.connected();
    for piece in pieces() {
        subscriber.received(piece);
        while let Ok(Some(_)) = subscriber.poll() {}
    }

    let mut log = Log::new(7, Keep { events: 4, bytes: 100 });
    for n in 0..6u8 {
        log.publish(&[n; 30]).unwrap();
    }
    let mut feed = Feed::default();
    for piece in pieces() {
        if feed.received(piece, &log).is_err() {
            return;
        }
    }
});
