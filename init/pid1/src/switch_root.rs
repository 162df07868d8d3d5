//! From the initramfs into the root, without leaving this process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;
use nix::unistd::{chdir, chroot};

/// Mounts that move along. Their mount points must exist in the root, which is read-only.
const MOVED: [&str; 4] = ["/proc", "/sys", "/dev", "/state"];
/// Mount points that the next stage needs.
const NEEDED: [&str; 3] = ["/run", "/tmp", "/etc"];

/// `f_type` of the two kinds of file system that an initramfs can be: ramfs and tmpfs (linux/magic.h).
const IN_MEMORY: [u32; 2] = [0x8584_58f6, 0x0102_1994];

/// Moves the mounts, frees the initramfs and makes `new_root` the root.
pub fn switch(new_root: &str) -> Result<()> {
    // All checks first: once a mount has moved, a failure could no longer be written down.
    for point in MOVED.iter().chain(&NEEDED) {
        if !Path::new(&format!("{new_root}{point}")).is_dir() {
            bail!("the root has no folder {point}; the image was built without it");
        }
    }
    for point in MOVED {
        let none: Option<&str> = None;
        mount(Some(point), format!("{new_root}{point}").as_str(), none, MsFlags::MS_MOVE, none)
            .with_context(|| format!("cannot move {point}"))?;
    }
    chdir(new_root).context("cannot enter the new root")?;
    free_initramfs();
    let none: Option<&str> = None;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none).context("cannot move the new root to /")?;
    chroot(".").context("cannot change root")?;
    chdir("/").context("cannot enter the root")
}

/// Makes the initramfs, as it is now, unwritable; what is mounted in it is not concerned.
pub fn make_read_only() -> Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/", none, flags, none).context("the root stays writable")
}

/// Removes the initramfs's files, whose memory is otherwise lost for good. Only if it is one.
fn free_initramfs() {
    let in_memory = statfs("/").is_ok_and(|fs| IN_MEMORY.contains(&(fs.filesystem_type().0 as u32)));
    if let (true, Ok(root)) = (in_memory, fs::metadata("/")) {
        remove_below(Path::new("/"), root.dev());
    }
}

/// Like `rm -r` within one file system; other mounts, the new root among them, are not entered.
fn remove_below(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            remove_below(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
