//! The classes of cases of the public conformance suite, made here so that they run without it and without a network.

mod repository;

use os_identity::NodeKey;
use os_tuf::author::Draft;
use os_tuf::{METADATA_MAX, Role, Seen, Trusted, TufError, check_ed25519};
use serde_json::json;

use repository::{NOW, Repository, key};

#[test]
fn a_refresh_trusts_every_role_and_finds_targets() {
    let mut repository = Repository::new();
    repository.add_target("releases/x/1", b"one");
    let trusted = repository.refresh(None).unwrap();
    trusted.target("releases/x/1").unwrap().check("releases/x/1", b"one").unwrap();
    assert!(trusted.target("releases/x/2").is_none());
    let substituted = trusted.target("releases/x/1").unwrap().check("releases/x/1", b"two");
    assert!(matches!(substituted, Err(TufError::WrongContent { what: "sha256", .. })));
}

#[test]
fn the_initial_root_must_be_sound_and_signed_by_itself() {
    let repository = Repository::new();
    let root = repository.file(Role::Root);
    let without = |name: &str| {
        let mut value: serde_json::Value = serde_json::from_slice(&root).unwrap();
        value["signed"].as_object_mut().unwrap().remove(name);
        serde_json::to_vec(&value).unwrap()
    };
    for field in ["version", "expires", "keys", "roles", "_type", "spec_version"] {
        let refused = Trusted::new(&without(field), NOW, check_ed25519);
        assert!(matches!(refused, Err(TufError::Malformed { .. })), "{field}");
    }
    let mut draft = Draft::parse(Role::Root, &root).unwrap();
    draft = Draft::new(Role::Root, draft.signed().clone());
    draft.sign(&key(99)).unwrap();
    let refused = Trusted::new(&draft.encode(), NOW, check_ed25519).unwrap_err();
    assert!(refused.to_string().contains("not enough signatures on root: 0 of the 1 needed"), "{refused}");
}

#[test]
fn each_role_needs_its_own_signature_and_type() {
    for role in Role::ALL {
        let mut repository = Repository::new();
        repository.with_hashes = false;
        repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
        let before = repository.refresh(None).unwrap();
        repository.keyring.get_mut(&role).unwrap().0 = vec![key(50).node_id()];
        if role != Role::Root {
            // The root that everybody has does not know the new key.
            repository.resign(role, &[key(50)]);
        } else {
            repository.publish_root(&[key(50)]);
        }
        let refused = repository.refresh(Some(&before)).unwrap_err();
        assert!(matches!(refused, TufError::NotEnoughSignatures { .. }), "{role}: {refused}");
    }
    let repository = Repository::new();
    let mut trusted = repository.trusted();
    let mut snapshot_as_timestamp = Draft::parse(Role::Snapshot, &repository.file(Role::Snapshot)).unwrap();
    snapshot_as_timestamp.sign(&key(1)).unwrap();
    let refused = trusted.update_timestamp(&snapshot_as_timestamp.encode()).unwrap_err();
    assert!(refused.to_string().contains("its type is `snapshot`"), "{refused}");
}

/// (keys, threshold, signers) of one root version after another; whether the last is taken.
type RootCase = (&'static str, &'static [(&'static [u8], u64, &'static [u8])], bool);

const ROOT_CASES: &[RootCase] = &[
    ("1 of 1 rotated", &[(&[1], 1, &[1]), (&[2], 1, &[2, 1]), (&[2], 1, &[2])], true),
    ("unused signatures", &[(&[1], 1, &[3, 1, 4]), (&[2], 1, &[3, 2, 1, 4])], true),
    ("other three of five", &[(&[1, 2, 3, 4, 5], 3, &[1, 3, 5]), (&[1, 2, 3, 4, 5], 3, &[1, 2, 4])], true),
    ("one of five replaced", &[(&[1, 2, 3, 4, 5], 3, &[1, 3, 5]), (&[1, 2, 4, 5, 6], 3, &[1, 2, 5])], true),
    (
        "all replaced",
        &[(&[1, 2, 3], 2, &[1, 3]), (&[5, 6, 7], 2, &[1, 3, 5, 6]), (&[5, 6, 7], 2, &[6, 7])],
        true,
    ),
    ("threshold raised", &[(&[1], 1, &[1]), (&[1, 2], 2, &[1, 2])], true),
    ("threshold lowered", &[(&[1, 2, 3], 2, &[1, 2]), (&[1, 2, 3], 1, &[1, 2]), (&[1, 2, 3], 1, &[1])], true),
    ("not signed by the old key", &[(&[1], 1, &[1]), (&[2], 1, &[2, 3, 4])], false),
    ("not signed by the new key", &[(&[1], 1, &[1]), (&[2], 1, &[1, 3, 4])], false),
    ("too few new keys", &[(&[1, 2, 3, 4, 5], 3, &[1, 3, 5]), (&[1, 2, 4, 5, 6], 3, &[1, 3, 5])], false),
    ("too few old keys", &[(&[1, 2, 3, 4, 5], 3, &[1, 3, 5]), (&[1, 2, 4, 5, 6], 3, &[1, 5, 6])], false),
    ("raised threshold missed", &[(&[1, 2, 3], 1, &[1]), (&[1, 2, 3], 2, &[2])], false),
    ("old threshold missed", &[(&[1, 2, 3], 2, &[1, 2]), (&[1, 2, 3], 1, &[1])], false),
];

