//! Unit files: what a service is, what it may use and how it is confined.
//!
//! [`UnitFile`] is what is written (TOML, `/usr/lib/macula/units/<name>.toml`), [`Unit`] is what is meant. The one
//! way between them is [`Unit::parse`], which refuses whatever would widen a service's rights by accident: unknown
//! keys, uid 0, capabilities that amount to root, write access to a running root. Nothing here reads a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::app::{AppSection, Right};

/// The only format version that this code reads.
pub const UNIT_FILE_VERSION: u32 = 1;
/// A unit file longer than this is refused before it is parsed, bytes.
pub const UNIT_FILE_MAX: usize = 16 * 1024;
/// Name under which the supervisor lists itself; no unit may have it.
pub const SUPERVISOR: &str = "supervisor";

const NAME_MAX: usize = 24;
const LIST_MAX: usize = 32;
const ARG_MAX: usize = 1024;
/// Below are the system's own ids, above are ids that mean "nobody" somewhere.
const UID_RANGE: std::ops::RangeInclusive<u32> = 100..=59_999;
/// Apps have theirs here, and nobody else has (`services_api::bus::uid::APPS`).
pub const APP_UIDS: std::ops::RangeInclusive<u32> = 10_000..=19_999;

/// What is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitFile {
    version: u32,
    unit: UnitSection,
    service: ServiceSection,
    #[serde(default)]
    limits: LimitsSection,
    sandbox: SandboxSection,
    /// Absent: it is a part of the system.
    app: Option<AppSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitSection {
    name: String,
    description: String,
    /// Absent: starts at once.
    #[serde(default)]
    after: Vec<String>,
    /// Absent: the node is judged without it.
    #[serde(default)]
    required: bool,
    /// Absent: starts with the node.
    #[serde(default)]
    on_demand: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceSection {
    exec: Vec<String>,
    uid: u32,
    #[serde(default)]
    groups: Vec<u32>,
    /// Absent: no listening socket.
    #[serde(default)]
    socket: bool,
    /// Absent: nothing is kept over a reboot.
    #[serde(default)]
    state_dir: bool,
    /// Absent: standard input is empty, standard output goes to the log.
    #[serde(default)]
    console: bool,
    /// Absent: it is one of ours.
    #[serde(default)]
    foreign: bool,
    #[serde(default = "default_ready_timeout_s")]
    ready_timeout_s: u64,
    /// Absent or 0: not watched.
    #[serde(default)]
    watchdog_s: u64,
    #[serde(default = "default_stop_timeout_s")]
    stop_timeout_s: u64,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

fn default_ready_timeout_s() -> u64 {
    30
}

fn default_stop_timeout_s() -> u64 {
    5
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsSection {
    memory_max: String,
    pids_max: u32,
    cpu_weight: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { memory_max: "64M".into(), pids_max: 32, cpu_weight: 100 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SandboxSection {
    network: Network,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    read: Vec<PathBuf>,
    #[serde(default)]
    write: Vec<PathBuf>,
    #[serde(default)]
    devices: Vec<String>,
    /// Absent: no `/tmp`.
    #[serde(default)]
    tmp: bool,
    /// Absent: no radios.
    #[serde(default)]
    radio: bool,
}

/// What is meant: one service, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    pub description: String,
    /// Units that are started first; see [`crate::unit_order`].
    pub after: Vec<String>,
    /// The node counts as up only while this unit is ready.
    pub required: bool,
    /// Starts when another service asks for it, and then stays.
    pub on_demand: bool,
    /// Absolute path of the program, then its arguments.
    pub exec: Vec<String>,
    /// User id, and group id too.
    pub uid: u32,
    pub groups: Vec<u32>,
    /// Listens on `/run/macula/<name>.sock` and gets that socket as fd 3.
    pub socket: bool,
    /// Owns `/state/<name>`.
    pub state_dir: bool,
    /// Standard input and output are the console's.
    pub console: bool,
    /// Dynamically linked, and never says that it is ready: so it is from its start on.
    pub foreign: bool,
    /// How long after its start it may take until `READY=1`.
    pub ready_timeout: Duration,
    /// Longest silence between two `WATCHDOG=1`; `None` when not watched.
    pub watchdog: Option<Duration>,
    /// Time between SIGTERM and the cgroup's kill.
    pub stop_timeout: Duration,
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    pub sandbox: Sandbox,
    /// What it may do in the mesh, if it is an app.
    pub app: Option<Vec<Right>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// cgroup `memory.max`, bytes.
    pub memory_max_bytes: u64,
    /// cgroup `pids.max`; threads count.
    pub pids_max: u32,
    /// cgroup `cpu.weight`, 1 to 10000, the kernel's default is 100.
    pub cpu_weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub network: Network,
    pub capabilities: Vec<Capability>,
    /// Files or directories that may be read, next to `/usr` and `/run/macula`.
    pub read: Vec<PathBuf>,
    /// Files or directories that may be written, next to the unit's own state directory. Those directly below
    /// `/run/macula` are directories that the supervisor makes.
    pub write: Vec<PathBuf>,
    pub devices: Vec<Device>,
    /// Gets a private directory and `TMPDIR` pointing at it.
    pub tmp: bool,
    /// May switch radios off and on (`/dev/rfkill`) and have the kernel encrypt (`AF_ALG`): what Wi-Fi needs.
    pub radio: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// An empty network namespace, and no socket family but `AF_UNIX`.
    None,
    /// The node's own network.
    Host,
}

/// A capability that a service may keep. Those that amount to root (`CAP_SYS_ADMIN`, `CAP_DAC_OVERRIDE`,
/// `CAP_SETUID`, `CAP_SYS_MODULE`, ...) are absent on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    NetBindService,
    NetBroadcast,
    NetAdmin,
    NetRaw,
    IpcLock,
    SysNice,
    SysTime,
}

impl Capability {
    const ALL: [(Capability, &'static str, u32); 7] = [
        (Capability::NetBindService, "CAP_NET_BIND_SERVICE", 10),
        (Capability::NetBroadcast, "CAP_NET_BROADCAST", 11),
        (Capability::NetAdmin, "CAP_NET_ADMIN", 12),
        (Capability::NetRaw, "CAP_NET_RAW", 13),
        (Capability::IpcLock, "CAP_IPC_LOCK", 14),
        (Capability::SysNice, "CAP_SYS_NICE", 23),
        (Capability::SysTime, "CAP_SYS_TIME", 25),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n, _)| *n == name).map(|(c, _, _)| *c)
    }

    /// The kernel's number (`linux/capability.h`).
    pub fn number(self) -> u32 {
        Self::ALL.iter().find(|(c, _, _)| *c == self).map(|(_, _, n)| *n).unwrap_or(u32::MAX)
    }

    fn needs_network(self) -> bool {
        matches!(self, Self::NetBindService | Self::NetBroadcast | Self::NetAdmin | Self::NetRaw)
    }
}

/// A block device by its role on the boot disk, so that no unit file names a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceRole {
    /// The root partition of the slot that runs.
    ActiveRoot,
    /// The root partition of the other slot.
    InactiveRoot,
    RootA,
    RootB,
    Esp,
}

impl DeviceRole {
    const ALL: [(DeviceRole, &'static str); 5] = [
        (DeviceRole::ActiveRoot, "active-root"),
        (DeviceRole::InactiveRoot, "inactive-root"),
        (DeviceRole::RootA, "root-a"),
        (DeviceRole::RootB, "root-b"),
        (DeviceRole::Esp, "esp"),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(r, _)| *r)
    }

    /// The name in unit files and under `/run/macula/dev/<unit>/`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(r, _)| *r == self).map(|(_, n)| *n).unwrap_or("")
    }

    /// Only what cannot be the running root may be written.
    fn may_be_written(self) -> bool {
        matches!(self, Self::InactiveRoot | Self::Esp)
    }
}

