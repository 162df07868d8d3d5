//! Publisher and node against each other, without files or a network.

use super::*;
use crate::statement::tests::sample;
use crate::{Anchor, Trust, Version};

const NOW: u64 = 1_800_000_000;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

fn ids(keys: &[u8]) -> Vec<NodeId> {
    keys.iter().map(|n| key(*n).node_id()).collect()
}

fn release(minor: u64) -> Release {
    let (created_unix, expires_unix) = (NOW - 10, NOW + 90 * DAY_S);
    Release { version: Version::new(0, minor, 0), created_unix, expires_unix, ..sample() }
}

/// One person's repository with one release, signed.
fn simple() -> Repository {
    let mut repository = Repository::begin(&keyring(&ids(&[1]), 1), NOW).unwrap();
    repository.add(&release(2), NOW).unwrap();
    repository.sign(&key(1), NOW).unwrap();
    repository
}

fn sign(repository: &mut Repository, keys: &[u8]) {
    keys.iter().for_each(|n| drop(repository.sign(&key(*n), NOW).unwrap()));
}

fn anchor() -> Anchor {
    Anchor::new(&ids(&[1]), 1)
}

/// What a node says of it: the versions that it believes in.
fn accept(
    trust: &mut Trust,
    anchor: &Anchor,
    repository: &Repository,
    now: u64,
) -> std::result::Result<Vec<String>, String> {
    let bundle = Bundle::decode(&repository.bundle().map_err(|e| e.to_string())?.encode().unwrap()).unwrap();
    let believed = trust.accept(anchor, &bundle, now).map_err(|e| e.to_string())?;
    // What is kept survives being written.
    *trust = Trust::decode(&trust.encode()).unwrap();
    Ok(believed.iter().map(|n| n.release.version.to_string()).collect())
}

#[test]
fn one_key_is_enough_and_nothing_else_to_know() {
    let (mut trust, mut repository) = (Trust::default(), simple());
    assert_eq!(accept(&mut trust, &anchor(), &repository, NOW).unwrap(), ["0.2.0"]);
    assert_eq!((trust.root_version(), trust.signed_unix()), (Some(1), NOW));
    repository.add(&release(3), NOW + 5).unwrap();
    assert!(repository.bundle().unwrap_err().to_string().contains("targets has 0 of 1"));
    repository.sign(&key(1), NOW + 5).unwrap();
    assert_eq!(accept(&mut trust, &anchor(), &repository, NOW).unwrap(), ["0.2.0", "0.3.0"]);
    assert_eq!(repository.sign(&key(1), NOW + 6).unwrap(), [], "nothing is left to sign");
}

#[test]
fn signatures_come_one_after_another_in_any_order() {
    let mut keyring = keyring(&ids(&[1, 2, 3]), 2);
    keyring.insert(Role::Snapshot, (ids(&[1, 2, 3]), 2));
    keyring.insert(Role::Timestamp, (ids(&[9]), 1));
    let mut repository = Repository::begin(&keyring, NOW).unwrap();
    repository.add(&release(2), NOW).unwrap();
    assert_eq!(repository.sign(&key(2), NOW).unwrap(), [Role::Root, Role::Targets]);
    assert_eq!(repository.sign(&key(9), NOW).unwrap(), [], "there is no snapshot to stamp yet");
    let waits = repository.bundle().unwrap_err().to_string();
    assert!(waits.contains("root has 1 of 2") && waits.contains(&ids(&[3])[0].to_string()), "{waits}");
    assert_eq!(repository.sign(&key(3), NOW).unwrap(), [Role::Root, Role::Targets, Role::Snapshot]);
    assert_eq!(repository.sign(&key(1), NOW).unwrap(), [Role::Snapshot]);
    assert!(repository.bundle().unwrap_err().to_string().contains("timestamp is not up to date"));
    assert_eq!(repository.sign(&key(9), NOW).unwrap(), [Role::Timestamp]);
    let anchor = Anchor::new(&ids(&[1, 2, 3]), 2);
    assert_eq!(accept(&mut Trust::default(), &anchor, &repository, NOW).unwrap(), ["0.2.0"]);
    let stranger = Anchor::new(&ids(&[4, 5, 2]), 2);
    let refused = accept(&mut Trust::default(), &stranger, &repository, NOW).unwrap_err();
    assert!(refused.contains("not enough signatures: 1 of the 2"), "{refused}");
}

/// One of three loses her key. The two others replace it; nodes need neither a new image nor a new configuration.
#[test]
fn a_lost_root_key_is_replaced_by_the_remaining_threshold() {
    let anchor = Anchor::new(&ids(&[1, 2, 3]), 2);
    let mut repository = Repository::begin(&keyring(&ids(&[1, 2, 3]), 2), NOW).unwrap();
    repository.add(&release(2), NOW).unwrap();
    sign(&mut repository, &[1, 2]);
    let mut trust = Trust::default();
    accept(&mut trust, &anchor, &repository, NOW).unwrap();

    repository.next_root(&keyring(&ids(&[1, 2, 4]), 2), NOW).unwrap();
    assert!(matches!(repository.next_root(&keyring(&ids(&[1]), 1), NOW), Err(AuthorError::RootPending(2))));
    repository.add(&release(3), NOW).unwrap();
    // The finder of the lost key and one other: not enough for the new root.
    let mut stolen = repository.clone();
    sign(&mut stolen, &[3, 1]);
    assert!(stolen.bundle().is_err());
    sign(&mut repository, &[1, 2]);
    assert_eq!(accept(&mut trust, &anchor, &repository, NOW).unwrap(), ["0.2.0", "0.3.0"]);
    assert_eq!(trust.root_version(), Some(2));
    // The new key signs from now on, also for nodes that come later with the old keys in their configuration.
    repository.add(&release(4), NOW).unwrap();
    sign(&mut repository, &[4, 2]);
    for trust in [&mut trust, &mut Trust::default()] {
        assert!(accept(trust, &anchor, &repository, NOW).unwrap().contains(&"0.4.0".to_string()));
    }
    // A node whose owner has given it the new keys finds its beginning in the second root.
    let newer = Anchor::new(&ids(&[1, 2, 4]), 2);
    accept(&mut Trust::default(), &newer, &repository, NOW).unwrap();
}

