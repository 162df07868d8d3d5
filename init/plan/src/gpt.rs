//! GUID partition tables: read with every check that the specification asks for, and written back.
//! Source: UEFI specification 2.10, section 5.3. Sectors of 512 bytes only, as our images are.

use crate::guid::Guid;

pub const SECTOR: u64 = 512;
/// The one entry size in use anywhere; the specification allows multiples.
const ENTRY_BYTES: usize = 128;
/// What every tool writes; more would not fit into the 32 sectors that the image reserves.
const ENTRIES_MAX: u32 = 128;
const HEADER_BYTES: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// Sectors that a table's entries occupy.
const ENTRY_SECTORS: u64 = ENTRIES_MAX as u64 * ENTRY_BYTES as u64 / SECTOR;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub disk_guid: Guid,
    /// Where this copy was read from, and where it says the other one is (sectors).
    pub my_lba: u64,
    pub alternate_lba: u64,
    pub first_usable: u64,
    pub last_usable: u64,
    /// In the order of their numbers; unused entries are left out.
    pub partitions: Vec<Partition>,
}

/// One entry. Sectors are inclusive at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// From 1, as in `/dev/vda1`.
    pub number: u32,
    pub type_guid: Guid,
    pub guid: Guid,
    pub first: u64,
    pub last: u64,
    pub attributes: u64,
    /// UTF-16LE, kept as it is.
    pub name: [u8; 72],
}

