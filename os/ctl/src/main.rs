//! `maculactl`: the owner's side of a node.
//!
//! Holds the owner's key, connects to a node by QUIC with it, calls the node's control protocols and shows what comes back.
//! Writes nothing but key file, `known_nodes.toml` and the files it is told to; a crash leaves the node's side to the node.

mod artifacts;
mod boot_partition;
mod card;
mod card_list;
mod channel;
mod cli;
mod connect;
mod fleet;
mod image_copy;
mod key_file;
mod known_nodes;
mod lifetime;
mod neighbours;
mod node;
mod output;
mod pairing;
mod redact;
mod repository;
mod screen;
mod table;
mod target;
mod top;
mod transfer;
mod verbs;
mod whole_file;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::output::one_line;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e.into()),
    };
    match runtime.block_on(verbs::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("maculactl: {}", one_line(error));
    ExitCode::FAILURE
}
