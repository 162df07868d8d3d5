//! Debian's `rauc` command, pointed at a node.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qemu_lab::{Node, wait_until};
use serde_json::Value;

use crate::Bench;

const START: Duration = Duration::from_secs(30);

/// `maculactl rauc-bus` for one node, and the client at its end.
pub struct Rauc {
    bus: Child,
    socket: PathBuf,
}

impl Rauc {
    pub fn start(bench: &Bench, node: &Node) -> Result<Self> {
        let socket = bench.lab.dir().join(format!("{}.bus", node.name));
        let path = socket.to_str().context("a path is not UTF-8")?;
        let bus = bench.lab.owner.start(&node.address, &["rauc-bus", "--listen", path])?;
        let rauc = Self { bus, socket };
        wait_until("maculactl rauc-bus to listen", START, || Ok(rauc.socket.exists().then_some(())))?;
        Ok(rauc)
    }

    /// What it prints, or its complaint.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let bus = format!("unix:path={}", self.socket.display());
        let output = Command::new("rauc").args(arguments).env("DBUS_SYSTEM_BUS_ADDRESS", bus).output();
        let output = output.context("cannot run rauc")?;
        let said = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
        if !output.status.success() {
            bail!("rauc {}: {said}", arguments.join(" "));
        }
        Ok(said)
    }

    pub fn status(&self) -> Result<Value> {
        let text = self.run(&["status", "--detailed", "--output-format=json"])?;
        serde_json::from_str(&text).with_context(|| format!("rauc printed no JSON: {text}"))
    }
}

impl Drop for Rauc {
    fn drop(&mut self) {
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}
