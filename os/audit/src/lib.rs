//! The audit log's format: what a node did to its own state, as records that each name the hash of the one before.
//!
//! A log is a row of segments, the newest last. A segment is a header (magic, the number of its first record, the hash
//! that the record before it has) and records: length of the body (u32, little-endian), the body (JSON), and the BLAKE3 hash of
//! the previous record's hash and the body. One changed byte breaks the chain from there on. Old segments are
//! dropped whole; the next one's header keeps the hash that they ended with.
//!
//! No file is read here: bytes in, records and verdicts out. What the chain cannot show: whoever can write the whole log
//! can also make a new one. The head's hash, noted elsewhere, is what tells them apart.

use serde::{Deserialize, Serialize};

/// BLAKE3.
pub type Hash = [u8; 32];

const MAGIC: &[u8; 16] = b"macula-audit-1\n\0";
pub const HEADER: usize = MAGIC.len() + 8 + 32;
/// Longest body; longer texts are shortened before they are written.
pub const BODY_MAX: usize = 4096;
const TEXT_MAX: usize = 1024;
const KIND_MAX: usize = 32;
const FRAME: usize = 4 + 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without gaps.
    pub number: u64,
    /// Seconds since 1970 by the node's clock.
    pub at_unix: u64,
    /// One word.
    pub kind: String,
    pub text: String,
}

/// Where the next record goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the last record; 0 before the first.
    pub number: u64,
    pub hash: Hash,
}

impl Head {
    pub const START: Head = Head { number: 0, hash: [0; 32] };

    /// 64 hexadecimal digits.
    pub fn text(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.hash)
    }
}

/// How the bytes of a segment end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The last record is unfinished, as a power cut leaves it; the segment is good up to here.
    Torn {
        at: usize,
    },
    /// A record in the middle is not what was written.
    Damaged {
        at: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What its header says came before.
    pub before: Head,
    pub records: Vec<Record>,
    /// Of each record.
    pub hashes: Vec<Hash>,
    /// After the last good record.
    pub head: Head,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("segment {0} has no header of an audit log")]
    Header(usize),
    #[error("segment {segment}: after record {after} comes something that was not written so")]
    Record { segment: usize, after: u64 },
    #[error("segment {segment} begins after record {begins}, the one before it ends with record {ends}")]
    Gap { segment: usize, begins: u64, ends: u64 },
    #[error("segment {0} does not go on with the hash that the one before it ends with")]
    Chain(usize),
}

impl Segment {
    /// The heads that the log has had in this segment, the one before it first.
    pub fn heads(&self) -> impl Iterator<Item = Head> {
        let after = |(record, hash): (&Record, &Hash)| Head { number: record.number, hash: *hash };
        std::iter::once(self.before).chain(self.records.iter().zip(&self.hashes).map(after))
    }
}

/// What a whole log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub records: Vec<Record>,
    pub head: Head,
    /// Bytes of an unfinished record at the end.
    pub torn: usize,
}

/// The header of a segment that goes on after `before`.
pub fn header(before: Head) -> Vec<u8> {
    [MAGIC.as_slice(), &before.number.to_le_bytes(), &before.hash].concat()
}

/// The bytes of the record that follows `head`, and the head after it. Kind and text are shortened to what fits.
pub fn encode(head: Head, at_unix: u64, kind: &str, text: &str) -> (Vec<u8>, Head, Record) {
    let (kind, text) = (shortened(kind, KIND_MAX), shortened(text, TEXT_MAX));
    let record = Record { number: head.number + 1, at_unix, kind, text };
    let body = serde_json::to_vec(&record).unwrap_or_default();
    let next = Head { number: record.number, hash: chain(&head.hash, &body) };
    let bytes = [(body.len() as u32).to_le_bytes().as_slice(), &body, &next.hash].concat();
    (bytes, next, record)
}

/// Reads a segment as far as it is good; `None` without a header.
pub fn parse(bytes: &[u8]) -> Option<Segment> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (hash, _) = rest.split_first_chunk::<32>()?;
    let before = Head { number: u64::from_le_bytes(*number), hash: *hash };
    let (records, hashes) = (Vec::new(), Vec::new());
    let mut segment = Segment { before, records, hashes, head: before, end: End::Whole };
    let mut at = HEADER;
    while at < bytes.len() {
        let Some((record, head, length)) = record(&bytes[at..], segment.head) else {
            segment.end = if is_last(&bytes[at..]) { End::Torn { at } } else { End::Damaged { at } };
            return Some(segment);
        };
        segment.records.push(record);
        segment.hashes.push(head.hash);
        segment.head = head;
        at += length;
    }
    Some(segment)
}

/// Holds a whole log, oldest segment first, against its chain.
pub fn verify<T: AsRef<[u8]>>(segments: &[T]) -> Result<Verified, AuditError> {
    let mut verified = Verified { records: Vec::new(), head: Head::START, torn: 0 };
    for (index, bytes) in segments.iter().enumerate() {
        let bytes = bytes.as_ref();
        let segment = parse(bytes).ok_or(AuditError::Header(index))?;
        if index > 0 && segment.before.number != verified.head.number {
            let (begins, ends) = (segment.before.number, verified.head.number);
            return Err(AuditError::Gap { segment: index, begins, ends });
        }
        if index > 0 && segment.before != verified.head {
            return Err(AuditError::Chain(index));
        }
        verified.torn = match segment.end {
            End::Whole => 0,
            End::Torn { at } if index + 1 == segments.len() => bytes.len() - at,
            End::Torn { .. } | End::Damaged { .. } => {
                return Err(AuditError::Record { segment: index, after: segment.head.number });
            }
        };
        verified.records.extend(segment.records);
        verified.head = segment.head;
    }
    Ok(verified)
}

