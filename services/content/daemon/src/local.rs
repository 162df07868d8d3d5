//! What this node has itself: its store and what others offered. All disk work and hashing happens on other threads.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use content_store::{Offers, Store};
use os_content_id::{ChunkList, Codec, Hash, Mcid};
use services_api::daemon::now_ms;

#[derive(Clone)]
pub struct Local {
    pub store: Arc<Store>,
    pub offers: Arc<Offers>,
}

/// Runs disk work or hashing beside the event loop.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread failed")
}

impl Local {
    pub fn new(store: Arc<Store>, offers: Arc<Offers>) -> Self {
        Self { store, offers }
    }

    /// A chunk or raw block by its hash, verified. What cannot be read is not there, and the log says why.
    pub async fn chunk(&self, hash: Hash) -> Option<Vec<u8>> {
        let here = self.clone();
        let read = move || match here.offers.chunk(&hash) {
            Some(bytes) => Some(bytes),
            None => here.store.block(&hash).unwrap_or_else(|e| {
                tracing::warn!("{e}");
                None
            }),
        };
        blocking(read).await.ok().flatten()
    }

    pub async fn manifest(&self, mcid: &Mcid) -> Option<ChunkList> {
        if let Some(offer) = self.offers.get(mcid) {
            return Some(offer.list().clone());
        }
        let (store, mcid) = (self.store.clone(), *mcid);
        let found = blocking(move || store.manifest(&mcid)).await.ok()?;
        found.unwrap_or_else(|e| {
            tracing::warn!("{e}");
            None
        })
    }

    /// How many of the content's blocks are here, of how many as far as known.
    pub async fn held(&self, mcid: &Mcid) -> (u32, u32) {
        if let Some(offer) = self.offers.get(mcid) {
            let n = offer.list().manifest().chunk_count;
            return (n, n);
        }
        let (store, mcid) = (self.store.clone(), *mcid);
        let found = blocking(move || {
            store.touch(&mcid, now_ms())?;
            store.held(&mcid)
        });
        match found.await {
            Ok(Ok(held)) => held.unwrap_or((0, 1)),
            Ok(Err(e)) => {
                tracing::warn!("{e}");
                (0, 1)
            }
            Err(_) => (0, 1),
        }
    }

    pub async fn has_all(&self, mcid: &Mcid) -> bool {
        let (held, total) = self.held(mcid).await;
        held == total
    }

    /// Keeps a small object that came from a peer. Not having room for it is no error.
    pub async fn cache_raw(&self, bytes: Vec<u8>) {
        let store = self.store.clone();
        if let Ok(Err(e)) = blocking(move || store.put_raw(&bytes, false, now_ms())).await {
            tracing::info!("a block was not kept: {e}");
        }
    }

    pub async fn cache_manifest(&self, list: ChunkList) {
        let store = self.store.clone();
        if let Ok(Err(e)) = blocking(move || store.put_manifest(&list, now_ms())).await {
            tracing::info!("a manifest was not kept: {e}");
        }
    }

    pub async fn put_raw(&self, bytes: Vec<u8>) -> Result<Mcid> {
        let store = self.store.clone();
        Ok(blocking(move || store.put_raw(&bytes, true, now_ms())).await??)
    }

    /// A block that is not announced by itself.
    pub async fn put_part(&self, bytes: Vec<u8>) -> Result<Mcid> {
        let store = self.store.clone();
        Ok(blocking(move || store.put_raw(&bytes, false, now_ms())).await??)
    }

    /// Keeps a manifest (wire form); its MCID once all blocks are here, too.
    pub async fn put_manifest(&self, manifest: Vec<u8>) -> Result<Option<Mcid>> {
        let store = self.store.clone();
        let put = move || {
            let list = ChunkList::decode_any(&manifest)?;
            anyhow::Ok(store.put_whole(&list, now_ms())?.then(|| list.mcid()))
        };
        blocking(put).await?
    }

    /// Offers a file's content, after a look at its first and last chunk.
    pub async fn offer_file(&self, manifest: Vec<u8>, file: File) -> Result<Mcid> {
        let offers = self.offers.clone();
        let offer = move || anyhow::Ok(offers.offer_file(ChunkList::decode_any(&manifest)?, file)?);
        blocking(offer).await?
    }

    pub async fn offer(&self, manifest: Vec<u8>, path: PathBuf) -> Result<Mcid> {
        let offers = self.offers.clone();
        let offer = move || anyhow::Ok(offers.offer(ChunkList::decode_any(&manifest)?, &path)?);
        blocking(offer).await?
    }
}

/// Whether the MCID names a manifest.
pub fn is_manifest(mcid: &Mcid) -> bool {
    mcid.codec == Codec::Manifest
}
