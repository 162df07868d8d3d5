//! The code that a node shows: its key's fingerprint, a secret, where it is.
//!
//! Two forms say the same. `macula:pair?k=FINGERPRINT&s=SECRET&a=ADDRESS,ADDRESS&n=NAME` is for `maculactl`;
//! `https://ADDRESS/pair#k=FINGERPRINT&s=SECRET&a=ADDRESS` is for a phone, whose browser keeps what is behind the `#` to itself.
//! Letters' case means nothing but in the host's; unknown parameters are skipped.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use os_identity::NodeId;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::base32;

/// Longest text that is looked at, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Addresses in a code; further ones are not said.
pub const MAX_ADDRESSES: usize = 8;
const MAX_PARAMETERS: usize = 32;
const MAX_NAME: usize = 63;
const DOMAIN: &[u8] = b"macula-os\0pair-fingerprint\0";
const PATH: &str = "/pair";

/// Which node it is: the first 16 bytes of SHA-256 over a domain and the node id. 26 symbols of base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub fn of(node: &NodeId) -> Self {
        let digest: [u8; 32] =
            Sha256::new().chain_update(DOMAIN).chain_update(node.as_bytes()).finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Self(first)
    }

    /// The first 8 symbols: no secret and no proof, enough to find the node among neighbours (mDNS).
    pub fn prefix(&self) -> String {
        base32::encode(&self.0[..5])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        let bytes = base32::decode(text).ok_or(ParseCodeError::Fingerprint)?;
        bytes.try_into().map(Self).map_err(|_| ParseCodeError::Fingerprint)
    }
}

/// 60 random bits as 12 symbols of base32. Wiped on drop, and not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub const SYMBOLS: usize = 12;

    /// Takes five bits of each of the first 12 bytes.
    pub fn from_random(random: &[u8; 32]) -> Self {
        Self(random.iter().take(Self::SYMBOLS).map(|byte| base32::of_bits(*byte)).collect())
    }

    /// The 12 symbols, as they go into the URI and the PAKE.
    pub fn symbols(&self) -> &str {
        &self.0
    }

    /// In groups of four, to be read and typed: `7K3M-9QXT-2FAB`.
    pub fn grouped(&self) -> String {
        format!("{}-{}-{}", &self.0[..4], &self.0[4..8], &self.0[8..])
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        let symbols = base32::canonical(text.trim()).ok_or(ParseCodeError::Secret)?;
        if symbols.len() == Self::SYMBOLS { Ok(Self(symbols)) } else { Err(ParseCodeError::Secret) }
    }
}

/// Where a code stands to be read. A node may show one and have another in a file; the claimant says which it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Slot {
    /// On the screen, or told by the owner who invites.
    #[default]
    Screen,
    /// In `macula-pair.txt` on the boot partition.
    File,
}

impl Slot {
    pub(crate) const ALL: [Slot; 2] = [Slot::Screen, Slot::File];

    fn word(self) -> &'static str {
        match self {
            Slot::Screen => "s",
            Slot::File => "f",
        }
    }
}

/// What a node shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairCode {
    pub fingerprint: Fingerprint,
    pub secret: Secret,
    pub slot: Slot,
    /// Where the node hears, UDP and TCP; the likeliest first. May be empty: it is then found by mDNS.
    pub addresses: Vec<SocketAddr>,
    /// What the node calls itself, for people to tell two codes apart.
    pub name: Option<String>,
}

/// Why a text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseCodeError {
    #[error("a pairing code is at most {MAX_TEXT} characters")]
    TooLong,
    #[error("a pairing code begins with `macula:pair?` or is the web address that the QR code holds")]
    NotACode,
    #[error("the code has no readable `k=` (26 letters and digits): was it copied whole?")]
    Fingerprint,
    #[error("the secret is 12 letters and digits, such as 7K3M-9QXT-2FAB")]
    Secret,
    #[error("the code says `{0}=` twice")]
    Twice(char),
    #[error("the code holds what is no address")]
    Address,
    #[error("the code holds what is no node's name")]
    Name,
}

impl PairCode {
    /// `macula:pair?...`, with everything.
    pub fn uri(&self) -> String {
        let mut text = format!("macula:pair?{}", self.parameters(&self.addresses));
        if let Some(name) = &self.name {
            text.push_str("&n=");
            text.push_str(name);
        }
        text
    }

