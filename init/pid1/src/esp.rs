//! The ESP, read and written on its block device: mounting FAT would set a dirty mark for nothing.
//!
//! A power cut while the provisioning file is removed leaves it there (and the next boot removes it, since a
//! configuration exists by then) or leaves lost clusters, which are harmless.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fatfs::{FileSystem, FsOptions};
use image_layout::{ENTRIES_DIR, PROVISION_FILE};
use os_slots::Entry;

/// Largest configuration that is taken over.
const CONFIG_BYTES_MAX: u64 = 64 << 10;
/// More files than this in the entries' folder are not looked at.
const ENTRIES_MAX: usize = 256;

/// Every entry of ours on the ESP. Other files are skipped.
pub fn entries(device: &str) -> Result<Vec<Entry>> {
    let fs = open(device, false)?;
    let folder =
        fs.root_dir().open_dir(ENTRIES_DIR).with_context(|| format!("no {ENTRIES_DIR} on {device}"))?;
    let names = folder.iter().take(ENTRIES_MAX).filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// The owner's configuration file, if there is one.
pub fn provision_file(device: &str) -> Result<Option<Vec<u8>>> {
    let fs = open(device, false)?;
    let mut file = match fs.root_dir().open_file(PROVISION_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {PROVISION_FILE} on {device}")),
    };
    let mut bytes = Vec::new();
    (&mut file).take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        bail!("{PROVISION_FILE} on the ESP is longer than {CONFIG_BYTES_MAX} bytes and is not taken over");
    }
    Ok(Some(bytes))
}

pub fn remove_provision_file(device: &str) -> Result<()> {
    let fs = open(device, true)?;
    fs.root_dir().remove(PROVISION_FILE)?;
    fs.unmount()?;
    File::open(Path::new(device))?.sync_all()?;
    Ok(())
}

fn open(device: &str, write: bool) -> Result<FileSystem<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(device)
        .with_context(|| format!("cannot open {device}"))?;
    let options = FsOptions::new().update_accessed_date(false);
    FileSystem::new(file, options).with_context(|| format!("{device} holds no FAT file system"))
}
