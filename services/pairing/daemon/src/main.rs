//! `pairing`: shows the code of a node without an owner, and takes whoever proves that they have read it.
//!
//! What is said is decided in `pairing-proto`. This process asks `identity` for what the node's key says and `update` for the change
//! of the configuration, which is the moment at which a node has an owner: before it nothing has happened, after it all has. A
//! crash ends the runs that were going on; a claimant begins again, or finds that the node is its own already.
//!
//! It keeps one thing: the code in `macula-pair.txt`, so that it is the same after a restart.

mod desk;
mod file_code;
mod hand_over;
mod interface;
mod node;
mod shown;
mod streams;

use std::sync::Arc;

use anyhow::Result;
use pairing_proto::PROTOCOL;
use services_api::mesh::Streams;
use services_api::{bus, control, daemon};

use crate::desk::Desk;
use crate::node::Node;

const PROTOCOLS: &[(&str, &str)] = &[(PROTOCOL, "peer"), (control::protocol::PAIRING, "owner")];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    daemon::init_logging();
    let listener = bus::listen("pairing")?;
    let (mesh, events) = Streams::serve(PROTOCOLS);
    let node = Node::load(mesh).await;
    let desk = Arc::new(Desk::new(node));
    file_code::restore(&desk);
    desk.refresh();
    tokio::spawn(desk.clone().keep_fresh());
    tokio::spawn(desk.clone().follow_addresses());
    tokio::spawn(file_code::keep(desk.clone()));
    tokio::spawn(streams::serve(desk.clone(), events));
    daemon::ready();
    bus::serve(listener, &[bus::uid::MESH, bus::uid::CONSOLE], |builder, uid| {
        builder.serve_at("/io/macula/Pairing", interface::Server { desk: desk.clone(), uid })
    })
    .await
}
