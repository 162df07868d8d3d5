//! The file allocation table: chains of clusters, free clusters, and the hints of the FSInfo sector.

use crate::{BlockDevice, BootloaderError, Result};

use super::Fat;

const ENTRY_MASK: u32 = 0x0fff_ffff;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const FIRST_END_MARK: u32 = 0x0fff_fff8;

impl<D: BlockDevice> Fat<D> {
    /// At most `most` clusters of the chain that begins at `first`.
    pub(super) fn chain(&mut self, first: u32, most: u64) -> Result<Vec<u32>> {
        let limit = most.min(u64::from(self.geometry.clusters));
        let mut chain = Vec::new();
        let mut cluster = first;
        while (chain.len() as u64) < limit {
            if !self.geometry.is_cluster(cluster) {
                return Err(BootloaderError::Damaged(format!("cluster {cluster} is outside of the volume")));
            }
            chain.push(cluster);
            let next = self.next(cluster)?;
            if next >= FIRST_END_MARK {
                break;
            }
            cluster = next;
        }
        Ok(chain)
    }

    fn next(&mut self, cluster: u32) -> Result<u32> {
        let offset = self.geometry.fat_offsets()[0] + u64::from(cluster) * 4;
        let mut entry = [0; 4];
        self.device.read_at(offset, &mut entry)?;
        Ok(u32::from_le_bytes(entry) & ENTRY_MASK)
    }

    /// The first `count` free clusters in ascending order.
    pub(super) fn find_free(&mut self, count: u64) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        if count == 0 {
            return Ok(found);
        }
        let start = self.geometry.fat_offsets()[0];
        let end = u64::from(self.geometry.clusters) + 2;
        let mut buf = vec![0; 64 * 1024];
        let mut cluster = 0u64;
        while cluster < end {
            let part = ((end - cluster) * 4).min(buf.len() as u64) as usize;
            self.device.read_at(start + cluster * 4, &mut buf[..part])?;
            for entry in buf[..part].chunks_exact(4) {
                let free = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) & ENTRY_MASK == 0;
                if free && cluster >= 2 {
                    found.push(cluster as u32);
                    if found.len() as u64 == count {
                        return Ok(found);
                    }
                }
                cluster += 1;
            }
        }
        let bytes = u64::from(self.geometry.cluster_bytes);
        Err(BootloaderError::NoSpace { need: count * bytes, free: found.len() as u64 * bytes })
    }

    /// Makes a chain of these clusters, which are free.
    pub(super) fn link(&mut self, clusters: &[u32]) -> Result<()> {
        let next = clusters.iter().skip(1).copied().chain([END_OF_CHAIN]);
        let changes: Vec<(u32, u32)> = clusters.iter().copied().zip(next).collect();
        self.set_entries(changes)?;
        self.adjust_fs_info(-(clusters.len() as i64), clusters.last().copied())
    }

    /// Frees these clusters, which nothing names any more.
    pub(super) fn free(&mut self, clusters: &[u32]) -> Result<()> {
        self.set_entries(clusters.iter().map(|c| (*c, 0)).collect())?;
        self.adjust_fs_info(clusters.len() as i64, None)
    }

    /// Appends `new`, which is linked already, to the chain that ends at `last`.
    pub(super) fn append(&mut self, last: u32, new: u32) -> Result<()> {
        self.set_entries(vec![(last, new)])
    }

    /// Sets (cluster, value) pairs, one write per sector and FAT. The top four bits of an entry are kept.
    fn set_entries(&mut self, mut changes: Vec<(u32, u32)>) -> Result<()> {
        changes.sort_unstable();
        let sector_bytes = u64::from(self.geometry.sector_bytes);
        let sector_of = |cluster: u32| u64::from(cluster) * 4 / sector_bytes;
        let mut sector = vec![0; sector_bytes as usize];
        for group in changes.chunk_by(|a, b| sector_of(a.0) == sector_of(b.0)) {
            let at = sector_of(group[0].0) * sector_bytes;
            let fats = self.geometry.fat_offsets();
            self.device.read_at(fats[0] + at, &mut sector)?;
            for (cluster, value) in group {
                let from = (u64::from(*cluster) * 4 % sector_bytes) as usize;
                let entry = &mut sector[from..from + 4];
                let old = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
                entry.copy_from_slice(&((old & !ENTRY_MASK) | value).to_le_bytes());
            }
            for fat in fats {
                self.device.write_at(fat + at, &sector)?;
            }
        }
        Ok(())
    }

    /// Keeps the free count and the next-free hint right. They are hints: a cut may leave them wrong.
    fn adjust_fs_info(&mut self, delta: i64, last_used: Option<u32>) -> Result<()> {
        let Some(at) = self.geometry.fs_info else { return Ok(()) };
        let mut info = [0; 512];
        self.device.read_at(at, &mut info)?;
        if delta == 0 || !info.starts_with(b"RRaA") || &info[484..488] != b"rrAa" {
            return Ok(());
        }
        let free = u32::from_le_bytes([info[488], info[489], info[490], info[491]]);
        let known = free <= self.geometry.clusters;
        let free = i64::from(free).saturating_add(delta);
        let free = u32::try_from(free).ok().filter(|n| known && *n <= self.geometry.clusters);
        let mut fields = [0; 8];
        fields[..4].copy_from_slice(&free.unwrap_or(u32::MAX).to_le_bytes());
        fields[4..].copy_from_slice(&info[492..496]);
        if let Some(cluster) = last_used {
            fields[4..].copy_from_slice(&cluster.to_le_bytes());
        }
        self.patch(at + 488, &fields)
    }
}
