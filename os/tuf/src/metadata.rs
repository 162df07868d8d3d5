//! The four roles' files as types, and their JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use os_identity::NodeId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::delegation::Delegations;
use crate::envelope::Envelope;
use crate::error::{Result, malformed};
use crate::json::{self, Object};
use crate::{KEYS_MAX, NAME_LEN_MAX, TufError, time};

const SPEC_VERSION: &str = "1.0.34";
const MADE: &str = "x-macula-made-unix";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Root,
    Timestamp,
    Snapshot,
    Targets,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];

    pub const fn word(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Timestamp => "timestamp",
            Role::Snapshot => "snapshot",
            Role::Targets => "targets",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A public key as metadata writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub keytype: String,
    pub scheme: String,
    /// Hex for Ed25519, PEM for others.
    pub public: String,
}

impl Key {
    pub fn ed25519(id: &NodeId) -> Self {
        let word = || "ed25519".to_string();
        Self { keytype: word(), scheme: word(), public: HEXLOWER.encode(id.as_bytes()) }
    }

    /// `None` for other kinds of keys.
    pub fn node_id(&self) -> Option<NodeId> {
        let is_ed25519 = self.keytype == "ed25519" && self.scheme == "ed25519";
        let bytes = HEXLOWER_PERMISSIVE.decode(self.public.as_bytes()).ok().filter(|_| is_ed25519)?;
        NodeId::try_from(bytes.as_slice()).ok()
    }

    /// The name that the specification gives a key: the hash of its canonical JSON.
    pub fn id(&self) -> String {
        id_of(&self.to_json()).unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "keytype": self.keytype, "scheme": self.scheme, "keyval": { "public": self.public } })
    }
}

fn id_of(key: &Value) -> Option<String> {
    Some(HEXLOWER.encode(&Sha256::digest(json::canonical(key).ok()?)))
}

/// Who may sign for a role, and how many of them must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleKeys {
    pub keyids: BTreeSet<String>,
    pub threshold: u64,
}

impl RoleKeys {
    pub(crate) fn read(object: Object<'_>) -> Result<Self> {
        let threshold = object.whole("threshold")?;
        if threshold == 0 {
            return Err(malformed(object.role, "a threshold is at least 1"));
        }
        let ids = object.list("keyids", KEYS_MAX)?.iter().map(|id| json::text(object.role, "keyids", id));
        Ok(Self { keyids: ids.map(|id| id.map(String::from)).collect::<Result<_>>()?, threshold })
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "keyids": self.keyids, "threshold": self.threshold })
    }
}

/// `keys` of a root or of delegations. Every id must be its key's hash, so that one key has one name.
pub(crate) fn read_keys(object: Object<'_>) -> Result<BTreeMap<String, Key>> {
    let mut keys = BTreeMap::new();
    for (id, value) in object.members()? {
        let key = Object::of(object.role, "key", value)?;
        if id_of(value).as_deref() != Some(id) {
            return Err(malformed(object.role, format!("key id {id} is not the hash of its key")));
        }
        let (keytype, scheme) = (key.text("keytype")?.to_string(), key.text("scheme")?.to_string());
        let public = key.object("keyval")?.text("public")?.to_string();
        keys.insert(id.to_string(), Key { keytype, scheme, public });
    }
    if keys.len() > KEYS_MAX {
        return Err(malformed(object.role, format!("more than {KEYS_MAX} keys")));
    }
    Ok(keys)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub version: u64,
    pub expires_unix: u64,
    pub keys: BTreeMap<String, Key>,
    pub roles: BTreeMap<Role, RoleKeys>,
}

impl Root {
    pub fn read(envelope: &Envelope) -> Result<Self> {
        let (signed, version, expires_unix) = common(envelope, Role::Root)?;
        let keys = read_keys(signed.object("keys")?)?;
        let named = signed.object("roles")?;
        let role = |role: Role| Ok((role, RoleKeys::read(named.object(role.word())?)?));
        let roles = Role::ALL.into_iter().map(role).collect::<Result<_>>()?;
        Ok(Self { version, expires_unix, keys, roles })
    }

    /// Every root names all four roles.
    pub fn role(&self, role: Role) -> &RoleKeys {
        &self.roles[&role]
    }

