//! FAT32, as much of it as a boot partition needs: find, read, create in an existing directory, delete, and rename
//! in place by rewriting one 32-byte slot.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format", 1.03. Everything read from the disk is checked:
//! cluster numbers against the volume, chains against loops, directories against a largest size.
//!
//! Order of writes. Create: data into free clusters, flush, FAT, flush, directory sector, flush. Delete: directory
//! sector, flush, FAT, flush. Replace: the new file's name goes, flush, the old one's slot names the new clusters, flush, the
//! old clusters are freed, flush. Wipe: zeros into the file's clusters, flush; then delete. So a cluster is never named by two files and never both free and named.

mod directory;
mod geometry;
mod table;

use std::io::{Read, Write};

pub use directory::{DirEntry, LFN_CHARS};
use geometry::Geometry;

use crate::{BlockDevice, BootloaderError, Result, io_error};

/// Copy buffer: bounds the memory of moving a payload of any size.
const COPY_BYTES: usize = 256 * 1024;

/// An opened volume. Opening and reading write nothing.
pub struct Fat<D> {
    device: D,
    geometry: Geometry,
}

impl<D: BlockDevice> Fat<D> {
    pub fn open(mut device: D) -> Result<Self> {
        let geometry = Geometry::read(&mut device)?;
        Ok(Self { device, geometry })
    }

    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// The first cluster of the directory at `path` (components separated by `/`), from the top.
    pub fn directory(&mut self, path: &str) -> Result<u32> {
        let mut cluster = self.geometry.root;
        for component in path.split('/').filter(|c| !c.is_empty()) {
            let entry = self.find(cluster, component)?.filter(DirEntry::is_directory);
            cluster = entry.ok_or_else(|| BootloaderError::NotFound(path.to_string()))?.first_cluster;
        }
        Ok(cluster)
    }

    /// The entry in `directory` with this long or short name, compared without case as FAT does.
    pub fn find(&mut self, directory: u32, name: &str) -> Result<Option<DirEntry>> {
        Ok(self.list(directory)?.into_iter().find(|e| e.has_name(name)))
    }

    /// Copies a file's bytes out.
    pub fn copy_out(&mut self, file: &DirEntry, out: &mut dyn Write) -> Result<()> {
        let cluster_bytes = u64::from(self.geometry.cluster_bytes);
        let mut left = u64::from(file.size);
        if left == 0 {
            return Ok(());
        }
        let chain = self.chain(file.first_cluster, left.div_ceil(cluster_bytes))?;
        let mut buf = vec![0; COPY_BYTES];
        for run in runs(&chain) {
            let mut offset = self.geometry.cluster_offset(run.0);
            let mut in_run = (u64::from(run.1) * cluster_bytes).min(left);
            left -= in_run;
            while in_run > 0 {
                let part = in_run.min(COPY_BYTES as u64) as usize;
                self.device.read_at(offset, &mut buf[..part])?;
                out.write_all(&buf[..part]).map_err(io_error(format!("copying {}", file.name)))?;
                offset += part as u64;
                in_run -= part as u64;
            }
        }
        if left > 0 {
            return Err(BootloaderError::Damaged(format!(
                "{} is shorter than its directory says",
                file.name
            )));
        }
        Ok(())
    }

    /// Creates `name` with exactly `size` bytes of `data`. The file appears with the last of the writes.
    pub fn create(&mut self, directory: u32, new: &NewFile, size: u32, data: &mut dyn Read) -> Result<()> {
        if self.list(directory)?.iter().any(|e| e.has_name(new.long) || e.short == new.short) {
            return Err(BootloaderError::Exists(new.long.to_string()));
        }
        let count = u64::from(size).div_ceil(u64::from(self.geometry.cluster_bytes));
        let clusters = self.find_free(count)?;
        self.write_data(new.long, &clusters, size, data)?;
        self.device.sync()?;
        self.link(&clusters)?;
        self.device.sync()?;
        let first = clusters.first().copied().unwrap_or(0);
        self.insert(directory, new, first, size)?;
        self.device.sync()
    }

