//! `release root`: who may sign what. Offline, with files that go from one signer to the next.

use std::path::Path;

use anyhow::{Result, bail};
use os_identity::NodeId;
use os_release::author::{Repository, keyring};
use os_tuf::Role;
use os_tuf::author::Keyring;

use super::release::now_unix;
use super::{Session, standing};
use crate::cli::release::{RoleKeys, Root};
use crate::repository;

pub fn root(s: &Session, dir: &Path, verb: &Root) -> Result<()> {
    let now = now_unix();
    let repository = match verb {
        Root::New(keys) => {
            if repository::exists(dir) {
                bail!("{} has a root already: `release root rotate` changes its keys", dir.display());
            }
            Repository::begin(&with_roles(keyring(&keys.keys, keys.threshold), keys), now)?
        }
        Root::Rotate(change) => {
            let mut repository = repository::load(dir)?;
            let keys = rotated(repository.keyring()?, &change.add, &change.remove, change.threshold)?;
            repository.next_root(&keys, now)?;
            repository
        }
    };
    repository::save(dir, &repository)?;
    if !s.out.json {
        eprintln!("next: each signer runs `maculactl release sign`, with these files and their own key");
    }
    standing::show(s, &repository)
}

fn with_roles(mut keyring: Keyring, keys: &RoleKeys) -> Keyring {
    let own = [
        (Role::Targets, &keys.targets_keys),
        (Role::Snapshot, &keys.snapshot_keys),
        (Role::Timestamp, &keys.timestamp_keys),
    ];
    for (role, ids) in own.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        let threshold = if role == Role::Targets { keys.threshold.min(ids.len() as u64) } else { 1 };
        keyring.insert(role, (ids.clone(), threshold));
    }
    keyring
}

/// A lost key goes from every role that it had; a new one comes where one went, or, if none did, to every role.
fn rotated(
    mut keyring: Keyring,
    add: &[NodeId],
    remove: &[NodeId],
    threshold: Option<u64>,
) -> Result<Keyring> {
    for id in remove {
        if !keyring.values().any(|(ids, _)| ids.contains(id)) {
            bail!("{id} has no role here: `maculactl release show --json` lists the keys");
        }
    }
    for (role, (ids, wanted)) in &mut keyring {
        let before = ids.len();
        ids.retain(|id| !remove.contains(id));
        let joins = remove.is_empty() || ids.len() < before;
        ids.extend(add.iter().filter(|_| joins));
        ids.sort_unstable();
        ids.dedup();
        if let (Some(threshold), Role::Root | Role::Targets) = (threshold, role) {
            *wanted = threshold;
        }
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_identity::NodeKey;

    fn ids(keys: &[u8]) -> Vec<NodeId> {
        keys.iter().map(|n| NodeKey::from_seed(&[*n; 32]).node_id()).collect()
    }

    #[test]
    fn a_lost_key_is_replaced_where_it_was() {
        let mut before = keyring(&ids(&[1, 2, 3]), 2);
        before.insert(Role::Timestamp, (ids(&[9]), 1));
        let after = rotated(before.clone(), &ids(&[4]), &ids(&[3]), None).unwrap();
        let mut expected = ids(&[1, 2, 4]);
        expected.sort_unstable();
        assert_eq!((&after[&Role::Root].0, after[&Role::Root].1), (&expected, 2));
        assert_eq!(after[&Role::Timestamp], before[&Role::Timestamp]);
        assert!(rotated(before.clone(), &[], &ids(&[7]), None).is_err());
        let more = rotated(before, &ids(&[5]), &[], Some(3)).unwrap();
        assert_eq!((more[&Role::Root].0.len(), more[&Role::Targets].1, more[&Role::Snapshot].1), (4, 3, 1));
    }
}
