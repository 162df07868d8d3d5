//! Directories: 32-byte slots, some of which spell a long name for the slot that follows them.

use crate::{BlockDevice, BootloaderError, Result};

use super::{Fat, NewFile};

const SLOT: usize = 32;
/// Specification: a directory is at most 2 MiB.
const DIRECTORY_MAX: u64 = 2 * 1024 * 1024;
/// UTF-16 units of a long name per slot.
pub const LFN_CHARS: usize = 13;
/// Where those units are in the slot.
const LFN_AT: [usize; LFN_CHARS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const LFN_LAST: u8 = 0x40;
const DELETED: u8 = 0xe5;
const ATTR_VOLUME: u8 = 0x08;
const ATTR_DIRECTORY: u8 = 0x10;
const ATTR_ARCHIVE: u8 = 0x20;
const ATTR_LFN: u8 = 0x0f;
/// 1 January 1980: a node may not know the time, and nobody reads it here.
const DATE: [u8; 2] = [0x21, 0x00];

/// A slot and its byte offset on the volume.
type Slot = (u64, [u8; SLOT]);

/// A file or directory, and where its slots are.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The long name, or the short one where there is no valid long one.
    pub name: String,
    pub short: [u8; 11],
    pub first_cluster: u32,
    pub size: u32,
    attributes: u8,
    /// Byte offsets of its slots on the volume, in directory order; the last one is the short name's.
    slots: Vec<u64>,
    has_long_name: bool,
}

impl DirEntry {
    pub fn is_directory(&self) -> bool {
        self.attributes & ATTR_DIRECTORY != 0
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || short_text(&self.short).eq_ignore_ascii_case(name)
    }
}

impl<D: BlockDevice> Fat<D> {
    /// Files and directories, without deleted slots and volume labels.
    pub fn list(&mut self, directory: u32) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let mut long = LongName::default();
        for (offset, slot) in self.slots(directory)? {
            match slot[0] {
                0 => break,
                DELETED => long.clear(),
                _ if slot[11] & 0x3f == ATTR_LFN => long.push(offset, &slot),
                _ if slot[11] & ATTR_VOLUME != 0 => long.clear(),
                _ => entries.push(std::mem::take(&mut long).finish(offset, &slot)),
            }
        }
        Ok(entries)
    }

    /// Gives a file another name by rewriting the one slot that holds the end of its long name. Both names must agree
    /// in all but their last slot, so that nothing else has to change: not the short name, not its checksum.
    pub fn rename_in_place(&mut self, file: &DirEntry, to: &str) -> Result<()> {
        let refuse = |why| BootloaderError::NotRenamable { name: file.name.clone(), why };
        let (old, new): (Vec<u16>, Vec<u16>) =
            (file.name.encode_utf16().collect(), to.encode_utf16().collect());
        if !file.has_long_name || file.slots.len() < 2 {
            return Err(refuse("it has no long name"));
        }
        let parts = new.len().div_ceil(LFN_CHARS);
        if parts != file.slots.len() - 1 || parts != old.len().div_ceil(LFN_CHARS) {
            return Err(refuse("the new name needs another number of slots"));
        }
        let same = (parts - 1) * LFN_CHARS;
        if old[..same] != new[..same] {
            return Err(refuse("the names differ in more than their end"));
        }
        let slot = long_slot(&new[same..], parts as u8 | LFN_LAST, checksum(&file.short));
        self.patch(file.slots[0], &slot)?;
        self.device.sync()
    }

    /// Writes the slots of a new file, all within one sector.
    pub(super) fn insert(&mut self, directory: u32, new: &NewFile, first: u32, size: u32) -> Result<()> {
        let units: Vec<u16> = new.long.encode_utf16().collect();
        let count = units.len().div_ceil(LFN_CHARS);
        let mut bytes = Vec::with_capacity((count + 1) * SLOT);
        for (index, part) in units.chunks(LFN_CHARS).enumerate().rev() {
            let last = if index + 1 == count { LFN_LAST } else { 0 };
            bytes.extend_from_slice(&long_slot(part, (index + 1) as u8 | last, checksum(&new.short)));
        }
        bytes.extend_from_slice(&short_slot(&new.short, first, size));
        let offset = self.place(directory, count + 1)?;
        self.patch(offset, &bytes)
    }

    /// Rewrites the one slot of a file that says where its bytes are and how many.
    pub(super) fn point_to(&mut self, file: &DirEntry, first: u32, size: u32) -> Result<()> {
        let Some(at) = file.slots.last() else { return Ok(()) };
        let mut slot = short_slot(&file.short, first, size);
        // Attributes stay, a boot loader may have set some.
        slot[11] = file.attributes;
        self.patch(*at, &slot)
    }

    /// Marks a file's slots deleted, the short name's first: with it the file is gone, whatever happens next.
    pub(super) fn erase_slots(&mut self, file: &DirEntry) -> Result<()> {
        let sector_bytes = u64::from(self.geometry.sector_bytes);
        let mut sectors: Vec<u64> = file.slots.iter().map(|s| s / sector_bytes).collect();
        sectors.dedup();
        for sector in sectors.into_iter().rev() {
            let mut bytes = vec![0; sector_bytes as usize];
            self.device.read_at(sector * sector_bytes, &mut bytes)?;
            for slot in file.slots.iter().filter(|s| **s / sector_bytes == sector) {
                bytes[(slot % sector_bytes) as usize] = DELETED;
            }
            self.device.write_at(sector * sector_bytes, &bytes)?;
            self.device.sync()?;
        }
        Ok(())
    }

    /// Byte offset of `count` unused slots in a row within one sector, which a listing will reach.
    fn place(&mut self, directory: u32, count: usize) -> Result<u64> {
        let slots = self.slots(directory)?;
        let end = slots.iter().position(|(_, s)| s[0] == 0).unwrap_or(slots.len());
        let unused = |(index, slot): (usize, &Slot)| index >= end || slot.1[0] == DELETED;
        let unused: Vec<bool> = slots.iter().enumerate().map(unused).collect();
        let per_sector = self.geometry.sector_bytes as usize / SLOT;
        let fits = |first: usize| {
            first / per_sector == (first + count - 1) / per_sector
                && unused[first..first + count].iter().all(|u| *u)
        };
        match (0..(slots.len() + 1).saturating_sub(count)).find(|first| fits(*first)) {
            Some(first) => {
                self.retire(slots.get(end..first).unwrap_or_default())?;
                Ok(slots[first].0)
            }
            None => {
                self.retire(&slots[end..])?;
                self.grow(directory)
            }
        }
    }

    /// Turns never used slots into deleted ones: the first of them ends a listing and would hide what comes after.
    fn retire(&mut self, slots: &[Slot]) -> Result<()> {
        for (offset, slot) in slots.iter().rev() {
            let mut slot = *slot;
            slot[0] = DELETED;
            self.patch(*offset, &slot)?;
        }
        if slots.is_empty() { Ok(()) } else { self.device.sync() }
    }

    /// Adds an empty cluster to a directory and returns its offset.
    fn grow(&mut self, directory: u32) -> Result<u64> {
        let chain = self.chain(directory, DIRECTORY_MAX / u64::from(self.geometry.cluster_bytes))?;
        let new = self.find_free(1)?;
        let offset = self.geometry.cluster_offset(new[0]);
        self.device.write_at(offset, &vec![0; self.geometry.cluster_bytes as usize])?;
        self.link(&new)?;
        self.device.sync()?;
        self.append(chain.last().copied().unwrap_or(directory), new[0])?;
        self.device.sync()?;
        Ok(offset)
    }

    fn slots(&mut self, directory: u32) -> Result<Vec<Slot>> {
        let cluster_bytes = self.geometry.cluster_bytes as usize;
        let most = DIRECTORY_MAX / cluster_bytes as u64;
        let mut slots = Vec::new();
        let mut buf = vec![0; cluster_bytes];
        for cluster in self.chain(directory, most)? {
            let offset = self.geometry.cluster_offset(cluster);
            self.device.read_at(offset, &mut buf)?;
            for (index, bytes) in buf.chunks_exact(SLOT).enumerate() {
                let mut slot = [0; SLOT];
                slot.copy_from_slice(bytes);
                slots.push((offset + (index * SLOT) as u64, slot));
            }
        }
        Ok(slots)
    }
}

