//! The console's files, read once at start: the root that they are in does not change while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_gateway::Asset;
use mesh_http::ASSETS;
use os_content_id::Mcid;

/// More than all of them together may weigh (`cargo xtask test console` holds them to less).
const MAX_FILE: u64 = 512 * 1024;

pub struct Assets(BTreeMap<&'static str, Asset>);

impl Assets {
    /// From `/usr/share/macula/console`; `MACULA_CONSOLE` moves it, for tests on a host. What is not there is not served.
    pub fn load() -> Self {
        let dir = std::env::var_os("MACULA_CONSOLE")
            .map_or_else(|| PathBuf::from("/usr/share/macula/console"), PathBuf::from);
        let read = |name: &'static str| {
            let plain = dir.join(name);
            let (path, gzip) = match plain.exists() {
                true => (plain, false),
                false => (dir.join(format!("{name}.gz")), true),
            };
            let size = std::fs::metadata(&path).ok()?.len();
            if size > MAX_FILE {
                tracing::warn!("{} is not served: it has {size} bytes", path.display());
                return None;
            }
            let bytes: Arc<[u8]> = std::fs::read(&path).ok()?.into();
            let tag = format!("\"{}\"", Mcid::of_raw(&bytes));
            Some((name, Asset { bytes, tag, gzip }))
        };
        let found: BTreeMap<_, _> = ASSETS.iter().filter_map(|(name, _)| read(name)).collect();
        if found.is_empty() {
            tracing::info!("there is no console in {}", dir.display());
        }
        Self(found)
    }

    pub fn get(&self, name: &str) -> Option<Asset> {
        self.0.get(name).cloned()
    }
}
