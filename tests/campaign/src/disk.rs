//! A disk as a base file with changed pages on top, layer upon layer: ten thousand disks cost the memory of one and a few
//! pages each.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image_layout::{ESP, ROOT_A, ROOT_B, STATE};
use os_bootloader::{BlockDevice, BootloaderError};

pub const SECTOR: usize = 512;
pub const PAGE: usize = 4096;
type Page = [u8; PAGE];

/// What a byte of the disk belongs to. `State` goes to the disk's end: the partition grows there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    Gpt,
    Esp,
    RootA,
    RootB,
    State,
}

pub const REGIONS: [Region; 5] = [Region::Gpt, Region::Esp, Region::RootA, Region::RootB, Region::State];

impl Region {
    pub fn of(offset: u64) -> Self {
        let ends = [ESP.start, ESP.end(), ROOT_A.end(), ROOT_B.end()];
        REGIONS[ends.iter().filter(|end| offset >= **end).count()]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Esp => "esp",
            Self::RootA => "root-a",
            Self::RootB => "root-b",
            Self::State => "state",
        }
    }
}

enum Below<'a> {
    File(&'a File),
    Disk(&'a Disk<'a>),
}

/// One layer. Reads see through to what is below.
pub struct Disk<'a> {
    below: Below<'a>,
    bytes: u64,
    pages: HashMap<u64, Arc<Page>>,
    /// Of each region: the sum of its changed pages' hashes over all layers, so that equal content is known as such
    /// without being read.
    sums: [u128; REGIONS.len()],
}

impl<'a> Disk<'a> {
    pub fn new(base: &'a File) -> Result<Self> {
        let bytes = base.metadata().context("base disk")?.len();
        ensure!(bytes > STATE.end(), "the base disk is too short");
        Ok(Self { below: Below::File(base), bytes, pages: HashMap::new(), sums: [0; REGIONS.len()] })
    }

    /// A disk that starts as this one and changes alone.
    pub fn fork(&'a self) -> Disk<'a> {
        Disk { below: Below::Disk(self), bytes: self.bytes, pages: HashMap::new(), sums: self.sums }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Two disks over the same base with equal fingerprints hold the same in this region.
    pub fn fingerprint(&self, region: Region) -> u128 {
        self.sums[region as usize]
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.bytes), "a write behind the disk's end");
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let (number, at) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let (now, rest) = data.split_at(data.len().min(PAGE - at));
            self.change(number, at, now)?;
            (offset, data) = (offset + now.len() as u64, rest);
        }
        Ok(())
    }

    /// A discarded range reads as zeros: QEMU unmaps it.
    pub fn discard(&mut self, offset: u64, bytes: u64) -> Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        for start in (offset..offset.saturating_add(bytes)).step_by(ZEROS.len()) {
            let part = (offset + bytes - start).min(ZEROS.len() as u64) as usize;
            self.write(start, &ZEROS[..part])?;
        }
        Ok(())
    }

    fn change(&mut self, number: u64, at: usize, data: &[u8]) -> Result<()> {
        let mut page = [0; PAGE];
        let known = self.changed(number).cloned();
        match &known {
            Some(old) => page = **old,
            None => self.read(number * PAGE as u64, &mut page)?,
        }
        let sum = &mut self.sums[Region::of(number * PAGE as u64) as usize];
        if let Some(old) = &known {
            *sum = sum.wrapping_sub(hash(number, old));
        }
        page[at..at + data.len()].copy_from_slice(data);
        *sum = sum.wrapping_add(hash(number, &page));
        self.pages.insert(number, Arc::new(page));
        Ok(())
    }

    fn changed(&self, number: u64) -> Option<&Arc<Page>> {
        self.pages.get(&number).or_else(|| match &self.below {
            Below::Disk(disk) => disk.changed(number),
            Below::File(_) => None,
        })
    }

    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.bytes), "a read behind the disk's end");
        let (mut offset, mut out) = (offset, out);
        while !out.is_empty() {
            let (number, at) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let part = out.len().min(PAGE - at);
            let (now, rest) = out.split_at_mut(part);
            match self.changed(number) {
                Some(page) => now.copy_from_slice(&page[at..at + part]),
                None => self.base().read_exact_at(now, offset).context("base disk")?,
            }
            (offset, out) = (offset + part as u64, rest);
        }
        Ok(())
    }

    fn base(&self) -> &File {
        match &self.below {
            Below::File(file) => file,
            Below::Disk(disk) => disk.base(),
        }
    }

    /// Numbers of the changed pages in a range of bytes, over all layers; some may come twice.
    fn changed_in(&self, start: u64, end: u64, numbers: &mut Vec<u64>) {
        let inside = |number: &&u64| (start..end).contains(&(**number * PAGE as u64));
        numbers.extend(self.pages.keys().filter(inside));
        if let Below::Disk(disk) = &self.below {
            disk.changed_in(start, end, numbers);
        }
    }

    /// Writes a range of the disk to `out` as a sparse file of that length. `base_data`: where the base disk holds data.
    pub fn copy_range(
        &self,
        start: u64,
        bytes: u64,
        base_data: &[std::ops::Range<u64>],
        out: &File,
    ) -> Result<()> {
        out.set_len(0).and_then(|()| out.set_len(bytes)).context("a copy of a partition")?;
        let end = (start + bytes).min(self.bytes);
        let mut numbers = Vec::new();
        self.changed_in(start, end, &mut numbers);
        for range in base_data {
            let (from, to) = (range.start.max(start), range.end.min(end));
            numbers.extend((from / PAGE as u64..to.div_ceil(PAGE as u64)).filter(|_| from < to));
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut page = [0; PAGE];
        for number in numbers {
            self.read(number * PAGE as u64, &mut page)?;
            if page.iter().any(|b| *b != 0) {
                out.write_all_at(&page, number * PAGE as u64 - start).context("a copy of a partition")?;
            }
        }
        Ok(())
    }
}

