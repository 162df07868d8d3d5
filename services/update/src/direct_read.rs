//! Reading back what was written, from the disk and not from the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// `O_DIRECT` wants memory, offset and length aligned to the device's block; 4096 covers them all.
const ALIGN: usize = 4096;

/// Reads a file or device in order, past the page cache where the file system allows it.
pub struct DirectReader {
    file: File,
    buf: Vec<u8>,
    aligned_from: usize,
    capacity: usize,
}

impl DirectReader {
    /// `piece` is the largest length that [`DirectReader::read`] is asked for.
    pub fn open(path: &Path, piece: usize) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let file = match direct {
            Ok(file) => file,
            // tmpfs, for one, has no direct reads; then at least forget what is cached.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let file = File::open(path)?;
                let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
                file
            }
            Err(e) => return Err(e),
        };
        let capacity = piece.next_multiple_of(ALIGN);
        let buf = vec![0; capacity + ALIGN];
        let aligned_from = buf.as_ptr().align_offset(ALIGN);
        Ok(Self { file, buf, aligned_from, capacity })
    }

    /// `len` bytes from `offset`, which must be a multiple of 4096.
    pub fn read(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        if len > self.capacity || !offset.is_multiple_of(ALIGN as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let piece = &mut self.buf[self.aligned_from..self.aligned_from + len.next_multiple_of(ALIGN)];
        self.file.seek(SeekFrom::Start(offset))?;
        let mut got = 0;
        while got < len {
            match self.file.read(&mut piece[got..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        Ok(&piece[..len])
    }
}
