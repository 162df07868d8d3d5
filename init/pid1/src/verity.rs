//! The root through dm-verity: `Documentation/admin-guide/device-mapper/verity.rst`.

use anyhow::{Context, Result};
use init_plan::cmdline::Verity;
use init_plan::steps::VERITY_NAME;
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::sys::dm::Mapper;

/// Opens `device` and makes its node. In dm-verity's default mode: a corrupt block is an I/O error and an event, and
/// what follows is our decision.
pub fn open(device: &str, verity: &Verity) -> Result<()> {
    let mapper = Mapper::open().context("cannot open /dev/mapper/control (is dm-mod loaded?)")?;
    let sectors = verity.data_blocks * 8;
    let opened = mapper
        .create_read_only(VERITY_NAME, sectors, "verity", &table(device, verity))
        .with_context(|| format!("dm-verity does not open {device}"))?;
    mknod(
        format!("/dev/mapper/{VERITY_NAME}").as_str(),
        SFlag::S_IFBLK,
        Mode::from_bits_truncate(0o400),
        opened,
    )
    .with_context(|| format!("cannot make /dev/mapper/{VERITY_NAME}"))
}

/// Data and tree on the same device, blocks of 4096, tree right after the data, no superblock.
fn table(device: &str, verity: &Verity) -> String {
    let Verity { root_hash, salt, data_blocks } = verity;
    format!("1 {device} {device} 4096 4096 {data_blocks} {data_blocks} sha256 {root_hash} {salt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_the_documented_form() {
        let verity = Verity { root_hash: "ab".into(), salt: "01".into(), data_blocks: 7 };
        assert_eq!(table("/dev/vda2", &verity), "1 /dev/vda2 /dev/vda2 4096 4096 7 7 sha256 ab 01");
    }
}
