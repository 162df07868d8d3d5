//! The envelope: a statement's bytes and who signed them.
//!
//! CBOR map `{0: statement bytes, 1: [[key, signature], ...]}`, signers in ascending order, each once.

use std::collections::BTreeMap;

use minicbor::{Decoder, Encoder};
use os_content_id::Mcid;
use os_identity::{NodeId, NodeKey, SIGNATURE_LEN, Signature, domain};
use semver::Version;

use crate::statement::{map_len, once};
use crate::{Release, ReleaseError};

/// Largest signed release, bytes.
pub const SIGNED_MAX: usize = 64 * 1024;
pub const SIGNATURES_MAX: usize = 16;

/// A release and its signatures. Decoding one proves nothing about who made it: [`SignedRelease::verify`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRelease {
    /// As signed: encoding the release again would lose fields that we do not know.
    statement: Vec<u8>,
    release: Release,
    signatures: BTreeMap<NodeId, Signature>,
}

/// What a node holds a release against.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// The keys whose signatures count.
    pub keys: &'a [NodeId],
    /// How many of them must have signed.
    pub threshold: usize,
    pub board: &'a str,
    pub running: &'a Version,
    /// Whether `running` itself may be installed again, as the rescue system does.
    pub reinstall: bool,
    /// Seconds since 1970 by this node's clock.
    pub now_unix: u64,
}

impl SignedRelease {
    /// An unsigned release, to be signed.
    pub fn create(release: Release) -> Result<Self, ReleaseError> {
        release.check()?;
        Ok(Self { statement: release.encode(), release, signatures: BTreeMap::new() })
    }

    /// Adds or replaces this key's signature.
    pub fn sign(&mut self, key: &NodeKey) -> Result<(), ReleaseError> {
        self.signatures.insert(key.node_id(), key.sign(domain::RELEASE, &self.statement));
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(ReleaseError::Malformed(format!("more than {SIGNATURES_MAX} signatures")));
        }
        Ok(())
    }

    /// What it says, not yet believed: for showing.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Who is said to have signed, not yet believed.
    pub fn signers(&self) -> impl Iterator<Item = &NodeId> {
        self.signatures.keys()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        let mut encode = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.map(2)?.u8(0)?.bytes(&self.statement)?.u8(1)?.array(self.signatures.len() as u64)?;
            for (key, signature) in &self.signatures {
                e.array(2)?.bytes(key.as_bytes())?.bytes(signature)?;
            }
            Ok(())
        };
        match encode() {
            Ok(()) => e.into_writer(),
            Err(_) => unreachable!("a Vec takes every byte"),
        }
    }

    /// The raw MCID of the encoded bytes: the release's name.
    pub fn mcid(&self) -> Mcid {
        Mcid::of_raw(&self.encode())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReleaseError> {
        if bytes.len() > SIGNED_MAX {
            return Err(ReleaseError::TooLarge(bytes.len()));
        }
        let (mut statement, mut signatures) = (None, None);
        let mut d = Decoder::new(bytes);
        for _ in 0..map_len(&mut d)? {
            match d.i64()? {
                0 => once(&mut statement, d.bytes()?.to_vec())?,
                1 => once(&mut signatures, read_signatures(&mut d)?)?,
                unknown if unknown < 0 => return Err(ReleaseError::UnknownRequired(unknown)),
                _ => d.skip()?,
            }
        }
        if d.position() != bytes.len() {
            return Err(ReleaseError::Malformed("bytes after the release".into()));
        }
        let statement = statement.ok_or(ReleaseError::Missing("statement"))?;
        let release = Release::decode(&statement)?;
        Ok(Self { statement, release, signatures: signatures.ok_or(ReleaseError::Missing("signatures"))? })
    }

    /// Everything that must hold before this node installs it; the signatures first, since nothing else counts
    /// without them.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<&Release, ReleaseError> {
        self.check_signatures(expected)?;
        let r = &self.release;
        if r.board != expected.board {
            return Err(ReleaseError::WrongBoard {
                release: r.board.clone(),
                node: expected.board.to_string(),
            });
        }
        let running = expected.running;
        match r.version.cmp_precedence(running) {
            std::cmp::Ordering::Less => {
                return Err(ReleaseError::OlderVersion {
                    release: r.version.clone(),
                    running: running.clone(),
                });
            }
            std::cmp::Ordering::Equal if expected.reinstall => {}
            std::cmp::Ordering::Equal => return Err(ReleaseError::SameVersion(running.clone())),
            std::cmp::Ordering::Greater => {}
        }
        if running.cmp_precedence(&r.min_version).is_lt() {
            let minimum = r.min_version.clone();
            return Err(ReleaseError::CannotReplace { minimum, running: running.clone() });
        }
        if expected.now_unix >= r.expires_unix {
            return Err(ReleaseError::Expired { ago_s: expected.now_unix - r.expires_unix });
        }
        Ok(r)
    }

    fn check_signatures(&self, expected: &Expected<'_>) -> Result<(), ReleaseError> {
        let needed = expected.threshold.max(1);
        let (trusted, unknown): (Vec<_>, Vec<_>) =
            self.signatures.iter().partition(|(key, _)| expected.keys.contains(key));
        for (key, signature) in &trusted {
            os_identity::verify(key, domain::RELEASE, &self.statement, *signature)
                .map_err(|_| ReleaseError::WrongSignature(**key))?;
        }
        if trusted.len() < needed {
            return Err(ReleaseError::NotEnoughSignatures {
                valid: trusted.len(),
                needed,
                unknown: unknown.len(),
            });
        }
        Ok(())
    }
}

