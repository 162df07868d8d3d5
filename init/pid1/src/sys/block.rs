//! Block device and file system ioctls: `linux/fs.h`, `linux/blkpg.h`, `fs/ext4/ext4.h`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
nix::ioctl_none!(blkrrpart, 0x12, 95);
nix::ioctl_write_ptr!(ext4_ioc_resize_fs, b'f', 16, u64);
nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);

const BLKPG: u64 = 0x1269;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Bytes of a block device.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: BLKGETSIZE64 writes one u64.
    unsafe { blkgetsize64(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Tells the kernel that partition `number` now has `length` bytes. Works while other partitions are in use.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    let number = i64::from(number) as libc::c_int;
    let (start, length) = (start as i64, length as i64);
    let mut partition = BlkpgPartition { start, length, pno: number, devname: [0; 64], volname: [0; 64] };
    let datalen = size_of::<BlkpgPartition>() as libc::c_int;
    let argument = BlkpgArgument { op: BLKPG_RESIZE_PARTITION, flags: 0, datalen, data: &mut partition };
    // SAFETY: both structures live across the call and have the kernel's layout.
    let outcome = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG as _, &argument) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel read the partition table again. Fails while a partition is in use.
pub fn reread_partitions(disk: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}

/// Tells the device that a range is unused. What is read there afterwards is not known; many devices cannot.
pub fn discard(device: &File, at: u64, length: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads two u64.
    unsafe { blkdiscard(device.as_raw_fd(), &[at, length]) }?;
    Ok(())
}

/// Makes a range zero, by the device's own command for that or by writing.
pub fn zero(device: &File, at: u64, length: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads two u64.
    unsafe { blkzeroout(device.as_raw_fd(), &[at, length]) }?;
    Ok(())
}

/// Grows the mounted ext4 that `folder` is on to `blocks`.
pub fn resize_ext4(folder: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads one u64.
    unsafe { ext4_ioc_resize_fs(folder.as_raw_fd(), &blocks) }?;
    Ok(())
}
