//! The publisher's side: a repository of releases, in memory. Reading and writing its files is `maculactl`'s.
//!
//! Everybody who may sign does so on a machine of their own, one after another, in any order: [`Repository::sign`] adds
//! what one key can add, and the file that depends on it is made when the one before it has its signatures.

use std::collections::BTreeMap;

use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey};
use os_tuf::author::{self as tuf, Draft, Keyring, keys_of};
use os_tuf::{Envelope, FileInfo, Role, Root, Snapshot, Target, Targets, Timestamp, TufError};
use serde_json::json;

use crate::{Bundle, Named, Release, ReleaseError, target_path};

pub const DAY_S: u64 = 86_400;
/// Roots are renewed by people who meet; the others by whoever publishes.
const ROOT_S: u64 = 5 * 365 * DAY_S;
const TARGETS_S: u64 = 365 * DAY_S;
/// How long a node believes a timestamp unless told otherwise.
pub const TIMESTAMP_S: u64 = 30 * DAY_S;
/// What has less left is renewed along with the timestamp.
const RENEW_BELOW_S: u64 = 90 * DAY_S;

#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    #[error("there is no root metadata yet")]
    NoRoot,
    #[error("root {0} still waits for signatures; sign it before another one follows")]
    RootPending(u64),
    #[error("there is no release yet: `maculactl release create` adds one")]
    NoRelease,
    #[error("{role} has {have} of {need} signatures; it waits for: {who}")]
    Incomplete { role: Role, have: usize, need: u64, who: String },
    #[error("{role} is not up to date: sign with a key that may sign {role} (one of: {who})")]
    Behind { role: Role, who: String },
    #[error("{role} wants {threshold} signatures and has {keys} keys")]
    Threshold { role: Role, threshold: u64, keys: usize },
    #[error(transparent)]
    Metadata(#[from] TufError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

type Result<T> = std::result::Result<T, AuthorError>;

/// Files as they were signed; the newest root, and what follows it, perhaps not by everybody yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repository {
    /// Oldest first.
    pub roots: Vec<Vec<u8>>,
    pub targets: Option<Vec<u8>>,
    pub snapshot: Option<Vec<u8>>,
    pub timestamp: Option<Vec<u8>>,
    pub statements: Vec<Vec<u8>>,
}

/// One role's file as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    /// 0: there is none yet.
    pub version: u64,
    pub expires_unix: u64,
    pub keys: Vec<NodeId>,
    pub signed: Vec<NodeId>,
    pub threshold: u64,
    pub complete: bool,
}

impl Repository {
    /// With a first root that nobody has signed yet.
    pub fn begin(keyring: &Keyring, now_unix: u64) -> Result<Self> {
        let mut repository = Self::default();
        repository.push_root(1, keyring, now_unix)?;
        Ok(repository)
    }

    pub fn root(&self) -> Result<Root> {
        read_root(self.roots.last().ok_or(AuthorError::NoRoot)?)
    }

    pub fn keyring(&self) -> Result<Keyring> {
        let root = self.root()?;
        Ok(Role::ALL.map(|role| (role, (keys_of(&root, role), root.role(role).threshold))).into())
    }

    /// Another root after the newest one, with other keys or a later end.
    pub fn next_root(&mut self, keyring: &Keyring, now_unix: u64) -> Result<()> {
        let newest = self.root()?;
        if !self.root_is_complete() {
            return Err(AuthorError::RootPending(newest.version));
        }
        self.push_root(newest.version + 1, keyring, now_unix)
    }

    /// Adds a release or replaces the one of the same board and version.
    pub fn add(&mut self, release: &Release, now_unix: u64) -> Result<Mcid> {
        release.check()?;
        let statement = release.encode();
        self.drop_statement(&target_path(release));
        self.statements.push(statement.clone());
        // In the order of their paths, as they are read back from a folder.
        self.statements.sort_by_cached_key(|bytes| Release::decode(bytes).map(|r| target_path(&r)).ok());
        self.draft_targets(now_unix)?;
        Ok(Mcid::of_raw(&statement))
    }

    /// Takes a release away, by its target path.
    pub fn withdraw(&mut self, path: &str, now_unix: u64) -> Result<()> {
        self.drop_statement(path);
        self.draft_targets(now_unix)
    }

    fn drop_statement(&mut self, path: &str) {
        self.statements.retain(|old| Release::decode(old).is_ok_and(|old| target_path(&old) != path));
    }

    /// The releases, as they are written.
    pub fn releases(&self) -> Result<Vec<Named>> {
        let named =
            |bytes: &Vec<u8>| Ok(Named { release: Release::decode(bytes)?, mcid: Mcid::of_raw(bytes) });
        self.statements.iter().map(named).collect()
    }

