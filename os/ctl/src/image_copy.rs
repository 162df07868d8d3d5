//! A copy of a disk image that takes no more room than it must: shared blocks where the file system can, holes elsewhere. Packed images
//! (`.zst`) are unpacked.
//!
//! The copy gets its name when it is whole; what a crash leaves is a temporary file beside it.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use tempfile::NamedTempFile;

const BUFFER: usize = 1 << 20;
/// A run of so many zeros becomes a hole.
const BLOCK: usize = 4096;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// No image is larger unpacked: what claims to be is a mistake or an attack.
const BYTES_MAX: u64 = 1 << 40;

pub fn is_packed(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) => Ok(magic == ZSTD_MAGIC),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A copy of `from` in the folder of `to`, not yet under its name: [`finish`] gives it that.
pub fn begin(from: &Path, to: &Path, bar: &ProgressBar) -> Result<NamedTempFile> {
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut copy = tempfile::Builder::new().prefix(".maculactl-").tempfile_in(folder);
    let copied = match &mut copy {
        Ok(copy) => fill(from, copy.as_file_mut(), bar),
        Err(e) => Err(Error::new(e.kind(), e.to_string()).into()),
    };
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(copy?)
}

pub fn finish(copy: NamedTempFile, to: &Path) -> Result<()> {
    copy.as_file().sync_all()?;
    copy.persist(to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

fn fill(from: &Path, to: &mut File, bar: &ProgressBar) -> Result<()> {
    let mut source = File::open(from)?;
    bar.set_length(source.metadata()?.len());
    if is_packed(from)? {
        let counted = bar.wrap_read(BufReader::new(source));
        return copy_data(&mut zstd::stream::read::Decoder::new(counted)?, to, 0, &ProgressBar::hidden());
    }
    // SAFETY: a plain system call on two files that are open; where it does not work it does nothing.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let length = source.metadata()?.len();
    let mut at = 0;
    while let Some(data) = next_data(&source, at, length)? {
        source.seek(SeekFrom::Start(data.start))?;
        bar.set_position(data.start);
        copy_data(&mut (&source).take(data.end - data.start), to, data.start, bar)?;
        at = data.end;
    }
    Ok(to.set_len(length)?)
}

/// The next stretch of a file that is no hole. File systems that know no holes say that all is data.
fn next_data(file: &File, from: u64, length: u64) -> Result<Option<std::ops::Range<u64>>> {
    let seek = |to: u64, whence| -> Result<Option<u64>> {
        // SAFETY: a plain system call without a pointer.
        match unsafe { libc::lseek(file.as_raw_fd(), to as i64, whence) } {
            at if at >= 0 => Ok(Some(at as u64)),
            _ => match Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                e => Err(e.into()),
            },
        }
    };
    if from >= length {
        return Ok(None);
    }
    let Some(start) = seek(from, libc::SEEK_DATA)? else { return Ok(None) };
    let end = seek(start, libc::SEEK_HOLE)?.unwrap_or(length).min(length);
    Ok((start < end).then_some(start..end))
}

fn copy_data(from: &mut impl Read, to: &mut File, offset: u64, bar: &ProgressBar) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = offset;
    loop {
        let filled = read_full(from, &mut buffer)?;
        for (n, block) in buffer[..filled].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                to.seek(SeekFrom::Start(at + (n * BLOCK) as u64))?;
                to.write_all(block)?;
            }
        }
        at += filled as u64;
        bar.inc(filled as u64);
        if at > BYTES_MAX {
            bail!("it is larger than any image");
        }
        if filled < buffer.len() {
            break;
        }
    }
    Ok(to.set_len(at.max(to.metadata()?.len()))?)
}

fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_are_the_same_and_stay_small() {
        let dir = tempfile::tempdir().unwrap();
        let [image, packed, copy] = ["a.img", "a.img.zst", "b.img"].map(|name| dir.path().join(name));
        let mut file = File::create(&image).unwrap();
        file.set_len((40 << 20) + 7).unwrap();
        for at in [0, 5 << 20, (40 << 20) + 6] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(b"x").unwrap();
        }
        let bytes = std::fs::read(&image).unwrap();
        std::fs::write(&packed, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        assert!(is_packed(&packed).unwrap() && !is_packed(&image).unwrap());
        for from in [&image, &packed] {
            let whole = begin(from, &copy, &ProgressBar::hidden()).unwrap();
            finish(whole, &copy).unwrap();
            assert!(std::fs::read(&copy).unwrap() == bytes, "{}", from.display());
            assert!(std::fs::metadata(&copy).unwrap().blocks() * 512 < 8 << 20);
        }
        std::fs::write(&packed, ZSTD_MAGIC).unwrap();
        let error = format!("{:#}", begin(&packed, &copy, &ProgressBar::hidden()).unwrap_err());
        assert!(error.contains("a.img.zst"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left behind");
    }
}
