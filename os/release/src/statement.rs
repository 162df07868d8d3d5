//! What a release says, and its bytes.

use minicbor::{Decoder, Encoder};
use os_content_id::{Hash, Mcid};
use semver::Version;

use crate::ReleaseError;

/// Version of the statement's format.
const FORMAT: u64 = 1;
/// Bytes of a board's or version's name.
const TEXT_MAX: usize = 64;
/// Bytes of the notes.
pub const NOTES_MAX: usize = 8 * 1024;
pub const ARTIFACTS_MAX: usize = 16;
/// Fields of a map that a reader looks at: bounds the work on a hostile one.
const FIELDS_MAX: u64 = 64;

type EncodeResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Board profile, such as `x86-generic`.
    pub board: String,
    pub version: Version,
    /// The lowest version that this release may replace.
    pub min_version: Version,
    pub artifacts: Vec<Artifact>,
    /// Seconds since 1970.
    pub created_unix: u64,
    /// Not to be installed from then on: a node cannot be held back by being shown only old releases.
    pub expires_unix: u64,
    /// For people; may be empty.
    pub notes: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub role: Role,
    pub mcid: Mcid,
    /// Bytes of content.
    pub size: u64,
    /// dm-verity root hash: of `root`, and only of that.
    pub verity_root: Option<Hash>,
}

/// Where an artifact goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The slot's root partition: file system, then verity tree.
    Root,
    /// The slot's kernel, initramfs and command line.
    Uki,
    /// The rescue system's. A release need not have one; nodes that do not know the role pass over it.
    Rescue,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Uki => "uki",
            Role::Rescue => "rescue",
        }
    }
}

impl Release {
    /// The artifact with this role; a decoded release has exactly one root and one UKI, and at most one rescue system.
    pub fn artifact(&self, role: Role) -> Option<&Artifact> {
        self.artifacts.iter().find(|a| a.role == role)
    }

