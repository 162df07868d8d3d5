//! Writes a FAT32 volume in one go: folders, files, long names, and no more.
//!
//! The crate `fatfs` reads and changes such volumes well, but the `.` and `..` of a folder that it makes are wrong
//! (`fsck.vfat` rewrites the folder). Structures and limits: Microsoft, "FAT: General Overview of On-Disk Format"
//! 1.03. Sectors have 512 bytes, clusters 4096; all times are the format's first, 1980-01-01.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom, Write};

const SECTOR: u64 = 512;
const CLUSTER: u64 = 4096;
/// Sectors before the first FAT; with FATs of whole clusters this keeps the data aligned to clusters.
const RESERVED: u64 = 32;
const FATS: u64 = 2;
const ENTRY: usize = 32;
const ROOT_CLUSTER: u32 = 2;
/// Fewer clusters than this make it FAT16 by definition.
const CLUSTERS_MIN: u64 = 65_525;
const CLUSTERS_MAX: u64 = 0x0fff_fff5;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const FIRST_DATE: u16 = 0x21;

const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_FILE: u8 = 0x20;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;

/// What identifies a volume, and where it lies.
pub struct Volume {
    pub bytes: u64,
    /// First byte of the partition on its disk.
    pub start: u64,
    pub id: u32,
    /// Upper case, padded with spaces.
    pub label: [u8; 11],
}

/// Writes `volume` with `files` (path and content) to `out`, which must hold zeros.
pub fn write(out: &mut (impl Write + Seek), volume: &Volume, files: &[(&str, &[u8])]) -> Result<()> {
    let geometry = Geometry::of(volume.bytes)?;
    let mut tree = Folder::default();
    for (path, content) in files {
        tree.insert(path, content)?;
    }
    let mut chains = Chains { fat: vec![0x0fff_fff8, END_OF_CHAIN], limit: geometry.clusters };
    let mut data = Vec::new();
    tree.place(&mut chains, &mut data, None, Some(&volume.label))?;

    let mut at = |offset: u64, bytes: &[u8]| {
        out.seek(SeekFrom::Start(offset))?;
        out.write_all(bytes)
    };
    let used = chains.fat.len() as u64 - 2;
    let boot = boot_sector(volume, &geometry);
    let info = info_sector((geometry.clusters - used) as u32, chains.fat.len() as u32);
    for copy in [0, 6] {
        at(copy * SECTOR, &boot)?;
        at((copy + 1) * SECTOR, &info)?;
    }
    let fat: Vec<u8> = chains.fat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    for copy in 0..FATS {
        at((RESERVED + copy * geometry.fat_sectors) * SECTOR, &fat)?;
    }
    for (cluster, bytes) in data {
        at(geometry.data_start() + u64::from(cluster - ROOT_CLUSTER) * CLUSTER, &bytes)?;
    }
    Ok(())
}

struct Geometry {
    sectors: u32,
    fat_sectors: u64,
    clusters: u64,
}

impl Geometry {
    fn of(bytes: u64) -> Result<Geometry> {
        let invalid =
            || Error::new(ErrorKind::InvalidInput, format!("no FAT32 volume can have {bytes} bytes"));
        let sectors = u32::try_from(bytes / SECTOR).map_err(|_| invalid())?;
        // Enough for all sectors as clusters, FATs included: a few entries too many, which is allowed.
        let per_cluster = CLUSTER / SECTOR;
        let fat_bytes = (u64::from(sectors) / per_cluster + 2) * 4;
        let fat_sectors = fat_bytes.div_ceil(CLUSTER) * per_cluster;
        let data = u64::from(sectors).checked_sub(RESERVED + FATS * fat_sectors).ok_or_else(invalid)?;
        let clusters = data / per_cluster;
        if !(CLUSTERS_MIN..CLUSTERS_MAX).contains(&clusters) {
            return Err(invalid());
        }
        Ok(Geometry { sectors, fat_sectors, clusters })
    }

    fn data_start(&self) -> u64 {
        (RESERVED + FATS * self.fat_sectors) * SECTOR
    }
}

/// The allocation table; clusters are given out in order.
struct Chains {
    fat: Vec<u32>,
    limit: u64,
}

impl Chains {
    /// A chain of clusters for so many bytes; its first cluster.
    fn allocate(&mut self, bytes: usize) -> Result<u32> {
        let count = (bytes as u64).div_ceil(CLUSTER).max(1);
        if self.fat.len() as u64 - 2 + count > self.limit {
            return Err(Error::new(ErrorKind::StorageFull, "the files do not fit the volume"));
        }
        let first = self.fat.len() as u32;
        self.fat.extend((1..count as u32).map(|n| first + n));
        self.fat.push(END_OF_CHAIN);
        Ok(first)
    }
}

