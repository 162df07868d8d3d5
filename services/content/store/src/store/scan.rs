//! What lies in the store's directory.

use std::collections::{BTreeSet, HashMap};

use os_content_id::{ChunkList, Codec, Hash, Mcid};

use super::{Result, charge, failed};
use crate::exchange::MAX_BLOCK;
use crate::files::{Files, remove};

/// What the files say.
pub(super) struct Scan {
    pub blocks: HashMap<Hash, u32>,
    /// MCID, bytes of content, hashes of its blocks.
    pub manifests: Vec<(Mcid, u64, BTreeSet<Hash>)>,
    pub used: u64,
}

impl Scan {
    pub fn run(files: &Files) -> Result<Self> {
        let mut scan = Self { blocks: HashMap::new(), manifests: Vec::new(), used: 0 };
        let mut names = Vec::new();
        files
            .each_block(|hash, len| match u32::try_from(len) {
                Ok(size) if size as usize <= MAX_BLOCK => {
                    scan.used += charge(len);
                    scan.blocks.insert(hash, size);
                }
                _ => tracing::warn!("a block file of {len} bytes is too large to be one, left alone"),
            })
            .map_err(failed("listing the blocks"))?;
        files.each_manifest(|hash, _| names.push(hash)).map_err(failed("listing the manifests"))?;
        for hash in names {
            scan.add_manifest(files, hash)?;
        }
        Ok(scan)
    }

    fn add_manifest(&mut self, files: &Files, hash: Hash) -> Result<()> {
        let mcid = Mcid { codec: Codec::Manifest, hash };
        let bytes = files.read_manifest(&hash).map_err(failed("reading a manifest"))?.unwrap_or_default();
        match ChunkList::decode(&bytes, &mcid) {
            Ok(list) => {
                self.used += charge(bytes.len() as u64);
                let unique = list.hashes().iter().copied().collect();
                self.manifests.push((mcid, list.manifest().size, unique));
                Ok(())
            }
            Err(e) => {
                tracing::warn!("removed the file of {mcid}: {e}");
                remove(&files.manifest_path(&hash)).map_err(failed("removing a manifest"))
            }
        }
    }
}
