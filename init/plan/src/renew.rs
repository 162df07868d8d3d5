//! What the first boot, and the one after a factory reset, does to the partition table: GUIDs of its own, and a state
//! partition up to the disk's end.
//!
//! The backup copy at the disk's new end is written and flushed before the primary one. A power cut leaves either
//! the old primary (the next boot starts over with other GUIDs), or a torn primary and a whole new backup, which
//! firmware and [`crate::gpt::read`] then use and [`renew`] writes back. The old backup lies inside the grown state
//! partition and is never used again.

use image_layout::encryption::{self, ENCRYPTION_ATTRIBUTES, Encryption};
use image_layout::{FACTORY_ATTRIBUTE, RESET_ATTRIBUTE};

use crate::disks::Disk;
use crate::gpt::{BACKUP_SECTORS, Copy, SECTOR, Table, protective_mbr};
use crate::guid::Guid;

const STATE: u32 = 4;
/// What makes the next boot a first boot.
const FRESH: u64 = FACTORY_ATTRIBUTE | RESET_ATTRIBUTE;
/// Partition ends are aligned to 1 MiB, so that no page of the state partition shares a page with the table.
const ALIGN: u64 = 2048;

/// A table to write, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    pub table: Table,
    /// New GUIDs were given: this is the first boot.
    pub new_guids: bool,
    /// The state partition gets more sectors.
    pub grown: bool,
}

/// Bytes at a place on the disk; each write is flushed before the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// What to change on `disk`, if anything. A reset that its table asks for must have been made by then. `fresh` gives random GUIDs.
pub fn renew(disk: &Disk, mut fresh: impl FnMut() -> Guid) -> Option<Renewal> {
    let mut table = disk.table.clone();
    let new_guids = table.partitions.iter().any(|p| p.number == STATE && p.attributes & FRESH != 0);
    if new_guids {
        table.disk_guid = fresh();
        for partition in &mut table.partitions {
            partition.guid = fresh();
            if partition.number == STATE {
                partition.attributes &= !(FRESH | ENCRYPTION_ATTRIBUTES);
            }
        }
    }
    let moved = table.backup_lba() != disk.sectors - 1;
    let grown = reach_end(&mut table, disk.sectors);
    let changed = new_guids || moved || grown || disk.copy == Copy::Backup;
    changed.then_some(Renewal { table, new_guids, grown })
}

/// What a fresh disk needs before its state can be encrypted: all the room there is, and a factory reset that encrypts. The
/// disk stays a fresh one, so what is cut here starts over, as an ordinary first boot does.
pub fn with_encryption(disk: &Disk, wish: Option<Encryption>) -> Renewal {
    let mut table = disk.table.clone();
    let grown = reach_end(&mut table, disk.sectors);
    for partition in table.partitions.iter_mut().filter(|p| p.number == STATE) {
        partition.attributes &= !ENCRYPTION_ATTRIBUTES;
        partition.attributes |= RESET_ATTRIBUTE | encryption::to_attributes(wish);
    }
    Renewal { table, new_guids: false, grown }
}

/// Moves the backup table to the disk's end, and the state partition's end up to it. Returns whether that grew.
fn reach_end(table: &mut Table, sectors: u64) -> bool {
    table.my_lba = 1;
    table.alternate_lba = sectors - 1;
    table.last_usable = sectors - 1 - BACKUP_SECTORS;
    grow_state(table)
}

/// Extends the state partition if it is the last one on the disk.
fn grow_state(table: &mut Table) -> bool {
    let end = (table.last_usable + 1) / ALIGN * ALIGN;
    let followed = |first: u64| table.partitions.iter().any(|partition| partition.first > first);
    let Some(at) = table.partitions.iter().position(|p| p.number == STATE && !followed(p.first)) else {
        return false;
    };
    let state = &mut table.partitions[at];
    let grown = end > state.last + 1;
    if grown {
        state.last = end - 1;
    }
    grown
}

