//! Signed, versioned, expiring statements: what the DHT stores.
//!
//! On the wire a record is a CBOR map `{0: type, 1: key, 2: signer, 3: version, 4: created ms, 5: expires ms,
//! 6: payload, 7: signature}` in deterministic encoding (RFC 8949, 4.2.1), times in ms since the Unix epoch. The
//! Ed25519 signature is over the same map without entry 7, in the `dht-record` domain of `os-identity`.

use std::cmp::Ordering;

use minicbor::{Decoder, Encoder};
use os_identity::{NodeId, SIGNATURE_LEN, Signature, domain};

use crate::Key;
use crate::record_types::{self, PayloadError};
use crate::wire::{Bounded, WireError, need, set};

/// A whole encoded record.
pub const MAX_RECORD_LEN: usize = 1024;
/// What is left for the payload once the other fields took their longest form.
pub const MAX_PAYLOAD_LEN: usize = MAX_RECORD_LEN - 192;
pub const MAX_LIFETIME_MS: u64 = 48 * 3600 * 1000;
/// How far two honest clocks may be apart.
pub const CLOCK_SKEW_MS: u64 = 10 * 60 * 1000;

/// Everything in a record but the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub record_type: u8,
    pub key: Key,
    pub signer: NodeId,
    /// Counts up; of one signer's records under one key and type the highest version wins.
    pub version: u64,
    pub created_ms: u64,
    pub expires_ms: u64,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub statement: Statement,
    pub signature: Signature,
}

/// Why a record is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record is {0} bytes, at most {MAX_RECORD_LEN} allowed")]
    TooLarge(usize),
    #[error("record lives from {created_ms} to {expires_ms}: it must end after it begins, within 48 h")]
    Lifetime { created_ms: u64, expires_ms: u64 },
    #[error("record was made {0} ms in the future: check the clocks of signer and node")]
    FromTheFuture(u64),
    #[error("record expired {0} ms ago")]
    Expired(u64),
    #[error("signature does not verify")]
    Signature,
    #[error("key is not the one that this record type and payload have")]
    WrongKey,
    #[error("payload of record type {record_type:#04x}: {source}")]
    Payload { record_type: u8, source: PayloadError },
}

/// Decides whether a record's signature holds. [`Record::signature_holds`] outside of simulations.
pub type SignatureCheck = fn(&Record) -> bool;

impl Statement {
    /// The bytes to sign, in `os_identity::domain::DHT_RECORD`.
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::with_capacity(self.payload.len() + 192));
        self.encode_fields(&mut encoder, 7);
        encoder.into_writer()
    }

    pub fn signed(self, signature: Signature) -> Record {
        Record { statement: self, signature }
    }

    fn encode_fields(&self, e: &mut Encoder<Vec<u8>>, fields: u64) {
        let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.map(fields)?.u8(0)?.u8(self.record_type)?.u8(1)?.bytes(self.key.as_bytes())?;
            e.u8(2)?.bytes(self.signer.as_bytes())?.u8(3)?.u64(self.version)?;
            e.u8(4)?.u64(self.created_ms)?.u8(5)?.u64(self.expires_ms)?.u8(6)?.bytes(&self.payload)?;
            Ok(())
        };
        // A Vec takes every write.
        let _ = write();
    }
}

