//! The boot disk: finding it, reading and renewing its partition table, naming its nodes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_layout::encryption::Encryption;
use init_plan::disks::{Disk, partition};
use init_plan::gpt::{self, Copy, SECTOR};
use init_plan::guid::Guid;
use init_plan::renew::{Renewal, renew, with_encryption};
use init_plan::reset;
use init_plan::steps::Devices;

use crate::console::say;
use crate::sys::{block, random};

const BLOCK: &str = "/sys/class/block";
/// Devices that cannot be a boot disk, by the start of their name.
const NEVER: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
const DISKS_MAX: usize = 64;
const STATE: u32 = 4;

/// Every disk with a usable partition table.
pub fn scan() -> Vec<Disk> {
    let Ok(entries) = fs::read_dir(BLOCK) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !NEVER.iter().any(|never| name.starts_with(never)));
    names.retain(|name| !Path::new(BLOCK).join(name).join("partition").exists());
    names.sort();
    names.iter().take(DISKS_MAX).filter_map(|name| read(name)).collect()
}

fn read(name: &str) -> Option<Disk> {
    let attribute = |path: &str| -> Option<u64> {
        fs::read_to_string(Path::new(BLOCK).join(name).join(path)).ok()?.trim().parse().ok()
    };
    let sectors = attribute("size").filter(|&sectors| sectors > 0)?;
    if attribute("queue/logical_block_size") != Some(SECTOR) {
        say(&format!("disk {name} has sectors of another size than 512 bytes and is left alone"));
        return None;
    }
    let device = File::open(node(name)).ok()?;
    let read = |lba: u64, count: u64| {
        let mut bytes = vec![0; usize::try_from(count.checked_mul(SECTOR)?).ok()?];
        device.read_exact_at(&mut bytes, lba.checked_mul(SECTOR)?).ok().map(|()| bytes)
    };
    let (table, copy) = gpt::read(sectors, read).ok()?;
    Some(Disk { name: name.to_owned(), sectors, table, copy })
}

/// Gives a fresh disk its own GUIDs, extends the state partition to the disk's end and repairs a torn table, as
/// needed. Returns whether this is the disk's first boot.
pub fn renew_table(disk: &Disk) -> Result<bool> {
    let mut failed = None;
    let fresh = || {
        random_guid().unwrap_or_else(|error| {
            failed = Some(error);
            Guid::ZERO
        })
    };
    let Some(renewal) = renew(disk, fresh) else { return Ok(false) };
    if let Some(error) = failed {
        return Err(error);
    }
    write_table(disk, &renewal)
        .with_context(|| format!("cannot write the partition table of {}", disk.name))?;
    if renewal.new_guids {
        say(&format!("first boot: disk {} is now {}", disk.name, renewal.table.disk_guid));
    }
    Ok(renewal.new_guids)
}

/// Gives a fresh disk all its room and marks it for a reset that makes its state as wished.
pub fn request_encryption(disk: &Disk, wish: Option<Encryption>) -> Result<Disk> {
    let renewal = with_encryption(disk, wish);
    write_table(disk, &renewal)
        .with_context(|| format!("cannot write the partition table of {}", disk.name))?;
    Ok(Disk { table: renewal.table, copy: Copy::Primary, ..disk.clone() })
}

/// Marks the disk for a factory reset, which the next boot makes (or this one, if nothing uses the state partition yet).
/// The new state is encrypted as wished.
pub fn request_reset(disk: &Disk, wish: Option<Encryption>) -> Result<Disk> {
    let device = OpenOptions::new().read(true).write(true).open(node(&disk.name))?;
    let mut sector_0 = vec![0; SECTOR as usize];
    device.read_exact_at(&mut sector_0, 0)?;
    let (marked, writes) = reset::request(disk, &sector_0, wish);
    for write in writes {
        device.write_all_at(&write.bytes, write.offset)?;
        device.sync_all()?;
    }
    Ok(marked)
}

/// As [`request_reset`], for a node that runs: `disk_node` is the boot disk's node.
pub fn request_reset_at(disk_node: &str, wish: Option<Encryption>) -> Result<()> {
    let name = Path::new(disk_node).strip_prefix("/dev").context("the boot disk is not in /dev")?;
    let name = name.to_string_lossy().replace('/', "!");
    let disk = read(&name).with_context(|| format!("{disk_node} has no usable partition table"))?;
    request_reset(&disk, wish)
        .map(drop)
        .with_context(|| format!("cannot write the partition table of {disk_node}"))
}

fn write_table(disk: &Disk, renewal: &Renewal) -> Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(node(&disk.name))?;
    let mut sector_0 = vec![0; SECTOR as usize];
    device.read_exact_at(&mut sector_0, 0)?;
    for write in renewal.writes(&sector_0) {
        device.write_all_at(&write.bytes, write.offset)?;
        device.sync_all()?;
    }
    if disk.copy == Copy::Backup {
        say(&format!("disk {}: primary partition table was damaged and is restored", disk.name));
        return block::reread_partitions(&device).context("the kernel does not read the table again");
    }
    if renewal.grown
        && let Some(state) = partition(&renewal.table, STATE)
    {
        let (start, length) = (state.first * SECTOR, state.sectors() * SECTOR);
        block::resize_partition(&device, STATE, start, length)
            .or_else(|_| block::reread_partitions(&device))
            .context("the kernel does not take the state partition's new size")?;
        say(&format!("state partition extended to {} MiB", length >> 20));
    }
    Ok(())
}

fn random_guid() -> Result<Guid> {
    random::bytes().map(Guid::from_random)
}

/// The nodes of the disk and its four partitions, as the kernel named them. Whether the state is encrypted is not looked at.
pub fn devices(disk: &str) -> Result<Devices> {
    let partition = |number: u32| -> Result<String> {
        let folder = Path::new(BLOCK).join(disk);
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?.flatten()
        {
            let found = fs::read_to_string(entry.path().join("partition")).ok();
            if found.and_then(|text| text.trim().parse().ok()) == Some(number) {
                return Ok(node(&entry.file_name().to_string_lossy()).to_string_lossy().into_owned());
            }
        }
        bail!("the kernel shows no partition {number} on {disk}")
    };
    let disk_node = node(disk).to_string_lossy().into_owned();
    let (esp, root_a, root_b, state) = (partition(1)?, partition(2)?, partition(3)?, partition(4)?);
    Ok(Devices { disk: disk_node, esp, root_a, root_b, state, encryption: None })
}

/// sysfs writes `!` where a name in `/dev` has a slash.
fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}
