//! A write as the list of its system calls, so that a test can cut it after each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{previous, sibling};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Missing is fine.
    Remove(PathBuf),
    Create {
        path: PathBuf,
        bytes: Vec<u8>,
        mode: u32,
    },
    Sync(PathBuf),
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// Of the folder that this file is in.
    SyncFolderOf(PathBuf),
}

/// Replaces `path`. With `keep_previous` its present content becomes the previous copy by a second name, so that `path`
/// itself exists at every moment.
pub fn write(path: &Path, bytes: Vec<u8>, mode: u32, keep_previous: bool) -> Vec<Step> {
    let (new, link) = (sibling(path, "new"), sibling(path, "link"));
    let mut steps = vec![
        Step::Remove(new.clone()),
        Step::Create { path: new.clone(), bytes, mode },
        Step::Sync(new.clone()),
    ];
    if keep_previous {
        steps.push(Step::Remove(link.clone()));
        steps.push(Step::Link { from: path.to_path_buf(), to: link.clone() });
        steps.push(Step::Rename { from: link, to: previous(path) });
    }
    steps.push(Step::Rename { from: new, to: path.to_path_buf() });
    steps.push(Step::SyncFolderOf(path.to_path_buf()));
    steps
}

impl Step {
    pub fn run(&self) -> io::Result<()> {
        match self {
            Step::Remove(path) => match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
            Step::Create { path, bytes, mode } => {
                OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?.write_all(bytes)
            }
            Step::Sync(path) => File::open(path)?.sync_all(),
            Step::Link { from, to } => fs::hard_link(from, to),
            Step::Rename { from, to } => fs::rename(from, to),
            Step::SyncFolderOf(path) => match path.parent() {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, Found};

    /// What a cut may leave of data that was written and not synced yet.
    const TORN: [fn(&mut Vec<u8>); 4] = [|_| (), |b| b.clear(), |b| b.fill(0), |b| b.truncate(b.len() / 2)];

    /// Performs the first `count` steps; data that no sync followed is torn.
    fn cut(steps: &[Step], count: usize, tear: fn(&mut Vec<u8>)) {
        steps[..count].iter().for_each(|step| step.run().unwrap());
        if let Some(Step::Create { path, bytes, .. }) = count.checked_sub(1).map(|last| &steps[last]) {
            let mut bytes = bytes.clone();
            tear(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
    }

    fn steps_of(form: Form, path: &Path, content: &[u8]) -> Vec<Step> {
        write(path, form.encode(content), form.mode(), form.read(path) == Found::Newest(b"old\n".to_vec()))
    }

    #[test]
    fn a_cut_after_any_step_leaves_the_old_or_the_new_content_and_the_next_write_works() {
        for form in [Form::Record, Form::Text] {
            let count = {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("file");
                form.write(&path, b"old\n").unwrap();
                steps_of(form, &path, b"new\n").len()
            };
            assert_eq!(count, 8);
            for (at, tear) in (0..=count).flat_map(|at| TORN.map(|tear| (at, tear))) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("file");
                form.write(&path, b"older\n").unwrap();
                form.write(&path, b"old\n").unwrap();
                cut(&steps_of(form, &path, b"new\n"), at, tear);
                let expected = if at < 7 { b"old\n" } else { b"new\n" };
                assert_eq!(form.read(&path), Found::Newest(expected.to_vec()), "{form:?} cut after {at}");
                let mut bad = fs::read(&path).unwrap();
                bad[3] ^= 1;
                fs::write(dir.path().join("spoilt"), bad).unwrap();
                fs::rename(dir.path().join("spoilt"), &path).unwrap();
                assert!(
                    matches!(form.read(&path), Found::Previous(_)),
                    "{form:?} cut after {at}, then damage"
                );
                form.write(&path, b"next\n").unwrap();
                assert_eq!(form.read(&path), Found::Newest(b"next\n".to_vec()));
            }
        }
    }

    #[test]
    fn a_cut_in_the_first_write_ever_leaves_nothing_or_all_of_it() {
        for form in [Form::Record, Form::Text] {
            for (at, tear) in (0..=5).flat_map(|at| TORN.map(|tear| (at, tear))) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("file");
                cut(&steps_of(form, &path, b"new\n"), at, tear);
                let expected = if at < 4 { Found::Absent } else { Found::Newest(b"new\n".to_vec()) };
                assert_eq!(form.read(&path), expected, "{form:?} cut after {at}");
                form.write(&path, b"next\n").unwrap();
                assert_eq!(form.read(&path), Found::Newest(b"next\n".to_vec()));
            }
        }
    }

    #[test]
    fn the_new_content_is_on_the_disk_before_its_name_is() {
        let steps = write(Path::new("/d/f"), vec![1], 0o600, true);
        let at = |wanted: &Step| steps.iter().position(|s| s == wanted).unwrap();
        let name = at(&Step::Rename { from: "/d/f.new".into(), to: "/d/f".into() });
        assert!(at(&Step::Sync("/d/f.new".into())) < name);
        assert_eq!(at(&Step::SyncFolderOf("/d/f".into())), name + 1);
    }
}
