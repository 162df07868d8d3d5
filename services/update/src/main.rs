//! `update`: writes the inactive slot, runs the gate, answers the owner.
//!
//! It never touches the network and never writes the running slot. What a crash leaves behind, by the moment:
//!
//! | cut | state | what the next start does |
//! |---|---|---|
//! | while fetching or writing | `installing.json`, some chunks in place | installs again, reusing those chunks |
//! | record written, not armed | `trial.json`, no entry | installs again, nothing left to fetch |
//! | armed, not rebooted | `trial.json`, entry `+3` | reboots into the trial (at most three times) |
//! | on trial, before the gate's end | entry counted down | the boot loader counts on; the gate runs anew |
//! | in each boot on trial | `trial.json`, entry `+0-3` | gives the tries back after a pause (at most twice) |
//! | committed, record not cleared | `trial.json`, entry without counter | clears the record |
//! | rescue system fetched, staged, switched or recorded | `renewal.rs` says | goes on |
//! | failure recorded, entry not marked | `failed.json`, entry counted down | marks it bad and reboots |

mod accept;
mod after_boot;
mod assemble;
mod audit;
mod chunk_sink;
mod clock;
mod configuration;
mod direct_read;
mod gate;
mod health;
mod install;
mod links;
mod node;
mod owner;
mod pair_file;
mod rauc;
mod records;
mod renewal;
mod rescue;
mod seed;
mod space;
#[cfg(test)]
mod tests;
mod uki;
mod updater;

use std::sync::Arc;

use anyhow::{Context, Result};
use services_api::mesh::Streams;
use services_api::{bus, control, daemon};

use crate::links::Links;
use crate::node::Node;
use crate::updater::Updater;

const PROTOCOLS: &[(&str, &str)] =
    &[(control::protocol::OS, "macula/os"), (control::protocol::RAUC, "owner"), (clock::TIME, "peer")];

fn main() -> Result<()> {
    daemon::init_logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let node = Node::load().context("cannot learn what booted")?;
    let listener = bus::listen("update")?;
    let (streams, events) = Streams::serve(PROTOCOLS);
    let updater = Arc::new(Updater::new(node, Links::new(streams))?);
    tracing::info!(
        "running {} from slot {} ({})",
        updater.node.boot.version,
        updater.node.boot.slot,
        updater.node.boot.entry
    );
    tokio::spawn(owner::serve(updater.clone(), events));
    tokio::spawn(space::watch(updater.clone()));
    tokio::spawn(after_boot::settle(updater.clone()));
    tokio::spawn(clock::look_after(updater.clone()));
    daemon::ready();
    bus::serve_each(
        listener,
        |uid| [bus::uid::RECONCILER, bus::uid::CONSOLE, bus::uid::MESH, bus::uid::PAIRING].contains(&uid),
        move |builder, uid| {
            let updater = updater.clone();
            async move {
                if uid == bus::uid::MESH {
                    let builder = builder.serve_at("/io/macula/Audit", updater::AccessServer { updater });
                    builder.build().await?.closed().await;
                    return Ok(());
                }
                if uid == bus::uid::PAIRING {
                    let builder = builder.serve_at("/io/macula/Adoption", pair_file::Server { updater });
                    builder.build().await?.closed().await;
                    return Ok(());
                }
                let server = updater::Server { updater: updater.clone(), uid };
                let builder = builder.serve_at("/io/macula/Update", server);
                rauc::serve(builder, &updater, uid != bus::uid::CONSOLE).await
            }
        },
    )
    .await
}
