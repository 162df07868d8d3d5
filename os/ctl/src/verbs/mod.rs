//! One file per group of verbs. Each asks the node and hands a report to a pure function that renders it.

mod audit;
mod check_http;
mod config;
mod console;
mod content;
mod dht;
mod diagnose;
mod find;
pub mod follow;
mod identity;
mod mesh;
mod network;
mod nodes;
mod owner;
mod pair;
mod provision;
mod publish;
mod rauc;
mod release;
mod root_keys;
mod shell;
mod standing;
mod status;
mod ucan;
mod ucan_show;
mod units;
mod update;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use os_identity::NodeKey;
use serde::Serialize;

use crate::cli::{Cli, Global, Verb};
use crate::fleet::{self, Member};
use crate::known_nodes::KnownNodes;
use crate::node::Node;
use crate::output::{Color, Output, Palette, clean, one_line, print};
use crate::target::Target;
use crate::{connect, key_file, top};

const WHICH: &str = "which node? Say --node NAME or ADDR (`maculactl find` lists those nearby), or set MACULA_NODE, or on the node itself say --local";
const NONE_KNOWN: &str = "no node is known yet: name one with --node ADDR (`maculactl find` lists those nearby), it is remembered then";

/// What every verb has: where the node is, and where its words go.
#[derive(Clone)]
pub struct Session {
    global: Global,
    pub out: Output,
    /// Somebody draws on the terminal: nothing else may be written there.
    quiet: bool,
}

pub async fn run(cli: Cli) -> Result<()> {
    let out = Output::with_color(cli.global.json, cli.global.color);
    let session = Session { out, global: cli.global, quiet: false };
    let s = &session;
    match cli.verb {
        Verb::Key(verb) => identity::key(s, verb),
        Verb::Pair(wanted) => pair::pair(s, &wanted).await,
        Verb::Owner(verb) => owner::owner(s, &verb).await,
        Verb::Known { verb } => identity::known(s, verb),
        Verb::Status { watch: true } => status::watch(s, None).await,
        Verb::Status { watch: false } => status::status(s).await,
        Verb::Find => find::find(s).await,
        Verb::Nodes => nodes::nodes(s).await,
        Verb::Peers => network::peers(s).await,
        Verb::Units { verb } => units::units(s, verb).await,
        Verb::Logs { unit, lines, follow: true, all } => {
            follow::logs(s, all, unit.unwrap_or_default(), lines.unwrap_or(20)).await
        }
        Verb::Logs { unit, lines, follow: false, all } => {
            units::logs(s, all, unit.as_deref().unwrap_or(""), lines.unwrap_or(200)).await
        }
        Verb::Events { follow: true, all } => follow::events(s, all).await,
        Verb::Events { follow: false, all } => status::events(s, all).await,
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
        Verb::Top => top::top(s).await,
        Verb::Diagnose { out } => diagnose::diagnose(s, out).await,
        Verb::Provision(args) => provision::provision(s, &args),
        Verb::Console => console::console(s).await,
        Verb::Completions { shell } => shell::completions(shell),
        Verb::Man { out } => shell::man(s, out.as_deref()),
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
        let remote = connect::connect(&target, &key, &mut known, self.wait()).await?;
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
        if self.global.node.len() > 1 {
            bail!("this verb asks one node: say --node once");
        }
        self.named()?.pop().with_context(|| WHICH)
    }

    /// The nodes that the options or else the environment name.
    fn named(&self) -> Result<Vec<Target>> {
        if !self.global.node.is_empty() {
            return Ok(self.global.node.clone());
        }
        match std::env::var("MACULA_NODE").ok().filter(|t| !t.is_empty()) {
            Some(text) => Ok(vec![text.parse().map_err(|e: String| anyhow!("MACULA_NODE: {e}"))?]),
            None => Ok(Vec::new()),
        }
    }

    /// The nodes for verbs that take several; with `all` every one that was met before, too.
    pub fn members(&self, all: bool) -> Result<Vec<Member>> {
        if self.global.local {
            return Ok(vec![Member::local()]);
        }
        // Said once, not for each node.
        self.key()?;
        let mut members: Vec<Member> = Vec::new();
        if all {
            members = fleet::known(&KnownNodes::load()?);
        }
        for target in self.named()? {
            let there = |m: &Member| m.ways.contains(&Target { pin: None, ..target.clone() });
            if !members.iter().any(there) {
                members.push(Member::at(target));
            }
        }
        members.truncate(fleet::MEMBERS_MAX);
        if members.is_empty() { bail!(if all { NONE_KNOWN } else { WHICH }) } else { Ok(members) }
    }

    /// The way to one of several nodes: its addresses one after the other, each for as long as `--timeout` says.
    pub async fn reach(&self, member: &Member) -> Result<Node> {
        let (wait, key) = (self.wait(), if member.ways.is_empty() { None } else { Some(self.key()?) });
        let ucan = self.global.ucan.as_deref().map(ucan::chain).transpose()?;
        let Some(key) = key else { return Ok(Node::Local) };
        let mut failure = anyhow!("{} has no address", member.label());
        for way in &member.ways {
            let reached = match connect::reach(way, member.id, &key, wait).await {
                Ok(remote) if member.remember => {
                    let new = remote.check_identity(way, &mut KnownNodes::load()?);
                    new.map(|new| {
                        remote.say_if(new && !self.quiet, way);
                        remote
                    })
                }
                other => other,
            };
            match reached {
                Ok(remote) => return Ok(Node::Remote(remote.showing(ucan))),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    /// For what draws on the terminal.
    pub fn quietly(&self) -> Self {
        Self { quiet: true, ..self.clone() }
    }

    pub fn names_several(&self) -> bool {
        self.global.node.len() > 1
    }

    /// Asks several nodes and shows what each said under its name. One that does not answer takes nothing from the others.
    pub async fn show_each<T: Serialize + Send + 'static>(
        &self,
        all: bool,
        ask: impl AsyncFn(&Node) -> Result<T>,
        render: impl Fn(&T, Palette) -> String,
    ) -> Result<()> {
        let mut json = Vec::new();
        for member in self.members(all)? {
            let asked = self.ask_one(&member, &ask).await;
            let (name, answer) = match asked {
                Ok((name, answer)) => (name, Ok(answer)),
                Err(e) => (member.label(), Err(one_line(&e))),
            };
            if self.out.json {
                json.push(match answer {
                    Ok(answer) => serde_json::json!({ "node": name, "answer": answer }),
                    Err(e) => serde_json::json!({ "node": name, "error": e }),
                });
                continue;
            }
            let head = self.out.palette.paint(Color::Bold, &clean(&name));
            match answer {
                Ok(answer) => print(&format!("{head}\n{}\n", render(&answer, self.out.palette))),
                Err(e) => print(&format!("{head}\n{}\n\n", self.out.palette.paint(Color::Red, &e))),
            }
        }
        if self.out.json { self.out.show(&json, |_| String::new()) } else { Ok(()) }
    }

    async fn ask_one<T>(
        &self,
        member: &Member,
        ask: &impl AsyncFn(&Node) -> Result<T>,
    ) -> Result<(String, T)> {
        let node = self.reach(member).await?;
        let asked = async { Ok((node.status().await?.name, ask(&node).await?)) };
        let answer = asked.await;
        node.close().await;
        answer
    }

    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.global.timeout)
    }
}
