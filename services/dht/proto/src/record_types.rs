//! What the records that Macula OS itself uses say: their keys and payloads.
//!
//! Numbers below 0x20 are those of the Macula mesh where the meaning is the same; 0x20 and up are the
//! applications' there, and ours begin at 0x20. A payload is a CBOR map with number keys; unknown keys are ignored.
//! Types not named here are stored and handed out without looking into their payload.

use std::net::SocketAddr;
use std::sync::Arc;

use minicbor::{Decoder, Encoder};
use os_identity::NodeId;
use os_ucan::TokenId;
use os_ucan::revocation::Revocation;

use crate::Key;
use crate::contact::{Contact, decode_addresses, encode_addresses};
use crate::record::{MAX_PAYLOAD_LEN, RecordError, Statement};
use crate::wire::{Bounded, WireError, need, set};

/// Where a node can be reached. Key: the node's own id.
pub const NODE_ADDRESS: u8 = 0x01;
/// The signer holds the content. Key: [`provider_key`].
pub const PROVIDER: u8 = 0x11;
/// The newest release of a channel. Key: [`channel_key`].
pub const CHANNEL_HEAD: u8 = 0x20;
/// Somebody took a delegation back. Key: [`revocation_key`]. Who signs the record only carries the statement, which proves itself.
pub const REVOCATION: u8 = 0x21;

pub const MCID_LEN: usize = 34;
/// Bytes of a channel's name and of a version text.
pub const MAX_NAME_LEN: usize = 64;
/// Relays that one node announces.
pub const MAX_RELAYS: usize = 2;
/// Boards of one channel.
pub const MAX_BOARDS: usize = 16;
/// A record of an existing Macula client. Key: [`client_record_key`]. Whoever finds it checks it; see `docs/decisions/0022`.
pub const CLIENT_RECORD: u8 = 0x30;
const MAX_FIELDS: usize = 16;

/// Why a payload does not say what its record type says.
pub type PayloadError = WireError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub addresses: Arc<[SocketAddr]>,
    /// Nodes that it is connected to and that relay, at most [`MAX_RELAYS`].
    pub relays: Vec<Contact>,
}

/// "I hold this content", or, with `withdrawn`, "I no longer do".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub mcid: [u8; MCID_LEN],
    pub addresses: Arc<[SocketAddr]>,
    pub withdrawn: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelHead {
    pub name: String,
    /// MCID of the metadata bundle, which proves what the rest of this record only says.
    pub metadata: [u8; MCID_LEN],
    /// The newest version of any board.
    pub version: String,
    pub seq: u64,
    /// The newest release of each board, so that a node need not fetch metadata to learn that there is nothing new.
    pub boards: Vec<BoardHead>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardHead {
    pub board: String,
    pub version: String,
    /// MCID of the release statement.
    pub release: [u8; MCID_LEN],
}

/// A record still without version, times and signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draft {
    pub record_type: u8,
    pub key: Key,
    pub payload: Vec<u8>,
}

pub fn provider_key(mcid: &[u8; MCID_LEN]) -> Key {
    Key::hash(&[b"macula-provider\0", mcid])
}

pub fn channel_key(publisher: &NodeId, name: &str) -> Key {
    Key::hash(&[b"macula-channel\0", publisher.as_bytes(), name.as_bytes()])
}

/// With the revoker in it, so that nobody else's statements can fill the place of this one.
pub fn revocation_key(token: &TokenId, revoker: &NodeId) -> Key {
    Key::hash(&[b"macula-revocation\0", token.as_bytes(), revoker.as_bytes()])
}

pub fn revocation_draft(revocation: &Revocation) -> Draft {
    let payload = payload(|e| {
        e.map(1)?.u8(0)?.bytes(&revocation.to_bytes())?;
        Ok(())
    });
    let key = revocation_key(&revocation.token, &revocation.revoker);
    Draft { record_type: REVOCATION, key, payload }
}

/// The statement in the payload of a [`REVOCATION`], if its revoker signed it.
pub fn parse_revocation(payload: &[u8]) -> Result<Revocation, PayloadError> {
    let mut statement = None;
    fields(payload, |field, d| match field {
        0 => set(&mut statement, d.bytes_up_to(os_ucan::revocation::MAX_LEN, "statement")?, "statement"),
        _ => Ok(d.skip()?),
    })?;
    let statement = need(statement, "statement")?;
    Revocation::from_bytes(statement).map_err(|e| WireError::Cbor(e.to_string()))
}

