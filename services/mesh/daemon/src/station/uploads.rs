//! What clients have brought in parts: blocks come one by one, a manifest before or after them.

use std::collections::BTreeSet;

use os_content_id::{ChunkList, Hash};

/// How long nothing may come before a block counts as something by itself.
const QUIET_MS: u64 = 10_000;
const MAX_LOOSE: usize = 4096;
/// More blocks than these, of which nobody says what they are, are parts of something that was given up.
const MAX_ANNOUNCED: usize = 64;
const MAX_WAITING: usize = 64;

#[derive(Default)]
pub struct Uploads {
    /// Blocks that no manifest has named yet.
    loose: BTreeSet<Hash>,
    last_ms: u64,
    waiting: Vec<Waiting>,
}

struct Waiting {
    list: ChunkList,
    missing: BTreeSet<Hash>,
}

impl Uploads {
    /// A block is here now. The manifests that are whole with it.
    pub fn block(&mut self, hash: Hash, now_ms: u64) -> Vec<ChunkList> {
        self.last_ms = now_ms;
        let mut named = false;
        for waiting in &mut self.waiting {
            named |= waiting.missing.remove(&hash);
        }
        if !named && self.loose.len() < MAX_LOOSE {
            self.loose.insert(hash);
        }
        let (whole, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.missing.is_empty());
        self.waiting = waiting;
        let whole: Vec<Waiting> = whole;
        whole.into_iter().map(|w| w.list).collect()
    }

    /// A manifest is here now; `whole` if all its blocks are.
    pub fn manifest(&mut self, list: ChunkList, whole: bool, now_ms: u64) {
        self.last_ms = now_ms;
        let named: BTreeSet<Hash> = list.hashes().iter().copied().collect();
        let missing = named.iter().filter(|hash| !self.loose.contains(*hash)).copied().collect();
        self.loose.retain(|hash| !named.contains(hash));
        if whole {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push(Waiting { list, missing });
    }

    /// Blocks that are content of their own, as far as anybody can tell.
    pub fn due(&mut self, now_ms: u64) -> Vec<Hash> {
        if now_ms < self.last_ms + QUIET_MS {
            return Vec::new();
        }
        let loose = std::mem::take(&mut self.loose);
        if loose.len() > MAX_ANNOUNCED { Vec::new() } else { loose.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use os_content_id::{ManifestBuilder, hash};

    use super::*;

    fn list() -> ChunkList {
        let mut builder = ManifestBuilder::with_chunk_size("abc", 1);
        builder.update(b"abc");
        builder.finish().unwrap()
    }

    #[test]
    fn blocks_and_their_manifest_come_in_any_order() {
        let mut uploads = Uploads::default();
        for block in [b"a", b"b", b"c"] {
            assert!(uploads.block(hash(block), 0).is_empty());
        }
        uploads.manifest(list(), true, 0);
        assert!(uploads.due(QUIET_MS).is_empty(), "they are parts");

        uploads.manifest(list(), false, 0);
        assert!(uploads.block(hash(b"a"), 0).is_empty());
        assert!(uploads.block(hash(b"c"), 0).is_empty());
        assert_eq!(uploads.block(hash(b"b"), 0), [list()]);
        assert!(uploads.due(QUIET_MS).is_empty());
    }

    #[test]
    fn a_block_by_itself_is_content_when_nothing_more_comes() {
        let mut uploads = Uploads::default();
        uploads.block(hash(b"x"), 5);
        assert!(uploads.due(QUIET_MS + 4).is_empty());
        assert_eq!(uploads.due(QUIET_MS + 5), [hash(b"x")]);
        assert!(uploads.due(2 * QUIET_MS).is_empty(), "once");
        (0..100u32).for_each(|n| drop(uploads.block(hash(&n.to_be_bytes()), 0)));
        assert!(uploads.due(QUIET_MS).is_empty(), "an upload that was given up");
        (0..10_000u32).for_each(|n| drop(uploads.block(hash(&n.to_be_bytes()), 0)));
        assert!(uploads.loose.len() <= MAX_LOOSE);
    }
}
