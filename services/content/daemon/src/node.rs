//! What all parts of the daemon share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use os_content_id::Mcid;
use os_identity::NodeId;
use services_api::report::ContentReport;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::announce::Announcer;
use crate::local::Local;
use crate::transfers::Transfers;

/// Who lied in one transfer is not asked in others for so long.
const LIAR_TIME: Duration = Duration::from_secs(600);
const MAX_LIARS: usize = 256;
/// Transfers at once, each with a window of 4 MiB.
const MAX_TRANSFERS: usize = 8;
/// Contents that apps bring at once; others are told to try later.
const MAX_APP_PUTS: usize = 4;
/// Without a new chunk for so long, a transfer ends.
const STALL_MS: u64 = 60_000;

pub struct Node<P> {
    pub local: Local,
    pub peers: P,
    pub announcer: Announcer,
    pub transfers: Transfers,
    pub transfer_permits: Semaphore,
    /// One content is put at a time: they would only compete for the same disk.
    pub put_permit: Semaphore,
    /// What apps bring is another turn: they may be slow.
    pub app_put_permits: Arc<Semaphore>,
    pub stall_ms: u64,
    liars: Mutex<HashMap<NodeId, (Instant, String)>>,
}

impl<P> Node<P> {
    pub fn new(local: Local, peers: P, announcer: Announcer) -> Self {
        Self {
            local,
            peers,
            announcer,
            transfers: Transfers::default(),
            transfer_permits: Semaphore::new(MAX_TRANSFERS),
            put_permit: Semaphore::new(1),
            app_put_permits: Arc::new(Semaphore::new(MAX_APP_PUTS)),
            stall_ms: STALL_MS,
            liars: Mutex::default(),
        }
    }

    /// Remembers who sent wrong bytes.
    pub fn lied(&self, node: NodeId, reason: &str) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.retain(|_, (at, _)| at.elapsed() < LIAR_TIME);
        if liars.len() < MAX_LIARS {
            tracing::warn!("{node} is not asked for a while: {reason}");
            liars.insert(node, (Instant::now(), reason.to_string()));
        }
    }

    /// Why the node is not to be asked.
    pub fn lie_of(&self, node: &NodeId) -> Option<String> {
        let liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.get(node).filter(|(at, _)| at.elapsed() < LIAR_TIME).map(|(_, why)| why.clone())
    }

    /// Tells the mesh about a content that came here, and about those that had to go for it.
    pub fn announce(&self, mcid: Mcid) {
        self.announce_removed();
        self.announcer.provide(mcid);
    }

    pub fn announce_removed(&self) {
        for gone in self.local.store.take_evicted() {
            self.announcer.unprovide(gone);
        }
    }

    pub fn report(&self) -> ContentReport {
        let usage = self.local.store.usage();
        ContentReport {
            blocks: usage.blocks,
            bytes: usage.bytes,
            offered: self.local.offers.list().iter().map(Mcid::to_string).collect(),
            transfers: self.transfers.list(),
        }
    }
}
