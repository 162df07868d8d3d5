//! The owner's key in a file: 64 hex digits of the Ed25519 seed and a newline, readable by its owner alone.
//!
//! A crash while it is made leaves either no file or a short one, which is refused as such; an existing file is never
//! written to.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use os_identity::NodeKey;
use zeroize::Zeroizing;

/// A key file is 65 bytes; anything much longer is another kind of file.
const MAX_LEN: u64 = 256;

/// `$XDG_CONFIG_HOME/macula`, else `~/.config/macula`.
pub fn config_dir() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("macula"))
        .context("neither HOME nor XDG_CONFIG_HOME is set: say where the key is with --key FILE")
}

/// Where the key is unless `--key` says otherwise.
pub fn default_path() -> Result<PathBuf> {
    Ok(config_dir()?.join("owner.key"))
}

/// Makes a new key. Refuses to replace a file.
pub fn create(path: &Path) -> Result<NodeKey> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        private_dir(dir)?;
    }
    let key = NodeKey::generate().context("the kernel gave no random numbers")?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => anyhow!(
                "{} exists and is not replaced: a lost owner key cannot be made again; name another file with --key",
                path.display()
            ),
            _ => anyhow!("cannot create {}: {e}", path.display()),
        })?;
    let text = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(key.seed().as_ref()));
    let write = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n"));
    write.and_then(|()| file.sync_all()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}

/// Creates the directory for keys and known nodes, closed to others.
pub fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the directory {}", dir.display()))
}

/// Reads a key. Refuses a file that anybody but its owner can read.
pub fn load(path: &Path) -> Result<NodeKey> {
    let shown = path.display();
    let mut file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow!("no key at {shown}: make one with `maculactl key new`"),
        _ => anyhow!("cannot read the key {shown}: {e}"),
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MAX_LEN {
        bail!("{shown} is not a key file: it should hold 64 hex digits");
    }
    if meta.mode() & 0o077 != 0 {
        bail!("others can read the key {shown} (mode {:04o}): run `chmod 600 {shown}`", meta.mode() & 0o777);
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).with_context(|| format!("{shown} is not a key file"))?;
    parse(&text).with_context(|| format!("{shown} is not a key file: it should hold 64 hex digits"))
}

fn parse(text: &str) -> Option<NodeKey> {
    let bytes = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(text.trim_end().as_bytes()).ok()?);
    let seed = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
    Some(NodeKey::from_seed(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn error<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().expect("must be refused"))
    }

    #[test]
    fn a_new_key_is_private_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("macula/owner.key");
        let made = create(&path).unwrap();
        assert_eq!(load(&path).unwrap().node_id(), made.node_id());
        let mode = |p: &Path| fs::metadata(p).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.len(), text.ends_with('\n')), (65, true));
        assert!(error(create(&path)).contains("is not replaced"));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn what_others_can_read_or_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner.key");
        assert!(error(load(&path)).contains("maculactl key new"));
        create(&path).unwrap();
        for mode in [0o640, 0o604, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(error(load(&path)).contains("chmod 600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "\n", "zz", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64), &"0".repeat(300)] {
            fs::write(&path, bad).unwrap();
            assert!(error(load(&path)).contains("64 hex digits"), "{bad}");
        }
        fs::write(&path, [0xff; 64]).unwrap();
        assert!(error(load(&path)).contains("not a key file"));
        assert!(error(load(dir.path())).contains("not a key file"));
    }
}
