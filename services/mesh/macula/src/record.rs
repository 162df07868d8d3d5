//! Signed records of the DHT, as this generation has them.
//!
//! A record is a CBOR map with one-letter keys: `t` type, `k` the signer's public key, `v` version (a UUIDv7), `c` created and
//! `x` expires (Unix time in milliseconds), `p` payload (a map), now and then `u` subject, `s` signature over the map without `s`.
//! `_dht.put_record` and the answers of `_dht.find_*` carry the same as a map with long names, which is never what
//! is signed. Many signers may have a record under one key of the DHT; each has one.

use os_identity::{NodeId, NodeKey, SignatureError, verify_raw};

use crate::cbor::{self, Value, bytes, uint};
use crate::frame::{Fields, FrameError};
use crate::signing::{record_bytes, sha256};

/// How long a record holds if its maker says nothing else.
pub const DEFAULT_TTL_MS: u64 = 48 * 3600 * 1000;
/// Largest record, in bytes of CBOR.
pub const MAX_RECORD: usize = 64 * 1024;
const MAX_SUBJECT: usize = 256;

/// Record types with rules of their own; from 0x20 on they are the applications'.
pub mod record_type {
    pub const NODE: u8 = 0x01;
    pub const REALM_DIRECTORY: u8 = 0x03;
    pub const REALM_STATIONS: u8 = 0x04;
    pub const MEMBER_ENDORSEMENT: u8 = 0x05;
    pub const PROCEDURE_ADVERTISEMENT: u8 = 0x06;
    pub const TOMBSTONE: u8 = 0x0c;
    pub const SEED_LIST: u8 = 0x0d;
    pub const PARAMETER: u8 = 0x0e;
    pub const REALM_TRUST_LIST: u8 = 0x0f;
    pub const T3_ATTESTATION: u8 = 0x10;
    pub const CONTENT_ANNOUNCEMENT: u8 = 0x11;
    pub const STATION_ENDPOINT: u8 = 0x12;
    pub const FIRST_OF_APPLICATIONS: u8 = 0x20;
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub record_type: u8,
    /// Who signed it.
    pub key: NodeId,
    pub version: [u8; 16],
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
    /// A map.
    pub payload: Value,
    pub subject: Option<Vec<u8>>,
    pub signature: [u8; 64],
}

