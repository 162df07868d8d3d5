//! A writer for the initramfs's archive: cpio, "newc" format (kernel: `Documentation/driver-api/early-userspace/
//! buffer-format.rst`). Owner root, time 0, inodes counted from 1, so equal content gives equal bytes.

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// An archive under construction. Parent folders are made on the way.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder and those above it. `path` is relative, without `.` or `..`.
    pub fn folder(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        if self.folders.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, 2, &[]);
        }
    }

    /// Adds a file with permission bits `mode`. Content above 4 GiB does not fit the format; callers hold far less.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path, REGULAR | mode, 1, content);
    }

    /// The archive with its trailer, padded to 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.inodes = u32::MAX; // the trailer has inode 0
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.inodes = self.inodes.wrapping_add(1);
        let (size, name_size) = (content.len() as u32, path.len() as u32 + 1);
        // inode, mode, uid, gid, links, time, size, device, device of a node, length of the name, check sum
        let fields = [self.inodes, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_archive_is_these_bytes() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o644, b"hi");
        let bytes = archive.finish();
        let head = "070701\
            00000001000041ed0000000000000000000000020000000000000000000000000000000000000000000000000000000200000000\
            a\0\
            070701\
            00000002000081a40000000000000000000000010000000000000002000000000000000000000000000000000000000400000000\
            a/b\0\0\0hi\0\0\
            070701\
            00000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000\
            TRAILER!!!\0";
        assert_eq!(String::from_utf8_lossy(&bytes[..head.len()]), head);
        assert!(bytes.len() == 512 && bytes[head.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn folders_appear_once_and_before_their_files() {
        let mut archive = Archive::default();
        archive.file("x/y/1", 0o755, b"");
        archive.file("x/y/2", 0o755, b"");
        archive.folder("dev");
        let text = String::from_utf8(archive.finish()).unwrap();
        let names: Vec<_> = ["x\0", "x/y\0", "x/y/1\0", "x/y/2\0", "dev\0"]
            .iter()
            .map(|name| text.find(&format!("00000000{name}")).unwrap())
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(text.matches("00000000x/y\0").count(), 1);
    }
}
