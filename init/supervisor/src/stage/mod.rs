//! Between fork and exec of a service: one thread, root, no way back. Each step takes something away; the order matters,
//! because some steps need what later ones drop. Any failure ends here: a service never runs with half a sandbox. (Only a
//! kernel without Landlock is let pass, with a warning: uid, namespaces and seccomp still hold there.)

mod credentials;
mod filesystem;
pub mod probe;
pub mod spec;
mod syscalls;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::setsid;

use spec::ExecSpec;

/// Exit code of a service whose sandbox failed.
pub const SANDBOX_FAILED: i32 = 125;
const PASSED_FD: RawFd = 3;
const FILES_MAX: u64 = 16 * 1024;

/// Becomes the service. Returns only when that failed.
pub fn exec_unit(spec: &str) -> ExitCode {
    let error = match serde_json::from_str(spec)
        .context("the description of the unit is not valid")
        .map(confine_and_exec)
    {
        Ok(Err(e)) | Err(e) => e,
        Ok(Ok(never)) => match never {},
    };
    eprintln!("<3>sandbox: {error:#}");
    ExitCode::from(SANDBOX_FAILED as u8)
}

fn confine_and_exec(spec: ExecSpec) -> Result<std::convert::Infallible> {
    let _ = setsid();
    umask(Mode::from_bits_truncate(0o077));
    if let Some(cgroup) = &spec.cgroup {
        crate::cgroup::join(cgroup).with_context(|| format!("cannot join {}", cgroup.display()))?;
    }
    let first_unused_fd = place_passed_fd(spec.listen_fd.or(spec.screen_fd))?;
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    isolate(&spec)?;
    limit_resources()?;
    let (program, args, environment) = command_line(&spec)?;
    let allowed_paths = filesystem::allowed(&spec)?;
    credentials::drop_to(&spec)?;
    die_with_parent()?;
    filesystem::restrict(allowed_paths)?;
    let filters = syscalls::filters(&spec)?;
    close_from(first_unused_fd)?;
    restore_signals()?;
    syscalls::install(&filters)?;
    match nix::unistd::execve(&program, &args, &environment) {
        Ok(never) => match never {},
        Err(e) => bail!("cannot run {}: {e}", spec.exec[0]),
    }
}

/// Puts the listening socket, or the screen, where the environment says it is. Returns the first descriptor that the service has no use
/// for.
fn place_passed_fd(fd: Option<RawFd>) -> Result<RawFd> {
    let Some(fd) = fd else { return Ok(PASSED_FD) };
    // SAFETY: nothing in this process owns fd 3 yet: std opens none, and ours are opened after this.
    if fd != PASSED_FD && unsafe { libc::dup2(fd, PASSED_FD) } < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot pass a descriptor");
    }
    Ok(PASSED_FD + 1)
}

fn isolate(spec: &ExecSpec) -> Result<()> {
    let network = if spec.host_network { CloneFlags::empty() } else { CloneFlags::CLONE_NEWNET };
    unshare(network | CloneFlags::CLONE_NEWIPC).context("cannot make namespaces")
}

fn limit_resources() -> Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot turn core dumps off")?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = hard.min(FILES_MAX);
    setrlimit(Resource::RLIMIT_NOFILE, files, files).context("cannot set the limit of open files")
}

type CommandLine = (CString, Vec<CString>, Vec<CString>);

fn command_line(spec: &ExecSpec) -> Result<CommandLine> {
    let args = spec.exec.iter().map(|a| CString::new(a.as_str())).collect::<Result<Vec<_>, _>>()?;
    let program = args.first().context("nothing to run")?.clone();
    let pid = std::process::id();
    let mut environment: Vec<String> = spec.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if spec.listen_fd.is_some() {
        environment.extend(["LISTEN_FDS=1".into(), format!("LISTEN_PID={pid}")]);
    }
    if spec.screen_fd.is_some() {
        environment.push(format!("MACULA_SCREEN_FD={PASSED_FD}"));
    }
    if let Some(socket) = &spec.notify_socket {
        environment.push(format!("NOTIFY_SOCKET={}", socket.display()));
    }
    if let Some(us) = spec.watchdog_us {
        environment.extend([format!("WATCHDOG_USEC={us}"), format!("WATCHDOG_PID={pid}")]);
    }
    let environment = environment.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    Ok((program, args, environment))
}

/// A service without its supervisor would hold its sockets' other ends for nobody. Dropping credentials clears this, so
/// it comes after that.
fn die_with_parent() -> Result<()> {
    // SAFETY: plain system call without a pointer.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
        return Err(std::io::Error::last_os_error())
            .context("cannot bind the service's life to the supervisor's");
    }
    Ok(())
}

fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: everything from here on lives in memory; no descriptor above is used again.
    if unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0) } < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot close inherited descriptors");
    }
    Ok(())
}

/// Rust ignores SIGPIPE, and what is ignored or blocked stays so over exec.
fn restore_signals() -> Result<()> {
    // SAFETY: no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    SigSet::empty().thread_set_mask().context("cannot unblock signals")
}
