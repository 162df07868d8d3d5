//! Requests and responses as CBOR maps with number keys, one of each per stream.
//!
//! Request `{0: kind, 1: sender's addresses, 2: target, 3: record type, 4: record}`, response `{0: kind, 1: contacts,
//! 2: records, 3: stored, 4: reason}`; records as byte strings holding their own CBOR. Unknown entries are skipped,
//! unknown kinds refused. Who sent a message is what the mesh authenticated, never what the message says.

use std::net::SocketAddr;
use std::sync::Arc;

use minicbor::{Decoder, Encoder};

use crate::Key;
use crate::contact::{Contact, decode_addresses, encode_addresses};
use crate::record::{MAX_RECORD_LEN, Record};
use crate::routing_table::K;
use crate::wire::{Bounded, WireError, need, set};

pub const MAX_FRAME_LEN: usize = 64 * 1024;
/// Records in one response: as many as fit a frame beside the contacts.
pub const MAX_RECORDS: usize = 40;
pub const MAX_REASON_LEN: usize = 256;
const MAX_FIELDS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where the sender can be reached, for the receiver's table.
    pub sender_addresses: Arc<[SocketAddr]>,
    pub body: RequestBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    Ping,
    FindNode { target: Key },
    FindValue { key: Key, record_type: Option<u8> },
    Store { record: Arc<Record> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Pong,
    Nodes {
        contacts: Vec<Contact>,
    },
    Value {
        records: Vec<Arc<Record>>,
        contacts: Vec<Contact>,
    },
    /// `Err` holds the reason, for people.
    Stored(Result<(), String>),
}

impl Request {
    pub fn to_bytes(&self) -> Vec<u8> {
        written(|e| self.encode(e))
    }

    fn encode(&self, e: &mut Encoder<Vec<u8>>) -> Result<(), WireError> {
        let (kind, fields) = match &self.body {
            RequestBody::Ping => (0, 2),
            RequestBody::FindNode { .. } => (1, 3),
            RequestBody::FindValue { record_type: None, .. } => (2, 3),
            RequestBody::FindValue { record_type: Some(_), .. } => (2, 4),
            RequestBody::Store { .. } => (3, 3),
        };
        e.map(fields)?.u8(0)?.u8(kind)?.u8(1)?;
        encode_addresses(e, &self.sender_addresses)?;
        match &self.body {
            RequestBody::Ping => {}
            RequestBody::FindNode { target } => {
                e.u8(2)?.bytes(target.as_bytes())?;
            }
            RequestBody::FindValue { key, record_type } => {
                e.u8(2)?.bytes(key.as_bytes())?;
                if let Some(record_type) = record_type {
                    e.u8(3)?.u8(*record_type)?;
                }
            }
            RequestBody::Store { record } => {
                e.u8(4)?.bytes(&record.to_bytes())?;
            }
        }
        Ok(())
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (mut kind, mut addresses, mut target) = (None, None, None);
        let (mut record_type, mut record) = (None, None);
        read(bytes, |field, d| match field {
            0 => set(&mut kind, d.u8()?, "kind"),
            1 => set(&mut addresses, decode_addresses(d)?, "sender addresses"),
            2 => set(&mut target, Key::from_bytes(d.bytes_32("target")?), "target"),
            3 => set(&mut record_type, d.u8()?, "record type"),
            4 => set(&mut record, decode_record(d)?, "record"),
            _ => Ok(d.skip()?),
        })?;
        let body = match need(kind, "kind")? {
            0 => RequestBody::Ping,
            1 => RequestBody::FindNode { target: need(target, "target")? },
            2 => RequestBody::FindValue { key: need(target, "target")?, record_type },
            3 => RequestBody::Store { record: need(record, "record")? },
            other => return Err(WireError::UnknownKind(other)),
        };
        Ok(Request { sender_addresses: addresses.unwrap_or_default(), body })
    }
}

impl Response {
    pub fn to_bytes(&self) -> Vec<u8> {
        written(|e| self.encode(e))
    }

