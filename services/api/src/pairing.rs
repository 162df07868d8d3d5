//! `io.macula.Pairing1`: the code that makes an owner, for those who show it and those who carry a claimant's words.

use serde::{Deserialize, Serialize};

use crate::report::ConfigChange;

#[zbus::proxy(
    interface = "io.macula.Pairing1",
    default_service = "io.macula.Pairing",
    default_path = "/io/macula/Pairing"
)]
pub trait Pairing {
    /// JSON: a [`CodeReport`]. For `console`, which shows it, since it holds the secret.
    fn code(&self) -> zbus::Result<String>;

    /// The same as soon as its serial number is another, or after 50 s at the latest: call it again with what came.
    fn code_after(&self, serial: u64) -> zbus::Result<String>;

    /// One message of a claimant that came over HTTP, and what to answer it (`docs/protocol.md`, section 10). `from` is the address
    /// that it came from, for limits; `session` 16 bytes that the claimant has chosen.
    fn step(&self, from: &str, session: &[u8], message: &[u8]) -> zbus::Result<Vec<u8>>;
}

/// What is to be read on a screen, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CodeReport {
    /// Another whenever anything else here is another, except for the seconds.
    pub serial: u64,
    /// `unowned`, `owned` or `invited`.
    pub state: String,
    /// What the node calls itself, and its `did:key`.
    pub name: String,
    pub node: String,
    pub addresses: Vec<String>,
    /// `macula:pair?...`; empty, as all below, when there is no code.
    pub uri: String,
    /// The page on this node, for a phone. Empty while the node has no address.
    pub web: String,
    /// What a QR code is to hold: shorter than the two, in upper case.
    pub qr: String,
    /// To be typed: `7K3M-9QXT-2FAB`.
    pub secret: String,
    pub expires_in_s: u64,
}

/// What the owner asks of pairing (`control-pairing/1`). `invite`: answers a [`CodeReport`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InviteParams {
    /// How long the code is good, 1 to 60.
    pub minutes: u32,
    /// The owner's delegation to this node (a chain), which the node hands down to whoever comes; empty: who comes becomes the owner.
    pub chain: Vec<u8>,
}

/// `transfer`: another owner, who need not be there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferParams {
    pub owner: String,
}

/// `show`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnerReport {
    /// `did:key`; empty: nobody.
    pub owner: String,
    pub node: String,
    pub name: String,
    pub realm: String,
    /// As in [`CodeReport`].
    pub state: String,
    pub expires_in_s: u64,
}

/// What `pairing` has `update` write.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adoption {
    /// For the audit log: who, and what they become.
    pub who: String,
    pub changes: Vec<ConfigChange>,
}