#[test]
fn roots_follow_each_other_by_both_sides_thresholds() {
    for (name, versions, taken) in ROOT_CASES {
        let mut repository = Repository::bare();
        for (keys, threshold, signers) in *versions {
            let ids = keys.iter().map(|n| key(*n).node_id()).collect();
            repository.keyring.insert(Role::Root, (ids, *threshold));
            repository.publish_root(&signers.iter().map(|n| key(*n)).collect::<Vec<_>>());
        }
        let result = repository.refresh(None);
        assert_eq!(result.is_ok(), *taken, "{name}: {:?}", result.err());
    }
}

/// Three people hold a root of 2. One loses her key: the two others replace it, and nodes follow by themselves.
#[test]
fn a_lost_root_key_is_replaced_by_the_remaining_threshold() {
    let mut repository = Repository::bare();
    let ids = |keys: &[u8]| keys.iter().map(|n| key(*n).node_id()).collect::<Vec<_>>();
    repository.keyring.insert(Role::Root, (ids(&[11, 12, 13]), 2));
    repository.publish_root(&[key(11), key(12)]);
    let node = repository.refresh(None).unwrap();

    repository.keyring.insert(Role::Root, (ids(&[11, 12, 14]), 2));
    repository.publish_root(&[key(11), key(12)]);
    let node = repository.refresh(Some(&node)).unwrap();
    assert_eq!(node.root().version, 2);
    // Whoever found the lost key cannot use it any more, not even with another one's help.
    repository.publish_root(&[key(13), key(11)]);
    assert!(repository.refresh(Some(&node)).is_err());
}

#[test]
fn root_versions_are_neither_skipped_nor_repeated() {
    let mut repository = Repository::new();
    let first = repository.file(Role::Root);
    repository.publish_root(&[key(1)]);
    repository.publish_root(&[key(1)]);
    let mut trusted = Trusted::new(&first, NOW, check_ed25519).unwrap();
    for bytes in [&repository.file(Role::Root), &first] {
        assert!(matches!(trusted.update_root(bytes), Err(TufError::RootStep { trusted: 1, .. })));
    }
}

#[test]
fn one_key_counts_once_whatever_it_is_called() {
    let mut repository = Repository::new();
    let mut draft = Draft::parse(Role::Timestamp, &repository.file(Role::Timestamp)).unwrap();
    draft.sign(&key(1)).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&draft.encode()).unwrap();
    let twice = value["signatures"][0].clone();
    value["signatures"].as_array_mut().unwrap().push(twice);
    let refused = repository.trusted().update_timestamp(&serde_json::to_vec(&value).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("two signatures by key"), "{refused}");

    // Another id for the same key is no hash of it; the same key written in other letters is the same key.
    let mut root: serde_json::Value = serde_json::from_slice(&repository.file(Role::Root)).unwrap();
    let (id, known) = root["signed"]["keys"].as_object().unwrap().iter().next().unwrap();
    let (id, known) = (id.clone(), known.clone());
    root["signed"]["keys"]["ab"] = known.clone();
    let refused = Trusted::new(&serde_json::to_vec(&root).unwrap(), NOW, check_ed25519).unwrap_err();
    assert!(refused.to_string().contains("is not the hash"), "{refused}");
    let mut shouted = known;
    let public = shouted["keyval"]["public"].as_str().unwrap().to_ascii_uppercase();
    shouted["keyval"]["public"] = json!(public);
    repository.alias_in_root(&id, shouted);
    let refused = repository.refresh(None).unwrap_err();
    assert!(matches!(refused, TufError::NotEnoughSignatures { valid: 1, needed: 2, .. }), "{refused}");
}

