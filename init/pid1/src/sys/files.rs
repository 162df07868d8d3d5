//! File attributes (`chattr +i`, which efivarfs sets), and files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

nix::ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
nix::ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);

const FS_IMMUTABLE_FL: libc::c_long = 0x10;

/// Takes the immutable mark off `file`, where the file system has one.
pub fn make_mutable(file: &File) -> io::Result<()> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes an int there; a long is room enough, and starts as zero.
    unsafe { fs_ioc_getflags(file.as_raw_fd(), &mut flags) }?;
    if flags & FS_IMMUTABLE_FL != 0 {
        let flags = flags & !FS_IMMUTABLE_FL;
        // SAFETY: the kernel reads an int there.
        unsafe { fs_ioc_setflags(file.as_raw_fd(), &flags) }?;
    }
    Ok(())
}

/// Writes `path` so that a power cut leaves the old file, none, or the whole new one.
pub fn write_whole(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a text file of at most `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max + 1).read_to_string(&mut text)?;
    match text.len() as u64 > max {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes"))),
        false => Ok(text),
    }
}
