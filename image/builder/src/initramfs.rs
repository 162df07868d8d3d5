//! The initramfs: our init, e2fsck and the modules it takes to open the root.

use crate::cpio::Archive;
use crate::modules::Selection;

/// Slow to make, quick to unpack; 2 MB take a second.
const ZSTD_LEVEL: i32 = 19;
/// Folders that PID 1 mounts something on before it has a root.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// The compressed archive.
pub fn make(init: &[u8], e2fsck: &[u8], modules: &Selection) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for point in MOUNT_POINTS {
        archive.folder(point);
    }
    archive.file("init", 0o755, init);
    archive.file("sbin/e2fsck", 0o755, e2fsck);
    archive.file("etc/macula/modules.toml", 0o644, modules.toml.as_bytes());
    for (name, content) in &modules.files {
        archive.file(&format!("lib/modules/{name}"), 0o644, content);
    }
    zstd::bulk::compress(&archive.finish(), ZSTD_LEVEL)
}
