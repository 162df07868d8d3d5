//! Tells the DHT what is here, in the background, until it has heard it.
//!
//! The DHT keeps what it was told across its own restarts, so each content is told once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use os_content_id::Mcid;
use services_api::bus::Link;
use services_api::dht::DhtProxy;
use tokio::sync::mpsc;

const MAX_WAITING: usize = 4096;
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Announcer(mpsc::Sender<(Mcid, bool)>);

impl Announcer {
    pub fn provide(&self, mcid: Mcid) {
        self.send(mcid, true);
    }

    pub fn unprovide(&self, mcid: Mcid) {
        self.send(mcid, false);
    }

    /// One that tells nobody, beside what it would have told.
    #[cfg(test)]
    pub fn recording() -> (Self, mpsc::Receiver<(Mcid, bool)>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    fn send(&self, mcid: Mcid, here: bool) {
        if self.0.try_send((mcid, here)).is_err() {
            tracing::warn!("{mcid} was not announced: {MAX_WAITING} others are waiting for the DHT");
        }
    }
}

/// Starts telling, beginning with `first`.
pub fn start(dht: Arc<Link>, first: Vec<Mcid>) -> Announcer {
    let (sender, mut receiver) = mpsc::channel(MAX_WAITING);
    tokio::spawn(async move {
        // The newest word about each content counts.
        let mut waiting: BTreeMap<Mcid, bool> = first.into_iter().map(|m| (m, true)).collect();
        loop {
            if waiting.is_empty() {
                match receiver.recv().await {
                    Some((mcid, here)) => drop(waiting.insert(mcid, here)),
                    None => return,
                }
            }
            while waiting.len() < MAX_WAITING
                && let Ok((mcid, here)) = receiver.try_recv()
            {
                waiting.insert(mcid, here);
            }
            if let Err(e) = tell_all(&dht, &mut waiting).await {
                tracing::debug!("{} announcements wait: {e:#}", waiting.len());
                tokio::time::sleep(RETRY).await;
            }
        }
    });
    Announcer(sender)
}

async fn tell_all(dht: &Link, waiting: &mut BTreeMap<Mcid, bool>) -> Result<()> {
    let proxy = DhtProxy::new(&dht.get().await?).await?;
    let mut result = Ok(());
    for (mcid, here) in waiting.clone() {
        let told = match here {
            true => proxy.provide(&mcid.to_bytes()).await,
            false => proxy.unprovide(&mcid.to_bytes()).await,
        };
        match told {
            Ok(()) => drop(waiting.remove(&mcid)),
            Err(e) => result = Err(e.into()),
        }
    }
    result
}
