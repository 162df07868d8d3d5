//! From the records that the DHT has for a channel to the one release that its publisher means for this board.

use dht_proto::Record;
use dht_proto::record_types::{BoardHead, CHANNEL_HEAD, ChannelHead};
use os_config::Channel;
use os_content_id::Mcid;
use os_identity::NodeId;
use os_release::Version;
use reconciler_plan::Release;

/// A channel's newest known head, valid until its record expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub publisher: NodeId,
    pub name: String,
    pub seq: u64,
    pub expires_ms: u64,
    /// By board.
    pub releases: Vec<(String, Release)>,
}

impl Head {
    pub fn release(&self, board: &str) -> Option<&Release> {
        self.releases.iter().find(|(of, _)| of == board).map(|(_, release)| release)
    }

    /// Whether it still speaks for `channel`.
    pub fn holds(&self, channel: &Channel, now_ms: u64) -> bool {
        self.publisher == channel.publisher && self.name == channel.name && now_ms < self.expires_ms
    }
}

/// The head with the highest sequence number among `known` and `records`, and why records were passed over.
/// A head that was once seen is not forgotten for an older one, even if the network forgets it.
pub fn newest(
    known: Option<Head>,
    records: &[Vec<u8>],
    channel: &Channel,
    now_ms: u64,
) -> (Option<Head>, Vec<String>) {
    let mut newest = known.filter(|head| head.holds(channel, now_ms));
    let mut refused = Vec::new();
    for record in records {
        match read(record, channel, now_ms) {
            Ok(head) if newest.as_ref().is_none_or(|best| rank(best) < rank(&head)) => newest = Some(head),
            Ok(_) => {}
            Err(why) => refused.push(why),
        }
    }
    (newest, refused)
}

/// The same statement published again lives longer.
fn rank(head: &Head) -> (u64, u64) {
    (head.seq, head.expires_ms)
}

fn read(bytes: &[u8], channel: &Channel, now_ms: u64) -> Result<Head, String> {
    let record = Record::from_bytes(bytes).map_err(|error| format!("not a record: {error}"))?;
    record.verify(now_ms).map_err(|error| error.to_string())?;
    let statement = &record.statement;
    if statement.record_type != CHANNEL_HEAD {
        return Err(format!("record type {:#04x} is not a channel head", statement.record_type));
    }
    if statement.signer != channel.publisher {
        return Err(format!("signed by {}, not by the channel's publisher", statement.signer));
    }
    let head = ChannelHead::parse(&statement.payload).map_err(|error| format!("payload: {error}"))?;
    if head.name != channel.name {
        return Err(format!("head of another channel, `{}`", head.name));
    }
    let metadata = Mcid::try_from(&head.metadata[..]).map_err(|error| format!("metadata: {error}"))?;
    let releases = head.boards.into_iter().map(|board| release(board, metadata)).collect::<Result<_, _>>()?;
    Ok(Head {
        publisher: statement.signer,
        name: head.name,
        seq: head.seq,
        expires_ms: statement.expires_ms,
        releases,
    })
}

fn release(head: BoardHead, metadata: Mcid) -> Result<(String, Release), String> {
    let version = Version::parse(&head.version);
    let version = version.map_err(|error| format!("version `{}`: {error}", head.version))?;
    let mcid = Mcid::try_from(&head.release[..]).map_err(|error| format!("release: {error}"))?;
    Ok((head.board, Release { version, mcid, metadata }))
}

#[cfg(test)]
mod tests {
    use os_identity::{NodeKey, domain};

    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const LATER: u64 = NOW + 60_000;

    fn key(number: u8) -> NodeKey {
        NodeKey::from_seed(&[number; 32])
    }

    fn channel() -> Channel {
        Channel { publisher: key(1).node_id(), name: "stable".into() }
    }

    fn record(by: &NodeKey, name: &str, version: &str, seq: u64, expires_ms: u64) -> Vec<u8> {
        let release = Mcid::of_raw(version.as_bytes()).to_bytes();
        let board = BoardHead { board: "x86-generic".into(), version: version.into(), release };
        let other = BoardHead { board: "rpi5".into(), version: "7.0.0".into(), release };
        let metadata = Mcid::of_raw(b"metadata").to_bytes();
        let boards = vec![other, board];
        let head = ChannelHead { name: name.into(), metadata, version: version.into(), seq, boards };
        let draft = head.draft(&by.node_id()).unwrap();
        let statement = draft.statement(by.node_id(), seq, expires_ms - 60_000, 60_000);
        let signature = by.sign(domain::DHT_RECORD, &statement.signing_bytes());
        statement.signed(signature).to_bytes()
    }

    fn version(head: &Option<Head>) -> Option<String> {
        head.as_ref().and_then(|head| head.release("x86-generic")).map(|release| release.version.to_string())
    }

    #[test]
    fn highest_sequence_of_the_publisher_wins() {
        let records = [
            record(&key(1), "stable", "0.2.0", 7, LATER),
            record(&key(1), "stable", "0.3.0", 8, LATER),
            record(&key(1), "stable", "0.9.0", 6, LATER),
        ];
        let (head, refused) = newest(None, &records, &channel(), NOW);
        assert_eq!((version(&head), refused.len()), (Some("0.3.0".into()), 0));
        // What was seen stays, though the network now gives an older one, until it expires.
        let (kept, _) = newest(head.clone(), &records[..1], &channel(), NOW);
        assert_eq!(kept, head);
        assert_eq!(version(&newest(head, &[], &channel(), LATER).0), None);
    }

    #[test]
    fn another_channel_forgets_the_old_one() {
        let (head, _) = newest(None, &[record(&key(1), "stable", "0.2.0", 7, LATER)], &channel(), NOW);
        let other = Channel { name: "edge".into(), ..channel() };
        assert_eq!(newest(head, &[], &other, NOW).0, None);
    }

    #[test]
    fn what_the_publisher_did_not_say_is_refused() {
        let mut forged = record(&key(1), "stable", "9.0.0", 99, LATER);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let cases = [
            (record(&key(2), "stable", "9.0.0", 99, LATER), "signed by"),
            (record(&key(1), "edge", "9.0.0", 99, LATER), "another channel"),
            (record(&key(1), "stable", "9.0.0", 99, NOW - 3_600_000), "expired"),
            (record(&key(1), "stable", "nine", 99, LATER), "version `nine`"),
            (forged, "signature"),
            (b"garbage".to_vec(), "not a record"),
        ];
        let good = record(&key(1), "stable", "0.2.0", 7, LATER);
        for (bad, why) in cases {
            let (head, refused) = newest(None, &[bad, good.clone()], &channel(), NOW);
            assert_eq!(version(&head), Some("0.2.0".into()));
            assert!(refused.len() == 1 && refused[0].contains(why), "{why}: {refused:?}");
        }
    }
}
