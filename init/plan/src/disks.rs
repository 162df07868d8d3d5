//! Which of the machine's disks is ours, and which partition is what: by the identity of the partition that the
//! firmware booted from, then by number and type, never by label.

use image_layout::{ESP_TYPE, ROOT_A_TYPE, ROOT_B_TYPE, STATE_TYPE};

use crate::gpt::{Copy, Partition, Table};
use crate::guid::Guid;

/// A disk with a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As in `/sys/class/block`.
    pub name: String,
    pub sectors: u64,
    pub table: Table,
    pub copy: Copy,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FindError {
    #[error(
        "no disk has the partition {esp} that the firmware booted from (disks seen: {seen}); waiting for it"
    )]
    Absent { esp: Guid, seen: String },
    #[error(
        "disks {names} all hold the partition {esp} that the firmware booted from: the same image was written to each; remove all but one"
    )]
    Ambiguous { esp: Guid, names: String },
    #[error("disk {disk}: partition {number} is {what}")]
    Layout { disk: String, number: u32, what: &'static str },
}

/// The disk that holds the ESP with the partition GUID `esp`. Its layout must be ours to the last partition.
pub fn find(disks: &[Disk], esp: Guid) -> Result<&Disk, FindError> {
    let holds = |disk: &&Disk| disk.table.partitions.iter().any(|partition| partition.guid == esp);
    let found: Vec<&Disk> = disks.iter().filter(holds).collect();
    let names = |disks: &mut dyn Iterator<Item = &Disk>| {
        disks.map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    match found.as_slice() {
        [] => {
            let seen = names(&mut disks.iter());
            Err(FindError::Absent { esp, seen: if seen.is_empty() { "none".into() } else { seen } })
        }
        [disk] => check_layout(disk).map(|()| *disk),
        several => Err(FindError::Ambiguous { esp, names: names(&mut several.iter().copied()) }),
    }
}

fn check_layout(disk: &Disk) -> Result<(), FindError> {
    for (number, kind) in [(1, ESP_TYPE), (2, ROOT_A_TYPE), (3, ROOT_B_TYPE), (4, STATE_TYPE)] {
        let bad = |what| FindError::Layout { disk: disk.name.clone(), number, what };
        let partition = partition(&disk.table, number).ok_or_else(|| bad("missing"))?;
        if partition.type_guid.to_string() != kind {
            return Err(bad("of another type than Macula OS puts there"));
        }
    }
    Ok(())
}

/// The partition with this number.
pub fn partition(table: &Table, number: u32) -> Option<&Partition> {
    table.partitions.iter().find(|partition| partition.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::tests::sample;

    fn disk(name: &str) -> Disk {
        Disk { name: name.into(), sectors: 20480, table: sample(20480), copy: Copy::Primary }
    }

    const ESP: Guid = Guid([1; 16]);

    #[test]
    fn the_boot_disk_is_the_one_that_the_firmware_named() {
        let mut other = disk("sda");
        other.table.partitions[0].guid = Guid([7; 16]);
        let disks = [other, disk("vda")];
        assert_eq!(find(&disks, ESP).unwrap().name, "vda");
    }

    #[test]
    fn doubt_is_an_error_that_says_so() {
        let absent = find(&[disk("vda")], Guid([5; 16])).unwrap_err();
        assert!(absent.to_string().contains("vda"), "{absent}");
        assert!(find(&[], ESP).unwrap_err().to_string().contains("none"));
        let twice = find(&[disk("sda"), disk("sdb")], ESP).unwrap_err();
        assert_eq!(twice, FindError::Ambiguous { esp: ESP, names: "sda sdb".into() });
    }

    #[test]
    fn another_layout_is_refused() {
        let mut short = disk("vda");
        short.table.partitions.pop();
        assert_eq!(
            find(&[short], ESP).unwrap_err(),
            FindError::Layout { disk: "vda".into(), number: 4, what: "missing" }
        );
        let mut swapped = disk("vda");
        swapped.table.partitions[1].type_guid = ROOT_B_TYPE.parse().unwrap();
        assert!(matches!(find(&[swapped], ESP), Err(FindError::Layout { number: 2, .. })));
    }
}