    fn encode(&self, e: &mut Encoder<Vec<u8>>) -> Result<(), WireError> {
        match self {
            Response::Pong => {
                e.map(1)?.u8(0)?.u8(0)?;
            }
            Response::Nodes { contacts } => {
                e.map(2)?.u8(0)?.u8(1)?.u8(1)?;
                encode_contacts(e, contacts)?;
            }
            Response::Value { records, contacts } => {
                e.map(3)?.u8(0)?.u8(2)?.u8(1)?;
                encode_contacts(e, contacts)?;
                let records = &records[..records.len().min(MAX_RECORDS)];
                e.u8(2)?.array(records.len() as u64)?;
                for record in records {
                    e.bytes(&record.to_bytes())?;
                }
            }
            Response::Stored(Ok(())) => {
                e.map(2)?.u8(0)?.u8(3)?.u8(3)?.bool(true)?;
            }
            Response::Stored(Err(reason)) => {
                e.map(3)?.u8(0)?.u8(3)?.u8(3)?.bool(false)?.u8(4)?.str(shortened(reason))?;
            }
        }
        Ok(())
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let (mut kind, mut contacts, mut records) = (None, None, None);
        let (mut stored, mut reason) = (None, None);
        read(bytes, |field, d| match field {
            0 => set(&mut kind, d.u8()?, "kind"),
            1 => set(&mut contacts, decode_contacts(d)?, "contacts"),
            2 => set(&mut records, decode_records(d)?, "records"),
            3 => set(&mut stored, d.bool()?, "stored"),
            4 => set(&mut reason, d.text_up_to(MAX_REASON_LEN, "reason")?.to_string(), "reason"),
            _ => Ok(d.skip()?),
        })?;
        Ok(match need(kind, "kind")? {
            0 => Response::Pong,
            1 => Response::Nodes { contacts: need(contacts, "contacts")? },
            2 => {
                Response::Value { records: need(records, "records")?, contacts: need(contacts, "contacts")? }
            }
            3 if need(stored, "stored")? => Response::Stored(Ok(())),
            3 => Response::Stored(Err(reason.unwrap_or_default())),
            other => return Err(WireError::UnknownKind(other)),
        })
    }
}

fn encode_contacts(e: &mut Encoder<Vec<u8>>, contacts: &[Contact]) -> Result<(), WireError> {
    let contacts = &contacts[..contacts.len().min(K)];
    e.array(contacts.len() as u64)?;
    contacts.iter().try_for_each(|contact| contact.encode(e))
}

fn decode_contacts(d: &mut Decoder<'_>) -> Result<Vec<Contact>, WireError> {
    (0..d.array_up_to(K, "contacts")?).map(|_| Contact::decode(d)).collect()
}

fn decode_records(d: &mut Decoder<'_>) -> Result<Vec<Arc<Record>>, WireError> {
    (0..d.array_up_to(MAX_RECORDS, "records")?).map(|_| decode_record(d)).collect()
}

fn decode_record(d: &mut Decoder<'_>) -> Result<Arc<Record>, WireError> {
    Record::from_bytes(d.bytes_up_to(MAX_RECORD_LEN, "record")?).map(Arc::new)
}

fn shortened(reason: &str) -> &str {
    let end = (0..=reason.len().min(MAX_REASON_LEN)).rev().find(|at| reason.is_char_boundary(*at));
    &reason[..end.unwrap_or(0)]
}

fn written(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), WireError>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(256));
    // A Vec takes every write.
    let _ = write(&mut encoder);
    encoder.into_writer()
}

fn read<'b>(
    bytes: &'b [u8],
    mut field: impl FnMut(u64, &mut Decoder<'b>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    if bytes.len() > MAX_FRAME_LEN {
        return Err(WireError::TooLong { what: "frame", len: bytes.len() as u64, max: MAX_FRAME_LEN });
    }
    let mut d = Decoder::new(bytes);
    for _ in 0..d.map_up_to(MAX_FIELDS, "message")? {
        let number = d.u64()?;
        field(number, &mut d)?;
    }
    d.finished()
}

#[cfg(test)]
mod tests {
    use os_identity::NodeId;

    use super::*;
    use crate::record::MAX_PAYLOAD_LEN;
    use crate::record::tests::{sign, signer};

    fn contacts(count: u8) -> Vec<Contact> {
        let addresses = |n: u8| (1..=8).map(move |port| SocketAddr::from(([n; 16], port)));
        (1..=count).map(|n| Contact::new(NodeId::from_bytes([n; 32]), addresses(n))).collect()
    }