/// A device and what the service may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub role: DeviceRole,
    pub write: bool,
}

/// Why a unit file was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    #[error("unit file is longer than {UNIT_FILE_MAX} bytes")]
    TooLong,
    #[error("unit file is not valid: {0}")]
    Syntax(String),
    #[error("unit file has version {0}, this supervisor reads version {UNIT_FILE_VERSION}")]
    Version(u32),
    #[error("unit file is called {file}.toml but its unit.name is {name:?}")]
    FileName { file: String, name: String },
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
}

impl Unit {
    /// Reads a unit file's text. `file_stem` is the file's name without `.toml`, which must equal `unit.name`.
    pub fn parse(file_stem: &str, text: &str) -> Result<Unit, UnitError> {
        if text.len() > UNIT_FILE_MAX {
            return Err(UnitError::TooLong);
        }
        let file: UnitFile = toml::from_str(text).map_err(|e| UnitError::Syntax(e.to_string()))?;
        if file.version != UNIT_FILE_VERSION {
            return Err(UnitError::Version(file.version));
        }
        if file.unit.name != file_stem {
            return Err(UnitError::FileName { file: file_stem.into(), name: file.unit.name });
        }
        file.check()
    }
}

impl UnitFile {
    fn check(self) -> Result<Unit, UnitError> {
        let UnitFile { unit, service, limits, sandbox, app, .. } = self;
        check_app(app.is_some(), &unit, &service, &sandbox)?;
        check_name("unit.name", &unit.name)?;
        check_text("unit.description", &unit.description)?;
        check_after(&unit)?;
        check_exec(&service.exec)?;
        check_id("service.uid", service.uid)?;
        check_len("service.groups", service.groups.len())?;
        service.groups.iter().try_for_each(|g| check_id("service.groups", *g))?;
        check_environment(&service.environment)?;
        check_range("service.ready_timeout_s", service.ready_timeout_s, 1, 600)?;
        check_range("service.stop_timeout_s", service.stop_timeout_s, 1, 60)?;
        check_range("service.watchdog_s", service.watchdog_s, 0, 3600)?;
        if unit.required && unit.on_demand {
            return Err(field("unit.on_demand", "a required unit starts with the node"));
        }
        if service.foreign && service.watchdog_s > 0 {
            return Err(field("service.watchdog_s", "a foreign program does not say that it is alive"));
        }
        Ok(Unit {
            name: unit.name,
            description: unit.description,
            after: unit.after,
            required: unit.required,
            on_demand: unit.on_demand,
            exec: service.exec,
            uid: service.uid,
            groups: service.groups,
            socket: service.socket,
            state_dir: service.state_dir,
            console: service.console,
            foreign: service.foreign,
            ready_timeout: Duration::from_secs(service.ready_timeout_s),
            watchdog: (service.watchdog_s > 0).then(|| Duration::from_secs(service.watchdog_s)),
            stop_timeout: Duration::from_secs(service.stop_timeout_s),
            environment: service.environment,
            limits: limits.check()?,
            sandbox: sandbox.check()?,
            app: app.map(AppSection::check).transpose()?,
        })
    }
}

