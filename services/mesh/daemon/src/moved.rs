//! A new address: a lease, another cable, another network. Peers are told at once, so that connections go on where they were.

use std::sync::Arc;
use std::time::Duration;

use crate::lan;
use crate::links::Links;

const LOOK: Duration = Duration::from_secs(1);
/// Peers dialled anew at once.
const MAX_DIALS: usize = 32;

/// Watches this machine's addresses, for ever.
pub async fn watch(links: Arc<Links>) {
    let mut known = lan::own_addresses().unwrap_or_default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(now) = lan::own_addresses() else { continue };
        // One that has only gone changes nothing for the others, and a node without any cannot say anything.
        let is_new = now.iter().any(|ip| !known.contains(ip));
        known = now;
        if is_new {
            tracing::info!("this node has a new address; telling its peers");
            tell(&links);
        }
    }
}

fn tell(links: &Arc<Links>) {
    if let Err(e) = links.paths.moved(&links.endpoint) {
        tracing::warn!("connections may take a while to follow: {e:#}");
    }
    let now = links.now();
    links.state().upgrades.moved(now);
    links.upgrade.notify_one();
    // QUIC lets only the end that dialled move. Where that was the other one, a new connection takes its place.
    for (node, address) in links.dialled_by_them().into_iter().take(MAX_DIALS) {
        let links = links.clone();
        tokio::spawn(async move {
            if let Err(e) = links.dial_direct(node, vec![address], Duration::from_secs(8)).await {
                tracing::debug!("cannot tell {node} of the new address: {e:#}");
            }
        });
    }
}