    /// Deterministic: the same release always gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        match self.encode_into(&mut e) {
            Ok(()) => e.into_writer(),
            Err(_) => unreachable!("a Vec takes every byte"),
        }
    }

    fn encode_into(&self, e: &mut Encoder<Vec<u8>>) -> EncodeResult {
        e.map(8)?.u8(0)?.u64(FORMAT)?;
        e.u8(1)?.str(&self.board)?;
        e.u8(2)?.str(&self.version.to_string())?;
        e.u8(3)?.str(&self.min_version.to_string())?;
        e.u8(4)?.array(self.artifacts.len() as u64)?;
        for a in &self.artifacts {
            e.map(3 + u64::from(a.verity_root.is_some()))?.u8(0)?.str(a.role.word())?;
            e.u8(1)?.bytes(&a.mcid.to_bytes())?.u8(2)?.u64(a.size)?;
            if let Some(root) = &a.verity_root {
                e.u8(3)?.bytes(root)?;
            }
        }
        e.u8(5)?.u64(self.created_unix)?.u8(6)?.u64(self.expires_unix)?;
        e.u8(7)?.str(&self.notes)?;
        Ok(())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let mut d = Decoder::new(bytes);
        let mut draft = Draft::default();
        // The format first: what the other fields mean depends on it.
        let pairs = map_len(&mut d)?;
        for index in 0..pairs {
            let key = d.i64()?;
            if index == 0 && key != 0 {
                return Err(ReleaseError::Malformed("it does not begin with its format version".into()));
            }
            draft.read(key, &mut d)?;
        }
        if d.position() != bytes.len() {
            return Err(ReleaseError::Malformed("bytes after the statement".into()));
        }
        let release = draft.finish()?;
        release.check()?;
        Ok(release)
    }

    /// What must hold of any release, decoded or made.
    pub fn check(&self) -> Result<(), ReleaseError> {
        let bad = |why: String| Err(ReleaseError::Malformed(why));
        let plain = |t: &str| !t.is_empty() && t.len() <= TEXT_MAX && t.bytes().all(|b| b.is_ascii_graphic());
        if !plain(&self.board) || !plain(&self.version.to_string()) || !plain(&self.min_version.to_string()) {
            return bad(format!("board and versions are 1 to {TEXT_MAX} printable characters"));
        }
        if self.notes.len() > NOTES_MAX {
            return bad(format!("notes are longer than {NOTES_MAX} bytes"));
        }
        if self.expires_unix <= self.created_unix {
            return bad("it expires before it was made".into());
        }
        for role in [Role::Root, Role::Uki, Role::Rescue] {
            match self.artifacts.iter().filter(|a| a.role == role).count() {
                0 if role == Role::Rescue => {}
                0 => return Err(ReleaseError::Missing(role.word())),
                1 => {}
                _ => return bad(format!("it has more than one {}", role.word())),
            }
        }
        for a in &self.artifacts {
            if a.verity_root.is_some() != (a.role == Role::Root) {
                return bad(format!("a verity root belongs to root and to nothing else ({})", a.role.word()));
            }
            if a.size == 0 {
                return bad(format!("{} is empty", a.role.word()));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Draft {
    format: Option<u64>,
    board: Option<String>,
    version: Option<Version>,
    min_version: Option<Version>,
    artifacts: Option<Vec<Artifact>>,
    created_unix: Option<u64>,
    expires_unix: Option<u64>,
    notes: Option<String>,
}

impl Draft {
    fn read(&mut self, key: i64, d: &mut Decoder<'_>) -> Result<(), ReleaseError> {
        match key {
            0 => {
                let format = d.u64()?;
                if format != FORMAT {
                    return Err(ReleaseError::Format(format));
                }
                once(&mut self.format, format)
            }
            1 => once(&mut self.board, d.str()?.to_string()),
            2 => once(&mut self.version, version(d)?),
            3 => once(&mut self.min_version, version(d)?),
            4 => once(&mut self.artifacts, artifacts(d)?),
            5 => once(&mut self.created_unix, d.u64()?),
            6 => once(&mut self.expires_unix, d.u64()?),
            7 => once(&mut self.notes, d.str()?.to_string()),
            unknown if unknown < 0 => Err(ReleaseError::UnknownRequired(unknown)),
            _ => Ok(d.skip()?),
        }
    }

    fn finish(self) -> Result<Release, ReleaseError> {
        use ReleaseError::Missing;
        self.format.ok_or(Missing("format"))?;
        Ok(Release {
            board: self.board.ok_or(Missing("board"))?,
            version: self.version.ok_or(Missing("version"))?,
            min_version: self.min_version.ok_or(Missing("min_version"))?,
            artifacts: self.artifacts.ok_or(Missing("artifacts"))?,
            created_unix: self.created_unix.ok_or(Missing("created"))?,
            expires_unix: self.expires_unix.ok_or(Missing("expires"))?,
            notes: self.notes.unwrap_or_default(),
        })
    }
}

fn artifacts(d: &mut Decoder<'_>) -> Result<Vec<Artifact>, ReleaseError> {
    let count = d.array()?.unwrap_or(u64::MAX);
    if count > ARTIFACTS_MAX as u64 {
        return Err(ReleaseError::Malformed(format!("more than {ARTIFACTS_MAX} artifacts")));
    }
    let mut list = Vec::new();
    for _ in 0..count {
        list.extend(artifact(d)?);
    }
    Ok(list)
}

/// `None` for an artifact of a role that this node does not know: a later format's addition for other boards.
fn artifact(d: &mut Decoder<'_>) -> Result<Option<Artifact>, ReleaseError> {
    let (mut role, mut mcid, mut size, mut verity_root) = (None, None, None, None);
    for _ in 0..map_len(d)? {
        match d.i64()? {
            0 => once(&mut role, d.str()?.to_string())?,
            1 => {
                let parsed = Mcid::try_from(d.bytes()?);
                once(&mut mcid, parsed.map_err(|e| ReleaseError::Malformed(e.to_string()))?)?;
            }
            2 => once(&mut size, d.u64()?)?,
            3 => {
                let hash = Hash::try_from(d.bytes()?);
                let short = |_| ReleaseError::Malformed("a verity root is 32 bytes".into());
                once(&mut verity_root, hash.map_err(short)?)?;
            }
            unknown if unknown < 0 => return Err(ReleaseError::UnknownRequired(unknown)),
            _ => d.skip()?,
        }
    }
    let role = match role.ok_or(ReleaseError::Missing("role"))?.as_str() {
        "root" => Role::Root,
        "uki" => Role::Uki,
        "rescue" => Role::Rescue,
        _ => return Ok(None),
    };
    Ok(Some(Artifact {
        role,
        mcid: mcid.ok_or(ReleaseError::Missing("mcid"))?,
        size: size.ok_or(ReleaseError::Missing("size"))?,
        verity_root,
    }))
}

fn version(d: &mut Decoder<'_>) -> Result<Version, ReleaseError> {
    let text = d.str()?;
    if text.len() > TEXT_MAX {
        return Err(ReleaseError::Malformed("version is too long".into()));
    }
    Version::parse(text).map_err(|e| ReleaseError::Malformed(format!("version {text:?}: {e}")))
}

pub(crate) fn map_len(d: &mut Decoder<'_>) -> Result<u64, ReleaseError> {
    match d.map()? {
        Some(pairs) if pairs <= FIELDS_MAX => Ok(pairs),
        _ => Err(ReleaseError::Malformed(format!("a map has more than {FIELDS_MAX} fields or no length"))),
    }
}

/// A field that is there twice would mean different things to different readers.
pub(crate) fn once<T>(field: &mut Option<T>, value: T) -> Result<(), ReleaseError> {
    if field.replace(value).is_some() {
        return Err(ReleaseError::Malformed("a field is there twice".into()));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn sample() -> Release {
        let artifact = |role, size, verity_root| Artifact {
            role,
            mcid: Mcid { codec: os_content_id::Codec::Manifest, hash: [size as u8; 32] },
            size,
            verity_root,
        };
        Release {
            board: "x86-generic".into(),
            version: Version::new(0, 2, 0),
            min_version: Version::new(0, 1, 0),
            artifacts: vec![
                artifact(Role::Root, 50_000_000, Some([3; 32])),
                artifact(Role::Uki, 14_000_000, None),
            ],
            created_unix: 1_000,
            expires_unix: 2_000,
            notes: "first".into(),
        }
    }

    #[test]
    fn round_trips_and_is_deterministic() {
        let release = sample();
        let bytes = release.encode();
        assert_eq!(Release::decode(&bytes).unwrap(), release);
        assert_eq!(Release::decode(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn every_truncation_says_so() {
        let bytes = sample().encode();
        for end in 0..bytes.len() {
            assert_eq!(Release::decode(&bytes[..end]), Err(ReleaseError::Truncated), "{end}");
        }
        let longer = [bytes, vec![0]].concat();
        assert!(matches!(Release::decode(&longer), Err(ReleaseError::Malformed(_))));
    }

    /// The sample's map with one more field.
    fn with_field(key: i64) -> Vec<u8> {
        let mut e = Encoder::new(sample().encode());
        e.i64(key).unwrap().str("new").unwrap();
        let mut bytes = e.into_writer();
        bytes[0] += 1;
        bytes
    }

    #[test]
    fn unknown_fields_are_skipped_unless_they_are_required() {
        assert_eq!(Release::decode(&with_field(100)).unwrap(), sample());
        assert_eq!(Release::decode(&with_field(-1)), Err(ReleaseError::UnknownRequired(-1)));
        assert!(matches!(Release::decode(&with_field(7)), Err(ReleaseError::Malformed(_))), "a field twice");
    }

    #[test]
    fn a_rescue_system_may_come_along_once() {
        let rescue = Artifact { role: Role::Rescue, ..sample().artifacts[1].clone() };
        let with = |count: usize| {
            let mut release = sample();
            release.artifacts.extend(vec![rescue.clone(); count]);
            release
        };
        let bytes = with(1).encode();
        assert_eq!(Release::decode(&bytes).unwrap().artifact(Role::Rescue), Some(&rescue));
        assert_eq!(sample().artifact(Role::Rescue), None);
        let twice = Release::decode(&with(2).encode()).unwrap_err();
        assert!(twice.to_string().contains("more than one rescue"), "{twice}");
    }

    #[test]
    fn another_format_is_named() {
        let mut bytes = sample().encode();
        bytes[2] = 2;
        assert_eq!(Release::decode(&bytes), Err(ReleaseError::Format(2)));
    }

    #[test]
    fn nonsense_is_refused() {
        let changes: [fn(&mut Release); 7] = [
            |r| r.board = "a b".into(),
            |r| r.board = String::new(),
            |r| r.notes = "x".repeat(NOTES_MAX + 1),
            |r| r.expires_unix = r.created_unix,
            |r| r.artifacts[1].verity_root = Some([0; 32]),
            |r| r.artifacts[0].size = 0,
            |r| r.artifacts.push(r.artifacts[0].clone()),
        ];
        for change in changes {
            let mut release = sample();
            change(&mut release);
            assert!(matches!(Release::decode(&release.encode()), Err(ReleaseError::Malformed(_))));
        }
        let mut release = sample();
        release.artifacts.remove(0);
        assert_eq!(Release::decode(&release.encode()), Err(ReleaseError::Missing("root")));
        assert!(Release::decode(&[0xff; 100]).is_err());
    }
}
