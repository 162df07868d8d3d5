//! Small files that survive a power cut at any instruction, and damage to their newest copy.
//!
//! A file carries its own checksum ([`Form`]). It is written new, synced, and renamed over the old one, whose content
//! stays beside it as `<name>.previous`; then the folder is synced. A cut leaves the old or the new content; a file
//! that does not match its checksum is passed over for the previous one. What must never step back to an older
//! content (an owner, a key) is [mirrored](Form::mirror): both copies hold the same.

mod form;
mod steps;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use form::Form;

/// Largest content.
pub const CONTENT_MAX: u64 = 1024 * 1024;

/// What there is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The newest copy, whole.
    Newest(Vec<u8>),
    /// The newest copy is damaged or missing; this is the one before it.
    Previous(Vec<u8>),
    /// Only with [`Form::Text`]: no copy is whole, but this file carries no checksum at all, so a person wrote it (or a
    /// release that knew none), or it was cut off.
    Unsealed(Vec<u8>),
    /// There is a file, and nothing in it or beside it is whole.
    Damaged,
    Absent,
}

impl Found {
    /// The content of a whole copy.
    pub fn content(self) -> Option<Vec<u8>> {
        match self {
            Found::Newest(content) | Found::Previous(content) => Some(content),
            Found::Unsealed(_) | Found::Damaged | Found::Absent => None,
        }
    }
}

impl Form {
    /// Replaces the content of `path`; the old one stays as the previous copy.
    pub fn write(self, path: &Path, content: &[u8]) -> io::Result<()> {
        if content.len() as u64 > CONTENT_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {CONTENT_MAX} bytes"),
            ));
        }
        let keep_previous = self.copy(path).is_some();
        steps::write(path, self.encode(content), self.mode(), keep_previous).iter().try_for_each(|s| s.run())
    }

    /// Makes both copies of `path` hold `content`; each is whole or the other one is, at every moment. Writes nothing
    /// when they do already. Whether anything was written.
    pub fn mirror(self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let whole = self.encode(content);
        let holds = |p: &Path| bytes(p).is_ok_and(|b| b == whole);
        let mut written = false;
        if !holds(path) {
            self.write(path, content)?;
            written = true;
        }
        if !holds(&previous(path)) {
            self.write(path, content)?;
            written = true;
        }
        Ok(written)
    }

    pub fn read(self, path: &Path) -> Found {
        if let Some(content) = self.copy(path) {
            return Found::Newest(content);
        }
        if let Some(content) = self.copy(&previous(path)) {
            return Found::Previous(content);
        }
        match bytes(path) {
            Ok(bytes) if self.may_be_unsealed(&bytes) => Found::Unsealed(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !previous(path).exists() => Found::Absent,
            _ => Found::Damaged,
        }
    }

    fn copy(self, path: &Path) -> Option<Vec<u8>> {
        self.decode(&bytes(path).ok()?)
    }
}

