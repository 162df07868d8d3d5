//! The parent's half of starting a service: sockets, directories, device nodes, cgroup, and the description of all that
//! which `exec-unit` gets. Its child's half is in `stage`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use init_plan::unit::{Network, Unit};
use services_api::app::GRANTS_VARIABLE;
use tokio::process::{Child, Command};

use crate::cgroup::Cgroups;
use crate::devices;
use crate::paths::Paths;
use crate::stage::spec::ExecSpec;

/// What outlives a service's process: bound once, so that a restart loses no connection attempt.
pub struct Sockets {
    listening: BTreeMap<String, UnixListener>,
}

impl Sockets {
    /// Makes the directories and binds the listening socket of each unit that wants one.
    pub fn bind(paths: &Paths, units: &[Unit]) -> Result<Self> {
        for dir in [paths.run.clone(), paths.notify_dir(), paths.run.join("tmp")] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        let mut listening = BTreeMap::new();
        for unit in units.iter().filter(|u| u.socket) {
            let path = paths.socket(&unit.name);
            let _ = fs::remove_file(&path);
            let socket =
                UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
            // The service's runtime wants it so, and the flag belongs to the socket, not to the process.
            socket.set_nonblocking(true)?;
            open_to_all(&path)?;
            listening.insert(unit.name.clone(), socket);
        }
        Ok(Self { listening })
    }

    fn fd(&self, unit: &str) -> Option<RawFd> {
        self.listening.get(unit).map(AsRawFd::as_raw_fd)
    }
}

/// Who may connect is decided by each server from the peer's uid.
pub fn open_to_all(socket: &Path) -> io::Result<()> {
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))
}

/// A started service.
pub struct Launched {
    pub child: Child,
    /// Where this start of the service reports to; new for each start, so that no message of an earlier one counts.
    pub notify: UnixDatagram,
}

/// Starts a unit's service; `grants` is the file with an app's delegations.
pub fn start(
    paths: &Paths,
    cgroups: Option<&Cgroups>,
    sockets: &Sockets,
    unit: &Unit,
    grants: Option<PathBuf>,
) -> Result<Launched> {
    let notify = bind_notify(paths, unit)?;
    let mut spec = describe(paths, cgroups, unit)?;
    if let Some(grants) = grants {
        spec.environment.insert(GRANTS_VARIABLE.into(), grants.to_string_lossy().into_owned());
    }
    spec.notify_socket = Some(paths.notify_socket(&unit.name));
    spec.watchdog_us = unit.watchdog.map(|w| w.as_micros() as u64);
    spec.listen_fd = sockets.fd(&unit.name);
    let console = unit.console.then(|| open_console(paths)).transpose()?;
    let screen = console.as_ref().filter(|_| spec.listen_fd.is_none()).and_then(|_| open_screen(paths));
    spec.screen_fd = screen.as_ref().map(AsRawFd::as_raw_fd);
    let child = spawn(paths, &spec, console)?;
    Ok(Launched { child, notify })
}

/// Starts our own probe in the unit's sandbox.
pub fn start_probe(paths: &Paths, cgroups: Option<&Cgroups>, unit: &Unit) -> Result<Child> {
    let mut spec = describe(paths, cgroups, unit)?;
    let supervisor = paths.supervisor.to_string_lossy().into_owned();
    let own =
        [spec.state_dir.clone()].into_iter().flatten().chain(spec.devices.iter().map(|d| d.path.clone()));
    let own: Vec<String> = own.map(|p| p.to_string_lossy().into_owned()).collect();
    spec.exec = [vec![supervisor, "probe".into()], own].concat();
    spawn(paths, &spec, None)
}

/// The sandbox of the owner's checks: the node's network, and nothing that belongs to a service.
const CHECK: &str = "version = 1\n[unit]\nname = \"check\"\ndescription = \"a check of the gate\"\n\
    [service]\nexec = [\"/usr/bin/true\"]\nuid = 109\n[limits]\nmemory_max = \"64M\"\npids_max = 16\n\
    [sandbox]\nnetwork = \"host\"\n";
/// Its cgroup.
pub const CHECK_UNIT: &str = "check";

