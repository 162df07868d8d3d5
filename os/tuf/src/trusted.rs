//! What a client believes, step by step: root, timestamp, snapshot, targets. Each step checks the next file against what
//! is trusted already, and takes it or leaves everything as it was.

use std::collections::BTreeMap;

use crate::TufError;
use crate::delegation::Delegations;
use crate::envelope::{CheckSignature, Envelope};
use crate::error::Result;
use crate::metadata::{FileInfo, Key, Role, RoleKeys, Root, Snapshot, Target, Targets, Timestamp};

/// What became of an offered timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Newer,
    /// The version that is trusted already: what is trusted stays, whatever the offered file says.
    Same,
}

/// The trusted files. Methods that return an error change nothing.
#[derive(Debug, Clone)]
pub struct Trusted {
    now_unix: u64,
    check: CheckSignature,
    root: Held<Root>,
    timestamp: Option<Held<Timestamp>>,
    snapshot: Option<Held<Snapshot>>,
    targets: BTreeMap<String, Held<Targets>>,
}

/// Metadata with the bytes it came from: keeping another serialization would break the hashes.
#[derive(Debug, Clone)]
struct Held<T> {
    meta: T,
    bytes: Vec<u8>,
}

impl Trusted {
    /// Begins with a root that is trusted for reasons of the caller's. It must still be signed as it demands itself.
    pub fn new(root: &[u8], now_unix: u64, check: CheckSignature) -> Result<Self> {
        let envelope = Envelope::parse(Role::Root.word(), root)?;
        let meta = Root::read(&envelope)?;
        envelope.verify(&meta.keys, meta.role(Role::Root), check)?;
        let root = Held { meta, bytes: root.to_vec() };
        Ok(Self { now_unix, check, root, timestamp: None, snapshot: None, targets: BTreeMap::new() })
    }

