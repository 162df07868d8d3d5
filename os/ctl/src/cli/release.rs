//! The arguments of `release`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use os_identity::NodeId;
use os_release::Version;

pub const EXAMPLES: &str = "\
Examples, from an image to nodes that follow a channel:
  maculactl release create --artifacts out/ --notes 'Fixes DHCP renewal'
  maculactl release sign
  maculactl release publish --artifacts out/ --channel stable --node 192.0.2.7

What is said and signed lies in the folder releases/ (--repo names another): TUF metadata and release statements. It holds
every board and version that you have not withdrawn; a node takes the newest that fits it. Keep it, it counts versions.

A channel's head lives 48 hours in the DHT, what the timestamp says 30 days. Every day or so:
  maculactl release refresh
  maculactl release publish --channel stable --node 192.0.2.7

Several keys: maculactl help release root";

const ROOT_EXAMPLES: &str = "\
Three people, two of whom must sign what may run. No machine here needs a network; releases/ travels on a stick:
  maculactl release root new --key-id did:key:A --key-id did:key:B --key-id did:key:C --threshold 2
  maculactl release create --artifacts out/
  maculactl release sign              (at A's machine)
  maculactl release sign              (at B's; `release show` says who is missing)

Nodes need the keys once, in config.toml:
  [update]
  release_keys = [\"did:key:A\", \"did:key:B\", \"did:key:C\"]
  threshold = 2

C has lost her key. The two others replace it, nodes follow by themselves:
  maculactl release root rotate --remove did:key:C --add did:key:D
  maculactl release sign              (at A's and at B's)

Before a root expires (`release show` says when): `release root rotate` without options renews it.";

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The folder with the releases' metadata
    #[arg(long, global = true, value_name = "DIR", default_value = "releases")]
    pub repo: PathBuf,
    #[command(subcommand)]
    pub verb: Release,
}

#[derive(Debug, Subcommand)]
pub enum Release {
    /// Describe built artifacts as a release, still unsigned
    Create(ReleaseCreate),
    /// Add your signature wherever it is missing
    Sign,
    /// Say what is there, who signed it, and what is missing
    Show,
    /// Sign a new timestamp: until it expires, nodes believe that there is nothing newer
    Refresh {
        /// Such as 30d, 12h, 90s
        #[arg(long = "lifetime", value_name = "TIME", default_value = "30d", value_parser = crate::lifetime::parse)]
        lifetime_s: u64,
    },
    /// Take a release away; sign afterwards
    Withdraw {
        version: Version,
        /// When several boards have that version
        #[arg(long)]
        board: Option<String>,
    },
    /// Write the metadata bundle to a file, as nodes get it
    Pack {
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Bring artifacts and metadata to a node and point a channel at them
    Publish(ReleasePublish),
    /// Who may sign, and how many must
    #[command(subcommand, after_help = ROOT_EXAMPLES)]
    Root(Root),
}

#[derive(Debug, Subcommand)]
pub enum Root {
    /// Begin with these keys (`release create` begins with yours alone)
    New(RoleKeys),
    /// Replace a lost key, add one, change the threshold, or renew it before it expires
    Rotate(RootChange),
}

#[derive(Debug, Args)]
pub struct RoleKeys {
    /// A signer's did:key; once for each
    #[arg(long = "key-id", value_name = "DID", required = true)]
    pub keys: Vec<NodeId>,
    /// How many of them must sign keys and releases
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threshold: u64,
    /// Other keys for the releases
    #[arg(long = "targets-key-id", value_name = "DID")]
    pub targets_keys: Vec<NodeId>,
    /// Other keys for the list of what is newest; one of them signs
    #[arg(long = "snapshot-key-id", value_name = "DID")]
    pub snapshot_keys: Vec<NodeId>,
    /// Other keys for its date, such as one that signs every day by itself; one of them signs
    #[arg(long = "timestamp-key-id", value_name = "DID")]
    pub timestamp_keys: Vec<NodeId>,
}

#[derive(Debug, Args)]
pub struct RootChange {
    /// A key that is lost or not trusted any more
    #[arg(long, value_name = "DID")]
    pub remove: Vec<NodeId>,
    /// A key that takes its roles; without --remove it gets every role
    #[arg(long, value_name = "DID")]
    pub add: Vec<NodeId>,
    /// How many must sign keys and releases from now on
    #[arg(long, value_name = "N")]
    pub threshold: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ReleaseCreate {
    /// The folder with artifacts.json, as the image builder leaves it
    #[arg(long, value_name = "DIR")]
    pub artifacts: PathBuf,
    /// The oldest version that may be replaced by this one
    #[arg(long, value_name = "VERSION")]
    pub min_version: Option<String>,
    /// Nodes refuse to install it after so many days
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub expires_days: u32,
    /// A line or two for people
    #[arg(long, default_value = "")]
    pub notes: String,
}

#[derive(Debug, Args)]
pub struct ReleasePublish {
    /// A folder that a release was created from; left out, only the metadata is sent
    #[arg(long, value_name = "DIR")]
    pub artifacts: Vec<PathBuf>,
    /// The channel whose head it becomes
    #[arg(long, value_name = "NAME")]
    pub channel: String,
    /// The key that signs the channel's head, when it is not your owner key
    #[arg(long, value_name = "FILE")]
    pub publisher_key: Option<PathBuf>,
}