/// Starts one of the owner's checks.
pub fn start_check(paths: &Paths, cgroups: Option<&Cgroups>, exec: Vec<String>) -> Result<Child> {
    anyhow::ensure!(
        exec.first().is_some_and(|program| program.starts_with('/')),
        "a check has an absolute path"
    );
    let unit = Unit { exec, ..Unit::parse(CHECK_UNIT, CHECK)? };
    spawn(paths, &describe(paths, cgroups, &unit)?, None)
}

/// For a unit that talks to whoever is at the console.
fn open_console(paths: &Paths) -> Result<File> {
    let path = paths.console.as_deref().context("there is no console here")?;
    let open = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    open.with_context(|| format!("cannot open {}", path.display()))
}

/// The screen beside it, if this machine has both.
fn open_screen(paths: &Paths) -> Option<File> {
    let path = crate::console::screen(paths.console.as_deref()?)?;
    File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).ok()
}

/// Everything but what belongs to one start. Makes what the description names.
fn describe(paths: &Paths, cgroups: Option<&Cgroups>, unit: &Unit) -> Result<ExecSpec> {
    let cgroup =
        cgroups.map(|c| c.create(&unit.name, &unit.limits)).transpose().context("cannot make the cgroup")?;
    let state_dir = unit.state_dir.then(|| paths.state.join(&unit.name));
    let tmp = unit.sandbox.tmp.then(|| paths.tmp(&unit.name));
    for dir in state_dir.iter().chain(&tmp) {
        make_dir(dir, unit.uid, 0o700)?;
    }
    // What a service lets others read at run time.
    for dir in unit.sandbox.write.iter().filter(|d| d.parent() == Some(&paths.run)) {
        make_dir(dir, unit.uid, 0o755)?;
    }
    let mut devices = devices::make_nodes(paths, unit)?;
    if unit.sandbox.radio {
        devices.extend(devices::rfkill(unit.uid)?);
    }
    let mut environment = unit.environment.clone();
    let mut set =
        |key: &str, value: &Path| environment.insert(key.into(), value.to_string_lossy().into_owned());
    if let Some(dir) = &state_dir {
        set("STATE_DIRECTORY", dir);
    }
    if let Some(dir) = &tmp {
        set("TMPDIR", dir);
    }
    if !paths.run_is_default() {
        set("MACULA_RUN_DIR", &paths.run);
    }
    Ok(ExecSpec {
        unit: unit.name.clone(),
        exec: unit.exec.clone(),
        environment,
        uid: unit.uid,
        groups: unit.groups.clone(),
        cgroup,
        host_network: unit.sandbox.network == Network::Host,
        radio: unit.sandbox.radio,
        linked: unit.foreign,
        capabilities: unit.sandbox.capabilities.iter().map(|c| c.number()).collect(),
        run_dir: paths.run.clone(),
        state_dir,
        tmp,
        read: unit.sandbox.read.clone(),
        write: unit.sandbox.write.clone(),
        devices,
        listen_fd: None,
        screen_fd: None,
        notify_socket: None,
        watchdog_us: None,
    })
}

/// Makes a directory that belongs to the service, or makes it the service's.
fn make_dir(dir: &Path, uid: u32, mode: u32) -> Result<()> {
    let make = || match fs::DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => chown(dir, Some(uid), Some(uid))
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode))),
    };
    make().with_context(|| format!("cannot make {}", dir.display()))
}

fn bind_notify(paths: &Paths, unit: &Unit) -> Result<UnixDatagram> {
    let path = paths.notify_socket(&unit.name);
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?;
    socket.set_nonblocking(true)?;
    chown(&path, Some(unit.uid), Some(unit.uid))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn spawn(paths: &Paths, spec: &ExecSpec, console: Option<File>) -> Result<Child> {
    let mut command = Command::new(&paths.supervisor);
    command.arg("exec-unit").arg(serde_json::to_string(spec)?);
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(console) = console {
        command.stdin(console.try_clone()?).stdout(console);
    }
    command.kill_on_drop(false);
    if let Some(fd) = spec.listen_fd.or(spec.screen_fd) {
        // SAFETY: between fork and exec this only calls fcntl, which is async-signal-safe. The socket keeps its number
        // here; `exec-unit` moves it to 3, where std's own pipe may be now.
        unsafe {
            command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
    }
    command.spawn().with_context(|| format!("cannot start {}", paths.supervisor.display()))
}