fn hash(number: u64, page: &Page) -> u128 {
    let hash = os_content_id::hash(page);
    let mut low = [0; 16];
    low.copy_from_slice(&hash[..16]);
    // The same page elsewhere must count as another one.
    u128::from_le_bytes(low).wrapping_mul(u128::from(number) * 2 + 1)
}

/// A partition, for code that reads block devices. Writing it is an error: a judge changes nothing.
pub struct Partition<'a> {
    pub disk: &'a Disk<'a>,
    pub start: u64,
    pub bytes: u64,
}

impl BlockDevice for Partition<'_> {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> os_bootloader::Result<()> {
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.bytes);
        let read = if inside { self.disk.read(self.start + offset, buf).ok() } else { None };
        read.ok_or_else(|| io_error("reading", offset))
    }

    fn write_at(&mut self, offset: u64, _data: &[u8]) -> os_bootloader::Result<()> {
        Err(io_error("writing", offset))
    }

    fn sync(&mut self) -> os_bootloader::Result<()> {
        Ok(())
    }
}

fn io_error(what: &str, offset: u64) -> BootloaderError {
    let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
    BootloaderError::Io { what: format!("{what} at {offset} of a replayed disk"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(STATE.end() + (1 << 20)).unwrap();
        file.write_all_at(b"base", STATE.start).unwrap();
        file
    }

    #[test]
    fn layers_see_through_and_change_alone() {
        let file = base();
        let mut disk = Disk::new(&file).unwrap();
        disk.write(STATE.start + 4094, b"abcd").unwrap();
        let mut fork = disk.fork();
        fork.write(STATE.start + 1, b"X").unwrap();
        let read = |disk: &Disk, at: u64| {
            let mut bytes = [0; 4];
            disk.read(STATE.start + at, &mut bytes).unwrap();
            bytes
        };
        assert_eq!((read(&fork, 0), read(&disk, 0)), (*b"bXse", *b"base"));
        assert_eq!(read(&fork, 4094), *b"abcd");
        assert!(fork.write(fork.bytes() - 1, b"ab").is_err());
    }

    #[test]
    fn fingerprints_follow_content_and_not_its_history() {
        let file = base();
        let mut one = Disk::new(&file).unwrap();
        let mut two = Disk::new(&file).unwrap();
        for (offset, data) in [(STATE.start, b"one"), (STATE.start + 8192, b"two")] {
            one.write(offset, data).unwrap();
        }
        two.write(STATE.start + 8192, b"xxx").unwrap();
        let mut two = two.fork();
        for (offset, data) in [(STATE.start + 8192, b"two"), (STATE.start, b"one")] {
            assert_ne!(one.fingerprint(Region::State), two.fingerprint(Region::State));
            two.write(offset, data).unwrap();
        }
        assert_eq!(one.fingerprint(Region::State), two.fingerprint(Region::State));
        assert_eq!(one.fingerprint(Region::Esp), 0);
        // The same page at two places is two things.
        let mut three = Disk::new(&file).unwrap();
        three.write(STATE.start + 16384, b"two").unwrap();
        let mut four = Disk::new(&file).unwrap();
        four.write(STATE.start + 8192, b"two").unwrap();
        assert_ne!(three.fingerprint(Region::State), four.fingerprint(Region::State));
    }

    #[test]
    fn a_partition_is_copied_with_base_and_changes() {
        let file = base();
        let mut disk = Disk::new(&file).unwrap();
        disk.write(STATE.start + 8192, b"new").unwrap();
        let fork = disk.fork();
        let out = tempfile::tempfile().unwrap();
        let data = vec![0..4096, STATE.start..STATE.start + 4096];
        fork.copy_range(STATE.start, STATE.bytes, &data, &out).unwrap();
        let mut bytes = [0; 8195];
        out.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes[..4], &bytes[8192..]), (&b"base"[..], &b"new"[..]));
        assert_eq!(out.metadata().unwrap().len(), STATE.bytes);
    }

    #[test]
    fn regions_are_the_layouts_partitions() {
        let at = [0, ESP.start, ROOT_A.start, ROOT_B.start, STATE.start];
        assert_eq!(at.map(Region::of), REGIONS);
        assert_eq!(Region::of(ESP.start - 1), Region::Gpt);
        assert_eq!(Region::of(STATE.end() + (1 << 30)), Region::State);
    }
}
