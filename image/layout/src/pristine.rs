//! The state file system as shipped, so small that the initramfs carries it: a factory reset makes the new one of it.
//!
//! No tool and no knowledge of the file system is needed: the blocks that are not all zero, and where they go.

use thiserror::Error;

use crate::BLOCK_BYTES;

const BLOCK: usize = BLOCK_BYTES as usize;
/// What the file starts with.
const MAGIC: &[u8; 16] = b"macula-pristine1";
/// Most bytes outside of the holes.
const CONTENT_MAX: usize = 16 << 20;

/// An empty state file system: its blocks that are not all zero.
#[derive(Debug, PartialEq, Eq)]
pub struct Pristine {
    /// Of the whole file system.
    pub bytes: u64,
    pub extents: Vec<Extent>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("the pristine state file system in the initramfs is not usable: {0}")]
pub struct PristineError(&'static str);

impl Pristine {
    /// From an image of the file system.
    pub fn of_image(image: &[u8]) -> Pristine {
        let mut extents: Vec<Extent> = Vec::new();
        for (index, block) in
            image.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0))
        {
            let offset = (index * BLOCK) as u64;
            match extents.last_mut().filter(|last| last.offset + last.bytes.len() as u64 == offset) {
                Some(last) => last.bytes.extend_from_slice(block),
                None => extents.push(Extent { offset, bytes: block.to_vec() }),
            }
        }
        Pristine { bytes: image.len() as u64, extents }
    }

    /// All numbers are u64, little-endian: size, then offset and length before each extent's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.bytes.to_le_bytes());
        for Extent { offset, bytes } in &self.extents {
            out.extend(offset.to_le_bytes());
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    /// It must begin with the first block, which is written last and without which nothing can be mounted.
    pub fn decode(bytes: &[u8]) -> Result<Pristine, PristineError> {
        if bytes.len() > CONTENT_MAX {
            return Err(PristineError("too large"));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(PristineError("another format"))?;
        let (size, mut rest) = number(rest)?;
        let mut extents: Vec<Extent> = Vec::new();
        while !rest.is_empty() {
            let (offset, after) = number(rest)?;
            let (length, after) = number(after)?;
            let length = usize::try_from(length).map_err(|_| PristineError("an extent is too long"))?;
            let (bytes, after) = after.split_at_checked(length).ok_or(PristineError("cut off"))?;
            let end = offset.checked_add(length as u64).filter(|end| *end <= size && length > 0);
            let from = extents.last().map_or(0, |last| last.offset + last.bytes.len() as u64);
            if end.is_none() || offset < from {
                return Err(PristineError("extents overlap or leave the file system"));
            }
            extents.push(Extent { offset, bytes: bytes.to_vec() });
            rest = after;
        }
        match extents.first() {
            Some(first) if first.offset == 0 && first.bytes.len() >= BLOCK => {
                Ok(Pristine { bytes: size, extents })
            }
            _ => Err(PristineError("no superblock")),
        }
    }

    /// The writes, in order: all but the first block, then, when those are on the disk, the first block.
    pub fn writes(&self) -> (Vec<(u64, &[u8])>, &[u8]) {
        let (first, rest) = self.extents[0].bytes.split_at(BLOCK);
        let tail = Some((BLOCK as u64, rest)).filter(|(_, rest)| !rest.is_empty());
        let others = self.extents[1..].iter().map(|e| (e.offset, e.bytes.as_slice()));
        (tail.into_iter().chain(others).collect(), first)
    }
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), PristineError> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(PristineError("cut off"))?;
    Ok((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pristine_file_system_comes_back_block_by_block() {
        let mut image = vec![0; 10 * BLOCK];
        (image[1024], image[BLOCK + 7], image[9 * BLOCK]) = (1, 2, 3);
        let pristine = Pristine::of_image(&image);
        assert_eq!(pristine.extents.len(), 2);
        let again = Pristine::decode(&pristine.encode()).unwrap();
        assert_eq!(again, pristine);
        let (others, first) = again.writes();
        let mut disk = vec![0; image.len()];
        for (offset, bytes) in others.into_iter().chain([(0, first)]) {
            disk[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(disk, image);
    }

    #[test]
    fn a_damaged_pristine_file_is_refused() {
        let mut image = vec![0; 4 * BLOCK];
        image[0] = 1;
        let good = Pristine::of_image(&image).encode();
        for end in 0..good.len() {
            assert!(Pristine::decode(&good[..end]).is_err(), "{end}");
        }
        for at in (0..40).filter(|at| !(16..24).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            assert!(Pristine::decode(&bad).is_err(), "{at}");
        }
        image.rotate_right(BLOCK);
        assert!(Pristine::decode(&Pristine::of_image(&image).encode()).is_err());
    }
}
