//! `provision`, as clap reads it.

use std::path::PathBuf;

use clap::Args;
use os_identity::NodeId;

pub const EXAMPLES: &str = "\
Examples:
  maculactl provision --image macula-os.img --name roof --owner me --wifi-ssid home --wifi-passphrase-file wifi.txt
  maculactl provision --image macula-os.img.zst --out roof.img --config macula.toml --name roof
  maculactl provision --image /dev/sdX --config macula.toml           (a card that was just written; its partitions unmounted)
  maculactl provision --image /media/me/ESP --config macula.toml      (its first partition, mounted)
  maculactl provision --image macula-os.img --list nodes.csv --out cards/ --owner me

A list has a line for each node. As CSV its first line names the columns: name, realm, owner, channel, publisher, release_keys, seeds,
wifi_ssid, wifi_passphrase, country, time_zone, or any key of config.toml such as mesh.port. As TOML it has a [[node]] table for each,
written like a config.toml. What the list says counts more than the options, and those more than --config.

The node takes the file over at its first boot and overwrites it on the boot partition. Until then whoever has the card can read it.";

#[derive(Debug, Clone, Default, Args)]
pub struct Provision {
    /// An image of Macula OS (.img or .img.zst), a card's device, or the folder where its first partition is mounted. Without it,
    /// macula.toml files are written to --out
    #[arg(long, value_name = "PATH", required_unless_present = "out")]
    pub image: Option<PathBuf>,
    /// Leave --image as it is and write a copy; with --list the folder of the copies
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// A config.toml to begin with
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Many nodes, one for each line: .csv or .toml
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with = "name")]
    pub list: Option<PathBuf>,
    /// What people call the node: a-z, 0-9 and -
    #[arg(long)]
    pub name: Option<String>,
    /// The realm that it belongs to
    #[arg(long)]
    pub realm: Option<String>,
    /// Who gives it orders: a did:key, or `me` for your own key
    #[arg(long, value_name = "DID", value_parser = whose)]
    pub owner: Option<Whose>,
    /// The channel whose releases it installs by itself
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Whose channel: a did:key, or `me`
    #[arg(long, value_name = "DID", value_parser = whose)]
    pub publisher: Option<Whose>,
    /// A key whose signature makes a release: a did:key, or `me`. Once for each
    #[arg(long = "release-key", value_name = "DID", value_parser = whose)]
    pub release_keys: Vec<Whose>,
    /// A node to meet at start: did:key:...@IP:PORT. Once for each
    #[arg(long = "seed", value_name = "NODE")]
    pub seeds: Vec<String>,
    /// A Wi-Fi network to join
    #[arg(long, value_name = "SSID")]
    pub wifi_ssid: Option<String>,
    /// The first line of this file is the network's passphrase; `-` is standard input. Without it: an open network
    #[arg(long, value_name = "FILE", requires = "wifi_ssid")]
    pub wifi_passphrase_file: Option<PathBuf>,
    /// The network does not announce its name
    #[arg(long, requires = "wifi_ssid")]
    pub wifi_hidden: bool,
    /// Where the node will be, such as DE: which Wi-Fi channels it may use
    #[arg(long, value_name = "CODE")]
    pub country: Option<String>,
    /// Such as Europe/Berlin
    #[arg(long = "timezone", value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// How to encrypt its state at the first boot: `tpm`, `tpm-pin` or `passphrase`
    #[arg(long, value_name = "KIND", value_parser = super::encryption)]
    pub encryption: Option<String>,
    /// Replace what is there already, also on a disk that has booted
    #[arg(long)]
    pub force: bool,
}

/// A key, or the one of whoever runs this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Mine,
    Of(NodeId),
}

fn whose(text: &str) -> Result<Whose, String> {
    match text {
        "me" => Ok(Whose::Mine),
        did => did.parse().map(Whose::Of).map_err(|e: os_identity::ParseNodeIdError| e.to_string()),
    }
}