/// Removes the file and its previous copy; the previous one first, so that a cut cannot bring it back.
pub fn remove(path: &Path) -> io::Result<()> {
    for p in [previous(path), path.to_path_buf()] {
        match fs::remove_file(&p) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    steps::Step::SyncFolderOf(path.to_path_buf()).run()
}

/// Where the copy before the newest is.
pub fn previous(path: &Path) -> PathBuf {
    sibling(path, "previous")
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let limit = CONTENT_MAX + form::OVERHEAD_MAX;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        (dir, path)
    }

    /// Ways in which a disk or a person spoils a file.
    type Spoil = fn(&mut Vec<u8>);
    const SPOILS: [(&str, Spoil); 5] = [
        ("one bit flipped", |b| b[0] ^= 1),
        ("last byte lost", |b| b.truncate(b.len() - 1)),
        ("emptied", Vec::clear),
        ("zeroed", |b| b.fill(0)),
        ("half lost", |b| b.truncate(b.len() / 2)),
    ];

    #[test]
    fn damage_to_the_newest_copy_leaves_the_previous_one() {
        for form in [Form::Record, Form::Text] {
            for (what, spoil) in SPOILS {
                let (_dir, path) = scratch();
                assert_eq!(form.read(&path), Found::Absent);
                form.write(&path, b"one = 1\n").unwrap();
                form.write(&path, b"two = 2\n").unwrap();
                assert_eq!(form.read(&path), Found::Newest(b"two = 2\n".to_vec()));
                let mut bytes = fs::read(&path).unwrap();
                spoil(&mut bytes);
                fs::write(&path, &bytes).unwrap();
                assert_eq!(form.read(&path), Found::Previous(b"one = 1\n".to_vec()), "{form:?}: {what}");
                // The damaged file must not replace the good previous one.
                form.write(&path, b"three").unwrap();
                fs::write(&path, b"").unwrap();
                assert_eq!(form.read(&path), Found::Previous(b"one = 1\n".to_vec()), "{form:?}: {what}");
            }
        }
    }

    #[test]
    fn mirrored_content_survives_damage_to_either_copy_and_steps_back_to_nothing() {
        for form in [Form::Record, Form::Text] {
            for (what, spoil) in SPOILS {
                for spoilt in [|p: &Path| p.to_path_buf(), previous] {
                    let (_dir, path) = scratch();
                    form.mirror(&path, b"old\n").unwrap();
                    assert!(form.mirror(&path, b"new\n").unwrap());
                    assert!(
                        !form.mirror(&path, b"new\n").unwrap(),
                        "nothing is written when nothing changes"
                    );
                    let mut bytes = fs::read(spoilt(&path)).unwrap();
                    spoil(&mut bytes);
                    fs::write(spoilt(&path), &bytes).unwrap();
                    let read = form.read(&path).content().unwrap();
                    assert_eq!(read, b"new\n", "{form:?}: {what}");
                    assert!(form.mirror(&path, &read).unwrap());
                    fs::write(spoilt(&path), b"").unwrap();
                    assert_eq!(form.read(&path).content().unwrap(), b"new\n");
                }
            }
        }
    }

    #[test]
    fn damage_to_both_copies_is_told_from_absence() {
        let (_dir, path) = scratch();
        Form::Record.mirror(&path, b"one").unwrap();
        fs::write(&path, b"rubbish").unwrap();
        fs::write(previous(&path), b"").unwrap();
        assert_eq!(Form::Record.read(&path), Found::Damaged);
        fs::remove_file(&path).unwrap();
        assert_eq!(Form::Record.read(&path), Found::Damaged);
    }

    #[test]
    fn a_text_without_a_seal_is_taken_only_when_no_copy_is_whole() {
        let (_dir, path) = scratch();
        fs::write(&path, "name = \"x\"\n").unwrap();
        assert_eq!(Form::Text.read(&path), Found::Unsealed(b"name = \"x\"\n".to_vec()));
        Form::Text.mirror(&path, b"name = \"y\"\n").unwrap();
        fs::write(&path, "name = \"x\"\n").unwrap();
        assert_eq!(Form::Text.read(&path), Found::Previous(b"name = \"y\"\n".to_vec()));
    }

    #[test]
    fn removed_is_removed_with_its_previous_copy() {
        let (_dir, path) = scratch();
        Form::Record.write(&path, b"one").unwrap();
        Form::Record.write(&path, b"two").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(Form::Record.read(&path), Found::Absent);
    }

    #[test]
    fn too_much_is_refused_and_changes_nothing() {
        let (_dir, path) = scratch();
        Form::Record.write(&path, b"one").unwrap();
        assert!(Form::Record.write(&path, &vec![0; CONTENT_MAX as usize + 1]).is_err());
        assert_eq!(Form::Record.read(&path), Found::Newest(b"one".to_vec()));
        Form::Text.write(&path, &vec![b'x'; CONTENT_MAX as usize]).unwrap();
        assert!(matches!(Form::Text.read(&path), Found::Newest(_)));
    }
}