impl Renewal {
    /// The writes, in order. `sector_0` is the disk's protective MBR.
    pub fn writes(&self, sector_0: &[u8]) -> [Write; 2] {
        let sectors = self.table.alternate_lba + 1;
        let mut front = protective_mbr(sector_0, sectors);
        front.extend(self.table.encode_primary());
        [
            Write { offset: (sectors - BACKUP_SECTORS) * SECTOR, bytes: self.table.encode_backup() },
            Write { offset: 0, bytes: front },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::{self, find};
    use crate::gpt::tests::{disk as disk_bytes, reader, sample};
    use crate::gpt::{self};

    fn counter() -> impl FnMut() -> Guid {
        let mut count = 100;
        move || {
            count += 1;
            Guid([count; 16])
        }
    }

    fn seen(bytes: &[u8]) -> Disk {
        let sectors = bytes.len() as u64 / SECTOR;
        let (table, copy) = gpt::read(sectors, reader(bytes)).expect("a usable table");
        Disk { name: "vda".into(), sectors, table, copy }
    }

    fn apply(bytes: &mut [u8], writes: &[Write]) {
        for write in writes {
            bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
    }

    #[test]
    fn first_boot_renews_and_grows_once() {
        let mut bytes = disk_bytes(&sample(12288), 40960);
        let renewal = renew(&seen(&bytes), counter()).unwrap();
        assert!(renewal.new_guids && renewal.grown);
        let writes = renewal.writes(&bytes[..512]);
        apply(&mut bytes, &writes);
        let after = seen(&bytes);
        assert_eq!(after.table, renewal.table);
        let state = disks::partition(&after.table, 4).unwrap();
        assert_eq!((state.first, state.last, state.attributes), (8192, 38911, 0));
        assert!(after.table.partitions.iter().all(|p| p.guid.0[0] > 100));
        assert_eq!(bytes[458..462], 40959u32.to_le_bytes());
        assert!(find(std::slice::from_ref(&after), disks::partition(&after.table, 1).unwrap().guid).is_ok());
        assert_eq!(renew(&after, counter()), None);
    }

    #[test]
    fn a_disk_of_the_images_size_gets_new_guids_only() {
        let mut table = sample(12288);
        table.partitions[3].last = 10239;
        let mut bytes = disk_bytes(&table, 12288);
        let renewal = renew(&seen(&bytes), counter()).unwrap();
        assert_eq!((renewal.new_guids, renewal.grown), (true, false));
        let writes = renewal.writes(&bytes[..512]);
        apply(&mut bytes, &writes);
        assert_eq!(renew(&seen(&bytes), counter()), None);
    }

    #[test]
    fn a_disk_that_grew_later_keeps_its_guids() {
        let mut table = sample(12288);
        table.partitions[3].attributes = 0;
        let bytes = disk_bytes(&table, 40960);
        let renewal = renew(&seen(&bytes), counter()).unwrap();
        assert_eq!((renewal.new_guids, renewal.grown), (false, true));
        assert_eq!(renewal.table.disk_guid, table.disk_guid);
    }

    #[test]
    fn a_fresh_disk_that_is_to_be_encrypted_grows_first_and_stays_fresh() {
        let old = disk_bytes(&sample(12288), 40960);
        let writes = with_encryption(&seen(&old), Some(Encryption::TpmPin)).writes(&old[..512]);
        for (done, write) in writes.iter().enumerate() {
            for cut in 0..=write.bytes.len() / 512 {
                let mut bytes = old.clone();
                apply(&mut bytes, &writes[..done]);
                bytes[write.offset as usize..][..cut * 512].copy_from_slice(&write.bytes[..cut * 512]);
                let found = seen(&bytes);
                let state = disks::partition(&found.table, 4).unwrap();
                assert!(state.attributes & FACTORY_ATTRIBUTE != 0);
                let asked = encryption::from_attributes(state.attributes);
                assert_eq!(asked.is_some(), state.attributes & RESET_ATTRIBUTE != 0 && state.last == 38911);
            }
        }
        let mut bytes = old.clone();
        apply(&mut bytes, &writes);
        let marked = seen(&bytes);
        assert_eq!(crate::reset::requested(&marked), Some(Some(Encryption::TpmPin)));
        let renewal = renew(&marked, counter()).unwrap();
        assert_eq!((renewal.new_guids, renewal.grown), (true, false));
        assert_eq!(disks::partition(&renewal.table, 4).unwrap().attributes, 0);
    }

    /// Every cut between two sectors, and within the write that is under way in either order.
    #[test]
    fn any_power_cut_leads_to_a_renewed_disk() {
        for sectors in [12288, 40960] {
            let old = disk_bytes(&sample(12288), sectors);
            let writes = renew(&seen(&old), counter()).unwrap().writes(&old[..512]);
            for (done, write) in writes.iter().enumerate() {
                let count = write.bytes.len() / 512;
                for (cut, reverse) in (0..=count).flat_map(|cut| [(cut, false), (cut, true)]) {
                    let mut bytes = old.clone();
                    apply(&mut bytes, &writes[..done]);
                    for sector in 0..cut {
                        let at = if reverse { count - 1 - sector } else { sector } * 512;
                        bytes[write.offset as usize + at..][..512]
                            .copy_from_slice(&write.bytes[at..at + 512]);
                    }
                    let found = seen(&bytes);
                    assert_eq!(found.table.partitions[3].first, 8192);
                    if let Some(again) = renew(&found, counter()) {
                        let writes = again.writes(&bytes[..512]);
                        apply(&mut bytes, &writes);
                    }
                    assert_eq!(renew(&seen(&bytes), counter()), None);
                    assert_eq!(seen(&bytes).table.partitions[3].attributes, 0);
                }
            }
        }
    }
}
