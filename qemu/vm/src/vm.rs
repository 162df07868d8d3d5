//! A machine: one QEMU process at a time, and what stays between its starts (disk, firmware variables, ports).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::arguments::{Connections, arguments};
use crate::builder::{Builder, UefiWanted};
use crate::switch::PortId;
use crate::tpm::{self, Tpm};
use crate::udp_forward::UdpForward;
use crate::{Error, Firmware, Qmp, Serial, process};

const PROGRAM: &str = "qemu-system-x86_64";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
const STDERR_BYTES_MAX: u64 = 64 << 10;

/// A machine that was started. Dropping it kills QEMU and removes the firmware variables (unless they have a file of
/// their own); disks, logs and write logs stay.
pub struct Vm {
    builder: Builder,
    prepared: Prepared,
    serial: Serial,
    run: Mutex<Run>,
}

/// What is decided once and holds for every start.
struct Prepared {
    /// Holds the variables that have no file of their own.
    _directory: Option<TempDir>,
    flash: Option<(PathBuf, PathBuf)>,
    forwards: Vec<UdpForward>,
}

struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    qmp: Option<Arc<Qmp>>,
    reader: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
    status: Option<ExitStatus>,
    tpm: Option<Tpm>,
}

impl Vm {
    /// `name` appears in errors, in `ps` and in the switch's report.
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }

    pub(crate) fn start(mut builder: Builder) -> Result<Self, Error> {
        let prepared = Prepared::new(&builder)?;
        let tee = match &builder.log {
            Some(path) => {
                Some(File::create(path).map_err(file_error(&builder, "create the serial log", path))?)
            }
            None => None,
        };
        for log in builder.disks.iter().filter_map(|disk| disk.write_log.as_ref()) {
            File::create(log).map_err(file_error(&builder, "create the write log", log))?;
        }
        let callback = builder.callback.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let serial = Serial::new(&builder.name, tee, callback);
        let run = Mutex::new(launch(&builder, &prepared, &serial, false)?);
        Ok(Self { builder, prepared, serial, run })
    }

    pub(crate) fn interactive(builder: Builder, before: impl FnOnce(&[(u16, u16)])) -> Result<(), Error> {
        let prepared = Prepared::new(&builder)?;
        let ports: Vec<_> = prepared.forwards.iter().map(|f| (f.guest_port, f.host_port)).collect();
        before(&ports);
        let lans = plug(&builder)?;
        let (_tpm, tpm_end) = start_tpm(&builder)?.unzip();
        let ends = Ends { qmp: None, tpm: tpm_end.as_ref(), lans: &lans };
        let mut command = command(&builder, &prepared, &ends, false)?;
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        // QEMU puts the terminal into raw mode; if it is killed nobody else would put it back.
        let terminal = tcgetattr(io::stdin()).ok();
        let status = spawn(&builder, command, lans.into_iter().chain(tpm_end).collect())
            .and_then(|mut child| child.wait().map_err(io_error(&builder, "wait")));
        if let Some(terminal) = terminal {
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &terminal);
        }
        match status? {
            status if status.success() => Ok(()),
            status => Err(ended(&builder, status, String::new())),
        }
    }

    pub fn name(&self) -> &str {
        &self.builder.name
    }

    /// The console's output so far, over all starts.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Types `text` on the serial console.
    pub fn send(&self, text: &str) -> Result<(), Error> {
        let mut run = self.lock();
        let stdin = run.stdin.as_mut().ok_or_else(|| self.invalid("is not running"))?;
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).map_err(io_error(&self.builder, "type"))
    }

    /// The port of 127.0.0.1 that leads to the guest's UDP port `guest_port`.
    pub fn host_port(&self, guest_port: u16) -> Option<u16> {
        let forward = self.prepared.forwards.iter().find(|f| f.guest_port == guest_port);
        forward.map(|f| f.host_port)
    }

    /// The port of the `index`th switch given to [`Builder::lan`].
    pub fn lan_port(&self, index: usize) -> Option<PortId> {
        self.builder.lans.get(index).map(|lan| lan.port)
    }

    /// The process id of the last QEMU started.
    pub fn pid(&self) -> u32 {
        self.lock().child.id()
    }

    pub fn is_running(&self) -> bool {
        self.lock().poll().is_none()
    }

    /// The control connection of the running QEMU.
    pub fn qmp(&self) -> Result<Arc<Qmp>, Error> {
        self.lock().qmp.clone().ok_or_else(|| self.invalid("is not running"))
    }

    /// The machine's state in QEMU's words: `running`, `shutdown`, `guest-panicked`, ...
    pub fn status(&self) -> Result<String, Error> {
        let answer = self.qmp()?.execute("query-status", json!({}))?;
        Ok(answer["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Presses the reset button. Waits on the serial console look no further back than this.
    pub fn reset(&self) -> Result<(), Error> {
        let qmp = self.qmp()?;
        self.serial.begin_run();
        qmp.execute("system_reset", json!({})).map(drop)
    }

    /// Presses the power button (ACPI); what follows is up to the guest.
    pub fn system_powerdown(&self) -> Result<(), Error> {
        self.qmp()?.execute("system_powerdown", json!({})).map(drop)
    }

    /// Writes the screen to `path` (PPM). Needs [`Builder::screen`].
    pub fn screendump(&self, path: &Path) -> Result<(), Error> {
        let path = path.to_str().ok_or_else(|| self.invalid("the screendump's path is not UTF-8"))?;
        self.qmp()?.execute("screendump", json!({ "filename": path })).map(drop)
    }

    /// Any other QMP command.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.qmp()?.execute(command, arguments)
    }

    /// Ends QEMU as a power cut ends a machine: at once, requests in flight are lost (see [`crate::Cache`]).
    pub fn power_cut(&self) -> Result<(), Error> {
        self.lock().kill().map_err(io_error(&self.builder, "kill QEMU"))
    }

    /// Ends QEMU in an orderly way: what the guest has written is in the disk image.
    pub fn stop(&self) -> Result<(), Error> {
        if let Ok(qmp) = self.qmp() {
            // QEMU may close the connection before it has answered.
            let _ = qmp.execute("quit", json!({}));
        }
        match self.wait_exit(QUIT_TIMEOUT) {
            Ok(_) => Ok(()),
            Err(_) => self.power_cut(),
        }
    }

    /// Waits until QEMU has ended (the guest powered off, or rebooted with [`Builder::no_reboot`]).
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.lock().poll() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let (name, wanted, tail) =
                    (self.builder.name.clone(), "the machine's end".into(), self.serial.tail());
                return Err(Error::Timeout { name, wanted, after: timeout, tail });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// From the next [`restart`](Self::restart) on the machine has another TPM, whose memory is `folder`; none without one.
    pub fn change_tpm(&self, folder: Option<PathBuf>) {
        *self.builder.tpm.lock().unwrap_or_else(PoisonError::into_inner) = folder;
    }

    /// Starts QEMU again on the same disks, firmware variables, ports and addresses; cuts the power first if need be.
    pub fn restart(&self) -> Result<(), Error> {
        let mut run = self.lock();
        run.kill().map_err(io_error(&self.builder, "kill QEMU"))?;
        *run = launch(&self.builder, &self.prepared, &self.serial, true)?;
        Ok(())
    }

    fn invalid(&self, what: &str) -> Error {
        Error::Invalid { name: self.builder.name.clone(), what: what.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.lock().kill();
    }
}

impl Run {
    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
            if self.status.is_some() {
                self.finish();
            }
        }
        self.status
    }

    fn kill(&mut self) -> io::Result<()> {
        if self.poll().is_some() {
            return Ok(());
        }
        self.child.kill()?;
        self.status = Some(self.child.wait()?);
        self.finish();
        Ok(())
    }

    /// All output is in [`Serial`] once its reader has seen the end.
    fn finish(&mut self) {
        self.tpm = None;
        self.stdin = None;
        self.qmp = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Prepared {
    fn new(builder: &Builder) -> Result<Self, Error> {
        for disk in &builder.disks {
            File::open(&disk.path).map_err(file_error(builder, "open the disk image", &disk.path))?;
        }
        let (flash, directory) = match &builder.uefi {
            Some(wanted) => {
                prepare_flash(builder, wanted).map(|(flash, directory)| (Some(flash), directory))?
            }
            None => (None, None),
        };
        let open = |guest_port: &u16| {
            let lan = builder.lans.first().ok_or(io::ErrorKind::NotConnected)?;
            UdpForward::open(&lan.switch, lan.switch.mac_bytes(lan.port), *guest_port)
        };
        let forwards = builder.forwards.iter().map(open).collect::<io::Result<_>>();
        let forwards = forwards.map_err(io_error(builder, "open a way to its UDP port"))?;
        Ok(Self { _directory: directory, flash, forwards })
    }
}

/// Code and variables, and what holds the variables if it is ours to remove.
fn prepare_flash(
    builder: &Builder,
    wanted: &UefiWanted,
) -> Result<((PathBuf, PathBuf), Option<TempDir>), Error> {
    let find = if builder.secure_boot { Firmware::find_secure } else { Firmware::find };
    let firmware = wanted.firmware.clone().map_or_else(find, Ok)?;
    let (variables, directory) = match &wanted.variables {
        Some(path) => (path.clone(), None),
        None => {
            let directory = tempfile::Builder::new().prefix("macula-vm-").tempdir();
            let directory = directory.map_err(io_error(builder, "create a temporary directory"))?;
            (directory.path().join("variables.fd"), Some(directory))
        }
    };
    if !variables.exists() {
        // Under its name only when whole: a file that exists is taken as it is.
        let new = variables.with_extension("new");
        let copy =
            || fs::write(&new, fs::read(&firmware.variables)?).and_then(|()| fs::rename(&new, &variables));
        copy().map_err(file_error(builder, "make the firmware variables", &variables))?;
    }
    Ok(((firmware.code, variables), directory))
}

fn launch(builder: &Builder, prepared: &Prepared, serial: &Serial, again: bool) -> Result<Run, Error> {
    let (ours, theirs) = UnixStream::pair().map_err(io_error(builder, "make the QMP connection"))?;
    let qmp_end = OwnedFd::from(theirs);
    let lans = plug(builder)?;
    let (tpm, tpm_end) = start_tpm(builder)?.unzip();
    let ends = Ends { qmp: Some(&qmp_end), tpm: tpm_end.as_ref(), lans: &lans };
    let mut command = command(builder, prepared, &ends, again)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a process group of its own, so that Ctrl-C reaches us alone and we can say what happened.
    command.process_group(0);
    let mut child = spawn(builder, command, lans.into_iter().chain([qmp_end]).chain(tpm_end).collect())?;
    let reader = child.stdout.take().map(|stdout| serial.read_from(stdout));
    let stderr = child.stderr.take().map(|stderr| std::thread::spawn(move || read_text(stderr)));
    let stdin = child.stdin.take();
    let mut run = Run { child, stdin, qmp: None, reader, stderr, status: None, tpm };
    match Qmp::connect(&builder.name, ours, START_TIMEOUT) {
        Ok(qmp) => run.qmp = Some(Arc::new(qmp)),
        Err(error) => return Err(run.failed_start(builder, error)),
    }
    Ok(run)
}

impl Run {
    /// QEMU's own words, if it has ended; they say more than a closed connection.
    fn failed_start(&mut self, builder: &Builder, error: Error) -> Error {
        std::thread::sleep(Duration::from_millis(200));
        let status = self.poll();
        let _ = self.kill();
        let stderr = self.stderr.take().and_then(|stderr| stderr.join().ok()).unwrap_or_default();
        match status {
            Some(status) => ended(builder, status, stderr),
            None => error,
        }
    }
}

fn read_text(mut source: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = source.by_ref().take(STDERR_BYTES_MAX).read_to_end(&mut bytes);
    // Keep the pipe flowing, or QEMU would block on it.
    let _ = io::copy(&mut source, &mut io::sink());
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn plug(builder: &Builder) -> Result<Vec<OwnedFd>, Error> {
    let plugs = builder.lans.iter().map(|lan| lan.switch.plug(lan.port));
    plugs.collect::<io::Result<_>>().map_err(io_error(builder, "plug into the switch"))
}

fn start_tpm(builder: &Builder) -> Result<Option<(Tpm, OwnedFd)>, Error> {
    let folder = builder.tpm.lock().unwrap_or_else(PoisonError::into_inner).clone();
    folder.map(|folder| tpm::start(&builder.name, &folder)).transpose()
}

/// QEMU's ends of its connections.
struct Ends<'a> {
    qmp: Option<&'a OwnedFd>,
    tpm: Option<&'a OwnedFd>,
    lans: &'a [OwnedFd],
}

fn command(
    builder: &Builder,
    prepared: &Prepared,
    ends: &Ends<'_>,
    append_write_logs: bool,
) -> Result<Command, Error> {
    let flash = prepared.flash.as_ref().map(|(code, variables)| (code.as_path(), variables.as_path()));
    let Ends { qmp, tpm, lans } = *ends;
    let connections = Connections { flash, qmp, tpm, lans, append_write_logs };
    let mut command = Command::new(PROGRAM);
    command.args(arguments(builder, &connections)?.0);
    Ok(command)
}

fn spawn(builder: &Builder, command: Command, fds: Vec<OwnedFd>) -> Result<Child, Error> {
    process::spawn(command, fds).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NotInstalled { program: PROGRAM.into(), package: "qemu-system-x86" }
        }
        _ => io_error(builder, "start QEMU")(source),
    })
}

fn ended(builder: &Builder, status: ExitStatus, stderr: String) -> Error {
    let stderr = if stderr.is_empty() { stderr } else { format!(": {stderr}") };
    Error::Ended { name: builder.name.clone(), status: status.to_string(), stderr }
}

fn io_error(builder: &Builder, what: &'static str) -> impl Fn(io::Error) -> Error {
    let name = builder.name.clone();
    move |source| Error::Io { name: name.clone(), what, source }
}

fn file_error(builder: &Builder, what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let (name, path) = (builder.name.clone(), path.to_owned());
    move |source| Error::File { name: name.clone(), what, path: path.clone(), source }
}
