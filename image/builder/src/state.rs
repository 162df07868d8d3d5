//! The state partition as shipped: an empty ext4 of 64 MiB that can be grown while mounted.
//!
//! Every feature is named here and the host's `mke2fs.conf` is not read, so that hosts agree on the bytes. Nothing
//! is left for the kernel to initialize later: a node that boots writes nothing by itself.

use std::path::Path;

use crate::error::{At, Result};
use crate::tools;

/// What an ext4 of our kernel needs and can grow with.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Room in the group descriptor table for growth to 4 TiB of 4 KiB blocks.
const GROW_BLOCKS: u64 = 1 << 30;
/// Stays when the file system grows; 8 MiB is a compromise between 64 MiB and a large disk.
const JOURNAL_MIB: &str = "size=8";
/// For updates on a full disk (see `resuid=` in `init-plan`). The kernel keeps the share when the file system grows.
const RESERVED_PERCENT: &str = "5";
/// 2020-01-01: no clock that is to be believed is earlier, so e2fsck never sees a time in the future.
const MADE_AT: &str = "1577836800";
/// Of the file system and for its directory hashes. Not secret; the first boot does not depend on either.
const UUID: &str = "6d616375-6c61-4f53-8001-0000000000f4";
const HASH_SEED: &str = "6d616375-6c61-4f53-8001-0000000000f5";

/// Makes the file system as a sparse file of `bytes` bytes.
pub fn make(file: &Path, bytes: u64) -> Result<()> {
    std::fs::File::create(file).and_then(|made| made.set_len(bytes)).at("create", file)?;
    let extended = format!(
        "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,resize={GROW_BLOCKS},hash_seed={HASH_SEED}"
    );
    let mut command = tools::command("mkfs.ext4")?;
    command.args([
        "-q",
        "-F",
        "-b",
        "4096",
        "-I",
        "256",
        "-i",
        "16384",
        "-m",
        RESERVED_PERCENT,
        "-t",
        "ext4",
        "-L",
        "macula-state",
    ]);
    command.args(["-O", FEATURES, "-J", JOURNAL_MIB, "-U", UUID, "-E", &extended]).arg(file);
    command
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", MADE_AT)
        .env("SOURCE_DATE_EPOCH", MADE_AT);
    tools::run(&mut command)?;
    Ok(())
}
