//! The code in `macula-pair.txt` on the boot partition: the same over restarts, gone with its use.
//!
//! It is kept in this service's folder, and written to the boot partition when it is another: at the first boot, and after it was
//! used or guessed at too often. `update` writes there, and bounds how often.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pairing_proto::{Secret, Slot};
use services_api::durable;

use crate::desk::Desk;
use crate::shown;

const FILE: &str = "file-code";
const AGAIN: Duration = Duration::from_secs(60);

/// Takes up the code of before. To be called before the first refresh, which makes one where there is none.
pub fn restore(desk: &Desk) {
    let kept = durable::read(&path(desk)).and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(secret) = kept.and_then(|text| text.parse::<Secret>().ok()) {
        desk.keep_file_code(secret);
    }
}

/// For ever.
pub async fn keep(desk: Arc<Desk>) {
    let mut serial = desk.serial();
    let mut said: Option<String> = None;
    loop {
        serial.borrow_and_update();
        let text = shown::file_text(&desk).unwrap_or_default();
        if said.as_ref() != Some(&text) {
            match put(&desk, &text).await {
                Ok(()) => said = Some(text),
                Err(e) => tracing::warn!("macula-pair.txt is not what it should be: {e:#}"),
            }
        }
        let wait = if said.is_some() { Duration::from_secs(24 * 3600) } else { AGAIN };
        tokio::select! {
            changed = serial.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// First here, then on the boot partition: what stands there is always good.
async fn put(desk: &Desk, text: &str) -> Result<()> {
    match desk.code(Slot::File) {
        Some((secret, _)) => {
            let kept = durable::read(&path(desk));
            if kept.as_deref() != Some(secret.symbols().as_bytes()) {
                durable::write(&path(desk), secret.symbols().as_bytes()).context("keeping the code")?;
            }
        }
        None => durable::remove(&path(desk)).context("forgetting the code")?,
    }
    Ok(desk.links.update().await?.pair_file(text).await?)
}

fn path(desk: &Desk) -> PathBuf {
    desk.node().state_dir.join(FILE)
}
