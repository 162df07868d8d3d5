//! `uefi`: systemd-boot picks UKIs from `/EFI/Linux` on the ESP.
//!
//! A payload is staged as `macula-<seq>.tmp`, which systemd-boot does not look at. Arming, committing and marking bad
//! are renames. All those names agree in their first 13 characters, the part that a FAT long name keeps in a slot of
//! its own, so each rename rewrites one 32-byte slot: one sector, which a disk writes whole or not at all.
//!
//! The rescue system has no counter and keeps its name. Another one is staged beside it; then the slot that says where the
//! file's bytes are is rewritten: one sector, too. The staged name goes first, so that no two names lead to the same bytes.

#[cfg(test)]
mod tests;

use std::io::{Read, Write};

use os_slots::{Entry, EntryError, RESCUE_ENTRY, SEQ_MAX};

use crate::fat::{DirEntry, Fat, LFN_CHARS, NewFile};
use crate::{BlockDevice, Bootloader, BootloaderError, Result};

/// Largest payload.
pub const UKI_MAX: u64 = 128 * 1024 * 1024;

const DIRECTORY: &str = "EFI/Linux";
const STAGED: &str = ".tmp";
/// Agrees with [`RESCUE_ENTRY`] in all but its last slot.
const RESCUE_STAGED: &str = "macula-0-rescue.tmp";
/// Its short name, whichever the present one does not have.
const RESCUE_SHORT: [[u8; 11]; 2] = [*b"MARESCU0EFI", *b"MARESCU1EFI"];

/// The ESP. Open it only while it is needed: nothing is cached between calls but the geometry.
pub struct Uefi<D> {
    fat: Fat<D>,
}

impl<D: BlockDevice> Uefi<D> {
    pub fn open(device: D) -> Result<Self> {
        Ok(Self { fat: Fat::open(device)? })
    }

    fn find(&mut self, name: &str) -> Result<Option<DirEntry>> {
        let directory = self.fat.directory(DIRECTORY)?;
        // Exact, not as FAT compares: the counters in a name are ours to read strictly.
        Ok(self.fat.list(directory)?.into_iter().find(|e| e.name == name && !e.is_directory()))
    }

    fn rename(&mut self, from: &str, to: Entry) -> Result<Entry> {
        let to_name = to.to_string();
        debug_assert_eq!(from.get(..LFN_CHARS), to_name.get(..LFN_CHARS));
        if from == to_name {
            return Ok(to);
        }
        if self.find(&to_name)?.is_some() {
            return Err(BootloaderError::Exists(to_name));
        }
        let file = self.find(from)?.ok_or_else(|| BootloaderError::NotFound(from.to_string()))?;
        self.fat.rename_in_place(&file, &to_name)?;
        Ok(to)
    }

    fn read_named(&mut self, name: &str, out: &mut dyn Write) -> Result<u64> {
        let file = self.find(name)?.ok_or_else(|| BootloaderError::NotFound(name.to_string()))?;
        self.fat.device().drop_cache();
        self.fat.copy_out(&file, out)?;
        Ok(u64::from(file.size))
    }

    fn remove_named(&mut self, name: &str) -> Result<()> {
        match self.find(name)? {
            Some(file) => self.fat.delete(&file),
            None => Ok(()),
        }
    }

    fn at_path(&mut self, path: &str) -> Result<Option<DirEntry>> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = match self.fat.directory(directory) {
            Err(BootloaderError::NotFound(_)) => return Ok(None),
            other => other?,
        };
        Ok(self.fat.find(directory, name)?.filter(|e| !e.is_directory()))
    }
}

impl<D: BlockDevice> Bootloader for Uefi<D> {
    fn entries(&mut self) -> Result<Vec<Entry>> {
        let directory = self.fat.directory(DIRECTORY)?;
        let files = self.fat.list(directory)?;
        let mut entries: Vec<Entry> = files.iter().filter_map(|e| e.name.parse().ok()).collect();
        entries.sort_by(Entry::boot_order);
        Ok(entries)
    }

    fn stage(&mut self, seq: u32, size: u64, data: &mut dyn Read) -> Result<()> {
        let name = staged_name(seq)?;
        if size > UKI_MAX {
            return Err(BootloaderError::TooLarge { name, size, max: UKI_MAX });
        }
        self.remove_named(&name)?;
        let directory = self.fat.directory(DIRECTORY)?;
        let mut short = *b"MA000000EFI";
        short[2..8].copy_from_slice(format!("{seq:06}").as_bytes());
        self.fat.create(directory, &NewFile { long: &name, short }, size as u32, data)
    }

    fn staged(&mut self) -> Result<Vec<u32>> {
        let directory = self.fat.directory(DIRECTORY)?;
        let files = self.fat.list(directory)?;
        let seq_of = |name: &str| {
            let entry: Entry = format!("{}.efi", name.strip_suffix(STAGED)?).parse().ok()?;
            entry.is_committed().then_some(entry.seq)
        };
        Ok(files.iter().filter_map(|e| seq_of(&e.name)).collect())
    }

