//! `finit_module(2)`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;

/// Inserts a `.ko`, or a `.ko.xz` that the kernel decompresses, with its parameters (`key=value ...`). A module that is
/// already there is fine.
pub fn insert(path: &Path, parameters: &str) -> io::Result<()> {
    let parameters = CString::new(parameters)?;
    let file = File::open(path)?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if plain { 0 } else { MODULE_INIT_COMPRESSED_FILE };
    // SAFETY: an open descriptor, a terminated string, flags.
    let outcome =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags) };
    match if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) } {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        outcome => outcome,
    }
}
