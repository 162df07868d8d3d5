//! The metadata bundle: everything that proves a release, as one piece of content.
//!
//! CBOR map `{0: format, 1: [root, ...], 2: timestamp, 3: snapshot, 4: targets, 5: [statement, ...]}`, all byte strings. The
//! roots stand in the order of their versions, so that a node can follow them from the one that it trusts. Decoding one
//! proves nothing: [`crate::Trust::accept`] does.

use minicbor::{Decoder, Encoder};
use os_content_id::Mcid;

use crate::statement::{map_len, once};
use crate::{Release, ReleaseError};

/// Largest bundle: one raw block, so that its MCID is a raw one.
pub const BUNDLE_MAX: usize = 256 * 1024;
pub const ROOTS_MAX: usize = 256;
pub const STATEMENTS_MAX: usize = 256;
const FORMAT: u64 = 1;

/// The parts as they were signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Oldest first.
    pub roots: Vec<Vec<u8>>,
    pub timestamp: Vec<u8>,
    pub snapshot: Vec<u8>,
    pub targets: Vec<u8>,
    /// [`Release`]s.
    pub statements: Vec<Vec<u8>>,
}

/// A statement's path among the targets.
pub fn target_path(release: &Release) -> String {
    format!("releases/{}/{}", release.board, release.version)
}

impl Bundle {
    /// Fails when it would be more than one block of content.
    pub fn encode(&self) -> Result<Vec<u8>, ReleaseError> {
        let mut e = Encoder::new(Vec::new());
        let mut encode = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.map(6)?.u8(0)?.u64(FORMAT)?;
            list(e.u8(1)?, &self.roots)?;
            e.u8(2)?.bytes(&self.timestamp)?.u8(3)?.bytes(&self.snapshot)?.u8(4)?.bytes(&self.targets)?;
            list(e.u8(5)?, &self.statements)
        };
        match encode() {
            Ok(()) => {}
            Err(_) => unreachable!("a Vec takes every byte"),
        }
        let bytes = e.into_writer();
        if bytes.len() > BUNDLE_MAX {
            return Err(ReleaseError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReleaseError> {
        if bytes.len() > BUNDLE_MAX {
            return Err(ReleaseError::TooLarge(bytes.len()));
        }
        let (mut d, mut draft) = (Decoder::new(bytes), Draft::default());
        for index in 0..map_len(&mut d)? {
            let key = d.i64()?;
            if index == 0 && key != 0 {
                return Err(ReleaseError::Malformed("it does not begin with its format version".into()));
            }
            draft.read(key, &mut d)?;
        }
        if d.position() != bytes.len() {
            return Err(ReleaseError::Malformed("bytes after the metadata".into()));
        }
        draft.finish()
    }

    /// The name under which encoded bytes travel.
    pub fn mcid(bytes: &[u8]) -> Mcid {
        Mcid::of_raw(bytes)
    }
}

#[derive(Default)]
struct Draft {
    roots: Option<Vec<Vec<u8>>>,
    timestamp: Option<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
    targets: Option<Vec<u8>>,
    statements: Option<Vec<Vec<u8>>>,
}

impl Draft {
    fn read(&mut self, key: i64, d: &mut Decoder<'_>) -> Result<(), ReleaseError> {
        match key {
            0 => match d.u64()? {
                FORMAT => Ok(()),
                other => Err(ReleaseError::Format(other)),
            },
            1 => once(&mut self.roots, read_list(d, ROOTS_MAX, "roots")?),
            2 => once(&mut self.timestamp, d.bytes()?.to_vec()),
            3 => once(&mut self.snapshot, d.bytes()?.to_vec()),
            4 => once(&mut self.targets, d.bytes()?.to_vec()),
            5 => once(&mut self.statements, read_list(d, STATEMENTS_MAX, "statements")?),
            unknown if unknown < 0 => Err(ReleaseError::UnknownRequired(unknown)),
            _ => Ok(d.skip()?),
        }
    }

    fn finish(self) -> Result<Bundle, ReleaseError> {
        use ReleaseError::Missing;
        Ok(Bundle {
            roots: self.roots.ok_or(Missing("roots"))?,
            timestamp: self.timestamp.ok_or(Missing("timestamp"))?,
            snapshot: self.snapshot.ok_or(Missing("snapshot"))?,
            targets: self.targets.ok_or(Missing("targets"))?,
            statements: self.statements.ok_or(Missing("statements"))?,
        })
    }
}

fn list(
    e: &mut Encoder<Vec<u8>>,
    items: &[Vec<u8>],
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    e.array(items.len() as u64)?;
    items.iter().try_for_each(|item| e.bytes(item).map(drop))
}

fn read_list(d: &mut Decoder<'_>, max: usize, what: &str) -> Result<Vec<Vec<u8>>, ReleaseError> {
    match d.array()? {
        Some(count) if count <= max as u64 => (0..count).map(|_| Ok(d.bytes()?.to_vec())).collect(),
        _ => Err(ReleaseError::Malformed(format!("more than {max} {what}, or no count of them"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Bundle {
        Bundle {
            roots: vec![b"root 1".to_vec(), b"root 2".to_vec()],
            timestamp: b"timestamp".to_vec(),
            snapshot: b"snapshot".to_vec(),
            targets: b"targets".to_vec(),
            statements: vec![b"statement".to_vec()],
        }
    }

    #[test]
    fn round_trips_and_every_truncation_says_so() {
        let bytes = sample().encode().unwrap();
        assert_eq!(Bundle::decode(&bytes).unwrap(), sample());
        for end in 0..bytes.len() {
            assert_eq!(Bundle::decode(&bytes[..end]), Err(ReleaseError::Truncated), "{end}");
        }
        let longer = [bytes, vec![0]].concat();
        assert!(matches!(Bundle::decode(&longer), Err(ReleaseError::Malformed(_))));
    }

    #[test]
    fn size_counts_and_format_are_bounded() {
        let large = Bundle { statements: vec![vec![0; BUNDLE_MAX]], ..sample() };
        assert!(matches!(large.encode(), Err(ReleaseError::TooLarge(_))));
        assert!(matches!(Bundle::decode(&vec![0; BUNDLE_MAX + 1]), Err(ReleaseError::TooLarge(_))));
        let many = Bundle { roots: vec![vec![]; ROOTS_MAX + 1], ..sample() };
        assert!(matches!(Bundle::decode(&many.encode().unwrap()), Err(ReleaseError::Malformed(_))));
        let mut other = sample().encode().unwrap();
        other[2] = 2;
        assert_eq!(Bundle::decode(&other), Err(ReleaseError::Format(2)));
        assert!(Bundle::decode(b"<html>").is_err());
    }
}
