//! The Merkle root over chunk hashes, as the Macula SDK computes it.

use crate::{Hash, hash};

/// Pairwise `BLAKE3(left || right)`, an odd last node paired with itself; one leaf is its own root; no leaf: the hash
/// of nothing.
///
/// There is no leaf/node domain separation (the SDK has none); chunk count and size in the manifest pin the shape.
pub fn merkle_root(leaves: &[Hash]) -> Hash {
    if leaves.is_empty() {
        return hash(b"");
    }
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| parent(&pair[0], pair.last().unwrap_or(&pair[0]))).collect();
    }
    level[0]
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    hash(&both)
}