#[derive(Default)]
struct Folder<'a> {
    folders: BTreeMap<&'a str, Folder<'a>>,
    files: BTreeMap<&'a str, &'a [u8]>,
}

/// First cluster and content.
type Placed<'a> = (u32, std::borrow::Cow<'a, [u8]>);

impl<'a> Folder<'a> {
    fn insert(&mut self, path: &'a str, content: &'a [u8]) -> Result<()> {
        match path.split_once('/') {
            Some((folder, rest)) => {
                self.folders.entry(check_name(folder)?).or_default().insert(rest, content)
            }
            None => {
                self.files.insert(check_name(path)?, content);
                Ok(())
            }
        }
    }

    /// Gives clusters to the folder and all below it; returns its own first cluster. `parent` is the parent's first
    /// cluster, 0 for the root, and `None` if this is the root, which alone has a label.
    fn place(
        &self,
        chains: &mut Chains,
        data: &mut Vec<Placed<'a>>,
        parent: Option<u32>,
        label: Option<&[u8; 11]>,
    ) -> Result<u32> {
        let names = self.folders.keys().chain(self.files.keys());
        let own = chains.allocate((2 + names.map(|name| 2 + name.len() / 13).sum::<usize>()) * ENTRY)?;
        let mut entries = Vec::new();
        if let Some(label) = label {
            entries.extend_from_slice(&short_entry(label, ATTRIBUTE_LABEL, 0, 0));
        }
        if let Some(parent) = parent {
            entries.extend_from_slice(&short_entry(b".          ", ATTRIBUTE_FOLDER, own, 0));
            entries.extend_from_slice(&short_entry(b"..         ", ATTRIBUTE_FOLDER, parent, 0));
        }
        let as_parent = if parent.is_some() { own } else { 0 };
        let mut taken = Vec::new();
        for (name, folder) in &self.folders {
            let cluster = folder.place(chains, data, Some(as_parent), None)?;
            entries.extend(named_entries(name, &mut taken, ATTRIBUTE_FOLDER, cluster, 0)?);
        }
        for (name, content) in &self.files {
            let cluster = if content.is_empty() { 0 } else { chains.allocate(content.len())? };
            let size = u32::try_from(content.len()).map_err(|_| Error::from(ErrorKind::FileTooLarge))?;
            entries.extend(named_entries(name, &mut taken, ATTRIBUTE_FILE, cluster, size)?);
            if cluster != 0 {
                data.push((cluster, (*content).into()));
            }
        }
        data.push((own, entries.into()));
        Ok(own)
    }
}

fn check_name(name: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    if name.is_empty()
        || name.len() > 100
        || name.starts_with('.')
        || name.ends_with('.')
        || !name.chars().all(good)
    {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{name:?} is no name for a file on the ESP"),
        ));
    }
    Ok(name)
}

/// The entries of one file: its long name, if it needs one, then the short one.
fn named_entries(
    name: &str,
    taken: &mut Vec<[u8; 11]>,
    attribute: u8,
    cluster: u32,
    size: u32,
) -> Result<Vec<u8>> {
    let (short, exact) = short_name(name, taken)?;
    taken.push(short);
    let mut bytes = Vec::new();
    if !exact {
        let mut units: Vec<u16> = name.encode_utf16().collect();
        if !units.len().is_multiple_of(13) {
            units.push(0);
            units.resize(units.len().next_multiple_of(13), 0xffff);
        }
        let check = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let pieces: Vec<_> = units.chunks(13).collect();
        for (index, piece) in pieces.iter().enumerate().rev() {
            let last = if index + 1 == pieces.len() { 0x40 } else { 0 };
            bytes.extend_from_slice(&long_entry((index as u8 + 1) | last, piece, check));
        }
    }
    bytes.extend_from_slice(&short_entry(&short, attribute, cluster, size));
    Ok(bytes)
}

