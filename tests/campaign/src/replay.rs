//! The recorded requests in memory, and the disks that cuts make of them.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result};
use image_layout::STATE;
use init_plan::ext4::SUPERBLOCK_AT;
use qemu_vm::{LoggedWrite, WriteLog};

use crate::cuts::{Cut, Kind, Request, durable_before};
use crate::disk::{Disk, Region, SECTOR};
use crate::record::{Recording, Span};

/// All requests with their data.
pub struct Replay {
    writes: Vec<LoggedWrite>,
    data: Vec<Vec<u8>>,
    requests: Vec<Request>,
}

/// A cut, and which requests of the whole recording it stands on.
#[derive(Debug, Clone)]
pub struct Placed {
    pub cut: Cut,
    /// The number, in the recording, of the request at which the power goes.
    pub at: usize,
    /// All requests before this one are on the disk.
    floor: usize,
    start: usize,
}

impl Replay {
    pub fn load(log: &WriteLog) -> Result<Self> {
        let writes = log.entries().to_vec();
        let data = writes.iter().map(|w| log.data(w)).collect::<Result<_, _>>()?;
        let requests = writes.iter().map(request).collect();
        Ok(Self { writes, data, requests })
    }

    pub fn requests(&self, span: Span) -> &[Request] {
        &self.requests[span.start..span.end]
    }

    pub fn place(&self, recording: &Recording, cut: &Cut) -> Result<Placed> {
        let span = recording.span(cut.operation);
        let span = span.with_context(|| format!("{cut}: that operation was not recorded"))?;
        let requests = self.requests(span);
        let at = cut.at(requests)?;
        let floor = if matches!(cut.kind, Kind::Lost(_)) { durable_before(requests, at) } else { at };
        Ok(Placed { cut: cut.clone(), at: span.start + at, floor: span.start + floor, start: span.start })
    }

    /// Calls `judge` with each cut's disk, in the order of their places.
    pub fn each(
        &self,
        base: &File,
        mut cuts: Vec<Placed>,
        mut judge: impl FnMut(Placed, &Disk) -> Result<()>,
    ) -> Result<()> {
        cuts.sort_by_key(|c| c.floor);
        let mut disk = Disk::new(base)?;
        let mut done = 0;
        for cut in cuts {
            for number in done..cut.floor {
                self.apply(number, &mut disk)?;
            }
            done = cut.floor;
            let mut fork = disk.fork();
            self.finish(&cut, &mut fork)?;
            judge(cut, &fork)?;
        }
        Ok(())
    }

    /// What the cut has beyond its floor.
    fn finish(&self, cut: &Placed, disk: &mut Disk) -> Result<()> {
        match &cut.cut.kind {
            Kind::Prefix => Ok(()),
            Kind::Torn(sectors) => self.apply_sectors(cut.at, disk, |s| s < *sectors),
            Kind::Holes(holes) => self.apply_sectors(cut.at, disk, |s| !holes.contains(&s)),
            Kind::Lost(lost) => {
                let kept = (cut.floor..cut.at).filter(|n| !lost.contains(&(n - cut.start)));
                kept.into_iter().try_for_each(|number| self.apply(number, disk))
            }
        }
    }

    fn apply(&self, number: usize, disk: &mut Disk) -> Result<()> {
        let write = &self.writes[number];
        match write.is_discard {
            true => disk.discard(write.offset, write.bytes),
            false => disk.write(write.offset, &self.data[number]),
        }
    }

    fn apply_sectors(&self, number: usize, disk: &mut Disk, is_there: impl Fn(u64) -> bool) -> Result<()> {
        let write = &self.writes[number];
        if write.is_discard {
            return self.apply(number, disk);
        }
        for (sector, data) in self.data[number].chunks(SECTOR).enumerate() {
            if is_there(sector as u64) {
                disk.write(write.offset + (sector * SECTOR) as u64, data)?;
            }
        }
        Ok(())
    }

    /// The cut's disk as a sparse file, for a machine.
    pub fn build(&self, recording: &Recording, cut: &Placed, to: &Path) -> Result<()> {
        let base = File::open(recording.base())?;
        let data = image_builder::sparse::data_ranges(&base, base.metadata()?.len())?;
        let out = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(to);
        let out = out.with_context(|| format!("cannot create {}", to.display()))?;
        self.each(&base, vec![cut.clone()], |_, disk| disk.copy_range(0, disk.bytes(), &data, &out))
    }
}

fn request(write: &LoggedWrite) -> Request {
    let superblock = STATE.start + SUPERBLOCK_AT;
    Request {
        region: Region::of(write.offset),
        is_superblock: (write.offset..write.offset + write.bytes).contains(&superblock),
        sectors: write.bytes / SECTOR as u64,
        is_flush: write.is_flush,
        is_discard: write.is_discard,
    }
}
