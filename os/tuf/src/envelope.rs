//! A metadata file: what is signed, and by whom.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER_PERMISSIVE;
use os_identity::NodeId;
use serde_json::Value;

use crate::error::{Result, malformed};
use crate::json::{self, Object};
use crate::metadata::{Key, RoleKeys};
use crate::{KEYS_MAX, NAME_LEN_MAX, TufError};

/// Whether `signature` is `key`'s over `message`; false for a kind of key that it does not know.
pub type CheckSignature = fn(key: &Key, message: &[u8], signature: &[u8]) -> bool;

/// The only kind of key that a node knows.
pub fn check_ed25519(key: &Key, message: &[u8], signature: &[u8]) -> bool {
    key.node_id().is_some_and(|id: NodeId| os_identity::verify_raw(&id, message, signature).is_ok())
}

/// A parsed file. Parsing proves nothing about who signed it: [`Envelope::verify`] does.
#[derive(Debug, Clone)]
pub struct Envelope {
    role: String,
    signatures: BTreeMap<String, Vec<u8>>,
    pub(crate) signed: Value,
    canonical: Vec<u8>,
}

impl Envelope {
    /// `role` is for error texts.
    pub fn parse(role: &str, bytes: &[u8]) -> Result<Self> {
        let value = json::parse(role, bytes)?;
        let file = Object::of(role, role, &value)?;
        let mut signatures = BTreeMap::new();
        for entry in file.list("signatures", KEYS_MAX)? {
            let entry = Object::of(role, "signatures", entry)?;
            let (keyid, hex) = (entry.text("keyid")?, entry.text("sig")?);
            if keyid.len() > NAME_LEN_MAX || hex.len() > 4096 {
                return Err(malformed(role, "a signature is too long"));
            }
            // A signature that is not hex is one that does not verify; others may still be enough.
            let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap_or_default();
            if signatures.insert(keyid.to_string(), bytes).is_some() {
                return Err(malformed(role, format!("two signatures by key {keyid}")));
            }
        }
        let signed = file.need("signed")?.clone();
        let canonical = json::canonical(&signed).map_err(|e| malformed(role, e))?;
        Ok(Self { role: role.to_string(), signatures, signed, canonical })
    }

    /// The ids of the keys that are said to have signed.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signatures.keys().map(String::as_str)
    }

    /// Whether the signature that is said to be by this key is.
    pub fn is_signed_by(&self, keyid: &str, key: &Key, check: CheckSignature) -> bool {
        self.signatures.get(keyid).is_some_and(|signature| check(key, &self.canonical, signature))
    }

    /// Enough different keys of the role have signed. A key under two ids counts once.
    pub fn verify(&self, keys: &BTreeMap<String, Key>, role: &RoleKeys, check: CheckSignature) -> Result<()> {
        let (mut valid, mut wrong, mut unknown) = (BTreeSet::new(), 0, 0);
        for (keyid, signature) in &self.signatures {
            match keys.get(keyid).filter(|_| role.keyids.contains(keyid)) {
                None => unknown += 1,
                Some(key) if check(key, &self.canonical, signature) => {
                    valid.insert(key.public.to_ascii_lowercase());
                }
                Some(_) => wrong += 1,
            }
        }
        let (valid, needed) = (valid.len(), role.threshold.max(1));
        if (valid as u64) < needed {
            let role = self.role.clone();
            return Err(TufError::NotEnoughSignatures { role, valid, needed, wrong, unknown });
        }
        Ok(())
    }
}