    /// `https://ADDRESS/pair#...`: the page on the node's first address. `None` without an address.
    pub fn web(&self) -> Option<String> {
        let (first, others) = self.addresses.split_first()?;
        let mut text = format!("https://{first}{PATH}#{}", self.parameters(others));
        if let Some(name) = &self.name {
            text.push_str("&n=");
            text.push_str(name);
        }
        Some(text)
    }

    /// What the QR code is to hold: the web address if there is one, as few symbols as possible, and of those that QR codes hold
    /// densely (upper case). It fits version 5 with error correction M, and
    /// version 6 with the longest address that there is.
    pub fn qr(&self) -> String {
        let few =
            Self { addresses: self.addresses.iter().take(1).copied().collect(), name: None, ..self.clone() };
        few.web().unwrap_or_else(|| few.uri()).to_uppercase()
    }

    fn parameters(&self, addresses: &[SocketAddr]) -> String {
        let mut text = format!("k={}&s={}", self.fingerprint, self.secret.symbols());
        if self.slot != Slot::default() {
            text.push_str("&c=");
            text.push_str(self.slot.word());
        }
        if !addresses.is_empty() {
            let shown: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
            text.push_str("&a=");
            text.push_str(&shown.join(","));
        }
        text
    }
}

impl FromStr for PairCode {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, ParseCodeError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(ParseCodeError::TooLong);
        }
        let (host, parameters) = split(text).ok_or(ParseCodeError::NotACode)?;
        let mut found = Found::default();
        for parameter in parameters.split('&').take(MAX_PARAMETERS) {
            found.take(parameter)?;
        }
        // A host that has a name is no address: such a node is found by the others, or by mDNS.
        let mut addresses: Vec<SocketAddr> = host.and_then(|host| host.parse().ok()).into_iter().collect();
        for address in found.addresses {
            if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
                addresses.push(address);
            }
        }
        Ok(Self {
            fingerprint: found.fingerprint.ok_or(ParseCodeError::Fingerprint)?,
            secret: found.secret.ok_or(ParseCodeError::Secret)?,
            slot: found.slot.unwrap_or_default(),
            addresses,
            name: found.name,
        })
    }
}

/// The host of a web address, and the parameters.
fn split(text: &str) -> Option<(Option<&str>, &str)> {
    if let Some(parameters) = strip(text, "macula:pair?") {
        return Some((None, parameters));
    }
    let (page, parameters) = strip(text, "https://")?.split_once('#')?;
    let (host, path) = page.split_once('/')?;
    path.eq_ignore_ascii_case(&PATH[1..]).then_some((Some(host), parameters))
}

fn strip<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let head = text.get(..start.len())?;
    head.eq_ignore_ascii_case(start).then(|| &text[start.len()..])
}

#[derive(Default)]
struct Found {
    fingerprint: Option<Fingerprint>,
    secret: Option<Secret>,
    slot: Option<Slot>,
    addresses: Vec<SocketAddr>,
    name: Option<String>,
}

impl Found {
    fn take(&mut self, parameter: &str) -> Result<(), ParseCodeError> {
        let Some((key, value)) = parameter.split_once('=') else { return Ok(()) };
        match key {
            "k" | "K" => once('k', &mut self.fingerprint, value.parse()?),
            "s" | "S" => once('s', &mut self.secret, value.parse()?),
            "c" | "C" => match Slot::ALL.into_iter().find(|slot| value.eq_ignore_ascii_case(slot.word())) {
                Some(slot) => once('c', &mut self.slot, slot),
                None => Err(ParseCodeError::NotACode),
            },
            "n" | "N" => once('n', &mut self.name, name(value).ok_or(ParseCodeError::Name)?),
            "a" | "A" if !self.addresses.is_empty() => Err(ParseCodeError::Twice('a')),
            "a" | "A" => {
                let addresses: Result<_, _> = value.split(',').take(MAX_ADDRESSES).map(str::parse).collect();
                self.addresses = addresses.map_err(|_| ParseCodeError::Address)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn once<T>(key: char, slot: &mut Option<T>, value: T) -> Result<(), ParseCodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParseCodeError::Twice(key)),
    }
}

/// As `config.toml` has it.
fn name(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ((1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
#[path = "code_tests.rs"]
mod tests;
