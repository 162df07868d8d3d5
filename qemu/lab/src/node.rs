//! One node: a machine and what its owner sees of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_vm::{Line, Switch, Vm};
use serde_json::Value;

use crate::hang::HangWatch;
use crate::{Lab, Owner, wait_until};

/// The mesh's UDP port in the guest.
const MESH_PORT: u16 = 4433;
/// What the supervisor prints on the console when every unit is ready.
pub const READY: &str = "all units ready";
/// Emulated machines on a busy host are slow; this bounds a test, it measures nothing.
const BOOT: Duration = Duration::from_secs(240);

/// Told of each line of the serial console.
pub type OnLine = Box<dyn FnMut(&Line) + Send>;

/// What differs between machines.
#[derive(Default)]
pub struct NodeOptions {
    pub record_writes: Option<PathBuf>,
    pub on_line: Option<OnLine>,
    /// Not on the lab's switch.
    pub alone: bool,
    /// Firmware with Secure Boot, without keys.
    pub secure_boot: bool,
    /// A TPM 2.0 with its memory in this folder.
    pub tpm: Option<PathBuf>,
    /// How far the machine's clock is off the host's at each start; negative: behind.
    pub clock_off_s: i64,
    /// Two radios that hear each other, an access point on the second: for the faulty release alone, which has their driver.
    pub radios: bool,
    /// With a screen, for [`Vm::screendump`].
    pub screen: bool,
    /// A port of this host through which a browser gets to its console.
    pub web: Option<u16>,
}

/// A running (or cut off) machine.
pub struct Node<'lab> {
    pub vm: Arc<Vm>,
    pub name: String,
    pub disk: PathBuf,
    /// `127.0.0.1:port`, for `maculactl --node`.
    pub address: String,
    owner: &'lab Owner,
    _hang_watch: HangWatch,
}

impl<'lab> Node<'lab> {
    pub(crate) fn start(lab: &'lab Lab, name: &str, disk: PathBuf, options: NodeOptions) -> Result<Self> {
        let switch = if options.alone { Switch::new() } else { lab.switch.clone() };
        let mut builder = Vm::builder(name)
            .disk(&disk)
            .lan(&switch)
            .cpus(1)
            .cache(qemu_vm::Cache::Unsafe)
            .uefi_variables(lab.dir.join(format!("{name}.vars")))
            .forward_udp(MESH_PORT)
            .watchdog()
            .clock_off(options.clock_off_s)
            .serial_log(lab.dir.join(format!("{name}.log")));
        if options.secure_boot {
            builder = builder.secure_boot();
        }
        if options.screen {
            builder = builder.screen();
        }
        if let Some(port) = options.web {
            builder = builder.forward_tcp(port, MESH_PORT);
        }
        if options.radios {
            builder = builder.arguments(["-device", "pci-testdev"]);
        }
        if let Some(folder) = options.tpm {
            builder = builder.tpm(folder);
        }
        if let Some(log) = options.record_writes {
            builder = builder.record_writes(log);
        }
        if let Some(callback) = options.on_line {
            builder = builder.on_line(callback);
        }
        let vm = Arc::new(builder.start()?);
        let port = vm.host_port(MESH_PORT).context("the machine has no forwarded port")?;
        let address = format!("127.0.0.1:{port}");
        let hang_watch = HangWatch::start(vm.clone());
        Ok(Self { vm, name: name.into(), disk, address, owner: &lab.owner, _hang_watch: hang_watch })
    }

    /// Waits for the console's word that all units are ready.
    pub fn wait_ready(&self) -> Result<String> {
        Ok(self.vm.serial().wait_for_after(self.vm.serial().run(), READY, BOOT)?)
    }

    /// Waits until the owner reaches the node, and returns its status.
    pub fn wait_answer(&self) -> Result<Value> {
        wait_until(&format!("{} to answer its owner", self.name), BOOT, || self.status().map(Some))
    }

    /// `maculactl status`.
    pub fn status(&self) -> Result<Value> {
        self.ctl(&["status"])
    }

    /// `maculactl units`.
    pub fn units(&self) -> Result<Vec<Value>> {
        Ok(self.ctl(&["units"])?.as_array().cloned().unwrap_or_default())
    }

    /// `maculactl --json --node THIS ...`.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        self.owner.json(&self.address, arguments)
    }

    /// Waits for a status that `is` accepts. Errors (a rebooting node) count as not yet.
    pub fn wait_status(&self, what: &str, timeout: Duration, is: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(&format!("{}: {what}", self.name), timeout, || {
            let status = self.status()?;
            if is(&status) {
                return Ok(Some(status));
            }
            anyhow::bail!("{}", brief(&status))
        })
    }

    /// Waits until a peer is connected.
    pub fn wait_peers(&self, count: usize) -> Result<Vec<Value>> {
        wait_until(&format!("{} to meet {count} peers", self.name), BOOT, || {
            let peers = self.ctl(&["peers"])?.as_array().cloned().unwrap_or_default();
            let connected: Vec<_> = peers.into_iter().filter(|p| p["connected"] == true).collect();
            // The owner's own maculactl is a peer, too.
            let nodes: Vec<_> = connected.into_iter().filter(|p| p["node"] != self.owner.did()).collect();
            Ok((nodes.len() >= count).then_some(nodes))
        })
    }

    /// The last lines of the console, for an error message.
    pub fn tail(&self) -> String {
        self.vm.serial().tail()
    }
}

fn brief(status: &Value) -> String {
    let keep = ["version", "slot", "seq", "trial", "installing", "failed_releases"];
    keep.iter().map(|k| format!("{k}={} ", status[*k])).collect()
}
