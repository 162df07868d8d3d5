//! Where everything lies on a Macula disk: partitions, sizes, type GUIDs and the names on the ESP.
//!
//! Pure numbers, shared by the image builder (which writes them) and by whoever reads a disk. Partitions are
//! found by number and type GUID, never by label. Sizes of the ESP and both roots are fixed for the life of a
//! disk; `state` is the last partition so that it can grow.
//!
//! Numbers come from `docs/ARCHITECTURE.md`, "Disk (x86-64 UEFI)"; the GPT itself from UEFI 2.10, chapter 5.

pub mod encryption;
pub mod pristine;

use thiserror::Error;

/// Bytes in a logical sector. Images are made for 512-byte sectors.
pub const SECTOR_BYTES: u64 = 512;
/// Every partition starts and ends on a multiple of this.
pub const ALIGN_BYTES: u64 = MIB;
/// Size of the file systems' and dm-verity's blocks.
pub const BLOCK_BYTES: u64 = 4096;
/// Number of entries in the partition table, which with [`GPT_ENTRY_BYTES`] fixes the size of both copies.
pub const GPT_ENTRIES: u64 = 128;
/// Size of one entry of the partition table.
pub const GPT_ENTRY_BYTES: u64 = 128;

pub const ESP_BYTES: u64 = 512 * MIB;
pub const ROOT_BYTES: u64 = 512 * MIB;
/// Size of `state` in the image; the first boot grows it to the end of the disk.
pub const STATE_BYTES: u64 = 64 * MIB;

pub const ESP_TYPE: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub const ROOT_A_TYPE: &str = "6d616375-6c61-4f53-8001-000000000001";
pub const ROOT_B_TYPE: &str = "6d616375-6c61-4f53-8001-000000000002";
pub const STATE_TYPE: &str = "6d616375-6c61-4f53-8001-000000000003";

/// The boot loader, where firmware looks for it on a disk it knows nothing about.
pub const BOOT_LOADER_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
pub const LOADER_CONF_PATH: &str = "loader/loader.conf";
/// Folder of the UKIs.
pub const ENTRIES_DIR: &str = "EFI/Linux";
/// The rescue system's UKI, beside the slots': `os_slots::RESCUE_ENTRY`.
pub const RESCUE_ENTRY: &str = "macula-0-rescue.efi";
/// Largest rescue UKI.
pub const RESCUE_BYTES_MAX: u64 = 128 * MIB;
/// Optional configuration for the first boot, in the root of the ESP.
pub const PROVISION_FILE: &str = "macula.toml";

/// Install sequence number of the one entry that an image ships: slot A.
pub const FIRST_SEQ: u32 = 1;
/// Largest install sequence number that a name can carry.
pub const SEQ_MAX: u32 = 999_999;

const MIB: u64 = 1 << 20;

/// One partition of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: u32,
    /// Name in the table; for people only.
    pub name: &'static str,
    /// GUID of the type, lower case with hyphens.
    pub type_guid: &'static str,
    /// First byte on the disk, a multiple of [`ALIGN_BYTES`].
    pub start: u64,
    /// Length in bytes, a multiple of [`ALIGN_BYTES`].
    pub bytes: u64,
}

impl Partition {
    pub const fn end(&self) -> u64 {
        self.start + self.bytes
    }

    pub const fn first_lba(&self) -> u64 {
        self.start / SECTOR_BYTES
    }

    /// The last sector that belongs to the partition, as GPT counts.
    pub const fn last_lba(&self) -> u64 {
        self.end() / SECTOR_BYTES - 1
    }
}

pub const ESP: Partition =
    Partition { number: 1, name: "esp", type_guid: ESP_TYPE, start: ALIGN_BYTES, bytes: ESP_BYTES };
pub const ROOT_A: Partition =
    Partition { number: 2, name: "root-a", type_guid: ROOT_A_TYPE, start: ESP.end(), bytes: ROOT_BYTES };
pub const ROOT_B: Partition =
    Partition { number: 3, name: "root-b", type_guid: ROOT_B_TYPE, start: ROOT_A.end(), bytes: ROOT_BYTES };
