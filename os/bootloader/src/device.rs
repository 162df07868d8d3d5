//! The bytes below the file system: a partition's device node, or a region of a disk image.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::{Result, io_error};

/// A block device whose write order is the caller's: nothing is held back across [`BlockDevice::sync`].
pub trait BlockDevice {
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from byte `offset`.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()>;

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Returns when everything written so far is on stable storage.
    fn sync(&mut self) -> Result<()>;

    /// Forgets cached data, so that what is read next comes from the disk. A hint.
    fn drop_cache(&mut self) {}
}

/// A device node or image file, or a part of one.
pub struct DeviceFile {
    file: File,
    name: String,
    start: u64,
    len: u64,
}

impl DeviceFile {
    /// A whole device or file, for reading only.
    pub fn open_read(path: &Path) -> Result<Self> {
        Self::whole(path, OpenOptions::new().read(true))
    }

    /// A whole device or file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::whole(path, OpenOptions::new().read(true).write(true))
    }

    /// `len` bytes from `start` of a disk image.
    pub fn open_region(path: &Path, start: u64, len: u64) -> Result<Self> {
        let mut device = Self::open(path)?;
        let end = start.checked_add(len).filter(|end| *end <= device.len);
        if end.is_none() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "region ends after the image");
            return Err(io_error(format!("opening {}", device.name))(source));
        }
        (device.start, device.len) = (start, len);
        Ok(device)
    }

    fn whole(path: &Path, options: &mut OpenOptions) -> Result<Self> {
        let name = path.display().to_string();
        let open = |options: &OpenOptions| -> std::io::Result<(File, u64)> {
            let mut file = options.open(path)?;
            let len = file.seek(SeekFrom::End(0))?;
            Ok((file, len))
        };
        let (file, len) =
            open(options.custom_flags(nix::libc::O_CLOEXEC)).map_err(io_error(format!("opening {name}")))?;
        Ok(Self { file, name, start: 0, len })
    }

    fn seek(&mut self, offset: u64, count: usize) -> std::io::Result<()> {
        if offset.checked_add(count as u64).is_none_or(|end| end > self.len) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "past the end of the partition",
            ));
        }
        self.file.seek(SeekFrom::Start(self.start + offset)).map(drop)
    }
}

impl BlockDevice for DeviceFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let read = self.seek(offset, buf.len()).and_then(|()| self.file.read_exact(buf));
        read.map_err(|e| io_error(format!("reading {} bytes at {offset} of {}", buf.len(), self.name))(e))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.seek(offset, data.len()).and_then(|()| self.file.write_all(data));
        written.map_err(|e| io_error(format!("writing {} bytes at {offset} of {}", data.len(), self.name))(e))
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| io_error(format!("flushing {}", self.name))(e))
    }

    fn drop_cache(&mut self) {
        // A hint: if the kernel refuses, reading back still checks what we wrote, only from memory.
        let _ = posix_fadvise(
            &self.file,
            self.start as i64,
            self.len as i64,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
    }
}