    fn read_staged(&mut self, seq: u32, out: &mut dyn Write) -> Result<u64> {
        self.read_named(&staged_name(seq)?, out)
    }

    fn remove_staged(&mut self, seq: u32) -> Result<()> {
        self.remove_named(&staged_name(seq)?)
    }

    fn arm(&mut self, seq: u32) -> Result<Entry> {
        self.rename(&staged_name(seq)?, Entry::armed(seq))
    }

    fn rearm(&mut self, entry: Entry) -> Result<Entry> {
        self.rename(&entry.to_string(), Entry::armed(entry.seq))
    }

    fn commit(&mut self, entry: Entry) -> Result<Entry> {
        self.rename(&entry.to_string(), Entry::committed(entry.seq))
    }

    fn mark_bad(&mut self, entry: Entry) -> Result<Entry> {
        self.rename(&entry.to_string(), entry.marked_bad())
    }

    fn remove(&mut self, entry: Entry) -> Result<()> {
        self.remove_named(&entry.to_string())
    }

    fn read_entry(&mut self, entry: Entry, out: &mut dyn Write) -> Result<u64> {
        self.read_named(&entry.to_string(), out)
    }

    fn stage_rescue(&mut self, size: u64, data: &mut dyn Read) -> Result<()> {
        let name = RESCUE_STAGED;
        if size == 0 || size > UKI_MAX {
            return Err(BootloaderError::TooLarge { name: name.to_string(), size, max: UKI_MAX });
        }
        self.remove_staged_rescue()?;
        let directory = self.fat.directory(DIRECTORY)?;
        let files = self.fat.list(directory)?;
        let short = RESCUE_SHORT.into_iter().find(|short| files.iter().all(|file| file.short != *short));
        let short = short.ok_or_else(|| BootloaderError::Exists(name.to_string()))?;
        self.fat.create(directory, &NewFile { long: name, short }, size as u32, data)
    }

    fn read_staged_rescue(&mut self, out: &mut dyn Write) -> Result<u64> {
        self.read_named(RESCUE_STAGED, out)
    }

    fn remove_staged_rescue(&mut self) -> Result<()> {
        self.remove_named(RESCUE_STAGED)
    }

    fn switch_rescue(&mut self) -> Result<()> {
        let staged = self.find(RESCUE_STAGED)?;
        let staged = staged.ok_or_else(|| BootloaderError::NotFound(RESCUE_STAGED.to_string()))?;
        match self.find(RESCUE_ENTRY)? {
            Some(present) => self.fat.replace(&present, &staged),
            None => self.fat.rename_in_place(&staged, RESCUE_ENTRY),
        }
    }

    fn read_rescue(&mut self, out: &mut dyn Write) -> Result<u64> {
        self.read_named(RESCUE_ENTRY, out)
    }

    fn read_file(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.at_path(path)? else { return Ok(None) };
        if file.size as usize > max {
            return Err(BootloaderError::TooLarge {
                name: path.to_string(),
                size: u64::from(file.size),
                max: max as u64,
            });
        }
        let mut bytes = Vec::with_capacity(file.size as usize);
        self.fat.copy_out(&file, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn write_file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let directory = self.fat.directory("")?;
        let staged = format!("{name}{STAGED}");
        self.remove_file(&staged)?;
        let files = self.fat.list(directory)?;
        let short = small_shorts().find(|short| files.iter().all(|file| file.short != *short));
        let short = short.ok_or_else(|| BootloaderError::Exists(staged.clone()))?;
        let mut data = content;
        match self.at_path(name)? {
            None => {
                self.fat.create(directory, &NewFile { long: name, short }, content.len() as u32, &mut data)
            }
            Some(present) => {
                self.fat.create(
                    directory,
                    &NewFile { long: &staged, short },
                    content.len() as u32,
                    &mut data,
                )?;
                let staged = self.at_path(&staged)?.ok_or(BootloaderError::NotFound(staged))?;
                self.fat.replace(&present, &staged)
            }
        }
    }

    fn remove_file(&mut self, path: &str) -> Result<bool> {
        match self.at_path(path)? {
            Some(file) => {
                self.fat.wipe(&file)?;
                self.fat.delete(&file).map(|()| true)
            }
            None => Ok(false),
        }
    }
}

/// Short names for small files at the top.
fn small_shorts() -> impl Iterator<Item = [u8; 11]> {
    (b'0'..=b'9').map(|digit| {
        let mut short = *b"MASMALL0TXT";
        short[7] = digit;
        short
    })
}

fn staged_name(seq: u32) -> Result<String> {
    if seq == 0 || seq > SEQ_MAX {
        return Err(EntryError::NotOurs(format!("macula-{seq}{STAGED}")).into());
    }
    Ok(format!("macula-{seq:06}{STAGED}"))
}