pub const STATE: Partition =
    Partition { number: 4, name: "state", type_guid: STATE_TYPE, start: ROOT_B.end(), bytes: STATE_BYTES };

/// GPT attribute bit of `state` that only a freshly written image has: the first boot clears it.
pub const FACTORY_ATTRIBUTE: u64 = 1 << 56;

/// GPT attribute bit of `state` that asks the next boot for a factory reset; it goes when the reset is done.
pub const RESET_ATTRIBUTE: u64 = 1 << 57;

/// The pristine state file system in the initramfs, of which a factory reset makes the new one.
pub const PRISTINE_STATE: &str = "etc/macula/state.pristine";

/// All partitions, in the order of their numbers and of their places.
pub const PARTITIONS: [Partition; 4] = [ESP, ROOT_A, ROOT_B, STATE];

/// Size of the disk image: the last partition and, behind it, the aligned room of the backup table.
pub const IMAGE_BYTES: u64 = STATE.end() + ALIGN_BYTES;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    #[error("install sequence number {0} is outside 1..={SEQ_MAX}")]
    Seq(u32),
    #[error("{what} is {bytes} bytes and does not fit its {room} bytes on the disk")]
    TooBig { what: &'static str, bytes: u64, room: u64 },
}

/// Name of a committed entry below [`ENTRIES_DIR`], such as `macula-000001.efi`.
pub fn entry_name(seq: u32) -> Result<String, LayoutError> {
    if seq == 0 || seq > SEQ_MAX {
        return Err(LayoutError::Seq(seq));
    }
    Ok(format!("macula-{seq:06}.efi"))
}

/// Refuses content that is larger than its partition.
pub fn check_fits(what: &'static str, bytes: u64, room: u64) -> Result<(), LayoutError> {
    if bytes > room { Err(LayoutError::TooBig { what, bytes, room }) } else { Ok(()) }
}

/// The next multiple of `unit` (a power of two) at or above `n`; saturates at the largest one that fits.
pub const fn align_up(n: u64, unit: u64) -> u64 {
    match n.checked_add(unit - 1) {
        Some(sum) => sum & !(unit - 1),
        None => u64::MAX - (unit - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_aligned_adjacent_and_numbered_in_order() {
        let mut next = ALIGN_BYTES;
        for (index, part) in PARTITIONS.iter().enumerate() {
            assert_eq!(part.number as usize, index + 1);
            assert_eq!(part.start, next, "{}", part.name);
            assert_eq!(part.start % ALIGN_BYTES, 0);
            assert_eq!(part.bytes % ALIGN_BYTES, 0);
            assert_eq!((part.last_lba() - part.first_lba() + 1) * SECTOR_BYTES, part.bytes);
            next = part.end();
        }
    }

    #[test]
    fn both_partition_tables_fit_outside_the_partitions() {
        let table = SECTOR_BYTES + GPT_ENTRIES * GPT_ENTRY_BYTES;
        assert!(SECTOR_BYTES + table <= ESP.start);
        assert!(STATE.end() + table <= IMAGE_BYTES);
    }

    #[test]
    fn entry_names_are_fixed_width_and_bounded() {
        assert_eq!(entry_name(FIRST_SEQ).as_deref(), Ok("macula-000001.efi"));
        assert_eq!(entry_name(SEQ_MAX).as_deref(), Ok("macula-999999.efi"));
        assert_eq!(entry_name(0), Err(LayoutError::Seq(0)));
        assert_eq!(entry_name(1_000_000), Err(LayoutError::Seq(1_000_000)));
    }

    #[test]
    fn content_that_does_not_fit_is_named() {
        assert_eq!(check_fits("root", ROOT_BYTES, ROOT_BYTES), Ok(()));
        let error = check_fits("root", ROOT_BYTES + 1, ROOT_BYTES).unwrap_err();
        assert!(error.to_string().starts_with("root is 536870913 bytes"));
    }

    #[test]
    fn aligning_does_not_overflow() {
        assert_eq!(align_up(0, 4096), 0);
        assert_eq!(align_up(1, 4096), 4096);
        assert_eq!(align_up(4096, 4096), 4096);
        assert_eq!(align_up(u64::MAX, 4096), u64::MAX - 4095);
    }
}
