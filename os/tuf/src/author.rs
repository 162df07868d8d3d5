//! The writing side: metadata files that people sign one after another, each perhaps on a machine of their own.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use os_identity::{NodeId, NodeKey};
use serde_json::{Value, json};

use crate::envelope::{Envelope, check_ed25519};
use crate::error::{Result, malformed};
use crate::json;
use crate::metadata::{Key, Role, RoleKeys, Root};

/// A root's keys by role: who may sign, and how many must.
pub type Keyring = BTreeMap<Role, (Vec<NodeId>, u64)>;

/// A file that is being signed.
#[derive(Debug, Clone)]
pub struct Draft {
    role: Role,
    signed: Value,
    signatures: BTreeMap<String, String>,
}

impl Draft {
    pub fn new(role: Role, signed: Value) -> Self {
        Self { role, signed, signatures: BTreeMap::new() }
    }

    pub fn parse(role: Role, bytes: &[u8]) -> Result<Self> {
        let envelope = Envelope::parse(role.word(), bytes)?;
        let value = json::parse(role.word(), bytes)?;
        let entries = value["signatures"].as_array().into_iter().flatten();
        let pair = |entry: &Value| Some((entry["keyid"].as_str()?.into(), entry["sig"].as_str()?.into()));
        Ok(Self { role, signatures: entries.filter_map(pair).collect(), signed: envelope.signed })
    }

    /// What the signatures are over.
    pub fn signed(&self) -> &Value {
        &self.signed
    }

    /// Adds or replaces this key's signature.
    pub fn sign(&mut self, key: &NodeKey) -> Result<()> {
        let message = json::canonical(&self.signed).map_err(|e| malformed(self.role.word(), e))?;
        let signature = HEXLOWER.encode(&key.sign_raw(&message));
        self.signatures.insert(Key::ed25519(&key.node_id()).id(), signature);
        Ok(())
    }

    /// The same draft always gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let signature = |(keyid, sig): (&String, &String)| json!({ "keyid": keyid, "sig": sig });
        let signatures: Vec<Value> = self.signatures.iter().map(signature).collect();
        let mut bytes = json!({ "signatures": signatures, "signed": self.signed }).to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

/// A root with these keys.
pub fn root(version: u64, expires_unix: u64, keyring: &Keyring) -> Root {
    let ids = keyring.values().flat_map(|(ids, _)| ids).map(Key::ed25519);
    let role = |(role, (ids, threshold)): (&Role, &(Vec<NodeId>, u64))| {
        let keyids = ids.iter().map(|id| Key::ed25519(id).id()).collect();
        (*role, RoleKeys { keyids, threshold: *threshold })
    };
    let keys = ids.map(|key| (key.id(), key)).collect();
    Root { version, expires_unix, keys, roles: keyring.iter().map(role).collect() }
}

/// The Ed25519 keys of a role.
pub fn keys_of(root: &Root, role: Role) -> Vec<NodeId> {
    let ids = root.role(role).keyids.iter();
    ids.filter_map(|id| root.keys.get(id)?.node_id()).collect()
}

/// Who of a role's keys has signed the file.
pub fn signers(root: &Root, role: Role, bytes: &[u8]) -> Result<Vec<NodeId>> {
    let envelope = Envelope::parse(role.word(), bytes)?;
    let signed = |id: &NodeId| {
        let key = Key::ed25519(id);
        envelope.is_signed_by(&key.id(), &key, check_ed25519)
    };
    Ok(keys_of(root, role).into_iter().filter(signed).collect())
}

/// Whether enough of a role's keys have signed the file.
pub fn is_complete(root: &Root, role: Role, bytes: &[u8]) -> bool {
    Envelope::parse(role.word(), bytes)
        .is_ok_and(|envelope| envelope.verify(&root.keys, root.role(role), check_ed25519).is_ok())
}
