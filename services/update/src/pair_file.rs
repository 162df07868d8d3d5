//! What `pairing` may ask here, and nothing else: it is talked to by whoever comes.
//!
//! `macula-pair.txt` on the boot partition is for whoever takes the card out of a node that has no screen. It is written when its
//! text is another, and at most so often: a guesser must not wear the card out.

use std::sync::Arc;

use anyhow::{Result, bail};
use services_api::bus;
use services_api::pairing::Adoption;
use zbus::fdo;

use crate::configuration;
use crate::node::uptime_ms;
use crate::updater::Updater;

const PATH: &str = "macula-pair.txt";
const TEXT_MAX: usize = 4096;
/// Writes while this process runs: at once, and then one in so many milliseconds.
const WRITES: u64 = 8;
const WRITE_EVERY_MS: u64 = 3600 * 1000;

/// How often the file was written.
#[derive(Default)]
pub struct Budget {
    spent: u64,
    since_ms: u64,
}

impl Budget {
    /// Whether one more write is allowed now.
    fn take(&mut self, now_ms: u64) -> bool {
        if self.spent == 0 {
            self.since_ms = now_ms;
        }
        let earned = WRITES + now_ms.saturating_sub(self.since_ms) / WRITE_EVERY_MS;
        let allowed = self.spent < earned;
        self.spent += u64::from(allowed);
        allowed
    }
}

async fn put(updater: &Arc<Updater>, text: String) -> Result<()> {
    if text.len() > TEXT_MAX {
        bail!("{PATH} is at most {TEXT_MAX} bytes");
    }
    let mut budget = updater.pair_file.lock().await;
    let present = updater.esp(|esp| esp.read_file(PATH, TEXT_MAX)).await.ok().flatten();
    if present.as_deref() == Some(text.as_bytes()) || (text.is_empty() && present.is_none()) {
        return Ok(());
    }
    // A file that would let somebody in goes, however often it was written.
    if text.is_empty() {
        return updater.esp(|esp| esp.remove_file(PATH).map(drop)).await;
    }
    if !budget.take(uptime_ms()) {
        bail!("{PATH} was written too often; it waits for an hour");
    }
    updater.esp(move |esp| esp.write_file(PATH, text.as_bytes())).await
}

pub struct Server {
    pub updater: Arc<Updater>,
}

#[zbus::interface(name = "io.macula.Adoption1")]
impl Server {
    async fn adopt(&self, adoption: String) -> fdo::Result<()> {
        let adoption: Adoption =
            serde_json::from_str(&adoption).map_err(|e| fdo::Error::InvalidArgs(e.to_string()))?;
        configuration::adopt(&self.updater, &adoption).await.map_err(bus::failed)
    }

    async fn pair_file(&self, text: String) -> fdo::Result<()> {
        put(&self.updater, text).await.map_err(bus::failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_few() {
        let mut budget = Budget::default();
        let at_once = (0..100).filter(|_| budget.take(5_000)).count() as u64;
        assert_eq!(at_once, WRITES);
        assert!(!budget.take(5_000 + WRITE_EVERY_MS - 1) && budget.take(5_000 + WRITE_EVERY_MS));
        assert!(!budget.take(5_001 + WRITE_EVERY_MS));
    }
}
