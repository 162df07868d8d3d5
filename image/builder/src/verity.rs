//! The dm-verity hash tree, format 1, SHA-256, 4096-byte data and hash blocks, without superblock.
//!
//! Level 0 hashes the data blocks; each level above hashes the blocks of the one below until one block is left.
//! A hash is SHA-256(salt, block); 128 hashes fill a block, the last one is padded with zeros. Levels are stored
//! from the top down, so the block behind the data holds the hashes that the root hash covers. As in the kernel's
//! `Documentation/admin-guide/device-mapper/verity.rst`; the test holds it against `veritysetup`.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

pub const BLOCK: usize = 4096;
const HASH: usize = 32;

/// A finished tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub root: [u8; HASH],
    /// Number of data blocks that it covers.
    pub data_blocks: u64,
    /// The hash blocks, as they follow the data on disk.
    pub blocks: Vec<u8>,
}

/// Hashes `data` to its end. Its length must be a multiple of 4096 and not 0: `None` otherwise.
pub fn tree(mut data: impl Read, salt: &[u8]) -> std::io::Result<Option<Tree>> {
    let mut level = Vec::new();
    let mut block = [0; BLOCK];
    let mut data_blocks = 0;
    loop {
        match read_block(&mut data, &mut block)? {
            0 => break,
            BLOCK => level.extend_from_slice(&hash(salt, &block)),
            _ => return Ok(None),
        }
        data_blocks += 1;
    }
    if data_blocks == 0 {
        return Ok(None);
    }
    let mut levels = Vec::new();
    while level.len() > HASH {
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        let above = level.chunks_exact(BLOCK).flat_map(|block| hash(salt, block)).collect();
        levels.push(std::mem::replace(&mut level, above));
    }
    let mut root = [0; HASH];
    root.copy_from_slice(&level);
    Ok(Some(Tree { root, data_blocks, blocks: levels.into_iter().rev().flatten().collect() }))
}

/// A salt that depends on the data alone, so that equal images stay equal.
pub fn salt(mut data: impl Read) -> std::io::Result<[u8; HASH]> {
    let mut hasher = Hashing(Sha256::new_with_prefix(b"macula verity salt 1\0"));
    std::io::copy(&mut data, &mut hasher)?;
    Ok(hasher.0.finalize().into())
}

fn hash(salt: &[u8], block: &[u8]) -> [u8; HASH] {
    Sha256::new_with_prefix(salt).chain_update(block).finalize().into()
}

fn read_block(data: &mut impl Read, block: &mut [u8; BLOCK]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < BLOCK {
        match data.read(&mut block[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// A SHA-256 that bytes can be written to.
pub(crate) struct Hashing(pub Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_is_its_own_root_and_needs_no_hash_block() {
        let tree = tree(&[7; BLOCK][..], b"salt").unwrap().unwrap();
        assert_eq!(tree.root, hash(b"salt", &[7; BLOCK]));
        assert_eq!((tree.data_blocks, tree.blocks.len()), (1, 0));
    }

    #[test]
    fn two_levels_are_stored_top_down() {
        let data: Vec<u8> = (0..129 * BLOCK).map(|i| (i / BLOCK) as u8).collect();
        let tree = tree(&data[..], &[]).unwrap().unwrap();
        assert_eq!(tree.blocks.len(), 3 * BLOCK);
        assert_eq!(tree.root, hash(&[], &tree.blocks[..BLOCK]));
        assert_eq!(tree.blocks[..HASH], hash(&[], &tree.blocks[BLOCK..2 * BLOCK]));
        assert_eq!(tree.blocks[BLOCK..BLOCK + HASH], hash(&[], &data[..BLOCK]));
    }

    #[test]
    fn partial_blocks_and_nothing_are_refused() {
        assert_eq!(tree(&[0; BLOCK + 1][..], &[]).unwrap(), None);
        assert_eq!(tree(&[][..], &[]).unwrap(), None);
    }
}
