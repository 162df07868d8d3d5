//! `getrandom`.

use anyhow::{Result, bail};

/// Random bytes. Blocks until the kernel has enough randomness, once.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: at most N bytes are written.
    let got = unsafe { nix::libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if got != N as isize {
        bail!("the kernel gave no random numbers: {}", std::io::Error::last_os_error());
    }
    Ok(bytes)
}
