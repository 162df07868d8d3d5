//! One file per group of verbs. Each asks the node and hands a report to a pure function that renders it.

mod audit;
mod check_http;
mod config;
mod console;
mod content;
mod dht;
mod identity;
mod mesh;
mod network;
mod owner;
mod pair;
mod publish;
mod rauc;
mod release;
mod root_keys;
mod standing;
mod status;
mod ucan;
mod ucan_show;
mod units;
mod update;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use os_identity::NodeKey;

use crate::cli::{Cli, Global, Verb};
use crate::known_nodes::KnownNodes;
use crate::node::Node;
use crate::output::Output;
use crate::target::Target;
use crate::{connect, key_file};

/// What every verb has: where the node is, and where its words go.
#[derive(Clone)]
pub struct Session {
    global: Global,
    pub out: Output,
}

pub async fn run(cli: Cli) -> Result<()> {
    let session = Session { out: Output::new(cli.global.json), global: cli.global };
    let s = &session;
    match cli.verb {
        Verb::Key(verb) => identity::key(s, verb),
        Verb::Pair(wanted) => pair::pair(s, &wanted).await,
        Verb::Owner(verb) => owner::owner(s, &verb).await,
        Verb::Known { verb } => identity::known(s, verb),
        Verb::Status { watch: true } => status::watch(s, None).await,
        Verb::Status { watch: false } => status::status(s).await,
        Verb::Nodes => network::peers(s).await,
        Verb::Units { verb } => units::units(s, verb).await,
        Verb::Logs { unit, lines } => units::logs(s, unit.as_deref().unwrap_or(""), lines).await,
        Verb::Events => status::events(s).await,
        Verb::Links => network::links(s).await,
        Verb::Plan => update::plan(s).await,
        Verb::Release(verb) => release::release(s, verb).await,
        Verb::Update { release, channel, publisher, again, watch } => {
            let wanted = update::Wanted::new(s, release, channel, publisher)?;
            update::update(s, &wanted, again, watch).await
        }
        Verb::Rollback => update::rollback(s).await,
        Verb::Reboot { reason, rescue } => update::reboot(s, &reason, rescue).await,
        Verb::Poweroff { reason } => update::poweroff(s, &reason).await,
        Verb::Content(verb) => content::content(s, verb).await,
        Verb::Dht(verb) => dht::dht(s, verb).await,
        Verb::Rpc(verb) => mesh::rpc(s, verb).await,
        Verb::Pubsub(verb) => mesh::pubsub(s, verb).await,
        Verb::Audit(verb) => audit::audit(s, verb).await,
        Verb::Ucan(verb) => ucan::ucan(s, &verb).await,
        Verb::Config(verb) => config::config(s, verb).await,
        Verb::Reset { yes, encryption } => config::reset(s, yes, encryption).await,
        Verb::RecoveryKey => config::recovery_key(s).await,
        Verb::RaucBus { listen } => rauc::bus(s, &listen).await,
        Verb::Console => console::console(s).await,
        Verb::CheckHttp { url } => check_http::check(&url),
    }
}

impl Session {
    pub fn key_path(&self) -> Result<PathBuf> {
        self.global.key.clone().map_or_else(key_file::default_path, Ok)
    }

    pub fn key(&self) -> Result<NodeKey> {
        key_file::load(&self.key_path()?)
    }

    /// The node that the options name, connected.
    pub async fn node(&self) -> Result<Node> {
        if self.global.local {
            return Ok(Node::Local);
        }
        let target = self.target()?;
        let key = self.key()?;
        let ucan = self.global.ucan.as_deref().map(ucan::chain).transpose()?;
        let mut known = KnownNodes::load()?;
        let wait = Duration::from_secs(self.global.timeout);
        let remote = connect::connect(&target, &key, &mut known, wait).await?;
        Ok(Node::Remote(remote.showing(ucan)))
    }

    /// Connects, runs `ask` and takes leave of the node, also when it failed.
    pub async fn ask<T>(&self, ask: impl AsyncFnOnce(&Node) -> Result<T>) -> Result<T> {
        let node = self.node().await?;
        let answer = ask(&node).await;
        node.close().await;
        answer
    }

    fn target(&self) -> Result<Target> {
        if let Some(target) = &self.global.node {
            return Ok(target.clone());
        }
        let text = std::env::var("MACULA_NODE").ok().filter(|t| !t.is_empty());
        let text = text
            .context("which node? Say --node ADDR, or set MACULA_NODE, or on the node itself say --local")?;
        text.parse().map_err(|e: String| anyhow!("MACULA_NODE: {e}"))
    }
}
