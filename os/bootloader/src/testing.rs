//! A volume in memory that records every write, and `fatfs` as the second opinion on what is in it.

use std::io::{Cursor, Read, Write};

use crate::{BlockDevice, Result};

pub const VOLUME: usize = 36 * 1024 * 1024;

#[derive(Debug, Clone)]
pub enum Op {
    Write(u64, Vec<u8>),
    Sync,
}

pub struct MemoryDisk {
    pub bytes: Vec<u8>,
    pub log: Vec<Op>,
}

impl BlockDevice for MemoryDisk {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        assert!(offset.is_multiple_of(512), "writes are whole sectors from a sector's start");
        self.bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        self.log.push(Op::Write(offset, data.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.log.push(Op::Sync);
        Ok(())
    }
}

/// A volume made by `fatfs` with these files.
pub fn volume(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; VOLUME];
    let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(512).fat_type(fatfs::FatType::Fat32);
    fatfs::format_volume(Cursor::new(&mut bytes), options).unwrap();
    with_fatfs(&mut bytes, |top| {
        top.create_dir("EFI").unwrap();
        top.create_dir("EFI/Linux").unwrap();
    });
    plain_dot_entries(&mut bytes);
    with_fatfs(&mut bytes, |top| {
        for (path, content) in files {
            top.create_file(path).unwrap().write_all(content).unwrap();
        }
    });
    bytes
}

fn with_fatfs(bytes: &mut Vec<u8>, work: impl FnOnce(fatfs::Dir<'_, Cursor<&mut Vec<u8>>>)) {
    let fs = fatfs::FileSystem::new(Cursor::new(bytes), fatfs::FsOptions::new()).unwrap();
    work(fs.root_dir());
}

/// `fatfs` gives `.` and `..` long names, which no other program does and `fsck.vfat` refuses.
fn plain_dot_entries(bytes: &mut [u8]) {
    for sector in bytes[..2 * 1024 * 1024].chunks_exact_mut(512) {
        if sector[32..43] == *b".          " && sector[96..107] == *b"..         " {
            sector.copy_within(32..64, 0);
            sector.copy_within(96..128, 32);
            (sector[64], sector[96]) = (0xe5, 0xe5);
            if sector[58] == 2 {
                // The top directory is named by 0 here, not by its cluster.
                sector[58] = 0;
            }
        }
    }
}

/// Names and contents in `EFI/Linux`, sorted, read by `fatfs`.
pub fn fatfs_listing(bytes: &mut Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let fs = fatfs::FileSystem::new(Cursor::new(bytes), fatfs::FsOptions::new()).unwrap();
    let directory = fs.root_dir().open_dir("EFI/Linux").unwrap();
    let mut found = Vec::new();
    for entry in directory.iter().map(|e| e.unwrap()).filter(|e| e.is_file()) {
        let mut content = Vec::new();
        entry.to_file().read_to_end(&mut content).unwrap();
        found.push((entry.file_name(), content));
    }
    found.sort();
    found
}

/// What `fsck.vfat -n` says, or `None` where it is not installed.
pub fn fsck(bytes: &[u8]) -> Option<(bool, String)> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let checker =
        ["/usr/sbin/fsck.vfat", "/sbin/fsck.vfat"].into_iter().find(|p| std::path::Path::new(p).exists())?;
    let output = std::process::Command::new(checker).arg("-n").arg(file.path()).output().unwrap();
    Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}
