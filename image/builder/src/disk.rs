//! The disk image: a sparse raw file with GPT, ESP, root A and state, and its compressed form.
//!
//! Needs no loop device and no root. Root B is left empty: the first update fills it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use image_layout::{FACTORY_ATTRIBUTE, IMAGE_BYTES, PARTITIONS, ROOT_A, SECTOR_BYTES, STATE};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{At, BuildError, Result};
use crate::esp;
use crate::progress::Step;
use crate::root::uuid_from;
use crate::sparse;

/// Above this level the image hardly shrinks: its large parts are compressed already.
const ZSTD_LEVEL: i32 = 9;
const BUFFER: usize = 1 << 20;

/// What a disk is made of.
pub struct Content<'a> {
    /// Disk and partition GUIDs are derived from this. The first boot makes new ones.
    pub seed: &'a str,
    pub esp: esp::Content<'a>,
    pub root: &'a Path,
    pub state: &'a Path,
}

/// Writes the raw image to `path`.
pub fn write(path: &Path, content: &Content) -> Result<()> {
    let mut disk = File::options().read(true).write(true).create_new(true).open(path).at("create", path)?;
    disk.set_len(IMAGE_BYTES).at("set the size of", path)?;
    write_table(&disk, path, content.seed)?;
    esp::write(&disk, path, &content.esp)?;
    for (partition, source) in [(ROOT_A, content.root), (STATE, content.state)] {
        let mut file = File::open(source).at("open", source)?;
        sparse::copy_into(&mut file, &mut disk, partition.start, |_| {}).at("write a partition of", path)?;
    }
    Ok(())
}

fn write_table(disk: &File, path: &Path, seed: &str) -> Result<()> {
    let failed = |reason: String| BuildError::Disk { path: path.to_path_buf(), reason };
    let mut device = disk.try_clone().at("open", path)?;
    let sectors = u32::try_from(IMAGE_BYTES / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    let mbr = ProtectiveMBR::with_lb_size(sectors);
    mbr.overwrite_lba0(&mut device)
        .map_err(|error| failed(format!("cannot write the protective MBR: {error}")))?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, Some(guid(seed, "disk")))
        .map_err(|error| failed(format!("cannot make a partition table: {error}")))?;
    let partitions = PARTITIONS.iter().map(|place| Ok((place.number, entry(place, seed)?)));
    let partitions = partitions.collect::<std::result::Result<BTreeMap<_, _>, uuid::Error>>();
    let partitions = partitions.map_err(|error| failed(format!("a type GUID of the layout: {error}")))?;
    table
        .update_partitions(partitions)
        .map_err(|error| failed(format!("cannot fill the partition table: {error}")))?;
    table.write().map_err(|error| failed(format!("cannot write the partition table: {error}")))?;
    Ok(())
}

fn entry(place: &image_layout::Partition, seed: &str) -> std::result::Result<Partition, uuid::Error> {
    Ok(Partition {
        part_type_guid: Type { guid: Uuid::parse_str(place.type_guid)?, os: OperatingSystem::None },
        part_guid: guid(seed, place.name),
        first_lba: place.first_lba(),
        last_lba: place.last_lba(),
        flags: if place.number == STATE.number { FACTORY_ATTRIBUTE } else { 0 },
        name: place.name.to_owned(),
    })
}

fn guid(seed: &str, what: &str) -> Uuid {
    uuid_from(Sha256::digest(format!("macula guid 1\0{what}\0{seed}")).into())
}

/// Compresses the raw image at `from` to `to`; returns the compressed length. Holes are not read. The result does
/// not depend on the number of threads.
pub fn compress(from: &Path, to: &Path, step: &mut Step) -> Result<u64> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    compress_with(threads, from, to, step)
}

/// `threads` is at least 1: none would compress in another way, with another result.
fn compress_with(threads: u32, from: &Path, to: &Path, step: &mut Step) -> Result<u64> {
    let mut source = File::open(from).at("open", from)?;
    let length = source.metadata().at("inspect", from)?.len();
    step.total(length);
    let target = File::create(to).at("create", to)?;
    let mut encoder = zstd::Encoder::new(target, ZSTD_LEVEL).at("compress to", to)?;
    encoder.multithread(threads).at("compress to", to)?;
    encoder.include_checksum(true).at("compress to", to)?;
    // Finds the kernel again that slot and rescue have in common. Window: the largest that `zstd -d` takes unasked.
    encoder.long_distance_matching(true).at("compress to", to)?;
    encoder.window_log(27).at("compress to", to)?;
    encoder.set_pledged_src_size(Some(length)).at("compress to", to)?;
    let zeros = vec![0; BUFFER];
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    let ranges = sparse::data_ranges(&source, length).at("find the holes of", from)?;
    for range in ranges.into_iter().chain(std::iter::once(length..length)) {
        while at < range.end {
            let hole = at < range.start;
            let end = if hole { range.start } else { range.end };
            let wanted = BUFFER.min((end - at) as usize);
            if hole {
                encoder.write_all(&zeros[..wanted]).at("compress to", to)?;
            } else {
                source.seek(SeekFrom::Start(at)).at("read", from)?;
                source.read_exact(&mut buffer[..wanted]).at("read", from)?;
                encoder.write_all(&buffer[..wanted]).at("compress to", to)?;
            }
            at += wanted as u64;
            step.reach(at);
        }
    }
    let target = encoder.finish().at("compress to", to)?;
    Ok(target.metadata().at("inspect", to)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn the_number_of_threads_does_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("raw");
        let text: String = (0..2_000_000).map(|n: u32| format!("{n:x}{}", n.wrapping_mul(n))).collect();
        let mut file = File::create(&from).unwrap();
        file.set_len(300 << 20).unwrap();
        file.seek(SeekFrom::Start(100 << 20)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let outputs = [1, 2, 5].map(|threads| {
            let to = dir.path().join("zst");
            compress_with(threads, &from, &to, &mut Progress::silent().step("")).unwrap();
            std::fs::read(to).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2]);
    }
}
