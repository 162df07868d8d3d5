//! The partition from which a node takes its `macula.toml` at its first boot: in an image, on a card, or mounted somewhere.
//!
//! Found by the partition table, as the node itself finds it. What is no Macula image, or has booted already, is refused: its
//! configuration would not be taken.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
use gpt::GptConfig;
use gpt::partition::Partition;
use image_layout::{ENTRIES_DIR, ESP_TYPE, FACTORY_ATTRIBUTE, PROVISION_FILE, SECTOR_BYTES, STATE_TYPE};

use crate::whole_file;

/// Of the types of all partitions that are Macula's own.
const OWN_TYPES: &str = "6d616375-6c61-4f53-8001-";

/// Puts the file there; `image` is a raw image, a block device, or the folder where the partition is mounted. `replace`: also where
/// one lies already, or a node has booted.
pub fn write(image: &Path, text: &str, replace: bool) -> Result<()> {
    let kind = fs::metadata(image).with_context(|| format!("cannot read {}", image.display()))?.file_type();
    if kind.is_dir() {
        return write_to_folder(image, text, replace);
    }
    let flags = if kind.is_block_device() { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(image);
    let disk = opened.map_err(|e| in_use(image, e))?;
    let (start, bytes) = locate(&disk, replace).with_context(|| image.display().to_string())?;
    put(&mut Part { disk: &disk, start, bytes, at: 0 }, text, replace)
        .with_context(|| format!("cannot write {PROVISION_FILE} to {}", image.display()))?;
    disk.sync_all().with_context(|| format!("cannot write {}", image.display()))
}

fn in_use(image: &Path, error: io::Error) -> anyhow::Error {
    let what = format!("cannot open {}", image.display());
    match error.kind() {
        ErrorKind::ResourceBusy => anyhow::Error::new(error).context(format!(
            "{what}: unmount its partitions first, or name the folder where the first one is mounted"
        )),
        _ => anyhow::Error::new(error).context(what),
    }
}

/// Checks that the disk is one of ours that has not booted. Start and length of its first partition, in bytes.
fn locate(disk: &File, booted_too: bool) -> Result<(u64, u64)> {
    let table = GptConfig::new().writable(false).only_valid_headers(true).open_from_device(disk);
    let table = table.context("is no Macula OS image: it has no partition table (GPT)")?;
    let type_of = |p: &Partition| p.part_type_guid.guid.to_string().to_lowercase();
    let partitions = || table.partitions().values();
    if !partitions().any(|p| type_of(p).starts_with(OWN_TYPES)) {
        bail!("is no Macula OS image: none of its partitions is of a type that Macula OS has");
    }
    let state = partitions().find(|p| type_of(p) == STATE_TYPE).context("has no state partition")?;
    if state.flags & FACTORY_ATTRIBUTE == 0 && !booted_too {
        bail!(
            "has booted already, so its node has a configuration and would not take another: \
             `maculactl config set` changes it; --force writes the file for a node that was reset"
        );
    }
    let boot = partitions().find(|p| type_of(p) == ESP_TYPE).context("has no boot partition")?;
    let sectors = boot.last_lba.saturating_sub(boot.first_lba).saturating_add(1);
    Ok((boot.first_lba.saturating_mul(SECTOR_BYTES), sectors.saturating_mul(SECTOR_BYTES)))
}

fn put(part: &mut Part<'_>, text: &str, replace: bool) -> Result<()> {
    let file_system = FileSystem::new(part, FsOptions::new().time_provider(&FirstOfAll))
        .context("its first partition holds no FAT file system")?;
    {
        let top = file_system.root_dir();
        let entries = top.open_dir(ENTRIES_DIR).context("its boot partition has no boot entries")?;
        let ours = |name: &str| name.starts_with("macula-") && name.ends_with(".efi");
        if !entries.iter().filter_map(Result::ok).any(|e| ours(&e.file_name().to_lowercase())) {
            bail!("its boot partition has no boot entry of Macula OS");
        }
        if top.iter().filter_map(Result::ok).any(|e| e.file_name().eq_ignore_ascii_case(PROVISION_FILE))
            && !replace
        {
            bail!("it has one already; --force replaces it");
        }
        let mut file = top.create_file(PROVISION_FILE)?;
        file.truncate()?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
        let mut written = String::new();
        top.open_file(PROVISION_FILE)?.read_to_string(&mut written)?;
        if written != text {
            bail!("what was written does not read back: the medium may be broken");
        }
    }
    Ok(file_system.unmount()?)
}

fn write_to_folder(folder: &Path, text: &str, replace: bool) -> Result<()> {
    let shown = folder.display();
    let ours = |name: &str| name.starts_with("macula-") && name.ends_with(".efi");
    let entries = fs::read_dir(folder.join(ENTRIES_DIR));
    let names =
        entries.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().to_lowercase());
    if !names.into_iter().any(|name| ours(&name)) {
        bail!("{shown} is not the boot partition of a Macula OS image: {ENTRIES_DIR} has no macula-*.efi");
    }
    let file = folder.join(PROVISION_FILE);
    if file.exists() && !replace {
        bail!("{} exists; --force replaces it", file.display());
    }
    whole_file::write_private(&file, text.as_bytes())
}

/// FAT wants a date; a month of 0 is no date to some firmware.
#[derive(Debug)]
struct FirstOfAll;

impl TimeProvider for FirstOfAll {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// A partition as a file of its own, which cannot grow.
struct Part<'a> {
    disk: &'a File,
    start: u64,
    bytes: u64,
    at: u64,
}

impl Part<'_> {
    fn room(&mut self, wanted: usize) -> io::Result<usize> {
        self.disk.seek(SeekFrom::Start(self.start + self.at))?;
        Ok(wanted.min(usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX)))
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len())?;
        let n = self.disk.read(&mut buffer[..room])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room(bytes.len())?;
        let n = self.disk.write(&bytes[..room])?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(delta) => self.bytes.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.at.checked_add_signed(delta),
        };
        self.at =
            target.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "before the partition's start"))?;
        Ok(self.at)
    }
}