impl Partition {
    pub fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Which copy was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    Primary,
    Backup,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GptError {
    #[error("sector {0} could not be read")]
    Unreadable(u64),
    #[error("no GPT signature in sector {0}")]
    NoSignature(u64),
    #[error("GPT header in sector {lba}: {what}")]
    Header { lba: u64, what: &'static str },
    #[error("GPT entries of the header in sector {lba}: {what}")]
    Entries { lba: u64, what: &'static str },
    #[error("partition {number}: {what}")]
    Partition { number: u32, what: &'static str },
    #[error("neither copy of the partition table is usable: primary: {primary}; backup: {backup}")]
    BothBad { primary: Box<GptError>, backup: Box<GptError> },
}

/// Reads the primary table, or the backup in the disk's last sector when the primary is damaged. `read(lba, count)`
/// brings `count` sectors, or `None` when it cannot; at most 33 are asked for at a time.
pub fn read(
    sectors: u64,
    mut read: impl FnMut(u64, u64) -> Option<Vec<u8>>,
) -> Result<(Table, Copy), GptError> {
    let primary = match read_copy(sectors, 1, &mut read) {
        Ok(table) => return Ok((table, Copy::Primary)),
        Err(primary) => primary,
    };
    match read_copy(sectors, sectors.saturating_sub(1), &mut read) {
        Ok(table) => Ok((table, Copy::Backup)),
        Err(backup) => Err(GptError::BothBad { primary: Box::new(primary), backup: Box::new(backup) }),
    }
}

/// Reads and checks the copy whose header is in sector `lba` of a disk of `sectors`.
pub fn read_copy(
    sectors: u64,
    lba: u64,
    read: &mut impl FnMut(u64, u64) -> Option<Vec<u8>>,
) -> Result<Table, GptError> {
    let header =
        read(lba, 1).filter(|bytes| bytes.len() as u64 == SECTOR).ok_or(GptError::Unreadable(lba))?;
    let (mut table, place) = parse_header(&header, lba, sectors)?;
    let wanted = (place.count as usize * ENTRY_BYTES).div_ceil(SECTOR as usize) as u64;
    let entries = read(place.lba, wanted).ok_or(GptError::Unreadable(place.lba))?;
    let entries = entries
        .get(..place.count as usize * ENTRY_BYTES)
        .ok_or(GptError::Entries { lba, what: "shorter than the header says" })?;
    if crc32(entries) != place.crc {
        return Err(GptError::Entries { lba, what: "checksum does not match" });
    }
    table.partitions = parse_entries(entries);
    check_partitions(&table)?;
    Ok(table)
}

struct EntryPlace {
    lba: u64,
    count: u32,
    crc: u32,
}

fn parse_header(bytes: &[u8], lba: u64, sectors: u64) -> Result<(Table, EntryPlace), GptError> {
    let bad = |what| GptError::Header { lba, what };
    if &bytes[..8] != SIGNATURE {
        return Err(GptError::NoSignature(lba));
    }
    let size = u32_at(bytes, 12) as usize;
    if u32_at(bytes, 8) != REVISION || !(HEADER_BYTES..=SECTOR as usize).contains(&size) {
        return Err(bad("unknown revision or size"));
    }
    let mut zeroed = bytes[..size].to_vec();
    zeroed[16..20].fill(0);
    if crc32(&zeroed) != u32_at(bytes, 16) {
        return Err(bad("checksum does not match"));
    }
    let table = Table {
        disk_guid: guid_at(bytes, 56),
        my_lba: u64_at(bytes, 24),
        alternate_lba: u64_at(bytes, 32),
        first_usable: u64_at(bytes, 40),
        last_usable: u64_at(bytes, 48),
        partitions: Vec::new(),
    };
    let place = EntryPlace { lba: u64_at(bytes, 72), count: u32_at(bytes, 80), crc: u32_at(bytes, 88) };
    if table.my_lba != lba {
        return Err(bad("does not name its own place"));
    }
    if table.first_usable > table.last_usable || table.last_usable >= sectors || table.first_usable < 2 {
        return Err(bad("usable range does not fit the disk"));
    }
    if u32_at(bytes, 84) as usize != ENTRY_BYTES || !(1..=ENTRIES_MAX).contains(&place.count) {
        return Err(bad("entry size or count is not supported"));
    }
    if place.lba < 2 || place.lba.checked_add(ENTRY_SECTORS).is_none_or(|end| end > sectors) {
        return Err(bad("entries lie outside the disk"));
    }
    Ok((table, place))
}

fn parse_entries(entries: &[u8]) -> Vec<Partition> {
    let parse = |(index, entry): (usize, &[u8])| {
        let type_guid = guid_at(entry, 0);
        (type_guid != Guid::ZERO).then(|| Partition {
            number: index as u32 + 1,
            type_guid,
            guid: guid_at(entry, 16),
            first: u64_at(entry, 32),
            last: u64_at(entry, 40),
            attributes: u64_at(entry, 48),
            name: entry[56..128].try_into().unwrap_or([0; 72]),
        })
    };
    entries.chunks_exact(ENTRY_BYTES).enumerate().filter_map(parse).collect()
}

fn check_partitions(table: &Table) -> Result<(), GptError> {
    let mut by_start: Vec<&Partition> = table.partitions.iter().collect();
    by_start.sort_by_key(|partition| partition.first);
    let mut free_from = table.first_usable;
    for partition in by_start {
        let bad = |what| Err(GptError::Partition { number: partition.number, what });
        if partition.first > partition.last || partition.last > table.last_usable {
            return bad("lies outside the usable range");
        }
        if partition.first < free_from {
            return bad("overlaps another one or the table");
        }
        free_from = partition.last + 1;
    }
    Ok(())
}

impl Table {
    /// Sectors 1 to 33: the primary header and entries, for a disk whose backup header is at `alternate_lba`.
    pub fn encode_primary(&self) -> Vec<u8> {
        let entries = self.encode_entries();
        let mut bytes = self.encode_header(1, self.backup_lba(), 2, &entries);
        bytes.extend(entries);
        bytes
    }

    /// The last 33 sectors of the disk: backup entries, then the backup header.
    pub fn encode_backup(&self) -> Vec<u8> {
        let mut bytes = self.encode_entries();
        let lba = self.backup_lba();
        bytes.extend(self.encode_header(lba, 1, lba - ENTRY_SECTORS, &bytes));
        bytes
    }

    /// The sector of the backup header, whichever copy this was read from.
    pub fn backup_lba(&self) -> u64 {
        self.my_lba.max(self.alternate_lba)
    }

    fn encode_header(&self, my_lba: u64, alternate_lba: u64, entries_lba: u64, entries: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR as usize];
        bytes[..8].copy_from_slice(SIGNATURE);
        bytes[8..12].copy_from_slice(&REVISION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        for (at, value) in [
            (24, my_lba),
            (32, alternate_lba),
            (40, self.first_usable),
            (48, self.last_usable),
            (72, entries_lba),
        ] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[56..72].copy_from_slice(&self.disk_guid.0);
        for (at, value) in [(80, ENTRIES_MAX), (84, ENTRY_BYTES as u32), (88, crc32(entries))] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32(&bytes[..HEADER_BYTES]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn encode_entries(&self) -> Vec<u8> {
        let mut bytes = vec![0; (ENTRY_SECTORS * SECTOR) as usize];
        for partition in &self.partitions {
            let at = (partition.number as usize - 1) * ENTRY_BYTES;
            let entry = &mut bytes[at..at + ENTRY_BYTES];
            entry[..16].copy_from_slice(&partition.type_guid.0);
            entry[16..32].copy_from_slice(&partition.guid.0);
            entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
            entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
            entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
            entry[56..].copy_from_slice(&partition.name);
        }
        bytes
    }
}

/// Sectors at the end of a disk that the backup table takes.
pub const BACKUP_SECTORS: u64 = ENTRY_SECTORS + 1;

/// The protective MBR for a disk of `sectors`: `old` with the size of its one entry corrected.
pub fn protective_mbr(old: &[u8], sectors: u64) -> Vec<u8> {
    let mut bytes = old.to_vec();
    if bytes.len() == SECTOR as usize && bytes[450] == 0xee {
        let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
        bytes[458..462].copy_from_slice(&size.to_le_bytes());
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let mut guid = Guid::ZERO;
    guid.0.copy_from_slice(&bytes[at..at + 16]);
    guid
}

/// CRC-32 (IEEE 802.3, reflected), bit by bit: it runs over a few 16 KiB tables per boot.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(sectors: u64) -> Table {
        let partition = |number: u32, kind: &str, first: u64, last: u64| Partition {
            number,
            type_guid: kind.parse().unwrap(),
            guid: Guid([number as u8; 16]),
            first,
            last,
            attributes: if number == 4 { 1 << 56 } else { 0 },
            name: [0; 72],
        };
        Table {
            disk_guid: Guid([9; 16]),
            my_lba: 1,
            alternate_lba: sectors - 1,
            first_usable: 34,
            last_usable: sectors - 34,
            partitions: vec![
                partition(1, image_layout::ESP_TYPE, 2048, 4095),
                partition(2, image_layout::ROOT_A_TYPE, 4096, 6143),
                partition(3, image_layout::ROOT_B_TYPE, 6144, 8191),
                partition(4, image_layout::STATE_TYPE, 8192, 10239),
            ],
        }
    }

    /// A disk in memory with both copies of `table`, `sectors` long.
    pub(crate) fn disk(table: &Table, sectors: u64) -> Vec<u8> {
        let mut disk = vec![0; (sectors * SECTOR) as usize];
        disk[450] = 0xee;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let primary = table.encode_primary();
        disk[512..512 + primary.len()].copy_from_slice(&primary);
        let backup = table.encode_backup();
        let at = ((table.backup_lba() + 1) * SECTOR) as usize - backup.len();
        disk[at..at + backup.len()].copy_from_slice(&backup);
        disk
    }

    pub(crate) fn reader(disk: &[u8]) -> impl FnMut(u64, u64) -> Option<Vec<u8>> {
        move |lba, count| {
            let (from, to) =
                (lba.checked_mul(SECTOR)? as usize, lba.checked_add(count)?.checked_mul(SECTOR)? as usize);
            disk.get(from..to).map(<[u8]>::to_vec)
        }
    }

    #[test]
    fn checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_copies_read_back() {
        let table = sample(20480);
        let mut bytes = disk(&table, 20480);
        assert_eq!(read(20480, reader(&bytes)), Ok((table.clone(), Copy::Primary)));
        bytes[512 + 60] ^= 1;
        let (backup, copy) = read(20480, reader(&bytes)).unwrap();
        assert_eq!((copy, backup.my_lba, backup.alternate_lba), (Copy::Backup, 20479, 1));
        assert_eq!(backup.partitions, table.partitions);
        assert_eq!(backup.encode_primary(), table.encode_primary());
    }

    #[test]
    fn damage_is_named_not_followed() {
        let good = disk(&sample(20480), 20480);
        let primary = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            read_copy(20480, 1, &mut reader(&bytes)).unwrap_err()
        };
        assert_eq!(primary(&|disk| disk[512] = b'X'), GptError::NoSignature(1));
        assert!(matches!(primary(&|disk| disk[1024 + 40] ^= 1), GptError::Entries { .. }));
        assert!(matches!(primary(&|disk| disk[512 + 12] = 0xff), GptError::Header { .. }));
        let mut empty = vec![0; 20480 * 512];
        assert!(matches!(read(20480, reader(&empty)), Err(GptError::BothBad { .. })));
        empty.truncate(600);
        assert!(read(1, reader(&empty)).is_err());
        assert!(read(0, |_, _| None).is_err());
    }

    /// Wrong numbers under a right checksum.
    #[test]
    fn hostile_tables_are_refused() {
        let refused = |change: &dyn Fn(&mut Table)| {
            let mut table = sample(20480);
            change(&mut table);
            read_copy(20480, 1, &mut reader(&disk(&table, 20480))).unwrap_err()
        };
        assert!(matches!(refused(&|t| t.partitions[3].last = 20470), GptError::Partition { number: 4, .. }));
        assert!(matches!(refused(&|t| t.partitions[3].first = 8191), GptError::Partition { number: 4, .. }));
        assert!(matches!(refused(&|t| t.partitions[0].first = 33), GptError::Partition { number: 1, .. }));
        assert!(matches!(refused(&|t| t.partitions[1].last = 1), GptError::Partition { .. }));
        assert!(matches!(refused(&|t| t.last_usable = 20480), GptError::Header { .. }));
        let mut far = disk(&sample(20480), 20480);
        far[512 + 72..512 + 80].fill(0xff);
        far[512 + 16..512 + 20].fill(0);
        let crc = crc32(&far[512..512 + 92]);
        far[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(read_copy(20480, 1, &mut reader(&far)), Err(GptError::Header { .. })));
    }
}
