//! Nodes from a real image in virtual machines, on a network of their own, and their owner on the host.
//!
//! The owner is the real `maculactl` with a key of its own; it reaches each node over QUIC through a forwarded port. A node is
//! reached in no other way: no agent, no shell, no shared folder. Everything lives in one temporary folder and ends
//! with the [`Lab`].

mod hang;
mod node;
mod owner;
mod releases;
pub mod screen;

pub use node::{Node, NodeOptions, OnLine};
pub use owner::Owner;
pub use releases::{ReleaseFiles, Releases};

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_vm::Switch;

/// Bytes of each machine's (sparse) disk: larger than the image, as real disks are.
pub const DISK: u64 = 4 << 30;

/// A folder, a switch and an owner.
pub struct Lab {
    pub owner: Owner,
    pub switch: Switch,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Lab {
    /// In a temporary folder that goes with it. `maculactl`: the binary to own the nodes with.
    pub fn new(maculactl: &Path) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("macula-lab-").tempdir()?;
        let dir = temporary.path().to_path_buf();
        let owner = Owner::new(maculactl, &dir)?;
        Ok(Self { owner, switch: Switch::new(), dir, _temporary: Some(temporary) })
    }

    /// In a folder that stays, with the owner who is there already, if one is.
    pub fn in_dir(maculactl: &Path, dir: &Path) -> Result<Self> {
        let owner = Owner::new(maculactl, dir)?;
        Ok(Self { owner, switch: Switch::new(), dir: dir.to_path_buf(), _temporary: None })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A machine with a copy of the image on its disk, provisioned with `config` (the text of `macula.toml`), started.
    pub fn start(&self, name: &str, image: &Path, config: &str, options: NodeOptions) -> Result<Node<'_>> {
        self.start_on(name, self.disk(name, image, config)?, options)
    }

    /// A machine with this disk, as it is, started.
    pub fn start_on(&self, name: &str, disk: PathBuf, options: NodeOptions) -> Result<Node<'_>> {
        Node::start(self, name, disk, options)
    }

    /// Puts a file on the ESP of a disk that no machine is running from.
    pub fn write_to_esp(&self, disk: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(image_builder::esp_write_file(disk, name, bytes)?)
    }

    /// A copy of the image as a machine's disk, provisioned with `config`.
    pub fn disk(&self, name: &str, image: &Path, config: &str) -> Result<PathBuf> {
        let disk = self.dir.join(format!("{name}.img"));
        image_builder::sparse::copy(image, &disk)
            .with_context(|| format!("cannot copy {}", image.display()))?;
        OpenOptions::new().write(true).open(&disk)?.set_len(DISK)?;
        image_builder::esp_write_file(&disk, "macula.toml", config.as_bytes())?;
        Ok(disk)
    }

    /// The owner's lines of a node's configuration: name, owner, and whose releases it takes.
    pub fn config(&self, name: &str) -> String {
        let did = self.owner.did();
        format!(
            "version = 1\nname = \"{name}\"\nowner = \"{did}\"\n\
             [gate]\ntimeout_s = 150\nsteady_s = 5\n\
             [update]\nrelease_keys = [\"{did}\"]\ninterval_s = 5\n"
        )
    }

    /// The same for a node that follows the owner's channel.
    pub fn config_following(&self, name: &str, channel: &str) -> String {
        let did = self.owner.did();
        format!("{}channel = \"{channel}\"\npublisher = \"{did}\"\n", self.config(name))
    }
}

/// Asks `attempt` every second until it gives something. The error says what was waited for and what came last.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_string(),
            Err(e) => format!("{e:#}"),
        };
        if begun.elapsed() > timeout {
            bail!("waited {} s for {what}; last: {last}", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