#[test]
fn rollback_freeze_and_mixtures_are_refused_with_their_own_words() {
    let (mut trust, old) = (Trust::default(), simple());
    let mut new = old.clone();
    new.add(&release(3), NOW).unwrap();
    new.sign(&key(1), NOW).unwrap();
    accept(&mut trust, &anchor(), &new, NOW).unwrap();
    let kept = trust.clone();

    let rolled_back = accept(&mut trust, &anchor(), &old, NOW).unwrap_err();
    assert!(rolled_back.contains("rolled back: timestamp version 1 is offered"), "{rolled_back}");

    let frozen = accept(&mut trust, &anchor(), &new, NOW + TIMESTAMP_S + 7).unwrap_err();
    assert!(frozen.contains("timestamp expired 7 s ago"), "{frozen}");

    let mut mixed = new.bundle().unwrap();
    mixed.targets = old.targets.clone().unwrap();
    let refused = trust.accept(&anchor(), &mixed, NOW).unwrap_err().to_string();
    assert!(refused.contains("mixed up: targets"), "{refused}");
    assert_eq!(trust, kept, "refusals change nothing");

    let mut foreign = new.bundle().unwrap();
    foreign.statements.push(release(9).encode());
    let refused = trust.accept(&anchor(), &foreign, NOW).unwrap_err().to_string();
    assert!(refused.contains("mixed up: statement releases/x86-generic/0.9.0"), "{refused}");
    let mut changed = new.bundle().unwrap();
    changed.statements[0] = Release { notes: "other".into(), ..release(2) }.encode();
    assert!(trust.accept(&anchor(), &changed, NOW).unwrap_err().to_string().contains("mixed up"));
}

#[test]
fn a_newer_root_is_kept_even_if_the_rest_is_refused() {
    let (mut trust, mut repository) = (Trust::default(), simple());
    accept(&mut trust, &anchor(), &repository, NOW).unwrap();
    repository.next_root(&keyring(&ids(&[2]), 1), NOW).unwrap();
    sign(&mut repository, &[1, 2]);
    let mut bundle = repository.bundle().unwrap();
    bundle.timestamp = b"{}".to_vec();
    assert!(trust.accept(&anchor(), &bundle, NOW).is_err());
    assert_eq!(trust.root_version(), Some(2));
    // What the first key signs means nothing any more.
    let refused = accept(&mut trust, &anchor(), &simple(), NOW).unwrap_err();
    assert!(refused.contains("not enough signatures on timestamp"), "{refused}");
}

#[test]
fn other_keys_in_the_configuration_begin_anew() {
    let mut trust = Trust::default();
    let mut newer = simple();
    newer.refresh(&key(1), 100, NOW).unwrap();
    newer.sign(&key(1), NOW).unwrap();
    accept(&mut trust, &anchor(), &newer, NOW).unwrap();
    let other = Anchor::new(&ids(&[1, 2]), 1);
    assert!(trust.is_foreign(&other) && !trust.is_foreign(&anchor()));
    accept(&mut trust, &other, &simple(), NOW).unwrap();
    assert!(!trust.is_foreign(&other));
}

#[test]
fn a_refresh_renews_what_would_soon_expire() {
    let mut repository = simple();
    let before = repository.standings().unwrap();
    repository.refresh(&key(1), DAY_S, NOW + DAY_S).unwrap();
    assert_eq!(repository.sign(&key(1), NOW + DAY_S).unwrap(), [Role::Timestamp]);
    let versions = |r: &Repository| r.standings().unwrap().iter().map(|s| s.version).collect::<Vec<_>>();
    assert_eq!((versions(&repository), before.len()), (vec![1, 1, 1, 2], 4));
    let later = NOW + 300 * DAY_S;
    repository.refresh(&key(1), DAY_S, later).unwrap();
    repository.sign(&key(1), later).unwrap();
    assert_eq!(versions(&repository), [1, 2, 2, 3]);
    assert!(accept(&mut Trust::default(), &anchor(), &repository, later).is_ok());
}

#[test]
fn a_flipped_bit_in_each_byte_of_a_bundle_is_noticed() {
    let bytes = simple().bundle().unwrap().encode().unwrap();
    let original = Trust::default().accept(&anchor(), &Bundle::decode(&bytes).unwrap(), NOW).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let Ok(bundle) = Bundle::decode(&flipped) else { continue };
        if let Ok(believed) = Trust::default().accept(&anchor(), &bundle, NOW) {
            // White space, or the case of hexadecimal digits: what it says is the same.
            assert_eq!(believed, original, "byte {at}");
        }
    }
}
