//! Child processes that cannot outlive us.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

struct Job {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Starts `command`, which inherits `fds` under their own numbers and is killed when this process ends.
///
/// The kernel ties the parent-death signal to the thread that forked. So one thread, which lives as long as the
/// process, forks for everybody; a machine started from a short-lived thread stays up.
pub(crate) fn spawn(mut command: Command, fds: Vec<OwnedFd>) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec only prctl, getppid and fcntl are called, all async-signal-safe.
    unsafe { command.pre_exec(move || prepare_child(parent, &fds)) };
    let (answer, result) = channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    spawner()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(Job { command, answer })
        .map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn prepare_child(parent: Pid, fds: &[OwnedFd]) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
    }
    for fd in fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

fn spawner() -> &'static Mutex<Sender<Job>> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || {
            for Job { mut command, answer } in inbox {
                // Dropping the command closes our copies of the inherited descriptors.
                let child = command.spawn();
                drop(command);
                let _ = answer.send(child);
            }
        });
        Mutex::new(jobs)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn child_inherits_the_named_descriptor_and_survives_the_calling_thread() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let number = theirs.as_raw_fd();
        let mut child = std::thread::spawn(move || {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("sleep 0.2; echo hello >&{number}"));
            spawn(command, vec![theirs.into()]).unwrap()
        })
        .join()
        .unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn missing_program_is_an_error() {
        assert_eq!(
            spawn(Command::new("/nonexistent/qemu"), Vec::new()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
