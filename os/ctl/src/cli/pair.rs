//! `pair` and `owner`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use os_identity::NodeId;

pub const EXAMPLES: &str = "\
Examples:
  maculactl pair 'macula:pair?k=...&s=...'          the code as text, also the web address of the QR code
  maculactl pair --image screen.jpg                 a photograph of the QR code (PNG or JPEG)
  camera-tool | maculactl pair --image -            a frame of a camera
  maculactl pair 7K3M-9QXT-2FAB                     the secret alone, as the screen spells it
  maculactl pair --image s.png --name roof-3 --realm acme \\
      --wifi-ssid attic --wifi-passphrase-file wifi.txt --time-zone Europe/Berlin

Without an address in the code, or --node, the node is looked for in the local network. A code is good for ten
minutes, five tries and one use. What the node answers is kept in ~/.config/macula: its id, and its delegation to you.";

pub const OWNER_EXAMPLES: &str = "\
Examples:
  maculactl owner show
  maculactl owner invite --minutes 15               whoever comes with the code becomes the owner in your place
  maculactl ucan issue ... > to-node.ucan           what a guest may do, made out to the node
  maculactl owner invite --delegate to-node.ucan    whoever comes with the code may do that
  maculactl owner transfer did:key:z6Mk... --yes    the key need not be there; yours is its owner no more";

#[derive(Debug, Args)]
pub struct Pair {
    /// The code: `macula:pair?...`, the web address of the QR code, or its secret; `-` reads it from standard input
    #[arg(value_name = "CODE", required_unless_present = "image")]
    pub code: Option<String>,
    /// A picture of the QR code, PNG or JPEG; `-` reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    pub image: Option<PathBuf>,
    /// What the node is to be called: up to 63 of a-z, 0-9 and `-`
    #[arg(long)]
    pub name: Option<String>,
    /// The realm that it is to belong to
    #[arg(long)]
    pub realm: Option<String>,
    /// A Wi-Fi network that it is to join
    #[arg(long, value_name = "SSID")]
    pub wifi_ssid: Option<String>,
    /// Its passphrase, in a file so that no process list shows it; `-` reads it from standard input
    #[arg(long, value_name = "FILE", requires = "wifi_ssid")]
    pub wifi_passphrase_file: Option<PathBuf>,
    /// Where the node is, in two letters, for its radio: DE, US, ...
    #[arg(long, value_name = "CC")]
    pub country: Option<String>,
    /// IANA name, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// The channel of releases that it is to follow
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Whose channel. Default: yours
    #[arg(long, value_name = "DID", requires = "channel")]
    pub publisher: Option<NodeId>,
    /// A key whose signature makes a release; may be said several times. Default: the publisher's
    #[arg(long, value_name = "DID", requires = "channel")]
    pub release_key: Vec<NodeId>,
    /// A node of the realm that it is to meet first, did:key:...@ip:port; may be said several times. Default: those you know
    #[arg(long, value_name = "NODE")]
    pub peer: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Owner {
    /// Who owns the node, and whether somebody is invited
    Show,
    /// Open a code on a node of yours, for one person
    Invite {
        /// How long it is good
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
        minutes: u32,
        /// Who comes is not to be the owner but may do what this delegation says: made out to the node, as `ucan issue` wrote it
        #[arg(long, value_name = "FILE")]
        delegate: Option<PathBuf>,
    },
    /// Make another key the node's owner, at once
    Transfer {
        owner: NodeId,
        /// You know that this node takes no orders from you after it
        #[arg(long)]
        yes: bool,
    },
}