    pub fn root(&self) -> &Root {
        &self.root.meta
    }

    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(|held| &held.meta)
    }

    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|held| &held.meta)
    }

    /// A targets role by name, the top one being `targets`.
    pub fn targets(&self, name: &str) -> Option<&Targets> {
        self.targets.get(name).map(|held| &held.meta)
    }

    /// The bytes of a top role's trusted file.
    pub fn bytes(&self, role: Role) -> Option<&[u8]> {
        match role {
            Role::Root => Some(&self.root.bytes),
            Role::Timestamp => self.timestamp.as_ref().map(|held| held.bytes.as_slice()),
            Role::Snapshot => self.snapshot.as_ref().map(|held| held.bytes.as_slice()),
            Role::Targets => self.targets.get(role.word()).map(|held| held.bytes.as_slice()),
        }
    }

    /// The next root: signed as the trusted one demands and as it demands itself, exactly one version later. An expired
    /// one is taken, too: a later one may follow it.
    pub fn update_root(&mut self, bytes: &[u8]) -> Result<()> {
        if self.timestamp.is_some() {
            return Err(TufError::Order { what: "root", before: "timestamp" });
        }
        let envelope = Envelope::parse(Role::Root.word(), bytes)?;
        let meta = Root::read(&envelope)?;
        let trusted = &self.root.meta;
        envelope.verify(&trusted.keys, trusted.role(Role::Root), self.check)?;
        if meta.version.checked_sub(1) != Some(trusted.version) {
            return Err(TufError::RootStep { offered: meta.version, trusted: trusted.version });
        }
        envelope.verify(&meta.keys, meta.role(Role::Root), self.check)?;
        self.root = Held { meta, bytes: bytes.to_vec() };
        Ok(())
    }

    /// A timestamp trusted earlier, to hold new ones against; it may have expired. One whose keys have been replaced
    /// since is an error: forget it, and with it what an attacker may have put there.
    pub fn restore_timestamp(&mut self, bytes: &[u8]) -> Result<()> {
        let meta = Timestamp::read(&self.verified(Role::Timestamp, bytes)?)?;
        self.timestamp = Some(Held { meta, bytes: bytes.to_vec() });
        Ok(())
    }

    pub fn update_timestamp(&mut self, bytes: &[u8]) -> Result<Seen> {
        self.in_time(Role::Root.word(), self.root.meta.expires_unix)?;
        let meta = Timestamp::read(&self.verified(Role::Timestamp, bytes)?)?;
        if let Some(trusted) = self.timestamp() {
            not_older("timestamp", meta.version, trusted.version)?;
            if meta.version == trusted.version {
                self.in_time(Role::Timestamp.word(), trusted.expires_unix)?;
                return Ok(Seen::Same);
            }
            not_older("snapshot", meta.snapshot.version, trusted.snapshot.version)?;
        }
        self.in_time(Role::Timestamp.word(), meta.expires_unix)?;
        self.timestamp = Some(Held { meta, bytes: bytes.to_vec() });
        Ok(Seen::Newer)
    }

    /// A snapshot trusted earlier, to hold new ones against.
    pub fn restore_snapshot(&mut self, bytes: &[u8]) -> Result<()> {
        let meta = Snapshot::read(&self.verified(Role::Snapshot, bytes)?)?;
        self.snapshot = Some(Held { meta, bytes: bytes.to_vec() });
        Ok(())
    }

    /// Whether the restored snapshot is the one that the timestamp names, so that none needs to be fetched.
    pub fn snapshot_is_current(&self) -> bool {
        let (Some(timestamp), Some(held)) = (self.timestamp(), &self.snapshot) else { return false };
        let named = &timestamp.snapshot;
        held.meta.version == named.version && named.check("snapshot", "timestamp", &held.bytes).is_ok()
    }

    pub fn update_snapshot(&mut self, bytes: &[u8]) -> Result<()> {
        let timestamp = self.timestamp().ok_or(TufError::Order { what: "timestamp", before: "snapshot" })?;
        self.in_time(Role::Timestamp.word(), timestamp.expires_unix)?;
        let named = &timestamp.snapshot;
        named.check("snapshot", "timestamp", bytes)?;
        let meta = Snapshot::read(&self.verified(Role::Snapshot, bytes)?)?;
        same_version("snapshot", meta.version, "timestamp", named.version)?;
        for (file, trusted) in self.snapshot().iter().flat_map(|s| &s.meta) {
            let offered = meta.meta.get(file).ok_or_else(|| TufError::Removed { file: file.clone() })?;
            not_older(file, offered.version, trusted.version)?;
        }
        self.in_time(Role::Snapshot.word(), meta.expires_unix)?;
        self.snapshot = Some(Held { meta, bytes: bytes.to_vec() });
        Ok(())
    }

    /// The top targets role.
    pub fn update_targets(&mut self, bytes: &[u8]) -> Result<()> {
        self.update_delegated(Role::Targets.word(), Role::Root.word(), bytes)
    }

    /// A targets role in whom `delegator`, which is trusted already, trusts. What another delegator thought of the same
    /// role does not count.
    pub fn update_delegated(&mut self, name: &str, delegator: &str, bytes: &[u8]) -> Result<()> {
        let named = self.named(name)?;
        named.check(name, "snapshot", bytes)?;
        let envelope = Envelope::parse(name, bytes)?;
        let (keys, role) = self.authority(name, delegator)?;
        envelope.verify(keys, role, self.check)?;
        let meta = Targets::read(&envelope)?;
        same_version(name, meta.version, "snapshot", named.version)?;
        self.in_time(name, meta.expires_unix)?;
        self.targets.insert(name.to_string(), Held { meta, bytes: bytes.to_vec() });
        Ok(())
    }

    /// The top targets role's target; none before [`Self::update_targets`].
    pub fn target(&self, path: &str) -> Option<&Target> {
        self.targets(Role::Targets.word())?.targets.get(path)
    }

    /// How the snapshot, which must be current, names a targets role's file.
    pub fn named(&self, name: &str) -> Result<&FileInfo> {
        let order = TufError::Order { what: "snapshot", before: "targets" };
        let snapshot = self.snapshot().filter(|_| self.snapshot_is_current()).ok_or(order)?;
        self.in_time(Role::Snapshot.word(), snapshot.expires_unix)?;
        let unnamed = || TufError::NotNamed { what: format!("{name}.json"), by: "snapshot".into() };
        snapshot.meta.get(&format!("{name}.json")).ok_or_else(unnamed)
    }

    fn authority(&self, name: &str, delegator: &str) -> Result<(&BTreeMap<String, Key>, &RoleKeys)> {
        if delegator == Role::Root.word() {
            return Ok((&self.root.meta.keys, self.root.meta.role(Role::Targets)));
        }
        let delegations: Option<&Delegations> = self.targets(delegator).and_then(|t| t.delegations.as_ref());
        let found = delegations.and_then(|d| Some((&d.keys, &d.role(name)?.keys)));
        found.ok_or_else(|| TufError::NotNamed { what: name.into(), by: delegator.into() })
    }

    fn verified(&self, role: Role, bytes: &[u8]) -> Result<Envelope> {
        let envelope = Envelope::parse(role.word(), bytes)?;
        envelope.verify(&self.root.meta.keys, self.root.meta.role(role), self.check)?;
        Ok(envelope)
    }

    fn in_time(&self, role: &str, expires_unix: u64) -> Result<()> {
        match self.now_unix.checked_sub(expires_unix) {
            Some(ago_s) => Err(TufError::Expired { role: role.into(), ago_s }),
            None => Ok(()),
        }
    }
}

fn not_older(role: &str, offered: u64, trusted: u64) -> Result<()> {
    if offered < trusted {
        return Err(TufError::RolledBack { role: role.into(), offered, trusted });
    }
    Ok(())
}

fn same_version(role: &str, found: u64, by: &'static str, named: u64) -> Result<()> {
    if found != named {
        return Err(TufError::WrongVersion { role: role.into(), found, by, named });
    }
    Ok(())
}
