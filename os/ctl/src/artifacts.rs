//! What the image builder left: `artifacts.json` and the files beside it, with the names under which they travel.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use os_content_id::{CHUNK_SIZE, Hash, ManifestBuilder, Mcid};
use os_release::{Role, Version};
use serde::Deserialize;

const MAX_JSON: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Written {
    board: String,
    version: String,
    root: WrittenFile,
    uki: WrittenFile,
    /// Made along with a disk image.
    rescue: Option<WrittenFile>,
}

#[derive(Deserialize)]
struct WrittenFile {
    file: PathBuf,
    size: u64,
    verity_root: Option<String>,
}

#[derive(Debug)]
pub struct Artifacts {
    pub board: String,
    pub version: Version,
    pub files: Vec<ArtifactFile>,
}

#[derive(Debug)]
pub struct ArtifactFile {
    pub role: Role,
    pub path: PathBuf,
    /// `<board>-<version>-root.img`, `<board>-<version>-uki.efi`, `<board>-<version>-rescue.efi`: part of the MCID.
    pub name: String,
    pub size: u64,
    pub verity_root: Option<Hash>,
}

impl Artifacts {
    /// Reads `artifacts.json` in `dir` and checks that the files are there with the sizes it says.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("artifacts.json");
        let mut text = String::new();
        File::open(&path)
            .and_then(|f| f.take(MAX_JSON).read_to_string(&mut text))
            .with_context(|| format!("cannot read {}: the image builder writes it", path.display()))?;
        Self::parse(&text, dir).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, dir: &Path) -> Result<Self> {
        let w: Written = serde_json::from_str(text)?;
        let version = Version::parse(&w.version).map_err(|e| anyhow!("version `{}`: {e}", w.version))?;
        let verity = w.root.verity_root.as_deref().context("`root` lacks `verity_root`")?;
        let verity_root = HEXLOWER_PERMISSIVE.decode(verity.as_bytes()).ok().and_then(|h| h.try_into().ok());
        let verity_root = verity_root.context("`verity_root` is not 64 hex digits")?;
        let stem = format!("{}-{}", w.board, w.version);
        let root = file(dir, &w.root, Role::Root, format!("{stem}-root.img"), Some(verity_root))?;
        let uki = file(dir, &w.uki, Role::Uki, format!("{stem}-uki.efi"), None)?;
        let mut files = vec![root, uki];
        if let Some(rescue) = &w.rescue {
            files.push(file(dir, rescue, Role::Rescue, format!("{stem}-rescue.efi"), None)?);
        }
        Ok(Self { board: w.board, version, files })
    }
}

fn file(
    dir: &Path,
    w: &WrittenFile,
    role: Role,
    name: String,
    verity_root: Option<Hash>,
) -> Result<ArtifactFile> {
    let mut parts = w.file.components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        bail!("`{}`: {} is not the name of a file beside it", role.word(), w.file.display());
    }
    let path = dir.join(&w.file);
    let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size != w.size {
        bail!("{} is {size} bytes, should be {}: was it built anew meanwhile?", path.display(), w.size);
    }
    Ok(ArtifactFile { role, path, name, size, verity_root })
}

/// The MCID of a file under a name, read once. `progress` is told the bytes of each piece.
pub fn mcid_of_file(path: &Path, name: &str, progress: impl Fn(u64)) -> Result<(Mcid, u64)> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut hasher = ContentHasher::new(name);
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {shown}"))?;
        if n == 0 {
            return hasher.finish().with_context(|| format!("{shown} has no MCID"));
        }
        hasher.update(&buffer[..n]);
        progress(n as u64);
    }
}

/// Names content as it streams by: up to one chunk is a raw block, more is a manifest.
pub struct ContentHasher {
    manifest: ManifestBuilder,
    /// The content while it may still turn out to be a raw block.
    start: Vec<u8>,
    size: u64,
}

