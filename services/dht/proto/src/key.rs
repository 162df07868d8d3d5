//! 256-bit keys and the XOR metric (Maymounkov and Mazières, "Kademlia", 2002, section 2).

use std::fmt;

use os_identity::NodeId;

/// A place in the key space: where a record lives, or, through its public key, where a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

/// How far apart two places are. Compares as the 256-bit big-endian number that it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; 32]);

impl Key {
    pub const LEN: usize = 32;

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE3 over the parts, one after the other. The first part is the purpose, ending in a NUL.
    pub fn hash(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        parts.iter().for_each(|part| {
            hasher.update(part);
        });
        Self(*hasher.finalize().as_bytes())
    }

    pub fn distance(&self, other: &Key) -> Distance {
        Distance(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }

    /// A place at `index` as [`Distance::bucket_index`] counts, seen from here: the higher bits are ours, the bit
    /// at `index` is flipped, the lower ones come from `noise`.
    pub fn in_bucket(&self, index: u8, noise: [u8; 32]) -> Key {
        let (byte, bit) = (31 - usize::from(index) / 8, index % 8);
        let mut bytes = self.0;
        bytes[byte] ^= 1 << bit;
        let below = (1u8 << bit) - 1;
        bytes[byte] = (bytes[byte] & !below) | (noise[byte] & below);
        bytes[byte + 1..].copy_from_slice(&noise[byte + 1..]);
        Key(bytes)
    }
}

impl Distance {
    pub const MAX: Distance = Distance([0xff; 32]);

    /// The number of the highest bit set, 255 for the far half of the space; `None` for no distance at all.
    pub fn bucket_index(&self) -> Option<u8> {
        let byte = self.0.iter().position(|b| *b != 0)?;
        let leading = byte * 8 + self.0[byte].leading_zeros() as usize;
        u8::try_from(255 - leading).ok()
    }

    /// Whether bit `index` (255 is the highest) is set.
    pub fn bit(&self, index: u8) -> bool {
        self.0[31 - usize::from(index) / 8] >> (index % 8) & 1 == 1
    }
}

impl From<NodeId> for Key {
    fn from(id: NodeId) -> Self {
        Key(*id.as_bytes())
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bucket_index() {
            Some(index) => write!(f, "Distance(2^{index}..)"),
            None => f.write_str("Distance(0)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8, last: u8) -> Key {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        Key::from_bytes(bytes)
    }

    #[test]
    fn bucket_index_is_the_highest_differing_bit() {
        let zero = key(0, 0);
        assert_eq!(zero.distance(&zero).bucket_index(), None);
        assert_eq!(zero.distance(&key(0, 1)).bucket_index(), Some(0));
        assert_eq!(zero.distance(&key(1, 1)).bucket_index(), Some(248));
        assert_eq!(zero.distance(&key(0x80, 0)).bucket_index(), Some(255));
        assert!(zero.distance(&key(0x80, 0)).bit(255));
        assert!(!zero.distance(&key(0x80, 0)).bit(254));
    }

    #[test]
    fn a_place_made_for_a_bucket_is_in_it() {
        let own = Key::hash(&[b"own"]);
        for index in [0u8, 1, 7, 8, 100, 247, 248, 254, 255] {
            for noise in [[0; 32], [0xff; 32], *Key::hash(&[b"noise"]).as_bytes()] {
                let place = own.in_bucket(index, noise);
                assert_eq!(own.distance(&place).bucket_index(), Some(index), "index {index}");
            }
        }
    }
}