/// `key` is the one that the client's own kind of record has.
pub fn client_record_key(key: &[u8; 32]) -> Key {
    Key::hash(&[b"macula-client-record\0", key])
}

impl NodeAddress {
    pub fn draft(&self, node: NodeId) -> Draft {
        let relays = &self.relays[..self.relays.len().min(MAX_RELAYS)];
        let payload = payload(|e| {
            e.map(if relays.is_empty() { 1 } else { 2 })?.u8(0)?;
            encode_addresses(e, &self.addresses)?;
            if !relays.is_empty() {
                e.u8(1)?.array(relays.len() as u64)?;
                relays.iter().try_for_each(|relay| relay.encode(e))?;
            }
            Ok(())
        });
        Draft { record_type: NODE_ADDRESS, key: Key::from(node), payload }
    }

    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let (mut addresses, mut relays) = (None, None);
        fields(payload, |field, d| match field {
            0 => set(&mut addresses, decode_addresses(d)?, "addresses"),
            1 => set(&mut relays, decode_relays(d)?, "relays"),
            _ => Ok(d.skip()?),
        })?;
        Ok(Self { addresses: need(addresses, "addresses")?, relays: relays.unwrap_or_default() })
    }
}

fn decode_relays(d: &mut Decoder<'_>) -> Result<Vec<Contact>, WireError> {
    (0..d.array_up_to(MAX_RELAYS, "relays")?).map(|_| Contact::decode(d)).collect()
}

impl Provider {
    pub fn draft(&self) -> Draft {
        let payload = payload(|e| {
            e.map(if self.withdrawn { 3 } else { 2 })?.u8(0)?.bytes(&self.mcid)?.u8(1)?;
            encode_addresses(e, &self.addresses)?;
            if self.withdrawn {
                e.u8(2)?.bool(true)?;
            }
            Ok(())
        });
        Draft { record_type: PROVIDER, key: provider_key(&self.mcid), payload }
    }

    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let (mut mcid, mut addresses, mut withdrawn) = (None, None, None);
        fields(payload, |field, d| match field {
            0 => set(&mut mcid, d.bytes_of("mcid")?, "mcid"),
            1 => set(&mut addresses, decode_addresses(d)?, "addresses"),
            2 => set(&mut withdrawn, d.bool()?, "withdrawn"),
            _ => Ok(d.skip()?),
        })?;
        let (mcid, addresses) = (need(mcid, "mcid")?, need(addresses, "addresses")?);
        Ok(Self { mcid, addresses, withdrawn: withdrawn.unwrap_or(false) })
    }

    /// The provider as somebody to talk to.
    pub fn contact(&self, signer: NodeId) -> Contact {
        Contact { id: signer, addresses: self.addresses.clone() }
    }
}

impl ChannelHead {
    /// `publisher` is the key that will sign the record. Fails on a name or version that is too long.
    pub fn draft(&self, publisher: &NodeId) -> Result<Draft, PayloadError> {
        let payload = payload(|e| {
            e.map(5)?.u8(0)?.bytes(&self.metadata)?.u8(1)?.str(&self.version)?;
            e.u8(2)?.u64(self.seq)?.u8(3)?.str(&self.name)?;
            e.u8(4)?.array(self.boards.len() as u64)?;
            for head in &self.boards {
                e.array(3)?.str(&head.board)?.str(&head.version)?.bytes(&head.release)?;
            }
            Ok(())
        });
        Self::parse(&payload)?;
        Ok(Draft { record_type: CHANNEL_HEAD, key: channel_key(publisher, &self.name), payload })
    }

    pub fn parse(payload: &[u8]) -> Result<Self, PayloadError> {
        let (mut metadata, mut version, mut seq, mut name, mut boards) = (None, None, None, None, None);
        fields(payload, |field, d| match field {
            0 => set(&mut metadata, d.bytes_of("metadata")?, "metadata"),
            1 => set(&mut version, d.text_up_to(MAX_NAME_LEN, "version")?.to_string(), "version"),
            2 => set(&mut seq, d.u64()?, "seq"),
            3 => set(&mut name, d.text_up_to(MAX_NAME_LEN, "channel name")?.to_string(), "channel name"),
            4 => set(&mut boards, board_heads(d)?, "boards"),
            _ => Ok(d.skip()?),
        })?;
        Ok(Self {
            name: need(name, "channel name")?,
            metadata: need(metadata, "metadata")?,
            version: need(version, "version")?,
            seq: need(seq, "seq")?,
            boards: need(boards, "boards")?,
        })
    }
}

