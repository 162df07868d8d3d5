//! The command line, as clap reads it. What each verb does is in `verbs`.

pub mod pair;
pub mod provision;
pub mod release;
pub mod ucan;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use os_content_id::Mcid;
use os_identity::NodeId;

use crate::target::Target;

const CONFIG_SET_EXAMPLES: &str = "\
Examples:
  maculactl config set mesh.relay true
  maculactl config set update.channel stable update.publisher did:key:... update.release_keys '[\"did:key:...\"]'";

const EXAMPLES: &str = "\
Examples:
  maculactl key new                             make your owner key, once
  maculactl key show                            your did:key, for `owner` in a node's config.toml
  maculactl --node 192.0.2.7 status             what the node runs and does
  maculactl find                                the nodes in this network
  maculactl --node kitchen units                a node's services, by the node's name
  export MACULA_NODE=192.0.2.7                  instead of --node each time
  maculactl update --channel stable --watch     update to the channel's newest and look on
  maculactl help release                        how a release is made and published

The first contact with an address remembers which node answered there (`maculactl known`); write
--node did:key:...@192.0.2.7 when you know the id. Every verb understands --json.";

#[derive(Debug, Parser)]
#[command(
    name = "maculactl",
    version,
    about = "Looks after Macula OS nodes, as their owner",
    after_help = EXAMPLES,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The node: its name in the local network, ADDR, ADDR:PORT (default 4433) or did:key:...@ADDR:PORT. Default: $MACULA_NODE. `logs`,
    /// `events` and `nodes` take several
    #[arg(long, global = true, value_name = "NODE")]
    pub node: Vec<Target>,
    /// The key file. Default: ~/.config/macula/owner.key
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Delegations to your key, as `ucan issue` wrote them, to act on a node that is not yours
    #[arg(long, global = true, value_name = "FILE")]
    pub ucan: Option<PathBuf>,
    /// Talk to the services of this machine, which is a node, instead of to a node over the mesh
    #[arg(long, global = true, conflicts_with = "node")]
    pub local: bool,
    /// JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours: `auto` on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value_t = clap::ColorChoice::Auto)]
    pub color: clap::ColorChoice,
    /// How long to wait for a node to answer the first packet
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Your owner key: make it, show its id
    #[command(subcommand)]
    Key(Key),
    /// Become the owner of a node, by the code that it shows
    #[command(after_help = pair::EXAMPLES)]
    Pair(Box<pair::Pair>),
    /// Who owns the node, and who may come
    #[command(subcommand, after_help = pair::OWNER_EXAMPLES)]
    Owner(pair::Owner),
    /// Nodes met before, by address
    Known {
        #[command(subcommand)]
        verb: Option<Known>,
    },
    /// The nodes in the local network: their names and addresses, and which wait for an owner
    Find,
    /// What the node runs: version, slot, trial, install progress, events
    Status {
        /// Keep showing it, also across reboots of the node; Ctrl-C ends
        #[arg(long, short)]
        watch: bool,
    },
    /// Your nodes as one table: those met before, those named, and their peers in the mesh
    #[command(after_help = NODES_HELP)]
    Nodes,
    /// The node's peers in the mesh, and how it reaches them
    Peers,
    /// The node's services
    #[command(
        after_help = "Examples:\n  maculactl units\n  maculactl units restart dht\n  maculactl units kill mesh --signal 9"
    )]
    Units {
        #[command(subcommand)]
        verb: Option<Units>,
    },
    /// What the services logged, oldest first
    #[command(after_help = LOGS_EXAMPLES)]
    Logs {
        /// One unit; all when left out
        unit: Option<String>,
        /// At most so many of the newest lines. Default: 200, with --follow 20
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<u32>,
        /// Go on with each new line, also across reboots of the node; Ctrl-C ends
        #[arg(short, long)]
        follow: bool,
        /// Of all nodes that were met before
        #[arg(long)]
        all: bool,
    },
    /// What happened to the OS lately: installs, commits, rollbacks, refusals
    #[command(after_help = EVENTS_EXAMPLES)]
    Events {
        /// Go on with each new event, also across reboots of the node; Ctrl-C ends
        #[arg(short, long)]
        follow: bool,
        /// Of all nodes that were met before
        #[arg(long)]
        all: bool,
    },
    /// The node's network links and addresses
    Links,
    /// What the reconciler would do next
    Plan,
    /// Make, sign, look at and publish a release
    #[command(after_help = release::EXAMPLES)]
    Release(release::ReleaseArgs),
    /// Install a release: the one named, or a channel's newest
    #[command(after_help = UPDATE_EXAMPLES)]
    Update {
        /// The releases' metadata, as `release publish` prints its name; the node takes the newest that fits it
        #[arg(long, value_name = "MCID")]
        release: Option<Mcid>,
        /// The channel whose newest release it is to be
        #[arg(long, value_name = "NAME", conflicts_with = "release")]
        channel: Option<String>,
        /// Whose channel. Default: yours
        #[arg(long, value_name = "DID", requires = "channel")]
        publisher: Option<NodeId>,
        /// Also when it failed on this node before
        #[arg(long)]
        again: bool,
        /// Look on until it is committed or refused
        #[arg(long, short)]
        watch: bool,
    },
    /// Boot the other slot's committed release
    Rollback,
    /// Restart the node
    Reboot {
        /// Ends up in the node's log
        #[arg(long, default_value = "the owner asked")]
        reason: String,
        /// Into the rescue system, which installs a release anew and needs no slot
        #[arg(long)]
        rescue: bool,
    },
    /// Switch the node off
    Poweroff {
        /// Ends up in the node's log
        #[arg(long, default_value = "the owner asked")]
        reason: String,
    },
    /// Content by MCID: bring it to the node, fetch it, see transfers
    #[command(subcommand)]
    Content(Content),
    /// The node's view of the distributed hash table
    #[command(subcommand)]
    Dht(Dht),
    /// Call procedures that the node's services and apps serve
    #[command(subcommand, after_help = RPC_EXAMPLES)]
    Rpc(Rpc),
    /// Listen to topics that the node's services and apps publish
    #[command(subcommand)]
    Pubsub(Pubsub),
    /// Let RAUC's clients on this machine work with the node
    #[command(after_help = RAUC_EXAMPLES)]
    RaucBus {
        /// The socket to make. Ctrl-C ends and removes it
        #[arg(long, value_name = "PATH")]
        listen: PathBuf,
    },
    /// The node's log of all that changed its state, each record chained to the one before
    #[command(subcommand)]
    Audit(Audit),
    /// Let others do a part of what you may: delegations (UCAN), made and looked at offline
    #[command(subcommand, after_help = ucan::EXAMPLES)]
    Ucan(ucan::Ucan),
    /// Node configuration
    #[command(subcommand, after_help = CONFIG_EXAMPLES)]
    Config(Config),
    /// Factory reset: erase the node's key, owner, configuration and content. The installed releases stay
    #[command(after_help = RESET_HELP)]
    Reset {
        /// Really
        #[arg(long)]
        yes: bool,
        /// How to encrypt the new state: `tpm`, `tpm-pin`, `passphrase`, or `off`. Without it: as it is now
        #[arg(long, value_name = "KIND", value_parser = encryption)]
        encryption: Option<String>,
    },
    /// The key that opens a node's encrypted state when its TPM, PIN or passphrase does not. Keep it somewhere else
    #[command(after_help = RECOVERY_KEY_HELP)]
    RecoveryKey,
    /// Nodes, transfers, apps and logs on one screen, live: `?` shows the keys
    Top,
    /// Collect a support bundle of the node, without secrets
    Diagnose {
        /// Default: macula-NAME-TIME.tar.zst, here
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Give a node its configuration before its first boot: on its card, in its image, or for many from a list
    #[command(after_help = provision::EXAMPLES)]
    Provision(Box<provision::Provision>),
    /// Print a script that lets your shell complete maculactl's words
    #[command(after_help = COMPLETIONS_HELP)]
    Completions { shell: clap_complete::Shell },
    /// Print maculactl's manual page, or write those of all verbs
    #[command(after_help = MAN_HELP)]
    Man {
        /// The folder for all pages, such as ~/.local/share/man/man1
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// A small prompt for the serial console of a node (implies --local)
    Console,
    /// Whether a web server answers well: runs on a node, for the gate's checks
    #[command(hide = true)]
    CheckHttp { url: String },
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a new key; never replaces one
    New,
    /// Print the key's did:key
    Show,
}

#[derive(Debug, Subcommand)]
pub enum Known {
    /// Forget who answered at an address, after a node was installed anew
    Forget {
        /// ADDR[:PORT] as in `maculactl known`
        address: Target,
    },
}

#[derive(Debug, Subcommand)]
pub enum Units {
    /// Stop a unit and start it again
    Restart { name: String },
    /// Send a signal to a unit's main process (`supervisor` is one, too)
    Kill {
        name: String,
        /// Its number, see signal(7)
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(i32).range(1..=64))]
        signal: i32,
    },
    /// Try what a process in this unit's sandbox can do
    Probe { name: String },
}

