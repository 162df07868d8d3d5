//! The few fields of an ext4 superblock that tell whether it fills its partition.
//! Source: `Documentation/filesystems/ext4/super.rst`.

/// Bytes from the partition's start.
pub const SUPERBLOCK_AT: u64 = 1024;
pub const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: [u8; 2] = [0x53, 0xef];
const FEATURE_64BIT: u32 = 0x80;

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

#[cfg(test)]
mod tests {
    use super::*;

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