fn read_signatures(d: &mut Decoder<'_>) -> Result<BTreeMap<NodeId, Signature>, ReleaseError> {
    let count = d.array()?.unwrap_or(u64::MAX);
    if count > SIGNATURES_MAX as u64 {
        return Err(ReleaseError::Malformed(format!("more than {SIGNATURES_MAX} signatures")));
    }
    let mut signatures = BTreeMap::new();
    for _ in 0..count {
        if d.array()? != Some(2) {
            return Err(ReleaseError::Malformed("a signature is a pair of key and signature".into()));
        }
        let key = NodeId::try_from(d.bytes()?).map_err(|e| ReleaseError::Malformed(e.to_string()))?;
        let signature: [u8; SIGNATURE_LEN] = d
            .bytes()?
            .try_into()
            .map_err(|_| ReleaseError::Malformed(format!("a signature is {SIGNATURE_LEN} bytes")))?;
        if signatures.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(ReleaseError::Malformed("signers are not in ascending order".into()));
        }
        signatures.insert(key, signature);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::tests::sample;

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed(&[n; 32])
    }

    fn signed_by(keys: &[u8]) -> SignedRelease {
        let mut signed = SignedRelease::create(sample()).unwrap();
        keys.iter().for_each(|n| signed.sign(&key(*n)).unwrap());
        SignedRelease::decode(&signed.encode()).unwrap()
    }

    fn verify(signed: &SignedRelease, keys: &[u8], change: fn(&mut Expected)) -> Result<(), ReleaseError> {
        let keys: Vec<NodeId> = keys.iter().map(|n| key(*n).node_id()).collect();
        let running = Version::new(0, 1, 5);
        let mut expected = Expected {
            keys: &keys,
            threshold: 2,
            board: "x86-generic",
            running: &running,
            reinstall: false,
            now_unix: 1_500,
        };
        change(&mut expected);
        signed.verify(&expected).map(drop)
    }

    #[test]
    fn a_release_signed_by_enough_keys_passes_and_has_one_name() {
        let signed = signed_by(&[1, 3]);
        verify(&signed, &[1, 2, 3], |_| {}).unwrap();
        assert_eq!(signed_by(&[3, 1]).mcid(), signed.mcid());
        assert_eq!(Mcid::of_raw(&signed.encode()), signed.mcid());
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        let signed = signed_by(&[1, 3]);
        let refusal =
            |keys: &[u8], change: fn(&mut Expected)| verify(&signed, keys, change).unwrap_err().to_string();
        static NEWER: Version = Version::new(0, 3, 0);
        static SAME: Version = Version::new(0, 2, 0);
        static ANCIENT: Version = Version::new(0, 0, 9);
        let said = [
            refusal(&[1, 2], |_| {}),
            refusal(&[1, 3], |e| e.board = "rpi5"),
            refusal(&[1, 3], |e| e.running = &NEWER),
            refusal(&[1, 3], |e| e.running = &SAME),
            refusal(&[1, 3], |e| e.running = &ANCIENT),
            refusal(&[1, 3], |e| e.now_unix = 2_001),
        ];
        let again = |e: &mut Expected| (e.running, e.reinstall) = (&SAME, true);
        verify(&signed, &[1, 3], again).unwrap();
        let expected = [
            "not enough signatures: 1 of the 2",
            "wrong board: the release is for x86-generic, this node is rpi5",
            "older version: the release is 0.2.0, this node runs 0.3.0",
            "runs version 0.2.0 already",
            "replaces 0.1.0 or newer, this node runs 0.0.9",
            "expired 1 s ago",
        ];
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_changed_statement_or_signature_is_a_wrong_signature() {
        let mut signed = signed_by(&[1, 3]);
        signed.release.board = "rpi5".into();
        signed.statement = signed.release.encode();
        let moved = SignedRelease::decode(&signed.encode()).unwrap();
        assert_eq!(
            verify(&moved, &[1, 3], |_| {}),
            Err(ReleaseError::WrongSignature(key(1).node_id().min(key(3).node_id())))
        );
        let mut signed = signed_by(&[1, 3]);
        signed.signatures.values_mut().for_each(|s| s[5] ^= 1);
        assert!(matches!(verify(&signed, &[1, 3], |_| {}), Err(ReleaseError::WrongSignature(_))));
        // A threshold of 0 does not mean that nobody needs to sign.
        assert!(verify(&signed_by(&[]), &[1], |e| e.threshold = 0).is_err());
    }

    #[test]
    fn truncation_garbage_and_every_flipped_bit_are_refused() {
        let bytes = signed_by(&[1, 3]).encode();
        for end in 0..bytes.len() {
            assert_eq!(SignedRelease::decode(&bytes[..end]), Err(ReleaseError::Truncated), "{end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let passed = SignedRelease::decode(&flipped).is_ok_and(|s| verify(&s, &[1, 3], |_| {}).is_ok());
            assert!(!passed, "bit {bit}");
        }
        assert!(matches!(SignedRelease::decode(&vec![0; SIGNED_MAX + 1]), Err(ReleaseError::TooLarge(_))));
        assert!(matches!(
            SignedRelease::decode(b"<html>"),
            Err(ReleaseError::Malformed(_) | ReleaseError::Truncated)
        ));
    }
}
