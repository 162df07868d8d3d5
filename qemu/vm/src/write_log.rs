//! The log that [`Builder::record_writes`](crate::Builder::record_writes) leaves: what a guest wrote to its disk, in
//! order, with its flushes. Replaying a prefix of it on a copy of the disk gives the disk of a power cut at that moment.
//!
//! Format: dm-log-writes (Linux `Documentation/admin-guide/device-mapper/log-writes.rst`), version 1, little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// No request of a virtio-blk disk comes near; larger means a damaged log.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// A log, its index in memory and its data on disk.
#[derive(Debug)]
pub struct WriteLog {
    path: PathBuf,
    file: File,
    entries: Vec<LoggedWrite>,
}

/// One request in the order the guest's requests reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedWrite {
    /// Where on the disk, in bytes.
    pub offset: u64,
    pub bytes: u64,
    /// Everything before this request is on the disk.
    pub is_flush: bool,
    /// The range reads as zeros (or anything) afterwards; carries no data.
    pub is_discard: bool,
    data_at: u64,
}

impl WriteLog {
    /// Reads the index. A log without any entry may be an empty file: QEMU writes nothing until the guest does.
    ///
    /// # Errors
    /// [`Error::WriteLog`] if it is not such a log or ends within an entry.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let error = |what: String| Error::WriteLog { path: path.clone(), what };
        let file = File::open(&path).map_err(|source| error(format!("cannot open: {source}")))?;
        let length = file.metadata().map_err(|source| error(source.to_string()))?.len();
        let entries = if length == 0 { Vec::new() } else { read_index(&file, length).map_err(error)? };
        Ok(Self { path, file, entries })
    }

    /// How many requests a log holds that may still be growing: as many as there were at the guest's last flush.
    pub fn recorded(path: &Path) -> Result<usize, Error> {
        let error = |what: String| Error::WriteLog { path: path.to_owned(), what };
        let file = File::open(path).map_err(|source| error(format!("cannot open: {source}")))?;
        match file.metadata().map(|metadata| metadata.len()) {
            Ok(0) => Ok(0),
            _ => words(&file, 0).map(|[_, _, count, _]| count as usize).map_err(error),
        }
    }

    /// The data of a request; nothing for a flush or a discard.
    pub fn data(&self, entry: &LoggedWrite) -> Result<Vec<u8>, Error> {
        let bytes = if entry.is_discard { 0 } else { entry.bytes };
        let mut data = vec![0; bytes as usize];
        let read = self.file.read_exact_at(&mut data, entry.data_at);
        let what = |source| format!("cannot read at {}: {source}", entry.data_at);
        read.map_err(|source| Error::WriteLog { path: self.path.clone(), what: what(source) })?;
        Ok(data)
    }

    pub fn entries(&self) -> &[LoggedWrite] {
        &self.entries
    }

    /// Applies the first `count` requests to `disk`, which must hold what the recorded disk held at first.
    pub fn replay(&self, disk: &Path, count: usize) -> Result<(), Error> {
        let error = |what: String| Error::WriteLog { path: self.path.clone(), what };
        let target = File::options().write(true).open(disk);
        let target = target.map_err(|source| error(format!("cannot open {}: {source}", disk.display())))?;
        let mut buffer = Vec::new();
        for entry in self.entries.iter().take(count).filter(|entry| entry.bytes > 0) {
            buffer.clear();
            buffer.resize(entry.bytes as usize, 0);
            if !entry.is_discard {
                let read = self.file.read_exact_at(&mut buffer, entry.data_at);
                read.map_err(|source| error(format!("cannot read at {}: {source}", entry.data_at)))?;
            }
            let write = target.write_all_at(&buffer, entry.offset);
            write.map_err(|source| error(format!("cannot write {}: {source}", disk.display())))?;
        }
        Ok(())
    }
}

fn read_index(file: &File, length: u64) -> Result<Vec<LoggedWrite>, String> {
    let [magic, version, count, sector_bytes] = words(file, 0)?;
    // The superblock's fourth word is 32 bits wide.
    let sector_bytes = sector_bytes & 0xffff_ffff;
    if (magic, version) != (MAGIC, 1) || !matches!(sector_bytes, 512 | 4096) {
        return Err("is no dm-log-writes log of version 1".into());
    }
    let mut entries = Vec::new();
    let mut at = sector_bytes;
    for number in 0..count {
        let cut = || format!("entry {number} of {count} is damaged or cut off");
        let [sector, sectors, flags, _] = words(file, at).map_err(|_| cut())?;
        let offset = sector.checked_mul(sector_bytes).ok_or_else(cut)?;
        let bytes = if flags & MARK != 0 { 0 } else { sectors.checked_mul(sector_bytes).ok_or_else(cut)? };
        let is_discard = flags & DISCARD != 0;
        let data_at = at + sector_bytes;
        at = if is_discard { data_at } else { data_at.saturating_add(bytes) };
        if at > length || (bytes > ENTRY_BYTES_MAX && !is_discard) {
            return Err(cut());
        }
        entries.push(LoggedWrite {
            offset,
            bytes,
            is_flush: flags & (FLUSH | FUA) != 0,
            is_discard,
            data_at,
        });
    }
    Ok(entries)
}

fn words(file: &File, at: u64) -> Result<[u64; 4], String> {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at).map_err(|source| format!("cannot read at {at}: {source}"))?;
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    }

    fn sample() -> Vec<u8> {
        let write = |at, byte: u8| [sector([at, 1, 0, 512]), vec![byte; 512]].concat();
        [
            sector([MAGIC, 1, 4, 512]),
            write(1, b'a'),
            sector([0, 0, FLUSH, 0]),
            write(2, b'b'),
            sector([1, 1, DISCARD, 0]),
        ]
        .concat()
    }

    #[test]
    fn replays_a_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let (log_path, disk) = (folder.path().join("log"), folder.path().join("disk"));
        std::fs::write(&log_path, sample()).unwrap();
        let log = WriteLog::open(&log_path).unwrap();
        assert_eq!(
            log.entries().iter().map(|entry| entry.is_flush).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        assert_eq!(WriteLog::recorded(&log_path).unwrap(), 4);
        assert_eq!(log.data(&log.entries()[2]).unwrap(), [b'b'; 512]);
        assert!(log.data(&log.entries()[3]).unwrap().is_empty());
        let sectors = |count| {
            std::fs::write(&disk, [b'.'; 2048]).unwrap();
            log.replay(&disk, count).unwrap();
            let bytes = std::fs::read(&disk).unwrap();
            [bytes[0], bytes[512], bytes[1024], bytes[1536]]
        };
        assert_eq!(sectors(0), *b"....");
        assert_eq!(sectors(2), *b".a..");
        assert_eq!(sectors(4), *b".\0b.");
    }

    #[test]
    fn empty_is_fine_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            WriteLog::open(&path)
        };
        assert_eq!(open(b"").unwrap().entries(), []);
        assert!(open(&[7; 600]).unwrap_err().to_string().contains("dm-log-writes"));
        let cut = &sample()[..sample().len() - 600];
        assert!(open(cut).unwrap_err().to_string().contains("entry 2 of 4"));
    }
}