#[test]
fn a_wrong_signature_beside_enough_right_ones_does_no_harm() {
    let mut repository = Repository::new();
    repository.keyring.insert(Role::Timestamp, (vec![key(1).node_id(), key(2).node_id()], 1));
    repository.publish_root(&[key(1)]);
    repository.publish(&[Role::Timestamp]);
    let mut value: serde_json::Value = serde_json::from_slice(&repository.file(Role::Timestamp)).unwrap();
    for bad in ["", "zz", &"00".repeat(64)] {
        let keyid = os_tuf::Key::ed25519(&key(2).node_id()).id();
        let good = value["signatures"][0].clone();
        value["signatures"] = json!([good, { "keyid": keyid, "sig": bad }]);
        let mut trusted = repository.trusted();
        assert_eq!(trusted.update_timestamp(&serde_json::to_vec(&value).unwrap()), Ok(Seen::Newer), "{bad}");
    }
}

#[test]
fn unknown_fields_are_kept_under_the_signature_and_unknown_keys_do_not_count() {
    let mut repository = Repository::new();
    repository.change_root(|signed| {
        signed["custom-field"] = json!({ "a": [1, null] });
        let rsa = json!({ "keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": { "public": "PEM" } });
        let id = repository::key_id(&rsa);
        signed["keys"][id] = rsa;
    });
    let trusted = repository.refresh(None).unwrap();
    assert_eq!((trusted.root().version, trusted.root().keys.len()), (2, 2));
    // The same without the field is not what was signed.
    let mut value: serde_json::Value = serde_json::from_slice(&repository.file(Role::Root)).unwrap();
    value["signed"].as_object_mut().unwrap().remove("custom-field");
    assert!(Trusted::new(&serde_json::to_vec(&value).unwrap(), NOW, check_ed25519).is_err());
}

#[test]
fn versions_are_never_rolled_back() {
    let mut repository = Repository::new();
    repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
    let node = repository.refresh(None).unwrap();
    let rolled_back = |change: fn(&mut Repository), role: &str| {
        let mut attacked = repository.clone();
        change(&mut attacked);
        match attacked.refresh(Some(&node)) {
            Err(TufError::RolledBack { role: found, .. }) => assert_eq!(found, role),
            other => panic!("{role}: {:?}", other.map(drop)),
        }
    };
    rolled_back(|r| r.republish(Role::Timestamp, 1), "timestamp");
    rolled_back(
        |r| {
            r.republish(Role::Snapshot, 1);
            r.publish(&[Role::Timestamp]);
        },
        "snapshot",
    );
    rolled_back(
        |r| {
            r.republish(Role::Targets, 1);
            r.publish(&[Role::Snapshot, Role::Timestamp]);
        },
        "targets.json",
    );
}

#[test]
fn a_file_that_the_snapshot_named_stays_named() {
    let mut repository = Repository::new();
    repository.extra_meta.push("delegated.json".into());
    repository.publish(&[Role::Snapshot, Role::Timestamp]);
    let node = repository.refresh(None).unwrap();
    repository.extra_meta.clear();
    repository.publish(&[Role::Snapshot, Role::Timestamp]);
    assert!(matches!(repository.refresh(Some(&node)), Err(TufError::Removed { .. })));
}

#[test]
fn a_timestamp_of_the_same_version_changes_nothing() {
    let mut repository = Repository::new();
    let mut node = repository.refresh(None).unwrap();
    let kept = node.bytes(Role::Timestamp).unwrap().to_vec();
    repository.publish(&[Role::Snapshot]);
    repository.republish(Role::Timestamp, 1);
    assert_eq!(node.update_timestamp(&repository.file(Role::Timestamp)), Ok(Seen::Same));
    assert_eq!(node.bytes(Role::Timestamp).unwrap(), kept);
    assert!(matches!(repository.refresh(Some(&node)), Err(TufError::WrongContent { .. })), "mixed up");
}