fn board_heads(d: &mut Decoder<'_>) -> Result<Vec<BoardHead>, WireError> {
    let mut heads = Vec::new();
    for _ in 0..d.array_up_to(MAX_BOARDS, "boards")? {
        d.array_of(3, "board")?;
        heads.push(BoardHead {
            board: d.text_up_to(MAX_NAME_LEN, "board")?.to_string(),
            version: d.text_up_to(MAX_NAME_LEN, "version")?.to_string(),
            release: d.bytes_of("release")?,
        });
    }
    Ok(heads)
}

impl Draft {
    /// The statement to sign: valid from `now_ms` for `lifetime_ms`.
    pub fn statement(&self, signer: NodeId, version: u64, now_ms: u64, lifetime_ms: u64) -> Statement {
        Statement {
            record_type: self.record_type,
            key: self.key,
            signer,
            version,
            created_ms: now_ms,
            expires_ms: now_ms.saturating_add(lifetime_ms),
            payload: self.payload.clone(),
        }
    }
}

/// Payload and key of the types named here must fit; other types pass.
pub(crate) fn check(statement: &Statement) -> Result<(), RecordError> {
    let (record_type, payload) = (statement.record_type, &statement.payload);
    let expected = match record_type {
        NODE_ADDRESS => NodeAddress::parse(payload).map(|_| Key::from(statement.signer)),
        PROVIDER => Provider::parse(payload).map(|p| provider_key(&p.mcid)),
        CHANNEL_HEAD => ChannelHead::parse(payload).map(|c| channel_key(&statement.signer, &c.name)),
        REVOCATION => parse_revocation(payload).map(|r| revocation_key(&r.token, &r.revoker)),
        _ => Ok(statement.key),
    };
    match expected {
        Ok(key) if key == statement.key => Ok(()),
        Ok(_) => Err(RecordError::WrongKey),
        Err(source) => Err(RecordError::Payload { record_type, source }),
    }
}

fn payload(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), WireError>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(128));
    // A Vec takes every write.
    let _ = write(&mut encoder);
    encoder.into_writer()
}