impl Record {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::with_capacity(self.statement.payload.len() + 192));
        self.statement.encode_fields(&mut encoder, 8);
        // A Vec takes every write.
        let _ = encoder.u8(7).and_then(|e| e.bytes(&self.signature)).map(|_| ());
        encoder.into_writer()
    }

    /// Reads a record; says nothing yet about whether it is valid, see [`Record::verify`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        bounded_len(bytes)?;
        let mut d = Decoder::new(bytes);
        let record = Self::decode(&mut d)?;
        d.finished()?;
        Ok(record)
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, WireError> {
        let (mut record_type, mut key, mut signer, mut version) = (None, None, None, None);
        let (mut created, mut expires, mut payload, mut signature) = (None, None, None, None);
        for _ in 0..d.map_up_to(8, "record")? {
            match d.u8()? {
                0 => set(&mut record_type, d.u8()?, "record type")?,
                1 => set(&mut key, Key::from_bytes(d.bytes_32("record key")?), "record key")?,
                2 => set(&mut signer, NodeId::from_bytes(d.bytes_32("record signer")?), "record signer")?,
                3 => set(&mut version, d.u64()?, "record version")?,
                4 => set(&mut created, d.u64()?, "record creation time")?,
                5 => set(&mut expires, d.u64()?, "record expiry time")?,
                6 => set(&mut payload, d.bytes_up_to(MAX_PAYLOAD_LEN, "record payload")?, "record payload")?,
                7 => set(&mut signature, d.bytes_of::<SIGNATURE_LEN>("signature")?, "signature")?,
                other => return Err(WireError::Cbor(format!("unknown field {other} in a record"))),
            }
        }
        let statement = Statement {
            record_type: need(record_type, "record type")?,
            key: need(key, "record key")?,
            signer: need(signer, "record signer")?,
            version: need(version, "record version")?,
            created_ms: need(created, "record creation time")?,
            expires_ms: need(expires, "record expiry time")?,
            payload: need(payload, "record payload")?.to_vec(),
        };
        Ok(Record { statement, signature: need(signature, "signature")? })
    }

    /// Size, time, key and payload for its type, and last (it costs most) the signature.
    pub fn verify(&self, now_ms: u64) -> Result<(), RecordError> {
        self.verify_with(now_ms, Record::signature_holds)
    }

    pub fn verify_with(&self, now_ms: u64, signature_holds: SignatureCheck) -> Result<(), RecordError> {
        let len = self.to_bytes().len();
        if len > MAX_RECORD_LEN {
            return Err(RecordError::TooLarge(len));
        }
        self.statement.check_times(now_ms)?;
        record_types::check(&self.statement)?;
        if signature_holds(self) { Ok(()) } else { Err(RecordError::Signature) }
    }

    pub fn signature_holds(&self) -> bool {
        let bytes = self.statement.signing_bytes();
        os_identity::verify(&self.statement.signer, domain::DHT_RECORD, &bytes, &self.signature).is_ok()
    }

    pub fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.statement.expires_ms.saturating_add(CLOCK_SKEW_MS)
    }

    /// A total order among records of one signer under one key and type, so that all nodes keep the same one
    /// even if the signer used a version twice.
    pub fn precedence(&self, other: &Record) -> Ordering {
        let rank = |r: &Record| (r.statement.version, r.statement.expires_ms, r.signature);
        rank(self).cmp(&rank(other))
    }
}

impl Statement {
    fn check_times(&self, now_ms: u64) -> Result<(), RecordError> {
        let (created_ms, expires_ms) = (self.created_ms, self.expires_ms);
        match expires_ms.checked_sub(created_ms) {
            Some(1..=MAX_LIFETIME_MS) => {}
            _ => return Err(RecordError::Lifetime { created_ms, expires_ms }),
        }
        if created_ms > now_ms.saturating_add(CLOCK_SKEW_MS) {
            return Err(RecordError::FromTheFuture(created_ms - now_ms));
        }
        if now_ms >= expires_ms.saturating_add(CLOCK_SKEW_MS) {
            return Err(RecordError::Expired(now_ms - expires_ms));
        }
        Ok(())
    }
}

