//! Claimants over the mesh (`pair/1`), and the owner's orders (`control-pairing/1`).
//!
//! A `pair/1` stream takes frames of a session's 16 bytes and a message, and answers each with a frame of one message.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use os_identity::NodeId;
use pairing_proto::limits::MAX_MESSAGE;
use pairing_proto::{PROTOCOL, SESSION, Session};
use services_api::control::{self, Answer, Call};
use services_api::frame;
use services_api::mesh::{Incoming, MeshEvent};
use services_api::pairing::{InviteParams, TransferParams};
use tokio::sync::{Semaphore, mpsc};

use crate::desk::Desk;
use crate::shown;

/// Claimants at once, and how long one may be silent.
const MAX_STREAMS: usize = 32;
const SILENCE: Duration = Duration::from_secs(15 * 60);
const ORDER: Duration = Duration::from_secs(60);

pub async fn serve(desk: Arc<Desk>, mut events: mpsc::Receiver<MeshEvent>) {
    let places = Arc::new(Semaphore::new(MAX_STREAMS));
    while let Some(event) = events.recv().await {
        let MeshEvent::Stream(incoming) = event else { continue };
        let desk = desk.clone();
        // The owner's orders do not wait for claimants.
        if incoming.protocol != PROTOCOL {
            tokio::spawn(tokio::time::timeout(ORDER, order(desk, incoming)));
        } else if let Ok(place) = places.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let peer = incoming.peer;
                if let Err(e) = claimant(&desk, incoming).await {
                    tracing::debug!("a claimant, {peer}, is gone: {e:#}");
                }
                drop(place);
            });
        }
    }
}

async fn claimant(desk: &Arc<Desk>, incoming: Incoming) -> Result<()> {
    let (peer, mut stream) = (incoming.peer, incoming.stream);
    loop {
        let read = frame::read(&mut stream, SESSION + MAX_MESSAGE);
        let Some(bytes) = tokio::time::timeout(SILENCE, read).await.context("silent")?? else {
            return Ok(());
        };
        let (session, message) = bytes.split_first_chunk::<SESSION>().context("no session")?;
        let session: Session = *session;
        let answer = desk.step(peer.to_string(), session, message.to_vec()).await;
        tokio::time::timeout(ORDER, frame::write(&mut stream, &answer)).await.context("does not read")??;
    }
}

async fn order(desk: Arc<Desk>, incoming: Incoming) -> Result<()> {
    let peer = incoming.peer;
    let serve = |call: Call, stream| async move { (answer(&desk, peer, call).await, stream) };
    control::serve_one(incoming.stream, &incoming.resource, serve).await
}

async fn answer(desk: &Arc<Desk>, peer: NodeId, call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "show" => control::ok(&desk.owner()),
        "invite" => {
            desk.invite(&call.params::<InviteParams>()?)?;
            tracing::info!("{peer} invites somebody");
            let serial = *desk.serial().borrow();
            control::ok(&shown::report(desk, serial))
        }
        "transfer" => {
            let owner = call.params::<TransferParams>()?.owner.parse::<NodeId>().context("the new owner")?;
            desk.transfer(owner, &peer.to_string()).await?;
            control::ok(&())
        }
        _ => Err(call.unknown()),
    }
}
