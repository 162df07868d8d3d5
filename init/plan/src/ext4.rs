//! The few fields of an ext4 superblock that tell whether it fills its partition, and its checksum.
//! Source: `Documentation/filesystems/ext4/super.rst`.
//!
//! The superblock lies in two sectors of 512 bytes. All that changes in daily work is in the first, the checksum in the second, so
//! a power cut between the two leaves a superblock that is as good as the one before it or after it but for its checksum.
//! The kernel refuses it, and e2fsck goes to a backup copy that is not there in a small file system or older than the
//! journal in a large one. [`reseal`] is the way out.

/// Bytes from the partition's start.
pub const SUPERBLOCK_AT: u64 = 1024;
pub const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: [u8; 2] = [0x53, 0xef];
const FEATURE_64BIT: u32 = 0x80;
/// `metadata_csum`, among the features that may be mounted for reading only.
const FEATURE_CHECKSUMS: u32 = 0x400;
/// Of the checksum: CRC-32C of all before it.
const CHECKSUM_AT: usize = 0x3fc;
const CHECKSUM_TYPE_CRC32C: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub blocks: u64,
    /// Bytes: 1024 to 65536.
    pub block_size: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an ext4 superblock: {0}")]
pub struct NotExt4(&'static str);

impl Superblock {
    pub fn parse(bytes: &[u8]) -> Result<Superblock, NotExt4> {
        if bytes.len() < SUPERBLOCK_BYTES {
            return Err(NotExt4("too short"));
        }
        if bytes[56..58] != MAGIC {
            return Err(NotExt4("wrong magic number"));
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let shift = u32_at(24);
        if shift > 6 {
            return Err(NotExt4("impossible block size"));
        }
        let high = if u32_at(96) & FEATURE_64BIT != 0 { u32_at(336) } else { 0 };
        Ok(Superblock { blocks: u64::from(high) << 32 | u64::from(u32_at(4)), block_size: 1024 << shift })
    }
}

/// The checksum that a torn superblock needs, and its offset in it; `None` when the superblock is whole, or is nothing that
/// checksums could put right. Whatever else is wrong with it is left for `e2fsck -f` to find.
pub fn reseal(bytes: &[u8]) -> Option<(usize, [u8; 4])> {
    let superblock = Superblock::parse(bytes).ok().filter(|s| s.blocks > 0)?;
    let features = u32::from_le_bytes([bytes[100], bytes[101], bytes[102], bytes[103]]);
    let has_checksum = features & FEATURE_CHECKSUMS != 0 && bytes[0x175] == CHECKSUM_TYPE_CRC32C;
    if !has_checksum || superblock.block_size != 4096 {
        return None;
    }
    let wanted = crc32c(&bytes[..CHECKSUM_AT]).to_le_bytes();
    (bytes[CHECKSUM_AT..CHECKSUM_AT + 4] != wanted).then_some((CHECKSUM_AT, wanted))
}

/// CRC-32C as ext4 uses it: all ones before, nothing inverted after.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_superblock_is_sealed_again_and_nothing_else_is() {
        let mut old = sample();
        old[24] = 2;
        old[100..104].copy_from_slice(&FEATURE_CHECKSUMS.to_le_bytes());
        old[0x175] = CHECKSUM_TYPE_CRC32C;
        let (at, seal) = reseal(&old).unwrap();
        old[at..at + 4].copy_from_slice(&seal);
        assert_eq!(reseal(&old), None, "whole");
        let mut new = old.clone();
        new[12] = 77;
        let (_, seal) = reseal(&new).unwrap();
        new[at..at + 4].copy_from_slice(&seal);
        for (first, second) in [(&old, &new), (&new, &old)] {
            let mut torn = [&first[..512], &second[512..]].concat();
            let (at, seal) = reseal(&torn).unwrap();
            torn[at..at + 4].copy_from_slice(&seal);
            assert_eq!(&torn, first);
        }
        assert_eq!(reseal(&sample()), None, "a file system without checksums");
        assert_eq!(reseal(&[0; 1024]), None);
        assert_eq!(reseal(&old[..512]), None);
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        // The CRC catalogue's check value, before its last inversion.
        assert_eq!(crc32c(b"123456789"), !0xe306_9283);
    }

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        bytes[4..8].copy_from_slice(&16384u32.to_le_bytes());
        bytes[24] = 2;
        bytes[56..58].copy_from_slice(&MAGIC);
        bytes[336] = 1;
        bytes
    }

    #[test]
    fn reads_the_size() {
        let mut bytes = sample();
        assert_eq!(Superblock::parse(&bytes), Ok(Superblock { blocks: 16384, block_size: 4096 }));
        bytes[96] = 0x80;
        assert_eq!(Superblock::parse(&bytes).unwrap().blocks, (1 << 32) + 16384);
    }

    #[test]
    fn refuses_other_data() {
        assert!(Superblock::parse(&[]).is_err());
        assert!(Superblock::parse(&[0; 1024]).is_err());
        let mut bytes = sample();
        bytes[24] = 60;
        assert_eq!(Superblock::parse(&bytes), Err(NotExt4("impossible block size")));
    }
}