fn bounded_len(bytes: &[u8]) -> Result<(), WireError> {
    match bytes.len() {
        0..=MAX_RECORD_LEN => Ok(()),
        len => Err(WireError::TooLong { what: "record", len: len as u64, max: MAX_RECORD_LEN }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use os_identity::NodeKey;

    use super::*;

    pub const NOW: u64 = 1_800_000_000_000;
    /// An application type, of which the DHT knows no payload.
    pub const TYPE: u8 = 0x7f;

    pub fn signer(n: u8) -> NodeKey {
        NodeKey::from_seed(&[n; 32])
    }

    pub fn sign(by: &NodeKey, change: impl FnOnce(&mut Statement)) -> Record {
        let mut statement = Statement {
            record_type: TYPE,
            key: Key::hash(&[b"key"]),
            signer: by.node_id(),
            version: 1,
            created_ms: NOW,
            expires_ms: NOW + 3_600_000,
            payload: b"payload".to_vec(),
        };
        change(&mut statement);
        let signature = by.sign(domain::DHT_RECORD, &statement.signing_bytes());
        statement.signed(signature)
    }

    #[test]
    fn a_signed_record_survives_the_wire_and_verifies() {
        let record = sign(&signer(1), |_| ());
        let read = Record::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.verify(NOW), Ok(()));
    }

    #[test]
    fn a_forged_or_changed_record_is_refused() {
        let mut changed = sign(&signer(1), |_| ());
        changed.statement.payload[0] ^= 1;
        assert_eq!(changed.verify(NOW), Err(RecordError::Signature));
        let mut stolen = sign(&signer(1), |_| ());
        stolen.statement.signer = signer(2).node_id();
        assert_eq!(stolen.verify(NOW), Err(RecordError::Signature));
        let mut older = sign(&signer(1), |_| ());
        older.statement.version += 1;
        assert_eq!(older.verify(NOW), Err(RecordError::Signature));
    }

    #[test]
    fn times_are_judged_with_some_skew() {
        let record = sign(&signer(1), |_| ());
        let end = record.statement.expires_ms + CLOCK_SKEW_MS;
        assert_eq!(record.verify(NOW - CLOCK_SKEW_MS), Ok(()));
        assert_eq!(
            record.verify(NOW - CLOCK_SKEW_MS - 1),
            Err(RecordError::FromTheFuture(CLOCK_SKEW_MS + 1))
        );
        assert_eq!(record.verify(end - 1), Ok(()));
        assert_eq!(record.verify(end), Err(RecordError::Expired(CLOCK_SKEW_MS)));
        let forever = sign(&signer(1), |s| s.expires_ms = u64::MAX);
        assert!(matches!(forever.verify(NOW), Err(RecordError::Lifetime { .. })));
        let backwards = sign(&signer(1), |s| s.expires_ms = s.created_ms - 1);
        assert!(matches!(backwards.verify(NOW), Err(RecordError::Lifetime { .. })));
    }

    #[test]
    fn the_largest_payload_fits_and_a_larger_one_does_not() {
        let huge = |len| {
            sign(&signer(1), |s| {
                s.payload = vec![7; len];
                (s.version, s.created_ms) = (u64::MAX, u64::MAX - MAX_LIFETIME_MS);
                s.expires_ms = u64::MAX;
            })
        };
        let largest = huge(MAX_PAYLOAD_LEN);
        assert!(largest.to_bytes().len() <= MAX_RECORD_LEN);
        assert_eq!(Record::from_bytes(&largest.to_bytes()).as_ref(), Ok(&largest));
        let larger = huge(MAX_PAYLOAD_LEN + 1).to_bytes();
        assert!(matches!(Record::from_bytes(&larger), Err(WireError::TooLong { .. })));
        assert!(matches!(huge(MAX_RECORD_LEN).verify(u64::MAX), Err(RecordError::TooLarge(_))));
    }

    #[test]
    fn truncated_and_doubled_fields_are_refused() {
        let bytes = sign(&signer(1), |_| ()).to_bytes();
        for len in 0..bytes.len() {
            assert!(Record::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert_eq!(Record::from_bytes(&[&bytes[..], &[0]].concat()), Err(WireError::Trailing(1)));
        let twice = [0xa2, 0x00, 0x01, 0x00, 0x01];
        assert_eq!(Record::from_bytes(&twice), Err(WireError::Twice { what: "record type" }));
    }

    #[test]
    fn one_of_two_records_always_wins() {
        let (old, new) = (sign(&signer(1), |_| ()), sign(&signer(1), |s| s.version = 2));
        let twin = sign(&signer(1), |s| s.payload = b"other".to_vec());
        assert_eq!(new.precedence(&old), Ordering::Greater);
        assert_eq!(old.precedence(&old), Ordering::Equal);
        assert_ne!(twin.precedence(&old), Ordering::Equal);
        assert_eq!(twin.precedence(&old), old.precedence(&twin).reverse());
    }
}
