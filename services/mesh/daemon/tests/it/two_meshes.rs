//! Two real mesh processes over loopback, each with its own identity, as their services see them: calls, topics, restarts.

use std::time::{Duration, Instant};

use crate::support::{Machine, Procedure};
use mesh_proto::pubsub::{Heard, TopicError};
use mesh_proto::rpc::{Code, Mode};
use mesh_stream::{Subscription, TopicStreamError};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "current_thread")]
async fn procedures_are_called_from_there_and_from_here() {
    let a = Machine::start(1, &[]).await;
    let b = Machine::start(2, &[&a]).await;
    let _service = a.serve("test/double_v1", "peer", Procedure::Double).await;
    let _private = a.serve("test/private_v1", "owner", Procedure::Double).await;
    let _slow = a.serve("test/never_v1", "peer", Procedure::Never).await;
    let _stream = a.serve("test/count_v1", "peer", Procedure::Count).await;

    assert_eq!(b.call(&a, "test/double_v1", b"ab", PATIENCE).await, Ok(b"abab".to_vec()));
    assert_eq!(a.call(&a, "test/double_v1", b"ab", PATIENCE).await, Ok(b"abab".to_vec()), "its own");
    for (procedure, wait, code) in [
        ("test/nothing_v1", PATIENCE, Code::UNKNOWN_PROCEDURE),
        ("test/private_v1", PATIENCE, Code::FORBIDDEN),
        ("test/never_v1", Duration::from_millis(300), Code::DEADLINE),
    ] {
        let error = b.call(&a, procedure, b"", wait).await.unwrap_err();
        assert_eq!(error.code, code, "{procedure}: {error}");
    }

    let mut call = b.open_call(&a, "test/count_v1", Mode::Both, PATIENCE).await;
    let sender = call.sender();
    for text in ["a", "bc", "def"] {
        sender.send(text.as_bytes()).await.unwrap();
        assert_eq!(call.next().await.unwrap(), Some(text.len().to_string().into_bytes()));
    }
    sender.end().await.unwrap();
    assert_eq!(call.next().await, Ok(None));
}

#[tokio::test(flavor = "current_thread")]
async fn a_subscription_outlives_the_meshes_at_both_ends() {
    let mut a = Machine::start(3, &[]).await;
    let mut b = Machine::start(4, &[&a]).await;
    a.open_topic("home/weather", "peer").await;

    let mut subscription = Subscription::default();
    let mut stream = b.subscribe(&a, "home/weather", &mut subscription).await;
    a.publish_until_heard("home/weather", &mut subscription, &mut stream).await;
    let seq = a.publish("home/weather", b"rain").await;
    let rain = Heard::Event { seq, payload: b"rain".to_vec() };
    assert_eq!(subscription.next(&mut stream).await.unwrap(), Some(rain));

    // The subscriber's own mesh dies: nothing is lost.
    b.kill_and_restart().await;
    assert_eq!(subscription.next(&mut stream).await.unwrap(), None);
    let seq = a.publish("home/weather", b"snow").await;
    let mut stream = b.subscribe(&a, "home/weather", &mut subscription).await;
    let snow = Heard::Event { seq, payload: b"snow".to_vec() };
    assert_eq!(subscription.next(&mut stream).await.unwrap(), Some(snow));

    // The publisher's dies: what was in its memory is gone, and the subscriber is told.
    a.kill_and_restart().await;
    a.open_topic("home/weather", "peer").await;
    let began = Instant::now();
    let heard = loop {
        // The first tries may still go to the process that is no more.
        let mut stream = b.open(&a, mesh_proto::pubsub::PROTOCOL, "home/weather", 10_000).await;
        if subscription.begin(&mut stream).await.is_err() {
            continue;
        }
        if let Some(heard) = subscription.next(&mut stream).await.unwrap() {
            break heard;
        }
    };
    assert_eq!(heard, Heard::Missed(None));
    assert!(began.elapsed() < Duration::from_secs(20), "a restarted mesh says that it is a new one");

    for (topic, code) in
        [("home/secrets", Code::UNKNOWN_PROCEDURE), ("home/nothing", Code::UNKNOWN_PROCEDURE)]
    {
        let mut subscription = Subscription::default();
        let mut stream = b.subscribe(&a, topic, &mut subscription).await;
        match subscription.next(&mut stream).await {
            Err(TopicStreamError::Topic(TopicError::Refused(error))) => assert_eq!(error.code, code),
            other => panic!("{other:?}"),
        }
    }
}
