//! The ESP for callers that look at it once: PID 1 before it starts anything else.

use std::path::Path;

use os_slots::Entry;

use crate::{Bootloader, DeviceFile, Result, Uefi};

/// A small file by its path from the top, such as `/macula.toml`; `None` if it is not there. Writes nothing.
pub fn read_small_file(device: &Path, path: &str, max: usize) -> Result<Option<Vec<u8>>> {
    Uefi::open(DeviceFile::open_read(device)?)?.read_file(path, max)
}

/// Overwrites a file with zeros and deletes it, by its path; nothing is written if it is not there.
pub fn remove_file(device: &Path, path: &str) -> Result<()> {
    Uefi::open(DeviceFile::open(device)?)?.remove_file(path).map(drop)
}

/// The entries that are ours, in the order in which the boot loader tries them. Writes nothing.
pub fn list_entries(device: &Path) -> Result<Vec<Entry>> {
    Uefi::open(DeviceFile::open_read(device)?)?.entries()
}