    /// Deletes a file: its name first, so that no name ever leads to freed clusters.
    pub fn delete(&mut self, file: &DirEntry) -> Result<()> {
        let clusters = self.clusters_of(file);
        self.erase_slots(file)?;
        self.device.sync()?;
        self.free(&clusters)?;
        self.device.sync()
    }

    /// Overwrites all of a file's clusters with zeros, past its end, too. The file is still there, of the same size.
    pub fn wipe(&mut self, file: &DirEntry) -> Result<()> {
        let zeros = vec![0; COPY_BYTES];
        for (first, count) in runs(&self.clusters_of(file)) {
            let mut offset = self.geometry.cluster_offset(first);
            let mut left = u64::from(count) * u64::from(self.geometry.cluster_bytes);
            while left > 0 {
                let part = left.min(COPY_BYTES as u64);
                self.device.write_at(offset, &zeros[..part as usize])?;
                offset += part;
                left -= part;
            }
        }
        self.device.sync()
    }

    /// Gives `file` the content of `by`, whose name goes. The switch is one sector: `file` is there at any moment, with
    /// the old content or the new one. A cut just before it costs the clusters of `by`.
    pub fn replace(&mut self, file: &DirEntry, by: &DirEntry) -> Result<()> {
        let clusters = self.clusters_of(file);
        self.erase_slots(by)?;
        self.device.sync()?;
        self.point_to(file, by.first_cluster, by.size)?;
        self.device.sync()?;
        self.free(&clusters)?;
        self.device.sync()
    }

    fn clusters_of(&mut self, file: &DirEntry) -> Vec<u32> {
        if file.first_cluster == 0 {
            return Vec::new();
        }
        let most = u64::from(file.size).div_ceil(u64::from(self.geometry.cluster_bytes)).max(1);
        // A chain that is damaged is left alone: lost space is better than freeing another file's clusters.
        self.chain(file.first_cluster, most).unwrap_or_default()
    }

    fn write_data(&mut self, name: &str, clusters: &[u32], size: u32, data: &mut dyn Read) -> Result<()> {
        let cluster_bytes = u64::from(self.geometry.cluster_bytes);
        let mut left = u64::from(size);
        let mut buf = vec![0; COPY_BYTES];
        for (first, count) in runs(clusters) {
            let mut offset = self.geometry.cluster_offset(first);
            let mut in_run = (u64::from(count) * cluster_bytes).min(left);
            while in_run > 0 {
                let part = in_run.min(COPY_BYTES as u64) as usize;
                data.read_exact(&mut buf[..part]).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => BootloaderError::Short {
                        name: name.to_string(),
                        got: u64::from(size) - left,
                        size: u64::from(size),
                    },
                    _ => io_error(format!("reading the data for {name}"))(e),
                })?;
                self.device.write_at(offset, &buf[..part])?;
                offset += part as u64;
                in_run -= part as u64;
                left -= part as u64;
            }
        }
        Ok(())
    }

    /// Changes bytes inside one sector and writes that sector.
    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let sector_bytes = u64::from(self.geometry.sector_bytes);
        let start = offset - offset % sector_bytes;
        let mut sector = vec![0; sector_bytes as usize];
        self.device.read_at(start, &mut sector)?;
        let at = (offset - start) as usize;
        let target = sector.get_mut(at..at + bytes.len());
        let target = target.ok_or_else(|| BootloaderError::Damaged("a slot crosses a sector".into()))?;
        if target == bytes {
            return Ok(());
        }
        target.copy_from_slice(bytes);
        self.device.write_at(start, &sector)
    }
}

/// What a new file is called. The caller chooses the short name; it must be unused in its directory.
pub struct NewFile<'a> {
    pub long: &'a str,
    pub short: [u8; 11],
}

/// Neighbouring clusters as (first, count).
fn runs(clusters: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &cluster in clusters {
        match runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(cluster) => *count += 1,
            _ => runs.push((cluster, 1)),
        }
    }
    runs
}
