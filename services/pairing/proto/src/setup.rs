//! What is said in the channel, once both ends have proved that they know the code.
//!
//! The node introduces itself. The claimant may look again (Wi-Fi comes and goes) and hands over what the node is to be; the node
//! answers with its delegation. Everything has a bound, which both ends check.

use std::net::SocketAddr;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use os_identity::NodeId;

pub const MAX_NETWORKS: usize = 48;
pub const MAX_WIFI: usize = 8;
pub const MAX_PEERS: usize = 16;
pub const MAX_KEYS: usize = 16;
pub const MAX_ADDRESSES: usize = 16;
const MAX_WORDS: usize = 32;
const MAX_TEXT: usize = 256;
const MAX_SSID: usize = 32;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Introduction {
    /// What it is called now.
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub board: String,
    #[n(2)]
    pub version: String,
    /// Where it hears.
    #[n(3)]
    pub addresses: Vec<String>,
    /// Wi-Fi networks that it sees, strongest first. `None`: it has no Wi-Fi.
    #[n(4)]
    pub networks: Option<Vec<Network>>,
    /// What of a [`HandOver`] it can use beyond owner, name, realm and peers: `wifi`, `time-zone`, `channel`.
    #[n(5)]
    pub can: Vec<String>,
    /// What the claimant will be.
    #[n(6)]
    pub role: Role,
}

/// A Wi-Fi network as seen from the node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Network {
    #[n(0)]
    pub ssid: String,
    #[n(1)]
    pub dbm: i16,
    /// Whether it asks for a passphrase.
    #[n(2)]
    pub secured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Owner of a node that has none.
    #[default]
    #[n(0)]
    Owner,
    /// Owner in place of the one who invites.
    #[n(1)]
    NewOwner,
    /// May what the owner says, beside the owner.
    #[n(2)]
    Delegate,
}

/// What the claimant asks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Request {
    /// A fresh [`Introduction`].
    #[n(0)]
    Look,
    #[n(1)]
    HandOver(#[n(0)] Box<HandOver>),
}

/// What the node is to be. What is absent stays as it is. To a delegate's own, all but `owner` is ignored.
#[derive(Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct HandOver {
    /// `did:key` of the claimant: the key that the channel belongs to.
    #[n(0)]
    pub owner: String,
    #[n(1)]
    pub name: Option<String>,
    #[n(2)]
    pub realm: Option<String>,
    #[n(3)]
    pub wifi: Vec<Wifi>,
    /// Two letters (ISO 3166-1): which radio channels are allowed.
    #[n(4)]
    pub country: Option<String>,
    /// IANA, such as `Europe/Berlin`.
    #[n(5)]
    pub time_zone: Option<String>,
    /// Updates: the channel's name and the `did:key` of its publisher.
    #[n(6)]
    pub channel: Option<String>,
    #[n(7)]
    pub publisher: Option<String>,
    /// `did:key`s whose signatures make a release.
    #[n(8)]
    pub release_keys: Vec<String>,
    /// Nodes of the realm to meet first: `did:key:...@ip:port`.
    #[n(9)]
    pub peers: Vec<String>,
}

/// A network to join.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Wifi {
    #[n(0)]
    pub ssid: String,
    /// `None`: it is open.
    #[n(1)]
    pub passphrase: Option<String>,
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Answer {
    #[n(0)]
    Introduction(#[n(0)] Introduction),
    #[n(1)]
    Paired(#[n(0)] Paired),
    /// Nothing was changed. The claimant may ask again.
    #[n(2)]
    Declined(#[n(0)] Declined),
}

/// It is done, and on the node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Paired {
    /// The node's delegation to the claimant, as `os_ucan::chain` writes it.
    #[n(0)]
    pub delegation: ByteVec,
    /// What it is called from now on.
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub realm: String,
    #[n(3)]
    pub addresses: Vec<String>,
    /// What of the hand-over it did not use, and why, for people.
    #[n(4)]
    pub notes: Vec<String>,
    #[n(5)]
    pub role: Role,
}

/// What the node could not take, for people: which entry, and why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Declined {
    #[n(0)]
    pub why: String,
}

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::fmt::Debug for HandOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOver")
            .field("owner", &self.owner)
            .field("name", &self.name)
            .field("realm", &self.realm)
            .field("wifi", &self.wifi.len())
            .finish_non_exhaustive()
    }
}

/// A node that breaks one of the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is longer than pairing allows")]
pub struct TooLong(pub &'static str);

impl HandOver {
    /// Bounds only; what the words mean is the node's to check (`os_config`).
    pub fn check(&self) -> Result<(), TooLong> {
        let one = [
            ("owner", Some(&self.owner)),
            ("name", self.name.as_ref()),
            ("realm", self.realm.as_ref()),
            ("country", self.country.as_ref()),
            ("time_zone", self.time_zone.as_ref()),
            ("channel", self.channel.as_ref()),
            ("publisher", self.publisher.as_ref()),
        ];
        for (what, text) in one {
            short(what, text.map(String::as_str).unwrap_or_default(), MAX_TEXT)?;
        }
        for (what, list, most) in
            [("release_keys", &self.release_keys, MAX_KEYS), ("peers", &self.peers, MAX_PEERS)]
        {
            few(what, list, most)?;
        }
        if self.wifi.len() > MAX_WIFI {
            return Err(TooLong("wifi"));
        }
        for wifi in &self.wifi {
            short("wifi.ssid", &wifi.ssid, MAX_SSID)?;
            short("wifi.passphrase", wifi.passphrase.as_deref().unwrap_or_default(), 64)?;
        }
        Ok(())
    }

    /// The key that it names.
    pub fn owner_id(&self) -> Option<NodeId> {
        self.owner.parse().ok()
    }
}

impl Introduction {
    pub fn check(&self) -> Result<(), TooLong> {
        for (what, text) in [("name", &self.name), ("board", &self.board), ("version", &self.version)] {
            short(what, text, MAX_TEXT)?;
        }
        few("addresses", &self.addresses, MAX_ADDRESSES)?;
        few("can", &self.can, MAX_WORDS)?;
        let networks = self.networks.as_deref().unwrap_or_default();
        if networks.len() > MAX_NETWORKS {
            return Err(TooLong("networks"));
        }
        networks.iter().try_for_each(|network| short("ssid", &network.ssid, MAX_SSID))
    }
}

impl Paired {
    pub fn check(&self) -> Result<(), TooLong> {
        if self.delegation.len() > os_ucan::MAX_CHAIN {
            return Err(TooLong("delegation"));
        }
        short("name", &self.name, MAX_TEXT)?;
        short("realm", &self.realm, MAX_TEXT)?;
        few("addresses", &self.addresses, MAX_ADDRESSES)?;
        few("notes", &self.notes, MAX_WORDS)
    }
}

/// Addresses as texts, those that can be used from elsewhere.
pub fn parse_addresses(texts: &[String]) -> Vec<SocketAddr> {
    texts.iter().take(MAX_ADDRESSES).filter_map(|text| text.parse().ok()).collect()
}

fn short(what: &'static str, text: &str, most: usize) -> Result<(), TooLong> {
    if text.len() <= most { Ok(()) } else { Err(TooLong(what)) }
}

fn few(what: &'static str, list: &[String], most: usize) -> Result<(), TooLong> {
    if list.len() > most {
        return Err(TooLong(what));
    }
    list.iter().try_for_each(|text| short(what, text, MAX_TEXT))
}
