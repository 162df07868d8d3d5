//! The slot is the seed: a committed release is offered to neighbours out of the running root partition, its UKI out of the
//! copy that was kept of it.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::records::Installed;
use crate::updater::Updater;

const AGAIN: Duration = Duration::from_secs(30);

/// Offers for ever, anew after each restart of the content service.
pub async fn keep_offered(updater: Arc<Updater>, installed: Installed) {
    loop {
        match offer(&updater).await {
            Ok(connection) => {
                tracing::info!("{} is offered to neighbours out of its slot", installed.version);
                connection.closed().await;
            }
            Err(e) => {
                tracing::warn!("{} is not offered to neighbours: {e:#}", installed.version);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Offers release, root and UKI, as far as they are there and sound.
pub async fn offer(updater: &Updater) -> Result<zbus::Connection> {
    let files = updater.records.seed_files(updater.node.boot.slot).context("the slot's records are gone")?;
    let connection = updater.links.content_connection().await?;
    let content = updater.links.content().await?;
    content.put(&files.release).await.context("the release metadata")?;
    let path = updater.node.active_root_for_content();
    content.offer(&files.root_manifest, &path.to_string_lossy()).await.context("the root")?;
    let uki = File::open(updater.records.uki(updater.node.boot.slot)).context("the kept UKI")?;
    content
        .offer_file(&files.uki_manifest, std::os::fd::OwnedFd::from(uki).into())
        .await
        .context("the UKI")?;
    if let Err(e) = offer_rescue(updater).await {
        tracing::warn!("the rescue system is not offered to neighbours: {e:#}");
    }
    Ok(connection)
}

/// Offers the copy of the rescue system that the last renewal put on the ESP, if there was one.
pub async fn offer_rescue(updater: &Updater) -> Result<()> {
    let [_, kept] = updater.records.rescue_files();
    let (Some(manifest), Ok(file)) = (updater.records.rescue_manifest(), File::open(kept)) else {
        return Ok(());
    };
    let content = updater.links.content().await?;
    content.offer_file(&manifest, std::os::fd::OwnedFd::from(file).into()).await.context("the rescue system")
}
