//! What `exec-unit` is told, as JSON in its argument. Everything is decided and resolved by the parent: no unit file, no
//! boot information is read on the way into the sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    pub unit: String,
    /// Program and arguments.
    pub exec: Vec<String>,
    /// All of it: nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// User and group.
    pub uid: u32,
    pub groups: Vec<u32>,
    /// Joined first, so that limits hold from the start.
    pub cgroup: Option<PathBuf>,
    pub host_network: bool,
    /// Sockets of `AF_ALG`.
    #[serde(default)]
    pub radio: bool,
    /// The dynamic linker may be run.
    #[serde(default)]
    pub linked: bool,
    /// Kernel numbers.
    pub capabilities: Vec<u32>,
    pub run_dir: PathBuf,
    pub state_dir: Option<PathBuf>,
    pub tmp: Option<PathBuf>,
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    pub devices: Vec<DeviceNode>,
    /// Inherited descriptor that becomes fd 3.
    pub listen_fd: Option<i32>,
    /// The same for the screen, where there is no listening socket.
    pub screen_fd: Option<i32>,
    pub notify_socket: Option<PathBuf>,
    pub watchdog_us: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    pub path: PathBuf,
    pub write: bool,
}