    pub fn to_json(&self) -> Value {
        let keys: BTreeMap<_, _> = self.keys.iter().map(|(id, key)| (id, key.to_json())).collect();
        let roles: BTreeMap<_, _> = self.roles.iter().map(|(r, keys)| (r.word(), keys.to_json())).collect();
        let mut signed = head(Role::Root, self.version, self.expires_unix);
        signed["consistent_snapshot"] = json!(true);
        signed["keys"] = json!(keys);
        signed["roles"] = json!(roles);
        signed
    }
}

/// How one file names another: by version, and by length and hash where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub version: u64,
    pub length: Option<u64>,
    pub sha256: Option<[u8; 32]>,
    pub sha512: Option<Vec<u8>>,
}

impl FileInfo {
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        let sha256 = Some(Sha256::digest(bytes).into());
        Self { version, length: Some(bytes.len() as u64), sha256, sha512: None }
    }

    fn read(object: Object<'_>) -> Result<Self> {
        let version = version_of(object)?;
        let length = object.maybe("length").map(|_| object.whole("length")).transpose()?;
        let (sha256, sha512) = match object.maybe("hashes") {
            Some(_) => hashes(object)?,
            None => (None, None),
        };
        Ok(Self { version, length, sha256, sha512 })
    }

    pub(crate) fn check(&self, file: &str, by: &str, bytes: &[u8]) -> Result<()> {
        check_content(file, by, bytes, self.length, self.sha256.as_ref(), self.sha512.as_deref())
    }

    fn to_json(&self) -> Value {
        let mut value = json!({ "version": self.version });
        if let Some(length) = self.length {
            value["length"] = json!(length);
        }
        if let Some(hash) = &self.sha256 {
            value["hashes"] = json!({ "sha256": HEXLOWER.encode(hash) });
        }
        value
    }
}

type Hashes = (Option<[u8; 32]>, Option<Vec<u8>>);

/// At least one hash must be of a kind that is known here, or nothing would be checked.
fn hashes(object: Object<'_>) -> Result<Hashes> {
    let named = object.object("hashes")?;
    let hash = |name: &str, len: usize| -> Result<Option<Vec<u8>>> {
        let Some(value) = named.maybe(name) else { return Ok(None) };
        let bytes = HEXLOWER_PERMISSIVE.decode(json::text(object.role, name, value)?.as_bytes()).ok();
        let bytes = bytes.filter(|b| b.len() == len);
        bytes.map(Some).ok_or_else(|| malformed(object.role, format!("{name} is not {len} bytes in hex")))
    };
    let sha256 = hash("sha256", 32)?.and_then(|h| h.try_into().ok());
    let sha512 = hash("sha512", 64)?;
    if sha256.is_none() && sha512.is_none() {
        return Err(malformed(object.role, "`hashes` has neither sha256 nor sha512"));
    }
    Ok((sha256, sha512))
}

