//! From the firmware to the root: partition table, ESP, the boot loader's choice, the UKI, the root it opens.

use std::io::Write;

use image_layout::{BOOT_LOADER_PATH, LOADER_CONF_PATH, PROVISION_FILE};
use init_plan::disks::{self, find, partition};
use init_plan::gpt::{self, Copy, SECTOR};
use init_plan::guid::Guid;
use init_plan::renew::renew;
use init_plan::reset;
use os_bootloader::{Bootloader, Uefi};
use os_slots::{Entry, Slot, Tries};
use serde::Serialize;

use super::Known;
use crate::disk::{Disk, Partition};

const BOOT_LOADER_MAX: usize = 4 << 20;
const CONFIG_MAX: usize = 64 << 10;

/// What runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Booted {
    /// Under the name that the boot loader gives it when it counts this boot.
    pub entry: Entry,
    pub version: String,
    /// All entries of ours after that, in the boot loader's order.
    pub entries: Vec<Entry>,
    /// Init will give the disk new GUIDs.
    pub first_boot: bool,
    /// The partition table asks for a factory reset: init makes the state anew before it looks at it.
    pub resets: bool,
    /// The primary table is damaged and the backup is used.
    pub table_from_backup: bool,
    /// `/macula.toml` on the ESP, if it is there.
    pub provision: Option<Vec<u8>>,
    pub state_start: u64,
    /// After init has extended it.
    pub state_bytes: u64,
}

fn read_table(disk: &Disk) -> Result<disks::Disk, String> {
    let sectors = disk.bytes() / SECTOR;
    let read = |lba: u64, count: u64| {
        let mut bytes = vec![0; usize::try_from(count.checked_mul(SECTOR)?).ok()?];
        disk.read(lba.checked_mul(SECTOR)?, &mut bytes).ok().map(|()| bytes)
    };
    let (table, copy) = gpt::read(sectors, read).map_err(|e| e.to_string())?;
    Ok(disks::Disk { name: "vda".into(), sectors, table, copy })
}

pub fn primary_table_is_whole(disk: &Disk) -> bool {
    read_table(disk).is_ok_and(|d| d.copy == Copy::Primary)
}

/// Hashes of the boot loader's files.
#[derive(Debug, PartialEq, Eq)]
pub struct Loader([os_content_id::Hash; 2]);

impl Loader {
    pub fn of(disk: &Disk) -> Result<Self, String> {
        let found = read_table(disk)?;
        let (start, bytes, _) = place(&found, 1)?;
        Self::on(&mut Uefi::open(Partition { disk, start, bytes }).map_err(text)?)
    }

    fn on(esp: &mut Uefi<Partition<'_>>) -> Result<Self, String> {
        let mut hash = |path: &str| {
            let file = esp.read_file(path, BOOT_LOADER_MAX).map_err(text)?;
            Ok::<_, String>(os_content_id::hash(&file.ok_or_else(|| format!("{path} is gone"))?))
        };
        Ok(Self([hash(BOOT_LOADER_PATH)?, hash(LOADER_CONF_PATH)?]))
    }
}

/// Start, length and GUID of a partition.
fn place(disk: &disks::Disk, number: u32) -> Result<(u64, u64, Guid), String> {
    let p = partition(&disk.table, number).ok_or(format!("there is no partition {number}"))?;
    Ok((p.first * SECTOR, p.sectors() * SECTOR, p.guid))
}

/// Runs the chain. The error says where it breaks.
pub fn boot(disk: &Disk, known: &[Known], loader: &Loader) -> Result<Booted, String> {
    let found = read_table(disk)?;
    let (esp_start, esp_bytes, esp_guid) = place(&found, 1)?;
    // The boot loader tells init the ESP's GUID; init finds the disk by it and checks the layout.
    find(std::slice::from_ref(&found), esp_guid).map_err(|e| e.to_string())?;
    let mut esp = Uefi::open(Partition { disk, start: esp_start, bytes: esp_bytes }).map_err(text)?;
    if Loader::on(&mut esp)? != *loader {
        return Err("the boot loader or its configuration is damaged".into());
    }
    let provision = esp.read_file(PROVISION_FILE, CONFIG_MAX).map_err(text)?;
    let (entry, entries) = choose(esp.entries().map_err(text)?)?;
    let before = before_counting(entry, &mut esp)?;
    let release = payload(&mut esp, before, known)?;
    let (root_start, ..) = place(&found, if entry.slot() == Slot::A { 2 } else { 3 })?;
    root_is(disk, root_start, &release.root).map_err(|e| format!("{entry}: {e}"))?;

    let mut fresh = 0;
    let renewed = renew(&found, || {
        fresh += 1;
        Guid([fresh; 16])
    });
    let table = renewed.as_ref().map_or(&found.table, |r| &r.table);
    let state = partition(table, 4).ok_or("there is no state partition")?;
    Ok(Booted {
        entry,
        version: release.version.clone(),
        entries,
        first_boot: renewed.as_ref().is_some_and(|r| r.new_guids),
        resets: reset::is_requested(&found),
        table_from_backup: found.copy == Copy::Backup,
        provision,
        state_start: state.first * SECTOR,
        state_bytes: state.sectors() * SECTOR,
    })
}

/// The first in the boot loader's order, counted.
fn choose(mut entries: Vec<Entry>) -> Result<(Entry, Vec<Entry>), String> {
    let first = entries.first_mut().ok_or("the boot loader finds no entry")?;
    first.tries = first.tries.map(|t| Tries { left: t.left.saturating_sub(1), done: t.done + 1 });
    let chosen = *first;
    entries.sort_by(Entry::boot_order);
    Ok((chosen, entries))
}

fn before_counting(entry: Entry, esp: &mut Uefi<Partition<'_>>) -> Result<Entry, String> {
    let entries = esp.entries().map_err(text)?;
    entries.into_iter().find(|e| e.seq == entry.seq).ok_or_else(|| format!("{entry} is gone"))
}

/// The release whose UKI this is, to the last byte. Nothing else would be known to load: a PE file has no checksum that
/// the firmware looks at.
fn payload<'k>(esp: &mut Uefi<Partition<'_>>, entry: Entry, known: &'k [Known]) -> Result<&'k Known, String> {
    let mut bytes = Vec::new();
    esp.read_entry(entry, &mut bytes as &mut dyn Write).map_err(text)?;
    let hash = os_content_id::hash(&bytes);
    let found = known.iter().find(|k| k.uki == hash && k.uki_bytes == bytes.len() as u64);
    found.ok_or_else(|| format!("{entry} can be chosen and its UKI is not whole"))
}

/// dm-verity accepts this root and no other: data and hash tree are compared byte by byte.
fn root_is(disk: &Disk, start: u64, root: &[u8]) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 20];
    for (index, wanted) in root.chunks(buffer.len()).enumerate() {
        let offset = start + (index * buffer.len()) as u64;
        let part = &mut buffer[..wanted.len()];
        disk.read(offset, part).map_err(|e| e.to_string())?;
        if part != wanted {
            let at = part.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(0) as u64;
            return Err(format!("its root is not whole: byte {} differs", offset - start + at));
        }
    }
    Ok(())
}

fn text(error: os_bootloader::BootloaderError) -> String {
    error.to_string()
}