fn record(bytes: &[u8], head: Head) -> Option<(Record, Head, usize)> {
    let length = body_length(bytes)?;
    let body = bytes.get(4..4 + length)?;
    let hash = bytes.get(4 + length..FRAME + length)?;
    if chain(&head.hash, body) != hash {
        return None;
    }
    let record: Record = serde_json::from_slice(body).ok()?;
    let next = Head { number: record.number, hash: hash.try_into().ok()? };
    (head.number.checked_add(1) == Some(record.number)).then_some((record, next, FRAME + length))
}

fn body_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (length <= BODY_MAX).then_some(length)
}

/// Whether these bytes, which are no good record, are too few for a record and another: the write that a power cut interrupted.
fn is_last(bytes: &[u8]) -> bool {
    match body_length(bytes) {
        Some(length) => bytes.len() <= FRAME + length,
        // A length that was never written, or only in part.
        None => bytes.len() < 4 || bytes.len() <= FRAME + BODY_MAX && bytes.iter().all(|b| *b == 0),
    }
}

fn chain(before: &Hash, body: &[u8]) -> Hash {
    *blake3::Hasher::new().update(before).update(body).finalize().as_bytes()
}

/// Also without control characters, each of which JSON would make six bytes of.
fn shortened(text: &str, max: usize) -> String {
    let mut short = String::new();
    for letter in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len() + letter.len_utf8() > max {
            break;
        }
        short.push(letter);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two segments of three records each.
    fn log() -> [Vec<u8>; 2] {
        let mut head = Head::START;
        [0, 1].map(|segment: u64| {
            let mut bytes = header(head);
            for at in 0..3 {
                let (record, next, _) = encode(head, 100 * segment + at, "installed", "0.2.0 in slot B");
                bytes.extend(record);
                head = next;
            }
            bytes
        })
    }

    #[test]
    fn a_whole_log_verifies_and_so_does_one_whose_old_segments_are_gone() {
        let log = log();
        let verified = verify(&log).unwrap();
        assert_eq!((verified.records.len(), verified.head.number, verified.torn), (6, 6, 0));
        assert_eq!(verified.records[3].at_unix, 100);
        let newest = verify(&log[1..]).unwrap();
        assert_eq!((newest.records.len(), newest.head), (3, verified.head));
        assert_eq!(verify::<Vec<u8>>(&[]).unwrap().head, Head::START);
    }

    #[test]
    fn every_changed_byte_is_found() {
        let good = log();
        for segment in 0..2 {
            for at in 0..good[segment].len() {
                for bit in [1, 0x80] {
                    let mut bad = good.clone();
                    bad[segment][at] ^= bit;
                    let same =
                        verify(&bad).is_ok_and(|v| v.head == verify(&good).unwrap().head && v.torn == 0);
                    assert!(!same, "segment {segment}, byte {at}");
                }
            }
        }
    }

    #[test]
    fn segments_cannot_be_left_out_or_swapped() {
        let [first, second] = log();
        assert_eq!(
            verify(&[second.clone(), first.clone()]),
            Err(AuditError::Gap { segment: 1, begins: 0, ends: 6 })
        );
        let mut forged = header(Head { number: 3, hash: [7; 32] });
        forged.extend(&second[HEADER..]);
        assert_eq!(verify(&[first.clone(), forged]), Err(AuditError::Chain(1)));
        assert_eq!(verify(&[first, b"rubbish".to_vec()]), Err(AuditError::Header(1)));
    }

    #[test]
    fn a_cut_in_the_last_record_is_torn_and_no_more() {
        let [_, good] = log();
        let whole = parse(&good).unwrap();
        let (last, _, _) = encode(whole.head, 1, "committed", "x");
        for length in 1..last.len() {
            let mut cut = [good.clone(), last[..length].to_vec()].concat();
            assert_eq!(parse(&cut).unwrap().end, End::Torn { at: good.len() }, "{length}");
            // The file is as long as it should be, its data were not written.
            cut.resize(good.len() + last.len(), 0);
            let end = parse(&cut).unwrap().end;
            assert!(matches!(end, End::Torn { .. }), "{length}: {end:?}");
        }
        let zeros = [good.clone(), vec![0; 700]].concat();
        assert_eq!(parse(&zeros).unwrap().records, whole.records);
    }

    #[test]
    fn texts_from_anywhere_fit() {
        for text in ["\u{1}".repeat(5000), "\"".repeat(5000), "ü".repeat(5000)] {
            let (bytes, head, record) = encode(Head::START, 1, &text, &text);
            assert!(bytes.len() <= FRAME + BODY_MAX, "{}", bytes.len());
            let log = [header(Head::START), bytes].concat();
            assert_eq!(verify(&[log]).unwrap(), Verified { records: vec![record], head, torn: 0 });
        }
    }
}
