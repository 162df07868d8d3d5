//! A channel's head: made and signed by its publisher, found again in the DHT.

use anyhow::{Result, bail};
use dht_proto::record_types::{CHANNEL_HEAD, ChannelHead};
use dht_proto::{MAX_LIFETIME_MS, Record};
use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey, domain};
use os_release::SignedRelease;

/// The record that says "this is the newest of the channel". Later ones win.
pub fn head(publisher: &NodeKey, channel: &str, signed: &SignedRelease, now_ms: u64) -> Result<Record> {
    check_name(channel)?;
    let head = ChannelHead {
        name: channel.to_string(),
        release: signed.mcid().to_bytes(),
        version: signed.release().version.to_string(),
        seq: now_ms,
    };
    let id = publisher.node_id();
    let statement = head.draft(&id)?.statement(id, now_ms, now_ms, MAX_LIFETIME_MS);
    let signature = publisher.sign(domain::DHT_RECORD, &statement.signing_bytes());
    Ok(statement.signed(signature))
}

/// As `config.toml` wants them.
pub fn check_name(channel: &str) -> Result<()> {
    let fits = channel.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits || channel.is_empty() || channel.starts_with('-') || channel.len() > 63 {
        bail!("`{channel}` is not a channel name: 1 to 63 of a-z, 0-9 and -");
    }
    Ok(())
}

/// The release that the newest valid record names. Others' records, expired and damaged ones do not count.
pub fn newest(records: &[Vec<u8>], publisher: &NodeId, channel: &str, now_ms: u64) -> Option<(Mcid, String)> {
    let valid = |bytes: &Vec<u8>| {
        let record = Record::from_bytes(bytes).ok().filter(|r| r.verify(now_ms).is_ok())?;
        let ours = record.statement.signer == *publisher && record.statement.record_type == CHANNEL_HEAD;
        let head =
            ChannelHead::parse(&record.statement.payload).ok().filter(|h| ours && h.name == channel)?;
        Some((record, head))
    };
    let (_, head) = records.iter().filter_map(valid).max_by(|a, b| a.0.precedence(&b.0))?;
    Some((Mcid::try_from(head.release.as_slice()).ok()?, head.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_release::{Artifact, Release, Role, Version};

    const NOW: u64 = 1_800_000_000_000;

    fn release(minor: u64) -> SignedRelease {
        let artifact = |role, verity_root| Artifact { role, mcid: Mcid::of_raw(b"x"), size: 1, verity_root };
        SignedRelease::create(Release {
            board: "x86-generic".into(),
            version: Version::new(0, minor, 0),
            min_version: Version::new(0, 0, 0),
            artifacts: vec![artifact(Role::Root, Some([1; 32])), artifact(Role::Uki, None)],
            created_unix: 1_000,
            expires_unix: 2_000,
            notes: String::new(),
        })
        .unwrap()
    }

    #[test]
    fn the_newest_valid_head_of_the_publisher_counts() {
        let (key, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let record = |by: &NodeKey, channel: &str, minor, at| {
            head(by, channel, &release(minor), at).unwrap().to_bytes()
        };
        let mut forged = record(&key, "stable", 9, NOW + 5);
        *forged.last_mut().unwrap() ^= 1;
        let records = [
            record(&key, "stable", 2, NOW),
            record(&key, "stable", 3, NOW + 1),
            record(&key, "stable", 1, NOW - 1),
            record(&key, "edge", 7, NOW + 2),
            record(&other, "stable", 8, NOW + 3),
            record(&key, "stable", 9, NOW - 3 * MAX_LIFETIME_MS),
            forged,
            b"garbage".to_vec(),
        ];
        let found = newest(&records, &key.node_id(), "stable", NOW + 10).unwrap();
        assert_eq!(found, (release(3).mcid(), "0.3.0".to_string()));
        assert_eq!(newest(&records[3..], &key.node_id(), "stable", NOW + 10), None);
    }

    #[test]
    fn names_are_those_that_a_configuration_can_say() {
        check_name("stable-2").unwrap();
        for bad in ["", "Stable", "a b", "-a", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
