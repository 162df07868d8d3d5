//! The ESP: FAT32 inside a disk image, written in place, and files put on it afterwards.
//!
//! Made without time stamps and with a fixed volume id, so equal content gives equal bytes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
use image_layout::{BOOT_LOADER_PATH, ENTRIES_DIR, ESP, LOADER_CONF_PATH, RESCUE_ENTRY};

use crate::error::{At, BuildError, Result};
use crate::fat::{self, Volume};
use crate::sparse::Slice;

const VOLUME_ID: u32 = 0x4d41_4355;
const LABEL: [u8; 11] = *b"MACULA ESP ";

/// `timeout 0`: no menu. `reboot-on-error`: a UKI that cannot be loaded costs its trial a try instead of a visit of
/// the firmware's shell. No `default`: it would make systemd-boot ignore exhausted tries.
const LOADER_CONF: &str = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nreboot-on-error yes\n";

/// Keys beside it: in a machine whose firmware has none, systemd-boot offers them in its menu (any key at its start shows
/// it) and, where nothing can be bricked by them, in a virtual machine, enrols them by itself.
const ENROL_CONF: &str = "secure-boot-enroll if-safe\nsecure-boot-enroll-timeout-sec 5\n";

/// Where the firmware has random numbers, systemd-boot makes itself a seed file and rewrites it at every boot. The kernel gets
/// the firmware's numbers without it, and a boot must write nothing here; systemd-boot leaves alone what is longer than 32 KiB.
const RANDOM_SEED_PATH: &str = "loader/random-seed";
const RANDOM_SEED_BYTES: usize = 36 * 1024;
const RANDOM_SEED_TEXT: &str = "Too long on purpose: so systemd-boot does not write here at every boot.\n";

/// What the ESP of a new image holds.
pub struct Content<'a> {
    /// systemd-boot.
    pub boot_loader: &'a [u8],
    /// Name of the only slot's entry, such as `macula-000001.efi`.
    pub entry: &'a str,
    pub uki: &'a [u8],
    pub rescue: &'a [u8],
    /// Keys for the firmware, by path; may be empty.
    pub enrolment: &'a [(String, Vec<u8>)],
}

/// Formats the ESP's range of `disk`, which must hold zeros, and fills it.
pub fn write(disk: &File, path: &Path, content: &Content) -> Result<()> {
    let entry = format!("{ENTRIES_DIR}/{}", content.entry);
    let rescue = format!("{ENTRIES_DIR}/{RESCUE_ENTRY}");
    let enrol = if content.enrolment.is_empty() { "" } else { ENROL_CONF };
    let conf = format!("{LOADER_CONF}{enrol}");
    let mut seed = RANDOM_SEED_TEXT.as_bytes().to_vec();
    seed.resize(RANDOM_SEED_BYTES, b'\n');
    let mut files = vec![
        (BOOT_LOADER_PATH, content.boot_loader),
        (LOADER_CONF_PATH, conf.as_bytes()),
        (RANDOM_SEED_PATH, &seed),
        (entry.as_str(), content.uki),
        (rescue.as_str(), content.rescue),
    ];
    files.extend(content.enrolment.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    let volume = Volume { bytes: ESP.bytes, start: ESP.start, id: VOLUME_ID, label: LABEL };
    fat::write(&mut slice(disk), &volume, &files).at("write the ESP of", path)
}

/// Puts a file on the ESP of the raw disk image at `image`; an existing one is replaced. `name` may have
/// folders, which must exist. Not for an image that a machine is running from.
pub fn write_file(image: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let disk = open(image, true)?;
    put(&disk, name, bytes).at("write a file to the ESP of", image)
}

/// Reads a file from the ESP of the raw disk image at `image`.
pub fn read_file(image: &Path, name: &str) -> Result<Vec<u8>> {
    let disk = open(image, false)?;
    let read = || {
        let fs = FileSystem::new(slice(&disk), FsOptions::new())?;
        let mut bytes = Vec::new();
        fs.root_dir().open_file(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().at("read a file from the ESP of", image)
}

/// Names in a folder on the ESP of the raw disk image at `image`, sorted.
pub fn list(image: &Path, folder: &str) -> Result<Vec<String>> {
    let disk = open(image, false)?;
    let read = || {
        let fs = FileSystem::new(slice(&disk), FsOptions::new())?;
        let folder = fs.root_dir().open_dir(folder)?;
        let names = folder.iter().map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        Ok(names.into_iter().filter(|name| name != "." && name != "..").collect())
    };
    let mut names: Vec<String> = read().at("list the ESP of", image)?;
    names.sort();
    Ok(names)
}

fn open(image: &Path, write: bool) -> Result<File> {
    let disk = OpenOptions::new().read(true).write(write).open(image).at("open", image)?;
    if disk.metadata().at("inspect", image)?.len() < ESP.end() {
        let reason = "is too short to be one of our raw images (is it compressed?)".to_owned();
        return Err(BuildError::Disk { path: image.to_path_buf(), reason });
    }
    Ok(disk)
}

fn slice(disk: &File) -> Slice<'_> {
    Slice::new(disk, ESP.start, ESP.bytes)
}

/// The same for all, and a date: firmware refuses to rename a file whose month is 0, so the boot loader could not count.
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

fn put(disk: &File, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let fs = FileSystem::new(slice(disk), FsOptions::new().time_provider(&FirstOfAll))?;
    {
        let mut file = fs.root_dir().create_file(name)?;
        file.truncate()?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    fs.unmount()
}