impl ContentHasher {
    /// With the chunk size that nodes use: content in other chunks is not recognised.
    pub fn new(name: &str) -> Self {
        let manifest = ManifestBuilder::new(name);
        Self { manifest, start: Vec::new(), size: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if self.size <= u64::from(CHUNK_SIZE) {
            self.start.extend_from_slice(bytes);
        }
        self.manifest.update(bytes);
    }

    /// The MCID under which a node stores it, and its size.
    pub fn finish(self) -> Result<(Mcid, u64)> {
        let raw = self.size <= u64::from(CHUNK_SIZE);
        let mcid = if raw { Mcid::of_raw(&self.start) } else { self.manifest.finish()?.mcid() };
        Ok((mcid, self.size))
    }

    /// Whether this is the content of `mcid`, in either form.
    pub fn is(self, mcid: &Mcid) -> bool {
        let raw = self.size <= u64::from(CHUNK_SIZE) && Mcid::of_raw(&self.start) == *mcid;
        raw || self.manifest.finish().is_ok_and(|list| list.mcid() == *mcid)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A folder as the image builder leaves it: a root of more than one chunk, a UKI of less.
    pub fn sample(dir: &Path) {
        std::fs::write(dir.join("root.img"), vec![7; 300_000]).unwrap();
        std::fs::write(dir.join("uki.efi"), b"MZ").unwrap();
        write_json(dir, |_| ());
    }

    fn write_json(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
        let mut json = serde_json::json!({
            "board": "x86-generic",
            "version": "0.2.0",
            "root": { "file": "root.img", "size": 300_000, "verity_root": "ab".repeat(32) },
            "uki": { "file": "uki.efi", "size": 2 },
        });
        change(&mut json);
        std::fs::write(dir.join("artifacts.json"), json.to_string()).unwrap();
    }

    #[test]
    fn artifacts_are_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let artifacts = Artifacts::load(dir.path()).unwrap();
        let [root, uki] = artifacts.files.as_slice() else { panic!("two artifacts") };
        assert_eq!(
            (root.name.as_str(), uki.name.as_str()),
            ("x86-generic-0.2.0-root.img", "x86-generic-0.2.0-uki.efi")
        );
        assert_eq!((root.verity_root, uki.verity_root), (Some([0xab; 32]), None));
        let (mcid, size) = mcid_of_file(&root.path, &root.name, |_| ()).unwrap();
        let mut builder = ManifestBuilder::new("x86-generic-0.2.0-root.img");
        builder.update(&[7; 300_000]);
        assert_eq!((mcid, size), (builder.finish().unwrap().mcid(), 300_000));
        assert_eq!(mcid_of_file(&uki.path, &uki.name, |_| ()).unwrap().0, Mcid::of_raw(b"MZ"));
    }

    #[test]
    fn a_rescue_system_comes_along_if_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        std::fs::write(dir.path().join("rescue.efi"), b"MZR").unwrap();
        write_json(dir.path(), |j| j["rescue"] = serde_json::json!({ "file": "rescue.efi", "size": 3 }));
        let files = Artifacts::load(dir.path()).unwrap().files;
        let rescue = files.iter().find(|f| f.role == Role::Rescue).unwrap();
        assert_eq!((rescue.name.as_str(), rescue.size), ("x86-generic-0.2.0-rescue.efi", 3));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |change: fn(&mut serde_json::Value), word: &str| {
            sample(dir.path());
            write_json(dir.path(), change);
            let error = format!("{:#}", Artifacts::load(dir.path()).unwrap_err());
            assert!(error.contains(word), "{error} should speak of {word}");
        };
        refused(|j| j["version"] = "1.0".into(), "version `1.0`");
        refused(|j| j["root"]["size"] = 1.into(), "should be 1");
        refused(|j| j["root"]["file"] = "../root.img".into(), "../root.img");
        refused(|j| j["root"]["file"] = "/etc/passwd".into(), "/etc/passwd");
        refused(|j| j["uki"]["file"] = "none".into(), "none");
        refused(|j| j["root"]["verity_root"] = "abcd".into(), "64 hex digits");
        refused(|j| j["root"] = serde_json::json!({"file": "root.img", "size": 300_000}), "verity_root");
        refused(|j| j["board"] = 7.into(), "string");
        assert!(Artifacts::load(&dir.path().join("none")).is_err());
    }

    #[test]
    fn content_is_recognised_in_both_forms() {
        let hasher = |bytes: &[u8]| {
            let mut h = ContentHasher::new("n");
            bytes.chunks(1000).for_each(|b| h.update(b));
            h
        };
        let (raw, _) = hasher(b"small").finish().unwrap();
        let mut builder = ManifestBuilder::new("n");
        builder.update(b"small");
        let manifest = builder.finish().unwrap().mcid();
        assert!(hasher(b"small").is(&raw) && hasher(b"small").is(&manifest));
        assert!(!hasher(b"smell").is(&raw) && !hasher(b"smell").is(&manifest));
        assert_eq!(
            hasher(&vec![0; CHUNK_SIZE as usize]).finish().unwrap().0.codec,
            os_content_id::Codec::Raw
        );
        assert_eq!(
            hasher(&vec![0; CHUNK_SIZE as usize + 1]).finish().unwrap().0.codec,
            os_content_id::Codec::Manifest
        );
    }
}
