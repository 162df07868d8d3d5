//! A repository that a test can lead astray.

use std::collections::BTreeMap;

use os_identity::NodeKey;
use os_tuf::author::{Draft, Keyring, keys_of, root};
use os_tuf::{FileInfo, Result, Role, Root, Snapshot, Target, Targets, Timestamp, Trusted, check_ed25519};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub const NOW: u64 = 1_800_000_000;

pub fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

/// The name that the specification gives a key.
pub fn key_id(key: &Value) -> String {
    // The members of a key without odd characters: serde_json's own order and form are the canonical ones.
    Sha256::digest(key.to_string()).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn targets_json(version: u64, expires_unix: u64, path: &str, bytes: &[u8]) -> Value {
    let targets = BTreeMap::from([(path.to_string(), Target::of(bytes, Value::Null))]);
    Targets { version, expires_unix, targets, delegations: None }.to_json()
}

#[derive(Clone)]
pub struct Repository {
    /// Who may sign, as the next root will say.
    pub keyring: Keyring,
    /// Whose signatures are put on everything but roots, as far as the newest root wants them.
    pub signers: Vec<u8>,
    pub expires_unix: BTreeMap<Role, u64>,
    pub with_hashes: bool,
    /// Further files that the snapshot names, version 1.
    pub extra_meta: Vec<String>,
    pub delegations: Option<Value>,
    targets: BTreeMap<String, Target>,
    roots: Vec<Vec<u8>>,
    versions: BTreeMap<Role, u64>,
    files: BTreeMap<Role, Vec<u8>>,
}

impl Repository {
    /// One key for everything, version 1 of everything.
    pub fn new() -> Self {
        let mut repository = Self::bare();
        repository.publish_root(&[key(1)]);
        repository
    }

    /// Without a root yet.
    pub fn bare() -> Self {
        let keyring = Role::ALL.map(|role| (role, (vec![key(1).node_id()], 1))).into();
        let mut repository = Self {
            keyring,
            signers: vec![1],
            expires_unix: Role::ALL.map(|role| (role, NOW + 1000)).into(),
            with_hashes: true,
            extra_meta: Vec::new(),
            delegations: None,
            targets: BTreeMap::new(),
            roots: Vec::new(),
            versions: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
        repository
    }

    pub fn add_target(&mut self, path: &str, bytes: &[u8]) {
        self.targets.insert(path.into(), Target::of(bytes, Value::Null));
        self.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
    }

    /// The newest file of a role.
    pub fn file(&self, role: Role) -> Vec<u8> {
        if role == Role::Root { self.roots.last().unwrap().clone() } else { self.files[&role].clone() }
    }

    /// The next version of each, in this order.
    pub fn publish(&mut self, roles: &[Role]) {
        for role in roles {
            self.republish(*role, self.versions.get(role).map_or(1, |v| v + 1));
        }
    }

    /// A file with exactly this version.
    pub fn republish(&mut self, role: Role, version: u64) {
        self.versions.insert(role, version);
        let signed = self.signed(role, version);
        let keys: Vec<NodeKey> = self.signers.iter().map(|n| key(*n)).collect();
        self.files.insert(role, sign(role, signed, &keys));
    }

    /// The newest file of a role with other signatures.
    pub fn resign(&mut self, role: Role, keys: &[NodeKey]) {
        let signed = self.signed(role, self.versions[&role]);
        self.files.insert(role, sign(role, signed, keys));
    }

    /// The next root, as the keyring is now.
    pub fn publish_root(&mut self, signers: &[NodeKey]) {
        let next = root(self.roots.len() as u64 + 1, self.expires_unix[&Role::Root], &self.keyring);
        assert_eq!(keys_of(&next, Role::Root).len(), self.keyring[&Role::Root].0.len());
        self.roots.push(sign(Role::Root, next.to_json(), signers));
    }

    /// The next root with a change of its JSON.
    pub fn change_root(&mut self, change: impl FnOnce(&mut Value)) {
        let next: Root = root(self.roots.len() as u64 + 1, self.expires_unix[&Role::Root], &self.keyring);
        let mut signed = next.to_json();
        change(&mut signed);
        self.roots.push(sign(Role::Root, signed, &[key(1)]));
    }

    /// A root whose timestamp needs two signatures and has one key under two ids, and a timestamp signed under both.
    pub fn alias_in_root(&mut self, id: &str, alias: Value) {
        let other = key_id(&alias);
        self.change_root(|signed| {
            signed["roles"]["timestamp"] = serde_json::json!({ "keyids": [id, other], "threshold": 2 });
            signed["keys"][&other] = alias;
        });
        let mut value: Value = serde_json::from_slice(&self.files[&Role::Timestamp]).unwrap();
        let mut again = value["signatures"][0].clone();
        again["keyid"] = other.into();
        value["signatures"].as_array_mut().unwrap().push(again);
        self.files.insert(Role::Timestamp, serde_json::to_vec(&value).unwrap());
    }

    /// A client that has the newest root and nothing else.
    pub fn trusted(&self) -> Trusted {
        Trusted::new(self.roots.last().unwrap(), NOW, check_ed25519).unwrap()
    }

    /// The client after a restart at another time.
    pub fn reopened(&self, before: &Trusted, now_unix: u64) -> Trusted {
        let root = before.bytes(Role::Root).unwrap();
        let mut trusted = Trusted::new(root, now_unix, check_ed25519).unwrap();
        let _ = before.bytes(Role::Timestamp).map(|bytes| trusted.restore_timestamp(bytes));
        let _ = before.bytes(Role::Snapshot).map(|bytes| trusted.restore_snapshot(bytes));
        trusted
    }

    /// The whole client workflow, from the first root or from what a client trusts.
    pub fn refresh(&self, before: Option<&Trusted>) -> Result<Trusted> {
        let first = before.and_then(|b| b.bytes(Role::Root)).unwrap_or(&self.roots[0]);
        let mut trusted = Trusted::new(first, NOW, check_ed25519)?;
        for next in self.roots.iter().skip(trusted.root().version as usize) {
            trusted.update_root(next)?;
        }
        if let Some(before) = before {
            // Refused when their keys were replaced: then they are forgotten.
            let _ = trusted.restore_timestamp(before.bytes(Role::Timestamp).unwrap());
            let _ = trusted.restore_snapshot(before.bytes(Role::Snapshot).unwrap());
        }
        trusted.update_timestamp(&self.files[&Role::Timestamp])?;
        trusted.update_snapshot(&self.files[&Role::Snapshot])?;
        trusted.update_targets(&self.files[&Role::Targets])?;
        Ok(trusted)
    }

    fn signed(&self, role: Role, version: u64) -> Value {
        let expires_unix = self.expires_unix[&role];
        match role {
            Role::Targets => {
                let targets = self.targets.clone();
                let mut signed = Targets { version, expires_unix, targets, delegations: None }.to_json();
                if let Some(delegations) = &self.delegations {
                    signed["delegations"] = delegations.clone();
                }
                signed
            }
            Role::Snapshot => {
                let mut meta = BTreeMap::from([("targets.json".to_string(), self.info(Role::Targets))]);
                let unhashed = FileInfo { version: 1, length: None, sha256: None, sha512: None };
                meta.extend(self.extra_meta.iter().map(|name| (name.clone(), unhashed.clone())));
                Snapshot { version, expires_unix, meta }.to_json()
            }
            Role::Timestamp => {
                Timestamp { version, expires_unix, made_unix: Some(NOW), snapshot: self.info(Role::Snapshot) }
                    .to_json()
            }
            Role::Root => unreachable!("roots have their own way"),
        }
    }

    fn info(&self, role: Role) -> FileInfo {
        let info = FileInfo::of(self.versions[&role], &self.files[&role]);
        if self.with_hashes { info } else { FileInfo { length: None, sha256: None, ..info } }
    }
}

fn sign(role: Role, signed: Value, keys: &[NodeKey]) -> Vec<u8> {
    let mut draft = Draft::new(role, signed);
    keys.iter().for_each(|key| draft.sign(key).unwrap());
    draft.encode()
}