/// Why a record is not believed or not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("not a record: {0}")]
    Form(#[from] FrameError),
    #[error("record is larger than {MAX_RECORD} bytes")]
    TooLarge,
    #[error("record payload is not a map")]
    Payload,
    #[error("record's {0}")]
    Signature(#[from] SignatureError),
    #[error("record has expired")]
    Expired,
    #[error("records of type {0:#04x} have no key here")]
    Type(u8),
    #[error("payload field `{0}`, which the record's key is made of, is missing or of the wrong kind")]
    KeyField(&'static str),
}

/// The names of a record's fields, as signed and as sent in calls.
const SHORT: [&str; 8] = ["t", "k", "v", "c", "x", "p", "u", "s"];
const LONG: [&str; 8] =
    ["type", "key", "version", "created_at", "expires_at", "payload", "subject_id", "signature"];

impl Record {
    /// Signs the record as `key`, whose it then is.
    pub fn sign(mut self, key: &NodeKey) -> Self {
        self.key = key.node_id();
        self.signature = key.sign_raw(&self.signed_bytes());
        self
    }

    /// Is it signed by its key, and does it still hold?
    pub fn verify(&self, now_ms: u64) -> Result<(), RecordError> {
        verify_raw(&self.key, &self.signed_bytes(), &self.signature)?;
        if self.expires_at_ms <= now_ms { Err(RecordError::Expired) } else { Ok(()) }
    }

    /// One-letter form, from bytes that are all of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLarge);
        }
        Self::read(cbor::decode(bytes).map_err(FrameError::from)?, &SHORT)
    }

    pub fn encode(&self) -> Vec<u8> {
        self.map(&SHORT, true).encode()
    }

    /// The form that calls carry.
    pub fn from_call(value: Value) -> Result<Self, RecordError> {
        let record = Self::read(value, &LONG)?;
        if record.encode().len() > MAX_RECORD { Err(RecordError::TooLarge) } else { Ok(record) }
    }

    pub fn to_call(&self) -> Value {
        self.map(&LONG, true)
    }

    /// Where the DHT keeps it.
    pub fn dht_key(&self) -> Result<[u8; 32], RecordError> {
        use record_type::*;
        let key = self.key.as_bytes();
        Ok(match self.record_type {
            NODE | REALM_DIRECTORY => *key,
            TOMBSTONE => self.payload_array("superseded_key")?,
            REALM_STATIONS => sha256(&[b"station_set", key]),
            MEMBER_ENDORSEMENT => {
                let member: [u8; 32] = self.payload_array("member_node")?;
                sha256(&[b"member_endorsement", key, &member])
            }
            PROCEDURE_ADVERTISEMENT => procedure_key(self.payload_text("procedure_uri")?),
            SEED_LIST => sha256(&[b"foundation_seed_list", key]),
            PARAMETER => sha256(&[b"foundation_parameter", key, self.payload_text("param_name")?.as_bytes()]),
            REALM_TRUST_LIST => sha256(&[b"foundation_realm_trust_list", key]),
            T3_ATTESTATION => {
                let station: [u8; 32] = self.payload_array("station_id")?;
                sha256(&[b"foundation_t3_attestation", &station])
            }
            CONTENT_ANNOUNCEMENT => content_key(&self.payload_array("mcid")?),
            STATION_ENDPOINT => station_endpoint_key(&self.key),
            FIRST_OF_APPLICATIONS.. => match &self.subject {
                Some(subject) => sha256(&[&[self.record_type], key, subject]),
                None => *key,
            },
            other => return Err(RecordError::Type(other)),
        })
    }

    fn payload_text(&self, name: &'static str) -> Result<&str, RecordError> {
        match self.payload.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(RecordError::KeyField(name)),
        }
    }

    fn payload_array<const N: usize>(&self, name: &'static str) -> Result<[u8; N], RecordError> {
        match self.payload.get(name) {
            Some(Value::Bytes(bytes)) => bytes.as_slice().try_into().map_err(|_| RecordError::KeyField(name)),
            _ => Err(RecordError::KeyField(name)),
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        record_bytes(&self.map(&SHORT, false).encode())
    }

    fn map(&self, [t, k, v, c, x, p, u, s]: &[&'static str; 8], signed: bool) -> Value {
        let mut pairs = vec![
            (*t, uint(self.record_type)),
            (*k, bytes(self.key.as_bytes())),
            (*v, bytes(self.version)),
            (*c, uint(self.created_at_ms)),
            (*x, uint(self.expires_at_ms)),
            (*p, self.payload.clone()),
        ];
        pairs.extend(self.subject.as_ref().map(|subject| (*u, bytes(subject))));
        pairs.extend(signed.then(|| (*s, bytes(self.signature))));
        Value::map(pairs)
    }

    fn read(value: Value, [t, k, v, c, x, p, u, s]: &[&'static str; 8]) -> Result<Self, RecordError> {
        let mut f = Fields::of(value)?;
        let payload = f.value(p)?;
        if !matches!(payload, Value::Map(_)) {
            return Err(RecordError::Payload);
        }
        Ok(Self {
            record_type: f.byte(t)?,
            key: NodeId::from_bytes(f.array(k)?),
            version: f.array(v)?,
            created_at_ms: f.uint(c)?,
            expires_at_ms: f.uint(x)?,
            payload,
            subject: Some(f.blob(u, MAX_SUBJECT)?).filter(|subject| !subject.is_empty()),
            signature: f.array(s)?,
        })
    }
}

/// Where the DHT keeps who serves a procedure. Clients name it `<realm in upper-case hex>/<procedure>`.
pub fn procedure_key(uri: &str) -> [u8; 32] {
    sha256(&[uri.as_bytes()])
}

/// Where it keeps who has some content.
pub fn content_key(mcid: &[u8; 34]) -> [u8; 32] {
    sha256(&[mcid])
}

/// Where it keeps how to reach a station.
pub fn station_endpoint_key(station: &NodeId) -> [u8; 32] {
    sha256(&[b"station_endpoint", station.as_bytes()])
}

/// A realm's id is the hash of its name.
pub fn realm_id(name: &str) -> [u8; 32] {
    sha256(&[name.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::text;

    fn record(record_type: u8, payload: Value) -> Record {
        let (version, signature, key) = ([1; 16], [0; 64], NodeId::from_bytes([0; 32]));
        Record {
            record_type,
            key,
            version,
            created_at_ms: 1000,
            expires_at_ms: 2000,
            payload,
            subject: None,
            signature,
        }
        .sign(&NodeKey::from_seed(&[5; 32]))
    }

    #[test]
    fn both_forms_round_trip_and_keep_the_signature() {
        let mut with_subject = record(0x20, Value::map([("n", uint(1u64))]));
        with_subject.subject = Some(vec![1, 2]);
        let with_subject = with_subject.sign(&NodeKey::from_seed(&[5; 32]));
        for record in [record(1, Value::map([])), with_subject] {
            assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record));
            let called = Record::from_call(record.to_call()).unwrap();
            assert_eq!(called.verify(1999), Ok(()));
            assert_eq!(called.verify(2000), Err(RecordError::Expired));
        }
    }

    #[test]
    fn no_field_can_change_under_the_signature() {
        let good = record(6, Value::map([("procedure_uri", text("a.b"))]));
        let changes: [fn(&mut Record); 7] = [
            |r| r.record_type = 7,
            |r| r.key = NodeKey::from_seed(&[6; 32]).node_id(),
            |r| r.version[0] ^= 1,
            |r| r.created_at_ms += 1,
            |r| r.expires_at_ms += 1,
            |r| r.payload = Value::map([]),
            |r| r.subject = Some(vec![1]),
        ];
        for change in changes {
            let mut record = good.clone();
            change(&mut record);
            assert_eq!(record.verify(0), Err(RecordError::Signature(SignatureError)));
        }
    }

    #[test]
    fn each_type_has_its_place() {
        let key = |t, payload| record(t, payload).dht_key();
        let own = NodeKey::from_seed(&[5; 32]).node_id();
        let own = own.as_bytes();
        assert_eq!(key(0x01, Value::map([])), Ok(*own));
        assert_eq!(key(0x0c, Value::map([("superseded_key", bytes([9; 32]))])), Ok([9; 32]));
        assert_eq!(key(0x04, Value::map([])), Ok(sha256(&[b"station_set", own])));
        let member = Value::map([("member_node", bytes([7; 32]))]);
        assert_eq!(key(0x05, member), Ok(sha256(&[b"member_endorsement", own, &[7; 32]])));
        assert_eq!(key(0x06, Value::map([("procedure_uri", text("x"))])), Ok(sha256(&[b"x"])));
        assert_eq!(key(0x11, Value::map([("mcid", bytes([3; 34]))])), Ok(sha256(&[&[3; 34]])));
        assert_eq!(key(0x20, Value::map([])), Ok(*own));
        assert_eq!(key(0x06, Value::map([])), Err(RecordError::KeyField("procedure_uri")));
        assert_eq!(key(0x11, Value::map([("mcid", bytes([3; 33]))])), Err(RecordError::KeyField("mcid")));
        assert_eq!(key(0x02, Value::map([])), Err(RecordError::Type(2)));
        let mut subject = record(0x20, Value::map([]));
        subject.subject = Some(vec![1, 2]);
        assert_eq!(subject.dht_key(), Ok(sha256(&[&[0x20], own, &[1, 2]])));
    }

    #[test]
    fn what_is_no_record_is_said_so() {
        assert!(matches!(Record::from_call(Value::Null), Err(RecordError::Form(FrameError::NotAMap))));
        assert_eq!(Record::decode(&vec![0; MAX_RECORD + 1]), Err(RecordError::TooLarge));
        let unsigned = record(1, Value::map([])).map(&LONG, false);
        assert_eq!(Record::from_call(unsigned), Err(RecordError::Form(FrameError::Missing("signature"))));
        let large = record(1, Value::map([("x", bytes(vec![0; MAX_RECORD]))]));
        assert_eq!(Record::from_call(large.to_call()), Err(RecordError::TooLarge));
        assert_eq!(Record::from_call(record(1, Value::Null).to_call()), Err(RecordError::Payload));
    }
}
