//! What a process in this sandbox can do: tries it and says so, as JSON on stdout. Every attempt is harmless where it
//! succeeds.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use services_api::report::ProbeResult;

/// `own`: paths that the unit's file gives it (state directory, devices), tried too.
pub fn run(own: &[&str]) -> ExitCode {
    let mut results = sockets();
    results.extend(files(own));
    results.extend(calls());
    match serde_json::to_string(&results) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn result(attempt: impl Into<String>, outcome: io::Result<()>) -> ProbeResult {
    let error = outcome.as_ref().err().map(|e| match e.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => e.to_string(),
    });
    ProbeResult { attempt: attempt.into(), allowed: outcome.is_ok(), error: error.unwrap_or_default() }
}

fn sockets() -> Vec<ProbeResult> {
    let kinds = [
        ("AF_INET, SOCK_STREAM", libc::AF_INET, libc::SOCK_STREAM),
        ("AF_INET, SOCK_DGRAM", libc::AF_INET, libc::SOCK_DGRAM),
        ("AF_INET6, SOCK_STREAM", libc::AF_INET6, libc::SOCK_STREAM),
        ("AF_INET6, SOCK_DGRAM", libc::AF_INET6, libc::SOCK_DGRAM),
        ("AF_INET, SOCK_RAW", libc::AF_INET, libc::SOCK_RAW),
        ("AF_PACKET, SOCK_RAW", libc::AF_PACKET, libc::SOCK_RAW),
        ("AF_NETLINK, SOCK_RAW", libc::AF_NETLINK, libc::SOCK_RAW),
        ("AF_VSOCK, SOCK_STREAM", libc::AF_VSOCK, libc::SOCK_STREAM),
        ("AF_ALG, SOCK_SEQPACKET", libc::AF_ALG, libc::SOCK_SEQPACKET),
        ("AF_UNIX, SOCK_STREAM", libc::AF_UNIX, libc::SOCK_STREAM),
    ];
    let protocol = |kind| if kind == libc::SOCK_RAW { libc::IPPROTO_ICMP } else { 0 };
    kinds
        .iter()
        .map(|(name, family, kind)| {
            result(format!("socket({name})"), open_socket(*family, *kind, protocol(*kind)))
        })
        .collect()
}

fn open_socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    let protocol = if family == libc::AF_INET { protocol } else { 0 };
    // SAFETY: no pointer; the new descriptor is closed at once.
    unsafe {
        let fd = check(libc::socket(family, kind, protocol).into())?;
        libc::close(fd as i32);
    }
    Ok(())
}

fn files(own: &[&str]) -> Vec<ProbeResult> {
    let read = [
        "/dev/macula/disk",
        "/dev/macula/esp",
        "/dev/macula/root-a",
        "/dev/macula/root-b",
        "/dev/macula/state",
        "/state/identity",
        "/state/config.toml",
        "/proc/1/environ",
        "/etc/passwd",
        "/usr/bin",
    ];
    let write = [
        "/dev/macula/disk",
        "/dev/macula/esp",
        "/dev/macula/root-a",
        "/dev/macula/root-b",
        "/state",
        "/usr",
        "/run/macula",
    ];
    let mut results: Vec<ProbeResult> =
        read.iter().map(|p| result(format!("read {p}"), open_read(p))).collect();
    results.extend(write.iter().map(|p| result(format!("write {p}"), open_write(p))));
    for path in own {
        results.push(result(format!("read {path}"), open_read(path)));
        results.push(result(format!("write {path}"), open_write(path)));
    }
    results
}

fn open_read(path: &str) -> io::Result<()> {
    if Path::new(path).is_dir() {
        return std::fs::read_dir(path).map(drop);
    }
    OpenOptions::new().read(true).open(path).map(drop)
}

/// Opens a file for writing without changing it; in a directory, makes and removes one.
fn open_write(path: &str) -> io::Result<()> {
    if !Path::new(path).is_dir() {
        return OpenOptions::new().write(true).open(path).map(drop);
    }
    let file = Path::new(path).join(".probe");
    OpenOptions::new().write(true).create(true).truncate(true).open(&file)?;
    std::fs::remove_file(file)
}

fn calls() -> Vec<ProbeResult> {
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: pointers are null or to literals. Where such a call is allowed it fails on its arguments, or changes only
    // this process, which is about to end. The magic numbers of reboot are wrong on purpose.
    unsafe {
        vec![
            result(
                "mount(tmpfs)",
                check(
                    libc::mount(c"probe".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, null.cast())
                        .into(),
                )
                .map(drop),
            ),
            result("unshare(CLONE_NEWUSER)", check(libc::unshare(libc::CLONE_NEWUSER).into()).map(drop)),
            result("unshare(CLONE_NEWNET)", check(libc::unshare(libc::CLONE_NEWNET).into()).map(drop)),
            result("fork", fork()),
            result("ptrace(PTRACE_TRACEME)", check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(drop)),
            result("kill(1, 0)", check(libc::kill(1, 0).into()).map(drop)),
            result("kill(parent, 0)", check(libc::kill(libc::getppid(), 0).into()).map(drop)),
            result("bpf", raw(libc::SYS_bpf)),
            result("io_uring_setup", raw(libc::SYS_io_uring_setup)),
            result("init_module", raw(libc::SYS_init_module)),
            result("kexec_load", raw(libc::SYS_kexec_load)),
            result("reboot", raw(libc::SYS_reboot)),
            result("settimeofday", raw(libc::SYS_settimeofday)),
            result("setuid(0)", check(libc::setuid(0).into()).map(drop)),
            result("thread", std::thread::Builder::new().spawn(|| {}).map(drop)),
        ]
    }
}

/// With arguments that are all zero.
unsafe fn raw(call: libc::c_long) -> io::Result<()> {
    // SAFETY: the caller chose a call that does nothing with zeros.
    check(unsafe { libc::syscall(call, 0, 0, 0, 0, 0, 0) }).map(drop)
}

fn fork() -> io::Result<()> {
    // SAFETY: the child only exits; the parent waits for it.
    unsafe {
        let pid = check(libc::fork().into())?;
        if pid == 0 {
            libc::_exit(0);
        }
        libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
    }
    Ok(())
}

fn check(returned: i64) -> io::Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