/// The 8.3 name of a file, and whether it says all that the long one does.
fn short_name(name: &str, taken: &[[u8; 11]]) -> Result<([u8; 11], bool)> {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let plain = |part: &str| part.to_ascii_uppercase().replace(['.', '+'], "_");
    let (upper_stem, upper_extension) = (plain(stem), plain(extension));
    let fits = upper_stem.len() <= 8 && upper_extension.len() <= 3 && !stem.contains(['.', '+']);
    let cut_extension = &upper_extension[..upper_extension.len().min(3)];
    let candidates = (1..10).map(|n| format!("{}~{n}", &upper_stem[..upper_stem.len().min(6)]));
    let candidates = fits.then(|| upper_stem.clone()).into_iter().chain(candidates);
    for stem in candidates {
        let mut short = [b' '; 11];
        short[..stem.len()].copy_from_slice(stem.as_bytes());
        short[8..8 + cut_extension.len()].copy_from_slice(cut_extension.as_bytes());
        if !taken.contains(&short) {
            let exact = fits && stem == upper_stem && name == name.to_ascii_uppercase();
            return Ok((short, exact));
        }
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("too many names like {name:?} in a folder of the ESP")))
}

fn short_entry(name: &[u8; 11], attribute: u8, cluster: u32, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attribute;
    for at in [16, 18, 24] {
        put(&mut entry, at, &FIRST_DATE.to_le_bytes()); // made, read, changed
    }
    put(&mut entry, 20, &((cluster >> 16) as u16).to_le_bytes());
    put(&mut entry, 26, &(cluster as u16).to_le_bytes());
    put(&mut entry, 28, &size.to_le_bytes());
    entry
}

fn long_entry(order: u8, units: &[u16], check: u8) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[0] = order;
    entry[11] = ATTRIBUTE_LONG_NAME;
    entry[13] = check;
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
    for (at, unit) in places.zip(units) {
        put(&mut entry, at, &unit.to_le_bytes());
    }
    entry
}

fn boot_sector(volume: &Volume, geometry: &Geometry) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    put(&mut sector, 0, &[0xeb, 0x58, 0x90]);
    put(&mut sector, 3, b"MACULA  ");
    put(&mut sector, 11, &(SECTOR as u16).to_le_bytes());
    sector[13] = (CLUSTER / SECTOR) as u8;
    put(&mut sector, 14, &(RESERVED as u16).to_le_bytes());
    sector[16] = FATS as u8;
    sector[21] = 0xf8; // a disk that is not removed
    put(&mut sector, 24, &63u16.to_le_bytes());
    put(&mut sector, 26, &255u16.to_le_bytes());
    put(&mut sector, 28, &((volume.start / SECTOR) as u32).to_le_bytes());
    put(&mut sector, 32, &geometry.sectors.to_le_bytes());
    put(&mut sector, 36, &(geometry.fat_sectors as u32).to_le_bytes());
    put(&mut sector, 44, &ROOT_CLUSTER.to_le_bytes());
    put(&mut sector, 48, &1u16.to_le_bytes()); // sector of the free counts
    put(&mut sector, 50, &6u16.to_le_bytes()); // sector of the backup
    sector[64] = 0x80;
    sector[66] = 0x29;
    put(&mut sector, 67, &volume.id.to_le_bytes());
    put(&mut sector, 71, &volume.label);
    put(&mut sector, 82, b"FAT32   ");
    put(&mut sector, 510, &[0x55, 0xaa]);
    sector
}

fn info_sector(free: u32, next: u32) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    put(&mut sector, 0, b"RRaA");
    put(&mut sector, 484, b"rrAa");
    put(&mut sector, 488, &free.to_le_bytes());
    put(&mut sector, 492, &next.to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    sector
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_unique_and_exact_only_if_they_say_all() {
        let name = |bytes: &[u8; 11]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut taken = Vec::new();
        for (long, short, exact) in [
            ("BOOTX64.EFI", "BOOTX64 EFI", true),
            ("Linux", "LINUX      ", false),
            ("loader.conf", "LOADER~1CON", false),
            ("macula-000001.efi", "MACULA~1EFI", false),
            ("macula-000002+3.efi", "MACULA~2EFI", false),
        ] {
            let (got, is_exact) = short_name(long, &taken).unwrap();
            assert_eq!((name(&got).as_str(), is_exact), (short, exact), "{long}");
            taken.push(got);
        }
    }

    #[test]
    fn bad_names_and_sizes_are_refused() {
        let mut out = std::io::Cursor::new(Vec::new());
        let volume = |bytes| Volume { bytes, start: 0, id: 1, label: *b"X          " };
        for name in ["", "a//b", "a/../b", "x ", "ü", "/x"] {
            assert!(write(&mut out, &volume(300 << 20), &[(name, b"x")]).is_err(), "{name:?}");
        }
        for bytes in [0, 512, 200 << 20, 1 << 45] {
            assert!(write(&mut out, &volume(bytes), &[]).is_err(), "{bytes}");
        }
        assert!(out.into_inner().is_empty());
    }
}
