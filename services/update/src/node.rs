//! What booted, and where this service's files and devices are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use os_config::Config;
use os_release::Version;
use os_slots::{BootInfo, Slot};
use services_api::bus;

use crate::configuration::Configuration;

const BOOT_INFO_MAX: u64 = 1024 * 1024;

pub struct Node {
    pub boot: BootInfo,
    pub configuration: Configuration,
    pub version: Version,
    run_dir: PathBuf,
    pub state_dir: PathBuf,
}

impl Node {
    pub fn load() -> Result<Self> {
        let run_dir = bus::run_dir();
        let boot = read_boot_info(&run_dir.join("boot.json"))?;
        let state_dir = std::env::var_os("STATE_DIRECTORY").map_or("/state/update".into(), PathBuf::from);
        Self::new(boot, Configuration::load(), run_dir, state_dir)
    }

    pub fn new(
        boot: BootInfo,
        configuration: Configuration,
        run_dir: PathBuf,
        state_dir: PathBuf,
    ) -> Result<Self> {
        let version = Version::parse(&boot.version)
            .with_context(|| format!("the running release calls itself {:?}", boot.version))?;
        Ok(Self { boot, configuration, version, run_dir, state_dir })
    }

    /// What the configuration says now.
    pub fn config(&self) -> Arc<Config> {
        self.configuration.config()
    }

    /// The ESP, read and written.
    pub fn esp(&self) -> PathBuf {
        self.device("esp")
    }

    /// The running root partition, read.
    pub fn active_root(&self) -> PathBuf {
        self.device("active-root")
    }

    /// The other root partition, read and written.
    pub fn inactive_root(&self) -> PathBuf {
        self.device("inactive-root")
    }

    /// The running root partition under the name that the content service has for it.
    pub fn active_root_for_content(&self) -> PathBuf {
        let name = match self.boot.slot {
            Slot::A => "root-a",
            Slot::B => "root-b",
        };
        self.run_dir.join("dev/content").join(name)
    }

    fn device(&self, role: &str) -> PathBuf {
        self.run_dir.join("dev/update").join(role)
    }
}

fn read_boot_info(path: &Path) -> Result<BootInfo> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(BOOT_INFO_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what PID 1 writes", path.display()))
}

/// Time since boot, milliseconds.
pub fn uptime_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills a struct that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Seconds since 1970 by this node's clock.
pub fn now_unix() -> u64 {
    services_api::daemon::now_ms() / 1000
}
