//! Reads and writes what the boot loader reads. One trait, one backend per boot loader; the rules of when to call
//! what are in `os-slots` and its callers.
//!
//! Every change is made so that a power cut at any moment leaves the old state or the new one: payload first, then a
//! flush, then one sector that makes the change visible, then a flush. What a cut can leave behind is clusters that
//! nobody names (space, no damage). Nothing is written when nothing changes: no dirty flag, no access time.
//!
//! The FAT code is our own and small instead of a crate's, for two reasons: the order of the writes is the point of
//! this crate, and PID 1 reads the ESP, so a damaged file system must give an error, never a panic or an endless loop.
//! Tests hold it against the `fatfs` crate and, where it is installed, `fsck.vfat`.

mod device;
pub mod esp;
mod fat;
#[cfg(test)]
mod testing;
mod uefi;

use std::io::{self, Read, Write};

use os_slots::{Entry, EntryError};

pub use device::{BlockDevice, DeviceFile};
pub use uefi::{UKI_MAX, Uefi};

/// What went wrong, on what, and what it means.
#[derive(Debug, thiserror::Error)]
pub enum BootloaderError {
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the boot partition is not FAT32 as we know it: {0}")]
    NotFat32(&'static str),
    #[error("the boot partition's file system is damaged: {0}")]
    Damaged(String),
    #[error("no room on the boot partition: {need} bytes needed, {free} free")]
    NoSpace { need: u64, free: u64 },
    #[error("{0} is not on the boot partition")]
    NotFound(String),
    #[error("{0} is already on the boot partition")]
    Exists(String),
    #[error("{name} is {size} bytes, more than the {max} allowed")]
    TooLarge { name: String, size: u64, max: u64 },
    #[error("the data for {name} ended after {got} of {size} bytes")]
    Short { name: String, got: u64, size: u64 },
    #[error("{name} cannot be renamed in one write: {why}")]
    NotRenamable { name: String, why: &'static str },
    #[error(transparent)]
    Name(#[from] EntryError),
}

pub type Result<T> = std::result::Result<T, BootloaderError>;

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BootloaderError {
    let what = what.into();
    move |source| BootloaderError::Io { what, source }
}

/// What an update asks of a boot loader. Every method that changes something returns after the change is on the disk.
pub trait Bootloader {
    /// The entries that are ours, in the order in which the boot loader tries them.
    fn entries(&mut self) -> Result<Vec<Entry>>;

    /// Stores a payload under a name that the boot loader does not look at, for [`Bootloader::arm`]. Reads exactly
    /// `size` bytes. Replaces what an interrupted install of the same number left.
    fn stage(&mut self, seq: u32, size: u64, data: &mut dyn Read) -> Result<()>;

    /// Sequence numbers of staged payloads.
    fn staged(&mut self) -> Result<Vec<u32>>;

    /// Copies a staged payload out, past the page cache, to be verified. Returns its size.
    fn read_staged(&mut self, seq: u32, out: &mut dyn Write) -> Result<u64>;

    /// Deletes a staged payload; nothing happens if there is none.
    fn remove_staged(&mut self, seq: u32) -> Result<()>;

    /// The switch: the staged payload becomes an entry on trial. One sector.
    fn arm(&mut self, seq: u32) -> Result<Entry>;

    /// An entry whose tries were used up gets them back. One sector.
    fn rearm(&mut self, entry: Entry) -> Result<Entry>;

    /// The trial is over and won: its entry loses the counter. One sector.
    fn commit(&mut self, entry: Entry) -> Result<Entry>;

    /// The entry must not be chosen again while there is another. One sector.
    fn mark_bad(&mut self, entry: Entry) -> Result<Entry>;

    /// Deletes an entry; nothing happens if it is not there.
    fn remove(&mut self, entry: Entry) -> Result<()>;

    /// Copies an entry's payload out. Returns its size.
    fn read_entry(&mut self, entry: Entry, out: &mut dyn Write) -> Result<u64>;

    /// Stores another rescue system under a name that the boot loader does not look at, for
    /// [`Bootloader::switch_rescue`]. Reads exactly `size` bytes. Replaces what an interrupted renewal left.
    fn stage_rescue(&mut self, size: u64, data: &mut dyn Read) -> Result<()>;

    /// Copies the staged rescue system out, past the page cache, to be verified. Returns its size.
    fn read_staged_rescue(&mut self, out: &mut dyn Write) -> Result<u64>;

    /// Deletes a staged rescue system; nothing happens if there is none.
    fn remove_staged_rescue(&mut self) -> Result<()>;

    /// The staged rescue system takes the place of the present one. One sector, before which the old one starts and after
    /// which the new one does.
    fn switch_rescue(&mut self) -> Result<()>;

    /// Copies the rescue system out, past the page cache. Returns its size.
    fn read_rescue(&mut self, out: &mut dyn Write) -> Result<u64>;

    /// A whole file by its path from the top, `None` if it is not there.
    fn read_file(&mut self, path: &str, max: usize) -> Result<Option<Vec<u8>>>;

    /// A small file at the top, such as `macula-pair.txt`, with this content: the old one or the new one is there at any moment, or, while there is
    /// none yet, none.
    fn write_file(&mut self, name: &str, content: &[u8]) -> Result<()>;

    /// Overwrites a file with zeros, then deletes it, by its path: it may hold secrets. Returns whether it was there. A cut on the way
    /// leaves it with some of its bytes zero, or gone.
    fn remove_file(&mut self, path: &str) -> Result<bool>;
}