/// Gathers the slots of a long name; they come last part first.
#[derive(Default)]
struct LongName {
    parts: Vec<[u16; LFN_CHARS]>,
    slots: Vec<u64>,
    /// Number of the part that must come next; 0 when the name is complete.
    expected: u8,
    checksum: u8,
}

impl LongName {
    fn clear(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, offset: u64, slot: &[u8; SLOT]) {
        let number = slot[0] & 0x1f;
        if slot[0] & LFN_LAST != 0 {
            self.clear();
            self.checksum = slot[13];
        } else if self.parts.is_empty() || number != self.expected || slot[13] != self.checksum {
            return self.clear();
        }
        if !(1..=20).contains(&number) {
            return self.clear();
        }
        self.expected = number - 1;
        self.parts.push(LFN_AT.map(|at| u16::from_le_bytes([slot[at], slot[at + 1]])));
        self.slots.push(offset);
    }

    fn finish(self, offset: u64, slot: &[u8; SLOT]) -> DirEntry {
        let mut short = [0; 11];
        short.copy_from_slice(&slot[..11]);
        let has_long_name = !self.parts.is_empty() && self.expected == 0 && self.checksum == checksum(&short);
        let (name, mut slots) = if has_long_name {
            let units = self.parts.iter().rev().flatten().copied().take_while(|u| *u != 0 && *u != 0xffff);
            (String::from_utf16_lossy(&units.collect::<Vec<_>>()), self.slots)
        } else {
            (short_text(&short), Vec::new())
        };
        slots.push(offset);
        let cluster = [slot[26], slot[27], slot[20], slot[21] & 0x0f];
        DirEntry {
            name,
            short,
            first_cluster: u32::from_le_bytes(cluster),
            size: u32::from_le_bytes([slot[28], slot[29], slot[30], slot[31]]),
            attributes: slot[11],
            slots,
            has_long_name,
        }
    }
}

fn short_text(short: &[u8; 11]) -> String {
    let text = |bytes: &[u8]| bytes.iter().map(|b| *b as char).collect::<String>().trim_end().to_string();
    let (base, extension) = (text(&short[..8]), text(&short[8..]));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b))
}

fn long_slot(part: &[u16], order: u8, checksum: u8) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    (slot[0], slot[11], slot[13]) = (order, ATTR_LFN, checksum);
    let padded = part.iter().copied().chain([0]).chain(std::iter::repeat(0xffff));
    for (at, unit) in LFN_AT.into_iter().zip(padded) {
        slot[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }
    slot
}

fn short_slot(short: &[u8; 11], first: u32, size: u32) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..11].copy_from_slice(short);
    slot[11] = ATTR_ARCHIVE;
    for at in [16, 18, 24] {
        slot[at..at + 2].copy_from_slice(&DATE);
    }
    slot[20..22].copy_from_slice(&((first >> 16) as u16).to_le_bytes());
    slot[26..28].copy_from_slice(&(first as u16).to_le_bytes());
    slot[28..32].copy_from_slice(&size.to_le_bytes());
    slot
}
