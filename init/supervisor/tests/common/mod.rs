//! What the tests that need root share: a root of its own below a temporary directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub const SUPERVISOR: &str = env!("CARGO_BIN_EXE_supervisor");

/// Prints why when false.
pub fn is_root(test: &str) -> bool {
    // SAFETY: plain system call.
    let root = unsafe { libc::getuid() } == 0;
    if !root {
        println!("SKIPPED {test}: it makes namespaces and changes users, so it needs root");
    }
    root
}

#[allow(dead_code, reason = "each test file uses its share of this module")]
/// Whether this kernel enforces Landlock; prints when not.
pub fn has_landlock() -> bool {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: the documented way to ask for the version: no attributes, size 0.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    if version < 1 {
        println!("this kernel does not enforce Landlock: file rules are not tested here");
    }
    version >= 1
}

/// A directory that every user may enter.
pub fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Copies a program to where every user may run it.
pub fn install(program: &Path, dir: &Path) -> PathBuf {
    let copy = dir.join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}