/// After a key was stolen and used to move versions far ahead, replacing the key lets them begin anew.
#[test]
fn replaced_keys_recover_from_versions_moved_ahead() {
    use Role::{Snapshot, Targets, Timestamp};
    let cases: [(Role, &[Role], &[Role]); 3] = [
        // What was moved ahead, what must follow it, whose keys are replaced.
        (Timestamp, &[], &[Timestamp]),
        (Snapshot, &[Timestamp], &[Snapshot, Timestamp]),
        (Targets, &[Snapshot, Timestamp], &[Snapshot]),
    ];
    for (moved, following, replaced) in cases {
        let mut repository = Repository::new();
        repository.republish(moved, 100);
        repository.publish(following);
        let node = repository.refresh(None).unwrap();
        let back = |repository: &mut Repository| {
            repository.republish(moved, 1);
            repository.publish(following);
        };
        let mut attacked = repository.clone();
        back(&mut attacked);
        assert!(matches!(attacked.refresh(Some(&node)), Err(TufError::RolledBack { .. })), "{moved}");

        for role in replaced {
            repository.keyring.insert(*role, (vec![key(60).node_id()], 1));
        }
        repository.signers.push(60);
        repository.publish_root(&[key(1)]);
        back(&mut repository);
        let recovered = repository.refresh(Some(&node));
        assert!(recovered.is_ok(), "{moved}: {:?}", recovered.err());
    }
}

#[test]
fn expired_roles_are_refused_and_expired_roots_can_be_followed() {
    for role in [Role::Timestamp, Role::Snapshot, Role::Targets] {
        let mut repository = Repository::new();
        repository.expires_unix.insert(role, NOW);
        let later: &[Role] = match role {
            Role::Timestamp => &[Role::Timestamp],
            Role::Snapshot => &[Role::Snapshot, Role::Timestamp],
            _ => &[Role::Targets, Role::Snapshot, Role::Timestamp],
        };
        repository.publish(later);
        match repository.refresh(None) {
            Err(TufError::Expired { role: found, ago_s: 0 }) => assert_eq!(found, role.word()),
            other => panic!("{role}: {:?}", other.map(drop)),
        }
    }
    let mut repository = Repository::new();
    repository.expires_unix.insert(Role::Root, NOW - 5);
    repository.publish_root(&[key(1)]);
    assert!(matches!(repository.refresh(None), Err(TufError::Expired { ago_s: 5, .. })));
    repository.expires_unix.insert(Role::Root, NOW + 5);
    repository.publish_root(&[key(1)]);
    repository.refresh(None).unwrap();
}

#[test]
fn an_expired_trusted_timestamp_still_guards_against_rollback() {
    let mut repository = Repository::new();
    repository.expires_unix.insert(Role::Root, NOW + 3_000_000);
    repository.publish_root(&[key(1)]);
    repository.publish(&[Role::Timestamp]);
    let mut node = repository.refresh(None).unwrap();
    node = repository.reopened(&node, NOW + 1_000_000);
    let refused = node.update_timestamp(&repository.file(Role::Timestamp)).unwrap_err();
    assert!(matches!(refused, TufError::Expired { .. }), "frozen: {refused}");
    repository.expires_unix.insert(Role::Timestamp, NOW + 2_000_000);
    repository.republish(Role::Timestamp, 1);
    assert!(matches!(
        node.update_timestamp(&repository.file(Role::Timestamp)),
        Err(TufError::RolledBack { offered: 1, trusted: 2, .. })
    ));
}

#[test]
fn files_of_different_times_are_not_mixed() {
    let mut repository = Repository::new();
    let old = repository.clone();
    repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
    let mut trusted = repository.trusted();
    trusted.update_timestamp(&repository.file(Role::Timestamp)).unwrap();
    let mixed = trusted.update_snapshot(&old.file(Role::Snapshot)).unwrap_err();
    assert!(mixed.to_string().contains("mixed up: snapshot"), "{mixed}");
    trusted.update_snapshot(&repository.file(Role::Snapshot)).unwrap();
    let mixed = trusted.update_targets(&old.file(Role::Targets)).unwrap_err();
    assert!(mixed.to_string().contains("mixed up: targets"), "{mixed}");

    // Without hashes the version alone tells them apart.
    repository.with_hashes = false;
    repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
    let mut trusted = repository.trusted();
    trusted.update_timestamp(&repository.file(Role::Timestamp)).unwrap();
    assert!(matches!(trusted.update_snapshot(&old.file(Role::Snapshot)), Err(TufError::WrongVersion { .. })));
    trusted.update_snapshot(&repository.file(Role::Snapshot)).unwrap();
    assert!(matches!(trusted.update_targets(&old.file(Role::Targets)), Err(TufError::WrongVersion { .. })));
}