    /// Adds this key's signature wherever it may sign and is still needed, and makes what follows from that. Returns the
    /// roles that it signed.
    pub fn sign(&mut self, key: &NodeKey, now_unix: u64) -> Result<Vec<Role>> {
        let mut signed = Vec::new();
        if self.sign_root(key)? {
            signed.push(Role::Root);
        }
        if self.sign_file(Role::Targets, key)? {
            signed.push(Role::Targets);
        }
        for role in [Role::Snapshot, Role::Timestamp] {
            if self.may_sign(role, key)? && self.is_behind(role)? {
                self.draft(role, now_unix, if role == Role::Timestamp { TIMESTAMP_S } else { TARGETS_S })?;
            }
            if self.sign_file(role, key)? {
                signed.push(role);
            }
        }
        Ok(signed)
    }

    /// A new timestamp that nodes believe for `lifetime_s`; also what else would soon expire, as far as this key may sign
    /// it. Sign afterwards.
    pub fn refresh(&mut self, key: &NodeKey, lifetime_s: u64, now_unix: u64) -> Result<()> {
        let soon = |standing: &Standing| standing.expires_unix < now_unix + RENEW_BELOW_S;
        if self.may_sign(Role::Targets, key)? && soon(&self.standing(Role::Targets)?) {
            self.draft_targets(now_unix)?;
            self.sign_file(Role::Targets, key)?;
        }
        let renew = soon(&self.standing(Role::Snapshot)?) || self.is_behind(Role::Snapshot)?;
        if self.may_sign(Role::Snapshot, key)? && renew && self.targets.is_some() {
            self.draft(Role::Snapshot, now_unix, TARGETS_S)?;
            self.sign_file(Role::Snapshot, key)?;
        }
        self.draft(Role::Timestamp, now_unix, lifetime_s)
    }

    /// How each role stands.
    pub fn standings(&self) -> Result<Vec<Standing>> {
        Role::ALL.into_iter().map(|role| self.standing(role)).collect()
    }

    /// What nodes are given, if every signature is there.
    pub fn bundle(&self) -> Result<Bundle> {
        for standing in self.standings()? {
            let role = standing.role;
            let who = |ids: &[NodeId]| ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
            if role == Role::Targets && standing.version == 0 {
                return Err(AuthorError::NoRelease);
            }
            if standing.version == 0 || (role != Role::Root && self.is_behind(role)?) {
                return Err(AuthorError::Behind { role, who: who(&standing.keys) });
            }
            if !standing.complete {
                let missing: Vec<NodeId> =
                    standing.keys.iter().filter(|id| !standing.signed.contains(id)).copied().collect();
                let (have, need) = (standing.signed.len(), standing.threshold);
                return Err(AuthorError::Incomplete { role, have, need, who: who(&missing) });
            }
        }
        let file = |role| self.file(role).cloned().unwrap_or_default();
        Ok(Bundle {
            roots: self.roots.clone(),
            timestamp: file(Role::Timestamp),
            snapshot: file(Role::Snapshot),
            targets: file(Role::Targets),
            statements: self.statements.clone(),
        })
    }

    fn push_root(&mut self, version: u64, keyring: &Keyring, now_unix: u64) -> Result<()> {
        for (role, (keys, threshold)) in keyring {
            if *threshold == 0 || keys.len() < *threshold as usize {
                let (role, threshold, keys) = (*role, *threshold, keys.len());
                return Err(AuthorError::Threshold { role, threshold, keys });
            }
        }
        let root = tuf::root(version, now_unix + ROOT_S, keyring);
        self.roots.push(Draft::new(Role::Root, root.to_json()).encode());
        Ok(())
    }

    fn file(&self, role: Role) -> Option<&Vec<u8>> {
        match role {
            Role::Root => self.roots.last(),
            Role::Targets => self.targets.as_ref(),
            Role::Snapshot => self.snapshot.as_ref(),
            Role::Timestamp => self.timestamp.as_ref(),
        }
    }

    fn set_file(&mut self, role: Role, bytes: Vec<u8>) {
        match role {
            Role::Root => {
                self.roots.pop();
                self.roots.push(bytes);
            }
            Role::Targets => self.targets = Some(bytes),
            Role::Snapshot => self.snapshot = Some(bytes),
            Role::Timestamp => self.timestamp = Some(bytes),
        }
    }

    fn may_sign(&self, role: Role, key: &NodeKey) -> Result<bool> {
        Ok(keys_of(&self.root()?, role).contains(&key.node_id()))
    }

    /// The newest root is signed as it demands itself and as the one before demands.
    fn root_is_complete(&self) -> bool {
        let Some((newest, before)) = self.roots.split_last() else { return false };
        let complete = |by: &[u8]| read_root(by).is_ok_and(|by| tuf::is_complete(&by, Role::Root, newest));
        complete(newest) && before.last().is_none_or(|before| complete(before))
    }

    /// Also by a key that only the root before knows: it hands over to the new ones.
    fn sign_root(&mut self, key: &NodeKey) -> Result<bool> {
        if self.root_is_complete() {
            return Ok(false);
        }
        let (newest, before) = self.roots.split_last().ok_or(AuthorError::NoRoot)?;
        let mut roots = vec![read_root(newest)?];
        roots.extend(before.last().map(|bytes| read_root(bytes)).transpose()?);
        let counts = roots.iter().any(|root| keys_of(root, Role::Root).contains(&key.node_id()));
        if counts {
            let mut draft = Draft::parse(Role::Root, newest)?;
            draft.sign(key)?;
            self.set_file(Role::Root, draft.encode());
        }
        Ok(counts)
    }

