//! Small files that survive a power cut at any instruction.
//!
//! A file is a BLAKE3 checksum (64 hex digits), a newline, then the content. It is written new, synced, and renamed over
//! the old one, whose content stays beside it as `<name>.previous`. A cut leaves the old or the new content; a file
//! that does not match its checksum is passed over for the previous one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Largest file read.
const MAX: u64 = 1024 * 1024;

/// Replaces the content of `path`.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = sibling(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(checksum(content).as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(content)?;
    file.sync_all()?;
    if read_one(path).is_some() {
        // A hard link, so that `path` itself exists at every moment.
        let previous = sibling(path, "previous");
        let _ = fs::remove_file(&previous);
        fs::hard_link(path, &previous)?;
    }
    fs::rename(&new, path)?;
    sync_dir(path)
}

/// The newest content that matches its checksum, or `None` when neither copy does.
pub fn read(path: &Path) -> Option<Vec<u8>> {
    read_one(path).or_else(|| read_one(&sibling(path, "previous")))
}

/// Removes the file and its previous copy; the previous one first, so that a cut cannot bring it back.
pub fn remove(path: &Path) -> io::Result<()> {
    for p in [sibling(path, "previous"), path.to_path_buf()] {
        match fs::remove_file(&p) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    sync_dir(path)
}

fn read_one(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX + 66).read_to_end(&mut bytes).ok()?;
    let content = bytes.get(65..)?;
    let intact = bytes[64] == b'\n' && bytes[..64] == *checksum(content).as_bytes();
    intact.then(|| content.to_vec())
}

fn checksum(content: &[u8]) -> String {
    os_content_id::hash(content).iter().map(|b| format!("{b:02x}")).collect()
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("macula-durable-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir.join("file")
    }

    #[test]
    fn the_newest_intact_content_is_read() {
        let path = scratch("newest");
        assert_eq!(read(&path), None);
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        let mut torn = fs::read(&path).unwrap();
        torn.pop();
        fs::write(&path, &torn).unwrap();
        assert_eq!(read(&path).unwrap(), b"one");
        // A torn file must not replace the good previous one.
        write(&path, b"three").unwrap();
        fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), b"one");
    }

    #[test]
    fn removed_is_removed_with_its_previous_copy() {
        let path = scratch("removed");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path), None);
    }
}