    fn requests() -> Vec<Request> {
        let key = Key::hash(&[b"target"]);
        let record = Arc::new(sign(&signer(1), |_| ()));
        let bodies = [
            RequestBody::Ping,
            RequestBody::FindNode { target: key },
            RequestBody::FindValue { key, record_type: None },
            RequestBody::FindValue { key, record_type: Some(0x11) },
            RequestBody::Store { record },
        ];
        let sender_addresses: Arc<[SocketAddr]> = contacts(1)[0].addresses.clone();
        bodies.map(|body| Request { sender_addresses: sender_addresses.clone(), body }).into()
    }

    fn responses() -> Vec<Response> {
        let record = Arc::new(sign(&signer(1), |_| ()));
        vec![
            Response::Pong,
            Response::Nodes { contacts: contacts(20) },
            Response::Value { records: vec![record], contacts: contacts(2) },
            Response::Stored(Ok(())),
            Response::Stored(Err("full".into())),
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for request in requests() {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        for response in responses() {
            assert_eq!(Response::from_bytes(&response.to_bytes()), Ok(response));
        }
    }

    #[test]
    fn the_largest_response_fits_a_frame() {
        let record = Arc::new(sign(&signer(1), |s| s.payload = vec![0; MAX_PAYLOAD_LEN]));
        let response = Response::Value { records: vec![record; MAX_RECORDS], contacts: contacts(20) };
        let bytes = response.to_bytes();
        assert!(bytes.len() <= MAX_FRAME_LEN, "{} bytes", bytes.len());
        assert_eq!(Response::from_bytes(&bytes), Ok(response));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for bytes in requests().iter().map(Request::to_bytes) {
            (0..bytes.len()).for_each(|len| assert!(Request::from_bytes(&bytes[..len]).is_err()));
        }
        for bytes in responses().iter().map(Response::to_bytes) {
            (0..bytes.len()).for_each(|len| assert!(Response::from_bytes(&bytes[..len]).is_err()));
        }
    }

    #[test]
    fn changed_bytes_never_panic() {
        let requests: Vec<Vec<u8>> = requests().iter().map(Request::to_bytes).collect();
        let responses: Vec<Vec<u8>> = responses().iter().map(Response::to_bytes).collect();
        for bytes in requests.iter().chain(&responses) {
            for at in 0..bytes.len() {
                for value in [0x00, 0x1b, 0x5b, 0x5f, 0x7f, 0x9b, 0x9f, 0xbb, 0xbf, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    let _ = (Request::from_bytes(&changed), Response::from_bytes(&changed));
                }
            }
        }
    }

    #[test]
    fn oversized_parts_are_refused_before_they_are_read() {
        let too_long = |e: WireError| matches!(e, WireError::TooLong { .. });
        assert!(too_long(Request::from_bytes(&vec![0; MAX_FRAME_LEN + 1]).unwrap_err()));
        // A list that claims 2^32 contacts, and one of 21.
        assert!(too_long(Response::from_bytes(&[0xa1, 1, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap_err()));
        assert!(too_long(Response::from_bytes(&[0xa1, 1, 0x95]).unwrap_err()));
        let mut e = Encoder::new(Vec::new());
        e.map(2)
            .unwrap()
            .u8(0)
            .unwrap()
            .u8(3)
            .unwrap()
            .u8(4)
            .unwrap()
            .bytes(&[0; MAX_RECORD_LEN + 1])
            .unwrap();
        assert!(too_long(Request::from_bytes(&e.into_writer()).unwrap_err()));
    }

    #[test]
    fn later_kinds_are_refused_and_later_fields_skipped() {
        assert_eq!(Request::from_bytes(&[0xa1, 0, 9]), Err(WireError::UnknownKind(9)));
        assert_eq!(Request::from_bytes(&[0xa1, 0, 1]), Err(WireError::Missing { what: "target" }));
        let later = [0xa2, 0, 0, 0x18, 99, 0x82, 1, 0xa1, 1, 2];
        assert_eq!(Response::from_bytes(&later), Ok(Response::Pong));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let response = Response::Stored(Err("ä".repeat(200)));
        let Ok(Response::Stored(Err(reason))) = Response::from_bytes(&response.to_bytes()) else { panic!() };
        assert_eq!(reason, "ä".repeat(128));
    }
}