#[derive(Debug, Subcommand)]
pub enum Rpc {
    /// Send one message, or one per line, and print what comes back
    Call {
        /// Such as home/light/on_v1
        procedure: String,
        /// The message. Without it and --file: an empty one
        #[arg(long, value_name = "TEXT", conflicts_with = "file")]
        data: Option<String>,
        /// The message out of a file; `-` is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Each line is a message, for procedures that take many
        #[arg(long)]
        lines: bool,
        /// Take any number of answers, for procedures that give many
        #[arg(long)]
        many: bool,
        /// How long the whole call may take
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait: u64,
    },
}

#[derive(Debug, Subcommand)]
pub enum Pubsub {
    /// Print each event as it comes, also after the node was away; Ctrl-C ends
    Listen {
        /// Such as home/weather
        topic: String,
        /// End after so many
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u64>,
    },
}

const NODES_HELP: &str = "\
It begins with the nodes in `maculactl known` and those that --node names, and goes on to the peers that they tell about. Nodes that do
not answer are shown with the reason; one that is not yours is `foreign`.";

const LOGS_EXAMPLES: &str = "\
Examples:
  maculactl logs -n 20
  maculactl logs update
  maculactl logs -f --node 192.0.2.7 --node 192.0.2.8
  maculactl logs mesh -f --all