fn fields<'b>(
    payload: &'b [u8],
    mut field: impl FnMut(u8, &mut Decoder<'b>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    if payload.len() > MAX_PAYLOAD_LEN {
        return Err(WireError::TooLong { what: "payload", len: payload.len() as u64, max: MAX_PAYLOAD_LEN });
    }
    let mut d = Decoder::new(payload);
    for _ in 0..d.map_up_to(MAX_FIELDS, "payload")? {
        let number = d.u8()?;
        field(number, &mut d)?;
    }
    d.finished()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{NOW, sign, signer};

    fn provider() -> Provider {
        let addresses = vec!["192.168.7.2:4433".parse().unwrap(), "[fd00::2]:4433".parse().unwrap()];
        Provider { mcid: [5; MCID_LEN], addresses: addresses.into(), withdrawn: false }
    }

    fn head(name: &str, version: &str) -> ChannelHead {
        let board =
            |board: &str| BoardHead { board: board.into(), version: version.into(), release: [7; 34] };
        ChannelHead {
            name: name.into(),
            metadata: [6; 34],
            version: version.into(),
            seq: 9,
            boards: vec![board("x86-generic"), board("rpi5")],
        }
    }

    #[test]
    fn the_boards_of_a_channel_are_bounded() {
        let mut many = head("stable", "1");
        many.boards = vec![many.boards[0].clone(); MAX_BOARDS + 1];
        assert!(matches!(many.draft(&signer(1).node_id()), Err(WireError::TooLong { .. })));
        many.boards = vec![BoardHead { board: "b".repeat(64), ..many.boards[0].clone() }; MAX_BOARDS];
        assert!(matches!(many.draft(&signer(1).node_id()), Err(WireError::TooLong { what: "payload", .. })));
    }

    #[test]
    fn payloads_survive_the_wire() {
        for withdrawn in [false, true] {
            let provider = Provider { withdrawn, ..provider() };
            assert_eq!(Provider::parse(&provider.draft().payload), Ok(provider));
        }
        let head = head("stable", "1.2.3");
        let draft = head.draft(&signer(1).node_id()).unwrap();
        assert_eq!(ChannelHead::parse(&draft.payload), Ok(head));
        let node = NodeAddress { addresses: provider().addresses, relays: vec![] };
        assert_eq!(NodeAddress::parse(&node.draft(signer(1).node_id()).payload), Ok(node));
    }

    #[test]
    fn a_node_announces_a_few_relays_that_older_readers_skip() {
        let relay = |n| Contact::new(signer(n).node_id(), provider().addresses.iter().copied());
        let mut node = NodeAddress { addresses: provider().addresses, relays: (1..9).map(relay).collect() };
        let payload = node.draft(signer(1).node_id()).payload;
        node.relays.truncate(MAX_RELAYS);
        assert_eq!(NodeAddress::parse(&payload), Ok(node));
        let mut read = Vec::new();
        fields(&payload, |field, d| {
            read.push(field);
            Ok(d.skip()?)
        })
        .unwrap();
        assert_eq!(read, [0, 1]);
        let many = [0xa2, 0, 0x80, 1, 0x83];
        assert!(NodeAddress::parse(&many).is_err(), "more than fit");
    }

    #[test]
    fn a_revocation_has_the_place_of_its_revoker_alone() {
        let revocation = Revocation::issue(TokenId::of(b"token"), NOW / 1000, &signer(1));
        let draft = revocation_draft(&revocation);
        assert_eq!(parse_revocation(&draft.payload), Ok(revocation));
        // Anybody may carry it.
        let carried = |payload: Vec<u8>, key| {
            let record = sign(&signer(2), |s| (s.record_type, s.key, s.payload) = (REVOCATION, key, payload));
            record.verify(NOW)
        };
        assert_eq!(carried(draft.payload.clone(), draft.key), Ok(()));
        let own = revocation_draft(&Revocation::issue(TokenId::of(b"token"), 1, &signer(2)));
        assert_eq!(carried(own.payload, draft.key), Err(RecordError::WrongKey));
        let mut forged = draft.payload;
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(
            carried(forged, draft.key),
            Err(RecordError::Payload { record_type: REVOCATION, .. })
        ));
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let by = signer(1);
        let draft = provider().draft();
        let record = |key| {
            sign(&by, |s| {
                (s.record_type, s.key, s.payload) = (PROVIDER, key, draft.payload.clone());
            })
        };
        assert_eq!(record(draft.key).verify(NOW), Ok(()));
        assert_eq!(record(provider_key(&[6; 34])).verify(NOW), Err(RecordError::WrongKey));
        let foreign = sign(&by, |s| {
            let draft = head("stable", "1").draft(&signer(2).node_id()).unwrap();
            (s.record_type, s.key, s.payload) = (CHANNEL_HEAD, draft.key, draft.payload);
        });
        assert_eq!(foreign.verify(NOW), Err(RecordError::WrongKey));
        let elsewhere = sign(&by, |s| {
            let draft =
                NodeAddress { addresses: provider().addresses, relays: vec![] }.draft(signer(2).node_id());
            (s.record_type, s.key, s.payload) = (NODE_ADDRESS, draft.key, draft.payload);
        });
        assert_eq!(elsewhere.verify(NOW), Err(RecordError::WrongKey));
    }

    #[test]
    fn garbage_for_a_payload_is_refused() {
        let garbage = sign(&signer(1), |s| (s.record_type, s.payload) = (PROVIDER, vec![0xff; 40]));
        assert!(matches!(garbage.verify(NOW), Err(RecordError::Payload { record_type: PROVIDER, .. })));
        let draft = provider().draft();
        for len in 0..draft.payload.len() {
            assert!(Provider::parse(&draft.payload[..len]).is_err(), "{len} bytes");
        }
        let long = head(&"x".repeat(65), "1");
        assert!(matches!(long.draft(&signer(1).node_id()), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn later_fields_are_ignored() {
        let mut e = Encoder::new(Vec::new());
        e.map(3).unwrap().u8(0).unwrap().bytes(&[5; 34]).unwrap().u8(1).unwrap().array(0).unwrap();
        e.u8(9).unwrap().array(1).unwrap().str("later").unwrap();
        assert_eq!(Provider::parse(&e.into_writer()).map(|p| p.mcid), Ok([5; 34]));
    }
}
