//! RAUC's D-Bus interface, so that RAUC's clients work unchanged.
//!
//! RAUC's clients expect a message bus with `de.pengutronix.rauc` on it. Here the connection itself is that bus: it answers
//! as `org.freedesktop.DBus`, has two names on it and one client. So there is no broker, and a client of the update
//! service's own interface sees no difference. The owner's clients come over the mesh as streams of `control-rauc/1`.

mod bus_driver;
mod installer;
mod mark;
mod sasl;
mod slot_status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use services_api::mesh::Incoming;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use zbus::Guid;
use zbus::connection::Builder;

use crate::updater::Updater;

/// How we are called on a client's bus, and how the client is.
const OUR_NAME: &str = ":1.0";
const CLIENTS_NAME: &str = ":1.1";
const WELL_KNOWN_NAME: &str = "de.pengutronix.rauc";
const BUS_NAME: &str = "org.freedesktop.DBus";

const HANDSHAKE: Duration = Duration::from_secs(10);
/// The owner's clients at once.
const STREAMS_MAX: usize = 16;
static STREAMS: Semaphore = Semaphore::const_new(STREAMS_MAX);

/// Makes a connection that is also RAUC's bus, from a builder that lacks only that, and serves it until the client goes.
pub async fn serve(builder: Builder<'static>, updater: &Arc<Updater>, may_change: bool) -> zbus::Result<()> {
    let installer = installer::Installer { updater: updater.clone(), may_change };
    let builder = builder.unique_name(OUR_NAME).serve_at(installer::PATH, installer);
    match tokio::time::timeout(HANDSHAKE, builder.build_message_stream()).await {
        Ok(messages) => bus_driver::serve(messages?, updater).await,
        Err(_) => Err(zbus::Error::Handshake("it was not finished in time".into())),
    }
}

/// A client of the owner's, at the other end of a stream from the mesh.
pub async fn serve_stream(updater: Arc<Updater>, incoming: Incoming) {
    let Ok(_permit) = STREAMS.try_acquire() else {
        tracing::warn!("turned a RAUC client away: {STREAMS_MAX} are connected");
        return;
    };
    let peer = incoming.peer.short();
    tracing::info!("{peer} connects a RAUC client");
    if let Err(e) = serve_client(&updater, incoming.stream).await {
        tracing::warn!("a RAUC client of {peer} was cut off: {e:#}");
    }
}

async fn serve_client(updater: &Arc<Updater>, mut stream: UnixStream) -> Result<()> {
    let guid = Guid::generate();
    let accepted = tokio::time::timeout(HANDSHAKE, sasl::accept(&mut stream, guid.as_str()));
    accepted.await.context("it did not finish its handshake")??;
    let builder = Builder::authenticated_socket(sasl::Authenticated(stream), guid).p2p();
    Ok(serve(builder, updater, true).await?)
}