impl LimitsSection {
    fn check(self) -> Result<Limits, UnitError> {
        let memory_max_bytes = parse_size(&self.memory_max).ok_or_else(|| {
            field(
                "limits.memory_max",
                format!("{:?} is not a size from 1M to 64G such as \"96M\"", self.memory_max),
            )
        })?;
        check_range("limits.pids_max", self.pids_max.into(), 1, 10_000)?;
        check_range("limits.cpu_weight", self.cpu_weight.into(), 1, 10_000)?;
        Ok(Limits { memory_max_bytes, pids_max: self.pids_max, cpu_weight: self.cpu_weight })
    }
}

impl SandboxSection {
    fn check(self) -> Result<Sandbox, UnitError> {
        check_paths("sandbox.read", &self.read)?;
        check_paths("sandbox.write", &self.write)?;
        let capabilities = parse_capabilities(&self.capabilities, self.network)?;
        let devices = parse_devices(&self.devices)?;
        let (network, tmp, radio) = (self.network, self.tmp, self.radio);
        if radio && network == Network::None {
            return Err(field("sandbox.radio", "is of no use with network = \"none\""));
        }
        Ok(Sandbox { network, capabilities, read: self.read, write: self.write, devices, tmp, radio })
    }
}

/// Whether `name` can name a unit: it becomes part of paths, so it has no separator and no dot.
pub fn is_unit_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn check_name(what: &'static str, name: &str) -> Result<(), UnitError> {
    if !is_unit_name(name) {
        let rule = format!("{name:?} is not a name: a-z, then up to {} of a-z, 0-9 and -", NAME_MAX - 1);
        return Err(field(what, rule));
    }
    if name == SUPERVISOR {
        return Err(field(what, format!("{name:?} is the supervisor's own name")));
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str) -> Result<(), UnitError> {
    if text.len() > 200 || text.chars().any(char::is_control) {
        return Err(field(what, "must be one line of at most 200 bytes"));
    }
    Ok(())
}

fn check_after(unit: &UnitSection) -> Result<(), UnitError> {
    check_len("unit.after", unit.after.len())?;
    let mut seen = BTreeSet::new();
    for name in &unit.after {
        check_name("unit.after", name)?;
        if *name == unit.name {
            return Err(field("unit.after", format!("{name} cannot start after itself")));
        }
        if !seen.insert(name) {
            return Err(field("unit.after", format!("{name} is listed twice")));
        }
    }
    Ok(())
}

/// An app stands outside: the node is not judged by it, and it gets nothing that the system's own services are trusted with.
fn check_app(
    is_app: bool,
    unit: &UnitSection,
    service: &ServiceSection,
    sandbox: &SandboxSection,
) -> Result<(), UnitError> {
    let range = || format!("{} to {}", APP_UIDS.start(), APP_UIDS.end());
    if APP_UIDS.contains(&service.uid) != is_app {
        let problem = format!("{}: apps, and only they, have {}", service.uid, range());
        return Err(field("service.uid", problem));
    }
    if !is_app {
        return Ok(());
    }
    for (name, given) in [
        ("unit.required", unit.required),
        ("service.groups", !service.groups.is_empty()),
        ("service.console", service.console),
        ("service.foreign", service.foreign),
        ("unit.on_demand", unit.on_demand),
        ("sandbox.radio", sandbox.radio),
        ("sandbox.capabilities", !sandbox.capabilities.is_empty()),
        ("sandbox.read", !sandbox.read.is_empty()),
        ("sandbox.write", !sandbox.write.is_empty()),
        ("sandbox.devices", !sandbox.devices.is_empty()),
    ] {
        if given {
            return Err(field(name, "is not for an app"));
        }
    }
    Ok(())
}

fn check_exec(exec: &[String]) -> Result<(), UnitError> {
    check_len("service.exec", exec.len())?;
    let program = exec.first().ok_or_else(|| field("service.exec", "is empty"))?;
    check_paths("service.exec", &[PathBuf::from(program)])?;
    if exec.iter().any(|arg| arg.len() > ARG_MAX || arg.contains('\0')) {
        return Err(field(
            "service.exec",
            format!("an argument is longer than {ARG_MAX} bytes or holds a zero byte"),
        ));
    }
    Ok(())
}

fn check_id(what: &'static str, id: u32) -> Result<(), UnitError> {
    if UID_RANGE.contains(&id) {
        return Ok(());
    }
    Err(field(what, format!("{id} is not between {} and {}", UID_RANGE.start(), UID_RANGE.end())))
}

fn check_environment(environment: &BTreeMap<String, String>) -> Result<(), UnitError> {
    check_len("service.environment", environment.len())?;
    for (key, value) in environment {
        let good = key.starts_with(|c: char| c.is_ascii_uppercase())
            && key.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        if !good || value.len() > ARG_MAX || value.contains('\0') {
            return Err(field(
                "service.environment",
                format!("{key:?} is not a usable name or its value too long"),
            ));
        }
        if ["LISTEN_", "NOTIFY_", "WATCHDOG_", "LD_", "MACULA_RUN_", "MACULA_GRANTS"]
            .iter()
            .any(|p| key.starts_with(p))
        {
            return Err(field("service.environment", format!("{key} is set by the supervisor or by nobody")));
        }
    }
    Ok(())
}

fn check_paths(what: &'static str, paths: &[PathBuf]) -> Result<(), UnitError> {
    check_len(what, paths.len())?;
    for path in paths {
        if !is_plain_absolute(path) {
            return Err(field(what, format!("{path:?} is not an absolute path without . and ..")));
        }
    }
    Ok(())
}

/// Compares text too, since `Path` hides `.` and doubled or trailing slashes.
fn is_plain_absolute(path: &Path) -> bool {
    let mut parts = path.components();
    let rooted = parts.next() == Some(Component::RootDir);
    let names: Option<Vec<&str>> =
        parts.map(|c| if let Component::Normal(n) = c { n.to_str() } else { None }).collect();
    rooted && names.is_some_and(|n| !n.is_empty() && path.to_str() == Some(&format!("/{}", n.join("/"))))
}

fn parse_capabilities(names: &[String], network: Network) -> Result<Vec<Capability>, UnitError> {
    const FIELD: &str = "sandbox.capabilities";
    let mut capabilities = BTreeSet::new();
    for name in names {
        let capability = Capability::from_name(name)
            .ok_or_else(|| field(FIELD, format!("{name:?} is unknown or not given to any service")))?;
        if capability.needs_network() && network == Network::None {
            return Err(field(FIELD, format!("{name} is of no use with network = \"none\"")));
        }
        capabilities.insert(capability);
    }
    Ok(capabilities.into_iter().collect())
}

fn parse_devices(texts: &[String]) -> Result<Vec<Device>, UnitError> {
    check_len("sandbox.devices", texts.len())?;
    let mut devices: Vec<Device> = Vec::new();
    for text in texts {
        let device = parse_device(text).map_err(|problem| field("sandbox.devices", problem))?;
        if devices.iter().any(|d| d.role == device.role) {
            return Err(field("sandbox.devices", format!("{} is listed twice", device.role.name())));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn parse_device(text: &str) -> Result<Device, String> {
    let (name, access) =
        text.split_once(':').ok_or_else(|| format!("{text:?} is not \"role:r\" or \"role:rw\""))?;
    let role = DeviceRole::from_name(name).ok_or_else(|| format!("{name:?} is not a device role"))?;
    let write = match access {
        "r" => false,
        "rw" if role.may_be_written() => true,
        "rw" => return Err(format!("{name} can be or become the running root and is never writable")),
        _ => return Err(format!("access {access:?} of {name} is neither r nor rw")),
    };
    Ok(Device { role, write })
}

/// `"96M"` and the like, powers of 1024; `None` unless between 1 MiB and 64 GiB.
fn parse_size(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        'K' => 1u64 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (1 << 20..=64 << 30).contains(&bytes).then_some(bytes)
}

fn check_len(what: &'static str, len: usize) -> Result<(), UnitError> {
    if len > LIST_MAX { Err(field(what, format!("has more than {LIST_MAX} items"))) } else { Ok(()) }
}

fn check_range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), UnitError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(field(what, format!("{value} is not between {min} and {max}")))
    }
}

fn field(field: &'static str, problem: impl Into<String>) -> UnitError {
    UnitError::Field { field, problem: problem.into() }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
