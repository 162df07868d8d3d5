//! What a node has come to trust, from the owner's keys on.
//!
//! The keys in `config.toml` stand for "root version 0": the first root must be signed by that many of them, and as it
//! demands itself. From then on roots follow each other by TUF's rules and the keys in the configuration do not matter,
//! until the owner changes them.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decoder, Encoder};
use os_content_id::Mcid;
use os_identity::NodeId;
use os_tuf::{Envelope, Key, Role, RoleKeys, Seen, Trusted, TufError, check_ed25519};

use crate::statement::{map_len, once};
use crate::{BUNDLE_MAX, Bundle, Named, Release, ReleaseError, target_path};

/// The keys that the owner gave the node, and how many of them must have signed the first root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    keys: BTreeSet<NodeId>,
    threshold: u64,
}

impl Anchor {
    pub fn new(keys: &[NodeId], threshold: usize) -> Self {
        Self { keys: keys.iter().copied().collect(), threshold: threshold.max(1) as u64 }
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Another one for other keys or another threshold.
    pub fn fingerprint(&self) -> [u8; 32] {
        let keys = self.keys.iter().flat_map(|key| *key.as_bytes());
        os_content_id::hash(&self.threshold.to_be_bytes().into_iter().chain(keys).collect::<Vec<_>>())
    }

    /// The first of `roots` that these keys signed, as a beginning.
    fn begin(&self, roots: &[Vec<u8>], now_unix: u64) -> Result<Trusted, ReleaseError> {
        let keys: BTreeMap<_, _> = self.keys.iter().map(Key::ed25519).map(|key| (key.id(), key)).collect();
        let role = RoleKeys { keyids: keys.keys().cloned().collect(), threshold: self.threshold };
        let mut refusal = ReleaseError::NotAnchored { valid: 0, needed: self.threshold };
        for root in roots {
            match Envelope::parse(Role::Root.word(), root)?.verify(&keys, &role, check_ed25519) {
                Ok(()) => return Ok(Trusted::new(root, now_unix, check_ed25519)?),
                Err(TufError::NotEnoughSignatures { valid, needed, .. }) => {
                    refusal = ReleaseError::NotAnchored { valid, needed };
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(refusal)
    }
}

/// Kept across boots: the newest root that was believed and the files whose versions must not be rolled back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The fingerprint of the anchor that it grew from; zeros before there is any.
    anchor: [u8; 32],
    root: Vec<u8>,
    timestamp: Vec<u8>,
    snapshot: Vec<u8>,
    /// The newest time that anybody trusted has signed, seconds since 1970: the clock is not before it.
    signed_unix: u64,
}

impl Trust {
    /// Whether it grew from other keys than these: then it says nothing any more.
    pub fn is_foreign(&self, anchor: &Anchor) -> bool {
        !self.root.is_empty() && self.anchor != anchor.fingerprint()
    }

    pub fn signed_unix(&self) -> u64 {
        self.signed_unix
    }

    /// Version of the trusted root, if there is one.
    pub fn root_version(&self) -> Option<u64> {
        let trusted = Trusted::new(&self.root, 0, check_ed25519).ok()?;
        Some(trusted.root().version)
    }

    /// Checks a bundle against what is trusted. Returns the releases that it proves. What it proves of roots and versions
    /// is remembered here even if the rest is refused, so that a refusal cannot be used to hide a newer root.
    pub fn accept(
        &mut self,
        anchor: &Anchor,
        bundle: &Bundle,
        now_unix: u64,
    ) -> Result<Vec<Named>, ReleaseError> {
        if self.is_foreign(anchor) {
            *self = Self::default();
        }
        let mut trusted = match self.root.is_empty() {
            true => anchor.begin(&bundle.roots, now_unix)?,
            false => Trusted::new(&self.root, now_unix, check_ed25519)?,
        };
        self.anchor = anchor.fingerprint();
        let result = self.follow(&mut trusted, bundle);
        self.remember(&trusted);
        let releases = result?;
        let made = releases.iter().map(|named| named.release.created_unix);
        self.signed_unix = made.chain([self.signed_unix]).max().unwrap_or(0);
        Ok(releases)
    }

    fn follow(&self, trusted: &mut Trusted, bundle: &Bundle) -> Result<Vec<Named>, ReleaseError> {
        for root in &bundle.roots {
            let version = os_tuf::Root::read(&Envelope::parse(Role::Root.word(), root)?)?.version;
            if version > trusted.root().version {
                trusted.update_root(root)?;
            }
        }
        // Either is forgotten when its keys were replaced: versions may begin anew then.
        if !self.timestamp.is_empty() {
            let _ = trusted.restore_timestamp(&self.timestamp);
        }
        if !self.snapshot.is_empty() {
            let _ = trusted.restore_snapshot(&self.snapshot);
        }
        let seen = trusted.update_timestamp(&bundle.timestamp)?;
        if seen == Seen::Same && trusted.bytes(Role::Timestamp) != Some(&bundle.timestamp) {
            let version = trusted.timestamp().map_or(0, |t| t.version);
            return Err(ReleaseError::Malformed(format!("there is another timestamp of version {version}")));
        }
        trusted.update_snapshot(&bundle.snapshot)?;
        trusted.update_targets(&bundle.targets)?;
        bundle.statements.iter().map(|bytes| named(trusted, bytes)).collect()
    }

    fn remember(&mut self, trusted: &Trusted) {
        let bytes = |role| trusted.bytes(role).unwrap_or_default().to_vec();
        self.root = bytes(Role::Root);
        (self.timestamp, self.snapshot) = (bytes(Role::Timestamp), bytes(Role::Snapshot));
        let made = trusted.timestamp().and_then(|t| t.made_unix).unwrap_or(0);
        self.signed_unix = self.signed_unix.max(made);
    }

    /// For a small file.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        let mut encode = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
            e.map(5)?.u8(0)?.bytes(&self.anchor)?.u8(1)?.bytes(&self.root)?;
            e.u8(2)?.bytes(&self.timestamp)?.u8(3)?.bytes(&self.snapshot)?.u8(4)?.u64(self.signed_unix)?;
            Ok(())
        };
        match encode() {
            Ok(()) => e.into_writer(),
            Err(_) => unreachable!("a Vec takes every byte"),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReleaseError> {
        if bytes.len() > 4 * BUNDLE_MAX {
            return Err(ReleaseError::TooLarge(bytes.len()));
        }
        let mut d = Decoder::new(bytes);
        let (mut anchor, mut root, mut timestamp, mut snapshot, mut signed) = (None, None, None, None, None);
        for _ in 0..map_len(&mut d)? {
            match d.i64()? {
                0 => once(&mut anchor, d.bytes()?.try_into().unwrap_or_default())?,
                1 => once(&mut root, d.bytes()?.to_vec())?,
                2 => once(&mut timestamp, d.bytes()?.to_vec())?,
                3 => once(&mut snapshot, d.bytes()?.to_vec())?,
                4 => once(&mut signed, d.u64()?)?,
                unknown if unknown < 0 => return Err(ReleaseError::UnknownRequired(unknown)),
                _ => d.skip()?,
            }
        }
        Ok(Self {
            anchor: anchor.ok_or(ReleaseError::Missing("anchor"))?,
            root: root.ok_or(ReleaseError::Missing("root"))?,
            timestamp: timestamp.unwrap_or_default(),
            snapshot: snapshot.unwrap_or_default(),
            signed_unix: signed.unwrap_or(0),
        })
    }
}

fn named(trusted: &Trusted, bytes: &[u8]) -> Result<Named, ReleaseError> {
    let release = Release::decode(bytes)?;
    let path = target_path(&release);
    let target = trusted.target(&path).ok_or_else(|| ReleaseError::NotATarget(path.clone()))?;
    target.check(&path, bytes)?;
    let mcid = Mcid::of_raw(bytes);
    match target.custom["mcid"].as_str() {
        Some(text) if text == mcid.to_string() => Ok(Named { release, mcid }),
        _ => Err(ReleaseError::NotATarget(path)),
    }
}
