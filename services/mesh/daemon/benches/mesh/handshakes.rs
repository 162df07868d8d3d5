//! New connections in a second: with both ends' node certificates, and bare.

use std::sync::Arc;
use std::time::Instant;

use quinn::{Endpoint, VarInt};
use tokio::sync::Semaphore;

use crate::{bare, figure, say};

const HANDSHAKES: usize = 400;
const AT_ONCE: usize = 8;

pub async fn both() {
    say("handshakes");
    let ((server, _), (client, _)) = (bare::node(bare::LOOPBACK), bare::node(bare::LOOPBACK));
    let (plain_server, plain_client) = (bare::server(), bare::client());
    // Warm, then in turns.
    let (mut mesh, mut plain) = (0.0, 0.0);
    for round in 0..4 {
        let (m, p) = (per_second(&server, &client).await, per_second(&plain_server, &plain_client).await);
        if round > 0 {
            (mesh, plain) = (mesh + m / 3.0, plain + p / 3.0);
        }
    }
    figure("handshakes, both ends proving a node", mesh, "1/s", Some(plain));
}

/// Both ends are in this thread, so this is what one core does for both.
async fn per_second(server: &Endpoint, client: &Endpoint) -> f64 {
    let address = server.local_addr().unwrap();
    let accepting = tokio::spawn({
        let server = server.clone();
        async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(async move {
                    let connection = incoming.await.unwrap();
                    connection.closed().await;
                });
            }
        }
    });
    let (start, turns) = (Instant::now(), Arc::new(Semaphore::new(AT_ONCE)));
    let dials = (0..HANDSHAKES).map(|_| {
        let (client, turns) = (client.clone(), turns.clone());
        tokio::spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let connection = client.connect(address, "macula.node").unwrap().await.unwrap();
            connection.close(VarInt::from_u32(0), b"");
        })
    });
    for dial in dials.collect::<Vec<_>>() {
        dial.await.unwrap();
    }
    let rate = HANDSHAKES as f64 / start.elapsed().as_secs_f64();
    accepting.abort();
    client.wait_idle().await;
    rate
}
