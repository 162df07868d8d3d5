//! One publisher, a thousand subscribers on the same node.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_proto::pubsub::{self, Heard};
use mesh_stream::Subscription;

use crate::support::Machine;
use crate::{figure, permille, say};

const SUBSCRIBERS: usize = 1000;
const EVENTS: usize = 100;
const TOPIC: &str = "bench/topic";

pub async fn a_thousand_subscribers() {
    say("one publisher, 1,000 subscribers");
    let node = Machine::start(103, &[]).await;
    node.open_topic(TOPIC, "peer").await;
    let began = Instant::now();
    let latencies = Arc::new(Mutex::new(Vec::with_capacity(SUBSCRIBERS * EVENTS)));
    let mesh = node.mesh().await;
    let me = node.key.node_id();
    let mut readers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let fd = mesh.open_stream(me.as_bytes(), pubsub::PROTOCOL, TOPIC, &[], 10_000).await.unwrap();
        let mut stream = services_api::mesh::from_fd(fd).unwrap();
        let mut subscription = Subscription::default();
        subscription.begin(&mut stream).await.unwrap();
        subscription.started(&mut stream).await.unwrap();
        let latencies = latencies.clone();
        readers.push(tokio::spawn(async move {
            for _ in 0..EVENTS {
                match subscription.next(&mut stream).await.unwrap() {
                    Some(Heard::Event { payload, .. }) => {
                        let sent = u64::from_le_bytes(*payload.first_chunk().unwrap());
                        let now = began.elapsed();
                        latencies.lock().unwrap().push(now.saturating_sub(Duration::from_nanos(sent)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    let start = Instant::now();
    for _ in 0..EVENTS {
        let mut event = vec![0; 100];
        event[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_le_bytes());
        mesh.publish(TOPIC, &event).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    let times = latencies.lock().unwrap().clone();
    figure("one publisher to 1,000 subscribers, published", EVENTS as f64 / took, "events/s", None);
    figure("the same, delivered", (EVENTS * SUBSCRIBERS) as f64 / took, "events/s", None);
    figure("the same, from publishing to reading, p50", permille(&times, 500) / 1000.0, "ms", None);
    figure("the same, from publishing to reading, p99", permille(&times, 990) / 1000.0, "ms", None);
}