Lines of several nodes begin with the node's name. What a node logged while it could not be reached comes later, as far as it still
has it.";

const EVENTS_EXAMPLES: &str = "\
Examples:
  maculactl events
  maculactl events -f --all";

const COMPLETIONS_HELP: &str = "\
  bash: maculactl completions bash > ~/.local/share/bash-completion/completions/maculactl
  zsh:  maculactl completions zsh > ~/.zfunc/_maculactl       (with fpath+=~/.zfunc before compinit in .zshrc)
  fish: maculactl completions fish > ~/.config/fish/completions/maculactl.fish";

const MAN_HELP: &str = "\
Examples:
  maculactl man | man -l -
  maculactl man --out ~/.local/share/man/man1; man maculactl-logs";

const RPC_EXAMPLES: &str = "\
Examples:
  maculactl rpc call home/light/on_v1 --data kitchen
  maculactl rpc call home/camera/shot_v1 > shot.jpeg
  tail -f log | maculactl rpc call home/log/append_v1 --lines --file - --wait 3600";

const UPDATE_EXAMPLES: &str = "\
Examples:
  maculactl update --channel stable --watch
  maculactl update --release mcid1-raw-blake3-...
  maculactl update --release mcid1-raw-blake3-... --again

A node whose config.toml names a channel updates by itself. On the node (--local) neither is needed: it looks at its
channel now.";

const RAUC_EXAMPLES: &str = "\
Examples, with Debian's rauc in a second shell:
  maculactl --node 192.0.2.7 rauc-bus --listen /tmp/node.sock
  export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/tmp/node.sock
  rauc status
  rauc status mark-bad other
  rauc install mcid:mcid1-raw-blake3-...

A bundle is releases with their metadata, by the MCID that `release publish` prints. Once it is installed the node reboots into it by
itself, and its gate decides whether it stays.";