fn check_content(
    file: &str,
    by: &str,
    bytes: &[u8],
    length: Option<u64>,
    sha256: Option<&[u8; 32]>,
    sha512: Option<&[u8]>,
) -> Result<()> {
    let wrong = |what| Err(TufError::WrongContent { file: file.into(), by: by.into(), what });
    if length.is_some_and(|l| l != bytes.len() as u64) {
        return wrong("length");
    }
    if sha256.is_some_and(|hash| Sha256::digest(bytes).as_slice() != hash) {
        return wrong("sha256");
    }
    if sha512.is_some_and(|hash| Sha512::digest(bytes).as_slice() != hash) {
        return wrong("sha512");
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    pub version: u64,
    pub expires_unix: u64,
    /// When it was signed, by the signer's clock. Ours: the specification has no field for it and lets readers skip it.
    pub made_unix: Option<u64>,
    pub snapshot: FileInfo,
}

impl Timestamp {
    pub fn read(envelope: &Envelope) -> Result<Self> {
        let (signed, version, expires_unix) = common(envelope, Role::Timestamp)?;
        let snapshot = FileInfo::read(signed.object("meta")?.object("snapshot.json")?)?;
        let made_unix = signed.maybe(MADE).and_then(Value::as_u64);
        Ok(Self { version, expires_unix, made_unix, snapshot })
    }

    pub fn to_json(&self) -> Value {
        let mut signed = head(Role::Timestamp, self.version, self.expires_unix);
        signed["meta"] = json!({ "snapshot.json": self.snapshot.to_json() });
        if let Some(made) = self.made_unix {
            signed[MADE] = json!(made);
        }
        signed
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub version: u64,
    pub expires_unix: u64,
    /// By file name, such as `targets.json`.
    pub meta: BTreeMap<String, FileInfo>,
}

impl Snapshot {
    pub fn read(envelope: &Envelope) -> Result<Self> {
        let (signed, version, expires_unix) = common(envelope, Role::Snapshot)?;
        let mut meta = BTreeMap::new();
        for (name, info) in signed.object("meta")?.members()? {
            let info = FileInfo::read(Object::of(signed.role, name, info)?)?;
            meta.insert(name.to_string(), info);
        }
        Ok(Self { version, expires_unix, meta })
    }

    pub fn to_json(&self) -> Value {
        let meta: BTreeMap<_, _> = self.meta.iter().map(|(name, info)| (name, info.to_json())).collect();
        let mut signed = head(Role::Snapshot, self.version, self.expires_unix);
        signed["meta"] = json!(meta);
        signed
    }
}

/// One thing to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub length: u64,
    pub sha256: Option<[u8; 32]>,
    pub sha512: Option<Vec<u8>>,
    /// What the application says of it; null when it says nothing.
    pub custom: Value,
}

impl Target {
    pub fn of(bytes: &[u8], custom: Value) -> Self {
        let sha256 = Some(Sha256::digest(bytes).into());
        Self { length: bytes.len() as u64, sha256, sha512: None, custom }
    }

    fn read(object: Object<'_>) -> Result<Self> {
        let (sha256, sha512) = hashes(object)?;
        let custom = object.maybe("custom").cloned().unwrap_or(Value::Null);
        Ok(Self { length: object.whole("length")?, sha256, sha512, custom })
    }

    /// These are the target's bytes.
    pub fn check(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let (sha256, sha512) = (self.sha256.as_ref(), self.sha512.as_deref());
        check_content(path, "targets", bytes, Some(self.length), sha256, sha512)
    }

    fn to_json(&self) -> Value {
        let hash = self.sha256.map(|h| HEXLOWER.encode(&h));
        let mut value = json!({ "length": self.length, "hashes": { "sha256": hash } });
        if !self.custom.is_null() {
            value["custom"] = self.custom.clone();
        }
        value
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    pub version: u64,
    pub expires_unix: u64,
    /// By target path.
    pub targets: BTreeMap<String, Target>,
    pub delegations: Option<Delegations>,
}

impl Targets {
    pub fn read(envelope: &Envelope) -> Result<Self> {
        let (signed, version, expires_unix) = common(envelope, Role::Targets)?;
        let mut targets = BTreeMap::new();
        for (path, target) in signed.object("targets")?.members()? {
            targets.insert(path.to_string(), Target::read(Object::of(signed.role, path, target)?)?);
        }
        let delegations = signed.maybe("delegations").map(|_| signed.object("delegations"));
        let delegations = delegations.transpose()?.map(Delegations::read).transpose()?;
        Ok(Self { version, expires_unix, targets, delegations })
    }

    /// Without delegations, which are read and not written here.
    pub fn to_json(&self) -> Value {
        let targets: BTreeMap<_, _> = self.targets.iter().map(|(path, t)| (path, t.to_json())).collect();
        let mut signed = head(Role::Targets, self.version, self.expires_unix);
        signed["targets"] = json!(targets);
        signed
    }
}

fn head(role: Role, version: u64, expires_unix: u64) -> Value {
    json!({
        "_type": role.word(),
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": time::format(expires_unix),
    })
}

/// What every file has: its type, which must be the role's, and the format's, its own version, its end.
fn common(envelope: &Envelope, role: Role) -> Result<(Object<'_>, u64, u64)> {
    let signed = Object::of(role.word(), "signed", &envelope.signed)?;
    let found = signed.text("_type")?;
    if found != role.word() {
        return Err(malformed(role.word(), format!("its type is `{}`", cut(found))));
    }
    let spec = signed.text("spec_version")?;
    if !spec.starts_with("1.") {
        return Err(malformed(role.word(), format!("it follows specification `{}`, not 1.x", cut(spec))));
    }
    let expires = signed.text("expires")?;
    let unix = time::parse(expires)
        .ok_or_else(|| malformed(role.word(), format!("`{}` is not a time", cut(expires))))?;
    Ok((signed, version_of(signed)?, unix))
}

fn version_of(object: Object<'_>) -> Result<u64> {
    match object.whole("version")? {
        0 => Err(malformed(object.role, "versions begin with 1")),
        version => Ok(version),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(NAME_LEN_MAX.min(40)).collect()
}
