//! `dht`: finds nodes, content and records in the mesh, and keeps records for others.
//!
//! The rules are in `dht-proto`; here are its clock, its streams (through mesh) and its disk. A crash loses the records
//! kept for others, which their signers publish again within the hour, and since the last snapshot of the table some
//! contacts. What this node itself promised to publish is on disk before the promise is given.

mod clock;
mod contact_cache;
mod driver;
mod exchange;
mod handle;
mod interface;
mod own_records;
mod owner;
mod revoked;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use os_identity::NodeId;
use services_api::bus::{self, Link, uid};
use services_api::identity::IdentityProxy;
use services_api::mesh::Streams;
use services_api::{control, daemon};

use crate::contact_cache::ContactCache;
use crate::driver::{Driver, Parts};
use crate::exchange::PROTOCOL;
use crate::interface::Dht;
use crate::own_records::OwnFile;
use crate::revoked::RevokedFile;

const CLIENTS: [u32; 4] = [uid::CONTENT, uid::RECONCILER, uid::UPDATE, uid::MESH];
const PROTOCOLS: &[(&str, &str)] = &[(PROTOCOL, "peer"), (control::protocol::DHT, "macula/dht")];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let listener = bus::listen("dht")?;
    let identity = Arc::new(Link::new("identity"));
    let node_id = bus::retry("identity", || node_id(&identity)).await;
    let directory = state_directory();
    let (streams, mesh_events) = Streams::serve(PROTOCOLS);
    let (driver, handle) = Driver::new(Parts {
        node_id,
        own: OwnFile::load(directory.join("own-records.cbor"), daemon::now_ms()),
        revoked: RevokedFile::load(directory.join("revoked.cbor")),
        cache: ContactCache::new(directory.join("cache.sled")),
        streams: streams.clone(),
        identity,
    });
    let server = bus::serve(listener, &CLIENTS, move |builder, uid| {
        builder.serve_at("/io/macula/Dht", Dht::new(handle.clone(), streams.clone(), uid))
    });
    daemon::ready();
    tokio::select! {
        served = server => served.context("the D-Bus server ended"),
        stopped = driver.run(mesh_events) => stopped,
    }
}

async fn node_id(identity: &Link) -> Result<NodeId> {
    let identity = IdentityProxy::new(&identity.get().await?).await?;
    Ok(NodeId::try_from(identity.node_id().await?.as_slice())?)
}

fn state_directory() -> PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from("/state/dht"), PathBuf::from)
}
