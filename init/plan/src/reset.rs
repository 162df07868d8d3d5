//! Factory reset: the mark in the partition table that asks for it, and the one in the state partition.
//!
//! The mark is a GPT attribute of the state partition, outside of what is erased. Whatever is cut before it is written
//! leaves the old node; after that every boot starts the reset over, until [`crate::renew`] takes the mark
//! away in the very write that makes this boot a first boot. There is no state in between.

use image_layout::encryption::{self, ENCRYPTION_ATTRIBUTES, Encryption, UnknownEncryption};
use image_layout::{FACTORY_ATTRIBUTE, RESET_ATTRIBUTE};

use crate::disks::Disk;
use crate::gpt::SECTOR;
use crate::renew::{Renewal, Write};

const STATE: u32 = 4;
/// Replaces the first block of the state partition once its secrets are overwritten: a reset that is started over need not
/// look for them again (and could not).
pub const ERASED: &[u8; 32] = b"macula: secrets are overwritten\n";

/// How an order wants the state encrypted that a reset makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    AsItIs,
    Like(Option<Encryption>),
}

impl Wish {
    /// `keep`, or what [`Encryption::parse`] takes.
    pub fn parse(text: &str) -> Result<Wish, UnknownEncryption> {
        if text == "keep" { Ok(Wish::AsItIs) } else { Encryption::parse(text).map(Wish::Like) }
    }

    pub fn or_as_it_is(self, now: Option<Encryption>) -> Option<Encryption> {
        match self {
            Wish::AsItIs => now,
            Wish::Like(wish) => wish,
        }
    }
}

/// Whether the disk's table asks for a reset.
pub fn is_requested(disk: &Disk) -> bool {
    requested(disk).is_some()
}

/// How the state is to be encrypted after the reset that the disk's table asks for; outer `None` if it asks for none.
pub fn requested(disk: &Disk) -> Option<Option<Encryption>> {
    let attributes = state_attributes(disk);
    (attributes & RESET_ATTRIBUTE != 0).then(|| encryption::from_attributes(attributes))
}

/// Whether the disk is as the image was written and has not had its first boot.
pub fn is_fresh(disk: &Disk) -> bool {
    state_attributes(disk) & FACTORY_ATTRIBUTE != 0
}

fn state_attributes(disk: &Disk) -> u64 {
    disk.table.partitions.iter().find(|p| p.number == STATE).map_or(0, |p| p.attributes)
}

/// The disk with the mark set, and the writes that set it; the new state is encrypted as wished. Primary copy first: until it is whole, readers use the old
/// backup, and no backup ever asks for what its primary does not.
pub fn request(disk: &Disk, sector_0: &[u8], wish: Option<Encryption>) -> (Disk, [Write; 2]) {
    let mut marked = disk.clone();
    for partition in marked.table.partitions.iter_mut().filter(|p| p.number == STATE) {
        partition.attributes &= !ENCRYPTION_ATTRIBUTES;
        partition.attributes |= RESET_ATTRIBUTE | encryption::to_attributes(wish);
    }
    let renewal = Renewal { table: marked.table.clone(), new_guids: false, grown: false };
    let [backup, primary] = renewal.writes(sector_0);
    (marked, [primary, backup])
}

/// Whether the partition's first sector says that the secrets were overwritten already.
pub fn is_erased(first_sector: &[u8]) -> bool {
    first_sector.len() as u64 >= SECTOR && first_sector.starts_with(ERASED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::tests::{disk as disk_bytes, reader, sample};
    use crate::gpt::{self, Copy};
    use crate::guid::Guid;
    use crate::renew::renew;

    fn seen(bytes: &[u8]) -> Disk {
        let sectors = bytes.len() as u64 / SECTOR;
        let (table, copy) = gpt::read(sectors, reader(bytes)).expect("a usable table");
        Disk { name: "vda".into(), sectors, table, copy }
    }

    fn apply(bytes: &mut [u8], write: &Write, sectors: usize) {
        let length = (sectors * SECTOR as usize).min(write.bytes.len());
        bytes[write.offset as usize..][..length].copy_from_slice(&write.bytes[..length]);
    }

    fn counter(from: u8) -> impl FnMut() -> Guid {
        let mut count = from;
        move || {
            count += 1;
            Guid([count; 16])
        }
    }

    /// A disk that has had its first boot.
    fn settled() -> Vec<u8> {
        let mut bytes = disk_bytes(&sample(12288), 12800);
        let writes = renew(&seen(&bytes), counter(1)).unwrap().writes(&bytes[..512]);
        writes.iter().for_each(|w| apply(&mut bytes, w, usize::MAX / 512));
        bytes
    }

    #[test]
    fn a_request_is_there_after_its_writes_and_gone_with_the_renewal_that_makes_a_first_boot() {
        let mut bytes = settled();
        let before = seen(&bytes);
        assert!(!is_requested(&before));
        let (marked, writes) = request(&before, &bytes[..512], None);
        writes.iter().for_each(|w| apply(&mut bytes, w, usize::MAX / 512));
        assert_eq!(seen(&bytes), marked);
        assert_eq!(requested(&marked), Some(None));
        let (encrypted, _) = request(&marked, &bytes[..512], Some(Encryption::Tpm));
        assert_eq!(requested(&encrypted), Some(Some(Encryption::Tpm)));
        let renewal = renew(&marked, counter(100)).unwrap();
        assert!(renewal.new_guids);
        let writes = renewal.writes(&bytes[..512]);
        writes.iter().for_each(|w| apply(&mut bytes, w, usize::MAX / 512));
        assert!(!is_requested(&seen(&bytes)));
        assert_eq!(renew(&seen(&bytes), counter(100)), None);
    }

    #[test]
    fn a_cut_in_the_request_leaves_the_old_table_or_the_request() {
        let old = settled();
        let (marked, writes) = request(&seen(&old), &old[..512], None);
        for (done, write) in writes.iter().enumerate() {
            for sectors in [0, 1, 2, 3, 17, 32, 33, 34] {
                let mut bytes = old.clone();
                writes[..done].iter().for_each(|w| apply(&mut bytes, w, usize::MAX / 512));
                apply(&mut bytes, write, sectors);
                let found = seen(&bytes);
                match is_requested(&found) {
                    true => assert_eq!(found, marked),
                    false => assert_eq!(found.table.partitions, seen(&old).table.partitions),
                }
                assert!(found.copy == Copy::Primary || !is_requested(&found), "a backup never asks alone");
            }
        }
    }

    /// The reset's writes to the table cut anywhere: it is still asked for, or it is done.
    #[test]
    fn a_cut_in_the_renewal_starts_over_or_is_done() {
        let mut asked = settled();
        let (_, writes) = request(&seen(&asked), &asked[..512], None);
        writes.iter().for_each(|w| apply(&mut asked, w, usize::MAX / 512));
        let old_guid = seen(&asked).table.disk_guid;
        let writes = renew(&seen(&asked), counter(100)).unwrap().writes(&asked[..512]);
        for (done, write) in writes.iter().enumerate() {
            for sectors in [0, 1, 2, 3, 17, 32, 33, 34] {
                let mut bytes = asked.clone();
                writes[..done].iter().for_each(|w| apply(&mut bytes, w, usize::MAX / 512));
                apply(&mut bytes, write, sectors);
                let found = seen(&bytes);
                assert_eq!(is_requested(&found), found.table.disk_guid == old_guid);
            }
        }
    }
}
