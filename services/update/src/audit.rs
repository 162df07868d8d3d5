//! The audit log on the disk: `/state/update/audit/<number>.log`, appended and synced record by record.
//!
//! What a crash leaves is a torn last record; the next start cuts it off and says so. A log that was damaged in its middle
//! stays as it is, for whoever wants to look, and goes on in a new segment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use os_audit::{End, Head, Record};

/// A segment that has grown so far is followed by a new one.
const SEGMENT_MAX: u64 = 64 * 1024;
/// Segments that stay: with them the log is at most half a MiB, some thousand records.
const SEGMENTS_MAX: usize = 8;
const EXTENSION: &str = "log";

pub struct Audit {
    dir: PathBuf,
    /// Number of the newest segment.
    segment: u64,
    head: Head,
    segment_max: u64,
}

/// What a start found.
pub struct Opened {
    pub audit: Audit,
    /// What was wrong with the log, for the log.
    pub complaint: Option<String>,
}

impl Audit {
    pub fn open(dir: &Path) -> Result<Opened> {
        Self::open_with(dir, SEGMENT_MAX)
    }

    fn open_with(dir: &Path, segment_max: u64) -> Result<Opened> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let numbers = numbers(dir);
        let mut audit = Self { dir: dir.to_path_buf(), segment: 0, head: Head::START, segment_max };
        let mut complaint = None;
        for number in numbers {
            let path = audit.path(number);
            audit.segment = number;
            let bytes = read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let Some(segment) = os_audit::parse(&bytes) else {
                complaint = Some(format!("audit segment {number} is no audit log"));
                audit.segment += 1;
                continue;
            };
            audit.head = segment.head;
            match segment.end {
                End::Whole => {}
                End::Torn { at } => {
                    truncate(&path, at as u64)?;
                    complaint =
                        Some(format!("{} bytes of an unfinished record were cut off", bytes.len() - at));
                }
                End::Damaged { .. } => {
                    let after = audit.head.number;
                    complaint = Some(format!("audit segment {number} is damaged after record {after}"));
                    audit.segment += 1;
                }
            }
        }
        Ok(Opened { audit, complaint })
    }

    /// On the disk when this returns.
    pub fn append(&mut self, at_unix: u64, kind: &str, text: &str) -> Result<Record> {
        let (bytes, head, record) = os_audit::encode(self.head, at_unix, kind, text);
        let length = self.ready_segment()?;
        let path = self.path(self.segment);
        if let Err(e) = append(&path, &bytes) {
            // Half a record must not stay in the way of the next.
            let _ = truncate(&path, length);
            return Err(e).with_context(|| format!("cannot append to {}", path.display()));
        }
        self.head = head;
        Ok(record)
    }

    /// The whole log, oldest segment first.
    pub fn segments(&self) -> Vec<Vec<u8>> {
        numbers(&self.dir).into_iter().filter_map(|number| read(&self.path(number)).ok()).collect()
    }

    /// The length of the segment that the next record goes to, made if it has to be.
    fn ready_segment(&mut self) -> Result<u64> {
        match fs::metadata(self.path(self.segment)).map(|m| m.len()) {
            Ok(length) if length < self.segment_max => return Ok(length),
            Ok(_) => self.segment += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("cannot look at the audit log"),
        }
        let header = os_audit::header(self.head);
        let path = self.path(self.segment);
        begin(&path, &header).with_context(|| format!("cannot begin {}", path.display()))?;
        let numbers = numbers(&self.dir);
        for old in numbers.iter().rev().skip(SEGMENTS_MAX) {
            let _ = fs::remove_file(self.path(*old));
        }
        Ok(header.len() as u64)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}.{EXTENSION}"))
    }
}

/// Of the segments that are there, oldest first.
fn numbers(dir: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut numbers: Vec<u64> =
        names.filter_map(|n| n.strip_suffix(EXTENSION)?.strip_suffix('.')?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SEGMENT_MAX * 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A segment appears with its whole header or not at all.
fn begin(path: &Path, header: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(header)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn truncate(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Opened {
        Audit::open_with(dir, 400).unwrap()
    }

    fn texts(opened: &Opened) -> Vec<String> {
        let segments = opened.audit.segments();
        let records = segments.iter().filter_map(|bytes| os_audit::parse(bytes)).flat_map(|s| s.records);
        records.map(|r| r.text).collect()
    }

    #[test]
    fn records_survive_a_restart_and_the_chain_holds_over_segments() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            let mut opened = open(dir.path());
            assert_eq!(opened.complaint, None);
            opened.audit.append(n, "installed", &format!("release {n}")).unwrap();
        }
        let opened = open(dir.path());
        assert!(numbers(dir.path()).len() > 3 && numbers(dir.path()).len() <= SEGMENTS_MAX);
        let verified = os_audit::verify(&opened.audit.segments()).unwrap();
        assert_eq!(verified.head.number, 20);
    }

    #[test]
    fn old_segments_are_dropped_and_the_rest_still_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = open(dir.path()).audit;
        for n in 0..100 {
            audit
                .append(n, "installed", "a release with a rather long text, so that segments are soon full")
                .unwrap();
        }
        assert_eq!(numbers(dir.path()).len(), SEGMENTS_MAX);
        let verified = os_audit::verify(&audit.segments()).unwrap();
        assert!(verified.head.number == 100 && verified.records[0].number > 50);
    }

    #[test]
    fn a_cut_anywhere_in_the_last_record_loses_that_record_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = open(dir.path()).audit;
        audit.append(1, "installed", "one").unwrap();
        let path = audit.path(0);
        let before = fs::read(&path).unwrap();
        audit.append(2, "committed", "two").unwrap();
        let after = fs::read(&path).unwrap();
        for length in before.len() + 1..after.len() {
            fs::write(&path, &after[..length]).unwrap();
            let mut opened = open(dir.path());
            assert!(opened.complaint.as_ref().is_some_and(|c| c.contains("cut off")), "{length}");
            assert_eq!(texts(&opened), ["one"]);
            opened.audit.append(3, "committed", "again").unwrap();
            assert_eq!(texts(&open(dir.path())), ["one", "again"]);
            os_audit::verify(&open(dir.path()).audit.segments()).unwrap();
        }
    }

    #[test]
    fn damage_in_the_middle_is_said_kept_and_does_not_stop_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut audit = open(dir.path()).audit;
        for text in ["one", "two", "three"] {
            audit.append(1, "installed", text).unwrap();
        }
        let path = audit.path(0);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|w| w == b"two").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut opened = open(dir.path());
        assert!(opened.complaint.as_ref().is_some_and(|c| c.contains("damaged after record 1")));
        opened.audit.append(2, "installed", "four").unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "evidence stays");
        let opened = open(dir.path());
        assert_eq!(texts(&opened), ["one", "four"]);
        assert!(os_audit::verify(&opened.audit.segments()).is_err());
    }

    #[test]
    fn a_cut_while_a_segment_begins_leaves_no_segment() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00000000.new"), b"mac").unwrap();
        let mut opened = open(dir.path());
        assert!(texts(&opened).is_empty() && opened.complaint.is_none());
        opened.audit.append(1, "installed", "one").unwrap();
        assert_eq!(texts(&open(dir.path())), ["one"]);
    }
}