#[derive(Debug, Subcommand)]
pub enum Content {
    /// Store a file on the node and announce it; prints its MCID
    Put {
        file: PathBuf,
        /// The name in its manifest. Default: the file's own
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetch content through the node
    Get {
        mcid: Mcid,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// What the node stores and transfers
    Status,
}

#[derive(Debug, Subcommand)]
pub enum Dht {
    /// Who announced that they have the content
    #[command(visible_alias = "providers")]
    Lookup { mcid: Mcid },
    /// The routing table, and how much is stored
    Table,
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the records, oldest first
    Show,
    /// Hold every record against the chain, on this machine; print the head to note and compare later
    Verify {
        /// A head noted earlier, `NUMBER:HASH`: the log must still contain it
        #[arg(long, value_name = "HEAD")]
        since: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say whether a node would take this config.toml
    Check { file: PathBuf },
    /// Print the node's config.toml
    Show {
        /// With passphrases, which are hidden otherwise; the node's audit log will say so
        #[arg(long)]
        secrets: bool,
    },
    /// Print one value, or a table of the file; all of it when no key is named
    Get {
        /// Such as mesh.port
        #[arg(value_name = "KEY")]
        setting: Option<String>,
        /// With passphrases, which are hidden otherwise; the node's audit log will say so
        #[arg(long)]
        secrets: bool,
    },
    /// Change values; the node takes them only if all of its configuration is valid then
    #[command(after_help = CONFIG_SET_EXAMPLES)]
    Set {
        /// A key such as mesh.port, and TOML or a string without quotes; several pairs are one change
        #[arg(value_names = ["KEY", "VALUE"], num_args = 2.., required = true, allow_negative_numbers = true)]
        settings: Vec<String>,
    },
    /// Remove one value, so that its default holds
    Unset {
        /// Such as mesh.port
        #[arg(value_name = "KEY")]
        setting: String,
    },
}

const CONFIG_EXAMPLES: &str = "\
Examples:
  maculactl config check macula.toml
  maculactl config show
  maculactl config set mesh.port 5000
  maculactl config set update.release_keys '[\"did:key:z6Mk...\"]'
  maculactl config unset mesh.port

Changes are answered with when they hold: at once, when the mesh has started again, or from the next boot on.";

const RESET_HELP: &str = "\
The node reboots as a new one: another id, no owner, no configuration. Nobody can control it over the mesh until a
macula.toml that names an owner is put on its ESP. Without its owner's key a node is reset at its boot menu: press a
key while it starts, choose `factory reset`, and confirm.";

const RECOVERY_KEY_HELP: &str = "\
An encrypted node asks for it at its console when it cannot be opened otherwise: after a change of its firmware's Secure
Boot settings, with its disk in another machine, or when the PIN is forgotten.";

/// A way of encryption, as the node will understand it.
pub fn encryption(text: &str) -> Result<String, String> {
    os_config::Encryption::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere_and_bad_values_are_refused() {
        let parse = |line: &str| Cli::try_parse_from(std::iter::once("maculactl").chain(line.split(' ')));
        let cli = parse("units kill mesh --signal 9 --json --node [::1]:5000").unwrap();
        assert!(cli.global.json && cli.global.node[0].port == 5000);
        assert!(matches!(cli.verb, Verb::Units { verb: Some(Units::Kill { signal: 9, .. }) }));
        assert!(matches!(parse("peers").unwrap().verb, Verb::Peers));
        let cli = parse("config set mesh.port 5000 --key k").unwrap();
        assert_eq!(cli.global.key.as_deref(), Some(std::path::Path::new("k")));
        assert!(
            matches!(cli.verb, Verb::Config(Config::Set { settings }) if settings == ["mesh.port", "5000"])
        );
        for line in [
            "logs mesh -f --all --node 10.0.0.1 --node 10.0.0.2",
            "config get",
            "config get name",
            "config unset name",
            "reset --yes",
            "reset --yes --encryption tpm-pin",
            "audit verify",
            "ucan inspect -",
            "ucan revoke a --link 2 --out b",
            "ucan announce b --node 10.0.0.1",
            "status --node 10.0.0.1 --ucan a",
            "ucan issue --to did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx --can a/* --with macula:a/*",
        ] {
            parse(line).unwrap();
        }
        for bad in [
            "units kill mesh --signal 0",
            "reset --yes --encryption rot13",
            "status --node x:0",
            "dht lookup mcid1-raw",
            "--local --node a status",
            "ucan issue --to did:web:a --can a --with macula:a",
            "ucan issue --to did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx --can A --with macula:a",
            "ucan issue --to did:key:z6MkrvzGHw5hwHrcLkzFGNrgWHguKNjQ9i2oNSGtrHGcCvhx --can a --with a/..",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
