//! Where things are on the volume: the BIOS parameter block, checked.

use crate::{BlockDevice, BootloaderError, Result};

#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub sector_bytes: u32,
    pub cluster_bytes: u32,
    /// Byte offset of the first FAT.
    pub fat_start: u64,
    pub fat_bytes: u64,
    pub fats: u8,
    /// The only FAT in use, when they are not mirrored.
    pub single_fat: Option<u8>,
    /// Byte offset of cluster 2.
    pub data_start: u64,
    /// Clusters are numbered 2 to `clusters + 1`.
    pub clusters: u32,
    /// First cluster of the top directory.
    pub root: u32,
    /// Byte offset of the FSInfo sector.
    pub fs_info: Option<u64>,
}

impl Geometry {
    pub fn read(device: &mut dyn BlockDevice) -> Result<Self> {
        let mut boot = [0; 512];
        device.read_at(0, &mut boot)?;
        Self::parse(&boot, device.len()).map_err(BootloaderError::NotFat32)
    }

    fn parse(boot: &[u8; 512], device_bytes: u64) -> std::result::Result<Self, &'static str> {
        let u16_at = |at: usize| u16::from_le_bytes([boot[at], boot[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        if u16_at(510) != 0xaa55 {
            return Err("no boot sector signature");
        }
        let sector_bytes = u32::from(u16_at(11));
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
            return Err("sector size");
        }
        let per_cluster = u32::from(boot[13]);
        if !per_cluster.is_power_of_two() || per_cluster > 128 {
            return Err("sectors per cluster");
        }
        let (reserved, fats) = (u32::from(u16_at(14)), boot[16]);
        if reserved == 0 || !(1..=2).contains(&fats) {
            return Err("reserved sectors or number of FATs");
        }
        if u16_at(17) != 0 || u16_at(22) != 0 {
            return Err("it is FAT12 or FAT16");
        }
        let (total, fat_sectors, root) = (u32_at(32), u32_at(36), u32_at(44));
        let meta = u64::from(reserved) + u64::from(fats) * u64::from(fat_sectors);
        if fat_sectors == 0 || meta >= u64::from(total) {
            return Err("sizes do not add up");
        }
        if u64::from(total) * u64::from(sector_bytes) > device_bytes {
            return Err("it is larger than its partition");
        }
        let fat_bytes = u64::from(fat_sectors) * u64::from(sector_bytes);
        let clusters = (u64::from(total) - meta) / u64::from(per_cluster);
        let clusters = clusters.min((fat_bytes / 4).saturating_sub(2)).min(0x0fff_fff5) as u32;
        if root < 2 || root > clusters.saturating_add(1) {
            return Err("top directory outside of the volume");
        }
        let flags = u16_at(40);
        let single_fat = (flags & 0x80 != 0).then_some((flags & 0x0f) as u8);
        if single_fat.is_some_and(|n| n >= fats) {
            return Err("active FAT does not exist");
        }
        let info = u32::from(u16_at(48));
        Ok(Self {
            sector_bytes,
            cluster_bytes: sector_bytes * per_cluster,
            fat_start: u64::from(reserved) * u64::from(sector_bytes),
            fat_bytes,
            fats,
            single_fat,
            data_start: meta * u64::from(sector_bytes),
            clusters,
            root,
            fs_info: (1..reserved).contains(&info).then(|| u64::from(info) * u64::from(sector_bytes)),
        })
    }

    /// Byte offset of a cluster that [`Geometry::is_cluster`] has accepted.
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        self.data_start + u64::from(cluster.saturating_sub(2)) * u64::from(self.cluster_bytes)
    }

    pub fn is_cluster(&self, cluster: u32) -> bool {
        (2..self.clusters.saturating_add(2)).contains(&cluster)
    }

    /// Byte offsets of each FAT that is kept up to date, the one to read from first.
    pub fn fat_offsets(&self) -> Vec<u64> {
        match self.single_fat {
            Some(n) => vec![self.fat_start + u64::from(n) * self.fat_bytes],
            None => (0..u64::from(self.fats)).map(|n| self.fat_start + n * self.fat_bytes).collect(),
        }
    }
}