    fn sign_file(&mut self, role: Role, key: &NodeKey) -> Result<bool> {
        let standing = self.standing(role)?;
        let id = key.node_id();
        let Some(file) = self.file(role) else { return Ok(false) };
        if standing.complete || standing.signed.contains(&id) || !standing.keys.contains(&id) {
            return Ok(false);
        }
        if role != Role::Targets && self.is_behind(role)? {
            return Ok(false);
        }
        let mut draft = Draft::parse(role, file)?;
        draft.sign(key)?;
        self.set_file(role, draft.encode());
        Ok(true)
    }

    /// What the role names is there and it does not name it.
    fn is_behind(&self, role: Role) -> Result<bool> {
        let below = if role == Role::Timestamp { Role::Snapshot } else { Role::Targets };
        if role == Role::Targets || !self.standing(below)?.complete {
            return Ok(false);
        }
        if role == Role::Timestamp && self.is_behind(Role::Snapshot)? {
            return Ok(false);
        }
        let named = match (role, self.file(role)) {
            (_, None) => return Ok(true),
            (Role::Timestamp, Some(file)) => Timestamp::read(&Envelope::parse(role.word(), file)?)?.snapshot,
            (_, Some(file)) => {
                let meta = Snapshot::read(&Envelope::parse(role.word(), file)?)?.meta;
                meta.get("targets.json").cloned().ok_or(AuthorError::NoRelease)?
            }
        };
        Ok(Some(named) != self.info(below)?)
    }

    fn info(&self, role: Role) -> Result<Option<FileInfo>> {
        let version = self.standing(role)?.version;
        Ok(self.file(role).map(|bytes| FileInfo::of(version, bytes)))
    }

    fn draft_targets(&mut self, now_unix: u64) -> Result<()> {
        let target = |named: Named| {
            let custom = json!({ "mcid": named.mcid.to_string() });
            (target_path(&named.release), Target::of(&named.release.encode(), custom))
        };
        let targets = self.releases()?.into_iter().map(target).collect();
        let version = self.standing(Role::Targets)?.version + 1;
        let expires_unix = now_unix + TARGETS_S;
        let signed = Targets { version, expires_unix, targets, delegations: None }.to_json();
        self.targets = Some(Draft::new(Role::Targets, signed).encode());
        Ok(())
    }

    fn draft(&mut self, role: Role, now_unix: u64, lifetime_s: u64) -> Result<()> {
        let (version, expires_unix) = (self.standing(role)?.version + 1, now_unix + lifetime_s);
        let signed = if role == Role::Snapshot {
            let targets = self.info(Role::Targets)?.ok_or(AuthorError::NoRelease)?;
            let meta = BTreeMap::from([("targets.json".to_string(), targets)]);
            Snapshot { version, expires_unix, meta }.to_json()
        } else {
            let snapshot = self.info(Role::Snapshot)?.ok_or(AuthorError::NoRelease)?;
            Timestamp { version, expires_unix, made_unix: Some(now_unix), snapshot }.to_json()
        };
        self.set_file(role, Draft::new(role, signed).encode());
        Ok(())
    }

    fn standing(&self, role: Role) -> Result<Standing> {
        let root = self.root()?;
        let (keys, threshold) = (keys_of(&root, role), root.role(role).threshold);
        let Some(file) = self.file(role) else {
            let none = Standing {
                role,
                version: 0,
                expires_unix: 0,
                keys,
                signed: vec![],
                threshold,
                complete: false,
            };
            return Ok(none);
        };
        let envelope = Envelope::parse(role.word(), file)?;
        let (version, expires_unix) = match role {
            Role::Root => (root.version, root.expires_unix),
            Role::Targets => Targets::read(&envelope).map(|t| (t.version, t.expires_unix))?,
            Role::Snapshot => Snapshot::read(&envelope).map(|s| (s.version, s.expires_unix))?,
            Role::Timestamp => Timestamp::read(&envelope).map(|t| (t.version, t.expires_unix))?,
        };
        let complete = match role {
            Role::Root => self.root_is_complete(),
            _ => tuf::is_complete(&root, role, file),
        };
        let signed = tuf::signers(&root, role, file)?;
        Ok(Standing { role, version, expires_unix, keys, signed, threshold, complete })
    }
}

fn read_root(bytes: &[u8]) -> Result<Root> {
    Ok(Root::read(&Envelope::parse(Role::Root.word(), bytes)?)?)
}

/// The same keys for every role: `threshold` of them for root and targets, which say what may run. Any one of them
/// serves for snapshot and timestamp, which only say what is newest, or each release would go around twice more.
pub fn keyring(keys: &[NodeId], threshold: u64) -> Keyring {
    let needed = |role| if matches!(role, Role::Root | Role::Targets) { threshold } else { 1 };
    Role::ALL.map(|role| (role, (keys.to_vec(), needed(role)))).into()
}

#[cfg(test)]
mod tests;
