//! A channel's head: made and signed by its publisher, found again in the DHT.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use dht_proto::record_types::{BoardHead, CHANNEL_HEAD, ChannelHead};
use dht_proto::{MAX_LIFETIME_MS, Record};
use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey, domain};
use os_release::Named;

/// The record that says "this is the newest of the channel". Later ones win.
pub fn head(
    publisher: &NodeKey,
    channel: &str,
    metadata: &Mcid,
    releases: &[Named],
    now_ms: u64,
) -> Result<Record> {
    check_name(channel)?;
    let newest = releases.iter().map(|n| &n.release.version).max().context("there is no release")?;
    let head = ChannelHead {
        name: channel.to_string(),
        metadata: metadata.to_bytes(),
        version: newest.to_string(),
        seq: now_ms,
        boards: newest_of_boards(releases),
    };
    let id = publisher.node_id();
    let draft = head.draft(&id).context("the channel's head does not fit into a record: too many boards?")?;
    let statement = draft.statement(id, now_ms, now_ms, MAX_LIFETIME_MS);
    let signature = publisher.sign(domain::DHT_RECORD, &statement.signing_bytes());
    Ok(statement.signed(signature))
}

fn newest_of_boards(releases: &[Named]) -> Vec<BoardHead> {
    let mut boards: BTreeMap<&str, &Named> = BTreeMap::new();
    for named in releases {
        let best = boards.entry(&named.release.board).or_insert(named);
        if named.release.version > best.release.version {
            *best = named;
        }
    }
    let head = |(board, named): (&str, &Named)| BoardHead {
        board: board.to_string(),
        version: named.release.version.to_string(),
        release: named.mcid.to_bytes(),
    };
    boards.into_iter().map(head).collect()
}

/// As `config.toml` wants them.
pub fn check_name(channel: &str) -> Result<()> {
    let fits = channel.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits || channel.is_empty() || channel.starts_with('-') || channel.len() > 63 {
        bail!("`{channel}` is not a channel name: 1 to 63 of a-z, 0-9 and -");
    }
    Ok(())
}

/// The metadata that the newest valid record names, and the newest version in it. Others' records, expired and damaged ones do not count.
pub fn newest(records: &[Vec<u8>], publisher: &NodeId, channel: &str, now_ms: u64) -> Option<(Mcid, String)> {
    let valid = |bytes: &Vec<u8>| {
        let record = Record::from_bytes(bytes).ok().filter(|r| r.verify(now_ms).is_ok())?;
        let ours = record.statement.signer == *publisher && record.statement.record_type == CHANNEL_HEAD;
        let head =
            ChannelHead::parse(&record.statement.payload).ok().filter(|h| ours && h.name == channel)?;
        Some((record, head))
    };
    let (_, head) = records.iter().filter_map(valid).max_by(|a, b| a.0.precedence(&b.0))?;
    Some((Mcid::try_from(head.metadata.as_slice()).ok()?, head.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tests::signed;

    const NOW: u64 = 1_800_000_000_000;

    fn releases(count: u64) -> Vec<Named> {
        signed(&NodeKey::from_seed(&[1; 32]), count).releases().unwrap()
    }

    fn metadata(number: u64) -> Mcid {
        Mcid::of_raw(&number.to_be_bytes())
    }

    #[test]
    fn a_head_names_the_newest_release_of_each_board() {
        let mut releases = releases(3);
        releases[0].release.board = "rpi5".into();
        releases.swap(0, 2);
        let record = head(&NodeKey::from_seed(&[1; 32]), "stable", &metadata(1), &releases, NOW).unwrap();
        let head = ChannelHead::parse(&record.statement.payload).unwrap();
        let boards: Vec<_> = head.boards.iter().map(|b| (b.board.as_str(), b.version.as_str())).collect();
        assert_eq!(boards, [("rpi5", "0.1.0"), ("x86-generic", "0.3.0")]);
        assert_eq!(head.version, "0.3.0");
    }

    #[test]
    fn the_newest_valid_head_of_the_publisher_counts() {
        let (key, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let record = |by: &NodeKey, channel: &str, minor, at| {
            head(by, channel, &metadata(minor), &releases(minor), at).unwrap().to_bytes()
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
        assert_eq!(found, (metadata(3), "0.3.0".to_string()));
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
