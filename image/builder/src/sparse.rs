//! Files with holes: copying without reading them, and a partition of a disk image as a file of its own.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

const BUFFER: usize = 1 << 20;
/// A run of this many zero bytes is left out when data is copied.
const BLOCK: usize = 4096;

/// The parts of `file` that hold data, in order. A file system that knows no holes reports one range.
pub fn data_ranges(file: &File, length: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match lseek(file, at as i64, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = (lseek(file, start as i64, Whence::SeekHole)? as u64).min(length);
        if end <= start {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// Writes all of `from` to `to` from `offset` on, leaving out blocks of zeros: `to` must have none but zeros there.
/// Calls `progress` with the number of bytes passed since the last call. Returns the length of `from`.
pub fn copy_into(from: &mut File, to: &mut File, offset: u64, mut progress: impl FnMut(u64)) -> Result<u64> {
    let length = from.metadata()?.len();
    let mut buffer = vec![0; BUFFER];
    let mut passed = 0;
    for range in data_ranges(from, length)? {
        from.seek(SeekFrom::Start(range.start))?;
        let mut at = range.start;
        while at < range.end {
            let wanted = BUFFER.min((range.end - at) as usize);
            from.read_exact(&mut buffer[..wanted])?;
            write_blocks(&buffer[..wanted], to, offset + at)?;
            at += wanted as u64;
            progress(at - passed);
            passed = at;
        }
    }
    progress(length - passed);
    Ok(length)
}

/// Copies a file and keeps its holes.
pub fn copy(from: &Path, to: &Path) -> Result<u64> {
    let mut source = File::open(from)?;
    let mut target = File::create(to)?;
    target.set_len(source.metadata()?.len())?;
    copy_into(&mut source, &mut target, 0, |_| {})
}

fn write_blocks(data: &[u8], to: &mut File, offset: u64) -> Result<()> {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut at = 0;
    for run in data
        .chunks(BLOCK)
        .map(|block| (is_zero(block), block.len()))
        .collect::<Vec<_>>()
        .chunk_by(|a, b| a.0 == b.0)
    {
        let length: usize = run.iter().map(|(_, length)| length).sum();
        if !run[0].0 {
            to.seek(SeekFrom::Start(offset + at as u64))?;
            to.write_all(&data[at..at + length])?;
        }
        at += length;
    }
    Ok(())
}

/// A range of a file, seen as a file that starts at 0 and cannot grow.
pub struct Slice<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    at: u64,
}

impl<'a> Slice<'a> {
    pub fn new(file: &'a File, start: u64, length: u64) -> Slice<'a> {
        Slice { file, start, length, at: 0 }
    }

    fn room(&mut self, wanted: usize) -> Result<usize> {
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        Ok(wanted.min(self.length.saturating_sub(self.at) as usize))
    }
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let room = self.room(buffer.len())?;
        let read = self.file.read(&mut buffer[..room])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Slice<'_> {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let room = self.room(data.len())?;
        let written = self.file.write(&data[..room])?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

impl Seek for Slice<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.length.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.at.checked_add_signed(delta),
        };
        self.at = target
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "seek before the start of a partition"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_stay_holes_and_data_stays_in_place() {
        let mut from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        for at in [5, 20 << 20, (64 << 20) - 1] {
            from.seek(SeekFrom::Start(at)).unwrap();
            from.write_all(b"x").unwrap();
        }
        let mut to = tempfile::tempfile().unwrap();
        to.set_len(65 << 20).unwrap();
        let mut passed = 0;
        copy_into(&mut from, &mut to, 1 << 20, |bytes| passed += bytes).unwrap();
        assert_eq!(passed, 64 << 20);
        let ranges = data_ranges(&to, 65 << 20).unwrap();
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        let mut byte = [0];
        to.seek(SeekFrom::Start((1 << 20) + 5)).unwrap();
        to.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn a_slice_ends_where_it_ends() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let mut slice = Slice::new(&file, 4, 3);
        assert_eq!(slice.write(b"abcdef").unwrap(), 3);
        assert_eq!(slice.write(b"d").unwrap(), 0);
        slice.seek(SeekFrom::End(-3)).unwrap();
        let mut text = String::new();
        slice.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert_eq!(slice.seek(SeekFrom::End(-4)).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(file.metadata().unwrap().len(), 10);
    }
}