#[test]
fn steps_out_of_order_are_refused() {
    let repository = Repository::new();
    let mut trusted = repository.trusted();
    assert!(matches!(trusted.update_snapshot(&repository.file(Role::Snapshot)), Err(TufError::Order { .. })));
    assert!(matches!(trusted.update_targets(&repository.file(Role::Targets)), Err(TufError::Order { .. })));
    trusted.update_timestamp(&repository.file(Role::Timestamp)).unwrap();
    assert!(matches!(trusted.update_root(&repository.file(Role::Root)), Err(TufError::Order { .. })));
}

/// A targets role with one delegation, its key and paths.
fn delegating(repository: &mut Repository, by: &NodeKey, paths: &[&str]) {
    let entry = os_tuf::Key::ed25519(&by.node_id());
    let public = json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": entry.public } });
    repository.delegations = Some(json!({
        "keys": { (entry.id()): public },
        "roles": [{ "name": "team", "keyids": [entry.id()], "threshold": 1, "terminating": true, "paths": paths }],
    }));
    repository.extra_meta.push("team.json".into());
    repository.publish(&[Role::Targets, Role::Snapshot, Role::Timestamp]);
}

#[test]
fn delegated_roles_speak_for_their_paths_under_their_delegators_keys() {
    let mut repository = Repository::new();
    repository.with_hashes = false;
    delegating(&mut repository, &key(40), &["team/*"]);
    let mut trusted = repository.refresh(None).unwrap();
    let delegation = trusted.targets("targets").unwrap().delegations.as_ref().unwrap().role("team").unwrap();
    assert!(delegation.covers("team/x") && !delegation.covers("team/x/y") && !delegation.covers("other"));
    let file = |by: &NodeKey| {
        let mut draft = Draft::new(Role::Targets, repository::targets_json(1, NOW + 100, "team/x", b"x"));
        draft.sign(by).unwrap();
        draft.encode()
    };
    assert!(matches!(
        trusted.update_delegated("team", "targets", &file(&key(41))),
        Err(TufError::NotEnoughSignatures { .. })
    ));
    assert!(matches!(
        trusted.update_delegated("team", "nobody", &file(&key(40))),
        Err(TufError::NotNamed { .. })
    ));
    trusted.update_delegated("team", "targets", &file(&key(40))).unwrap();
    assert!(trusted.targets("team").unwrap().targets.contains_key("team/x"));
    assert!(matches!(
        trusted.update_delegated("others", "targets", &file(&key(40))),
        Err(TufError::NotNamed { .. })
    ));
}

/// Cut off, changed by a bit, or nonsense: never a panic, never trusted.
#[test]
fn damaged_files_are_refused() {
    let mut repository = Repository::new();
    repository.add_target("releases/x/1", b"one");
    let trusted = repository.trusted();
    let good = repository.file(Role::Timestamp);
    for end in 0..good.len() - 1 {
        assert!(trusted.clone().update_timestamp(&good[..end]).is_err(), "{end}");
    }
    let root = repository.file(Role::Root);
    for bytes in [&good, &root] {
        let original: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let taken = match bytes == &good {
                true => trusted.clone().update_timestamp(&flipped).is_ok(),
                false => Trusted::new(&flipped, NOW, check_ed25519).is_ok(),
            };
            // Hexadecimal digits of a signature may change case; the final line feed may become other white space.
            let same = serde_json::from_slice::<serde_json::Value>(&flipped)
                .is_ok_and(|value| value["signed"] == original["signed"]);
            assert!(!taken || same, "bit {bit}");
        }
    }
    for nonsense in [&b""[..], b"{}", b"[]", b"null", b"{\"signatures\":[],\"signed\":{}}", &[0xff; 64]] {
        assert!(trusted.clone().update_timestamp(nonsense).is_err());
        assert!(Trusted::new(nonsense, NOW, check_ed25519).is_err());
    }
    let large = vec![b' '; METADATA_MAX + 1];
    assert!(matches!(trusted.clone().update_timestamp(&large), Err(TufError::TooLarge { .. })));
}
