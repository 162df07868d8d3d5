//! What the boot tests share: a lab with the releases that `cargo xtask test boot` built.

mod full;
mod rauc;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_lab::{Lab, Node, NodeOptions, Releases};
use serde_json::Value;

pub use full::fill_state;
pub use rauc::Rauc;

/// Bounds an update on a slow, busy host; it measures nothing.
pub const UPDATE: Duration = Duration::from_secs(600);
pub const CHANNEL: &str = "stable";

/// An owner's check, so that each trial runs one in its sandbox.
const CHECK: &str =
    "[[gate.check]]\nname = \"program\"\nexec = [\"/usr/bin/maculactl\", \"--version\"]\ntimeout_s = 60\n";

/// A lab and the releases to boot and to update to.
pub struct Bench {
    pub lab: Lab,
    pub releases: Releases,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let releases = Releases::of_test_run()?;
        Ok(Self { lab: Lab::new(&releases.maculactl)?, releases })
    }

    pub fn image(&self) -> Result<&Path> {
        self.releases.first.disk.as_deref().context("the first release has no disk image")
    }

    /// A node that waits for orders, booted and answering.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        self.boot(name, &self.lab.config(name))
    }

    /// A node that follows the owner's channel, booted and answering.
    pub fn follower(&self, name: &str) -> Result<Node<'_>> {
        self.boot(name, &self.following(name))
    }

    /// The text of a follower's `macula.toml`.
    pub fn following(&self, name: &str) -> String {
        self.lab.config_following(name, CHANNEL) + CHECK
    }

    /// A node with the text of a `macula.toml`, booted and answering.
    pub fn boot(&self, name: &str, config: &str) -> Result<Node<'_>> {
        self.boot_with(name, config, NodeOptions::default())
    }

    /// The same in a machine that differs.
    pub fn boot_with(&self, name: &str, config: &str, options: NodeOptions) -> Result<Node<'_>> {
        let node = self.lab.start(name, self.image()?, config, options)?;
        node.wait_ready().with_context(|| node.tail())?;
        node.wait_answer().with_context(|| node.tail())?;
        say(&format!("{name} is up"));
        Ok(node)
    }
}

/// Progress of a long test, for whoever watches.
pub fn say(text: &str) {
    eprintln!("    {text}");
}

/// The texts of a status's events, oldest first.
pub fn events(status: &Value) -> Vec<String> {
    let text =
        |e: &Value| format!("{}: {}", e["kind"].as_str().unwrap_or(""), e["text"].as_str().unwrap_or(""));
    status["events"].as_array().into_iter().flatten().map(text).collect()
}

/// Adds the console's last lines to an error.
pub fn with_console<T>(node: &Node, result: Result<T>) -> Result<T> {
    result.with_context(|| format!("console of {}:\n{}", node.name, node.tail()))
}
