//! A whole supervisor with two small services on this host, with PID 1 played by the test.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{SUPERVISOR, install, is_root, open_dir};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use services_api::report::{CheckReport, LogLine, LogsPage, ProbeResult, UnitReport};
use services_api::supervisor::SupervisorProxy;

static NODES: AtomicU32 = AtomicU32::new(0);

fn unit_text(name: &str, program: &Path, uid: u32, after: &str) -> String {
    format!(
        "version = 1\n[unit]\nname = \"{name}\"\ndescription = \"\"\nafter = [{after}]\nrequired = true\n\
         [service]\nexec = [\"{}\"]\nuid = {uid}\nsocket = true\nstate_dir = true\n[sandbox]\nnetwork = \"none\"\n",
        program.display()
    )
}

/// A cgroup of our own where this host has version 2.
fn cgroup() -> PathBuf {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mount = mounts.iter().map(Path::new).find(|m| m.join("cgroup.controllers").exists());
    if mount.is_none() {
        println!("no cgroup v2 here: limits and cgroup.kill are not tested");
    }
    mount.unwrap_or(Path::new("/nonexistent")).join(format!(
        "macula-test-{}-{}",
        std::process::id(),
        NODES.fetch_add(1, Ordering::Relaxed)
    ))
}

struct Node {
    supervisor: Child,
    stderr: BufReader<std::process::ChildStderr>,
    /// Our end of the line.
    pid1: OwnedFd,
    run: PathBuf,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
}

/// Starts a supervisor in a prepared directory, as PID 1 would.
fn start_supervisor(dir: &Path, cgroup: &Path) -> (Child, BufReader<std::process::ChildStderr>, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut command = Command::new(dir.join("supervisor"));
    command.arg("run").args(["--console", "-"]).arg("--cgroup").arg(cgroup);
    for name in ["run", "state", "units"] {
        command.arg(format!("--{name}")).arg(dir.join(name));
    }
    let number = theirs.as_raw_fd();
    command.env("MACULA_PID1_FD", number.to_string());
    // SAFETY: fcntl is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        });
    }
    command.stderr(Stdio::piped());
    let mut supervisor = loop {
        match command.spawn() {
            // Another test has forked while this program was being copied, and holds the copy open until its child's exec.
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            spawned => break spawned.unwrap(),
        }
    };
    let stderr = BufReader::new(supervisor.stderr.take().unwrap());
    (supervisor, stderr, ours)
}

impl Node {
    fn start() -> Self {
        let dir = open_dir();
        let path = |name: &str| dir.path().join(name);
        let example = Path::new(SUPERVISOR).parent().unwrap().join("examples/service");
        let service = install(&example, dir.path());
        for name in ["units", "state", "run"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("units/base.toml"), unit_text("base", &service, 54_331, "")).unwrap();
        fs::write(path("units/top.toml"), unit_text("top", &service, 54_332, "\"base\"")).unwrap();
        install(Path::new(SUPERVISOR), dir.path());
        let cgroup = cgroup();
        let (supervisor, stderr, pid1) = start_supervisor(dir.path(), &cgroup);
        let run = path("run");
        Self { supervisor, stderr, pid1, run, cgroup, dir }
    }

    /// What PID 1 does when the supervisor has died.
    fn start_again(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        (self.supervisor, self.stderr, self.pid1) = start_supervisor(self.dir.path(), &self.cgroup);
    }

    /// Reads console lines up to one that contains `text`.
    fn console_says(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "ended before {text:?}:\n{seen}");
            seen += &line;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The next word that is not `alive`, or `alive` itself when that is asked for.
    fn pid1_hears(&self, word: &str) {
        let mut buffer = [0u8; 512];
        loop {
            let n = recv(self.pid1.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            let heard = std::str::from_utf8(&buffer[..n]).unwrap();
            if heard == word {
                return;
            }
            assert_eq!(heard, "alive");
        }
    }

    /// What the example service says about itself. A process that is being killed may take a connection to its grave,
    /// so an empty answer is asked for again; being refused is never right.
    fn ask(&self, unit: &str) -> (u32, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let mut stream = UnixStream::connect(self.run.join(format!("{unit}.sock"))).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut line = String::new();
            let _ = stream.read_to_string(&mut line);
            if let Some((pid, rest)) = line.trim().split_once(' ') {
                return (pid.parse().unwrap(), rest.to_owned());
            }
        }
        panic!("{unit} does not answer");
    }

    fn ends_well(mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.supervisor.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the supervisor does not end");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        for leaf in ["base", "top", "check", "supervisor", ""] {
            let _ = fs::write(self.cgroup.join(leaf).join("cgroup.kill"), "1");
            std::thread::sleep(Duration::from_millis(20));
            let _ = fs::remove_dir(self.cgroup.join(leaf));
        }
        let _ = nix::mount::umount(&self.dir.path().join("run/dev"));
    }
}

/// False for one that has died and waits for its parent to notice.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn services_start_are_reached_come_back_and_stop() {
    if !is_root("services_start_are_reached_come_back_and_stop") {
        return;
    }
    let mut node = Node::start();
    let line = node.console_says("all units ready");
    assert!(line.starts_with("macula: all units ready in ") && line.contains(" s (kernel "), "{line}");
    node.pid1_hears("alive");

    let (first, about) = node.ask("base");
    let state = node.dir.path().join("state/base");
    assert_eq!(about, format!("3 54331 {}", state.display()), "descriptors, uid, state directory");
    assert!(state.join("was-here").exists());
    over_the_bus(&node, first);

    let (second, _) = node.ask("base");
    let (top, _) = node.ask("top");
    send(node.pid1.as_raw_fd(), b"stop", MsgFlags::empty()).unwrap();
    node.console_says("stopping all units: PID 1 says so");
    node.ends_well();
    assert!(!alive(second) && !alive(top));
}

#[test]
fn a_supervisor_that_dies_takes_its_services_along_and_its_successor_starts_anew() {
    if !is_root("a_supervisor_that_dies_takes_its_services_along_and_its_successor_starts_anew") {
        return;
    }
    let mut node = Node::start();
    node.console_says("all units ready");
    let (first, _) = node.ask("top");
    node.supervisor.kill().unwrap();
    node.supervisor.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(first) {
        assert!(Instant::now() < deadline, "the service outlives its supervisor");
        std::thread::sleep(Duration::from_millis(20));
    }
    node.start_again();
    node.console_says("all units ready");
    assert_ne!(node.ask("top").0, first);
    // SAFETY: plain system call.
    unsafe { libc::kill(node.supervisor.id() as i32, libc::SIGTERM) };
    node.ends_well();
}

fn over_the_bus(node: &Node, first: u32) {
    // SAFETY: no other thread of this test reads the environment now.
    unsafe { std::env::set_var("MACULA_RUN_DIR", &node.run) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = services_api::bus::connect("supervisor").await.unwrap();
        let supervisor = SupervisorProxy::new(&bus).await.unwrap();

        let units = units(&supervisor).await;
        let names: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
        assert_eq!(names, ["supervisor", "base", "top"]);
        assert!(units.iter().all(|u| u.state == "ready" && u.rss_bytes > 0 && u.pid > 0), "{units:?}");
        assert_eq!((units[1].pid, units[1].status.as_str()), (first, "answering"));

        supervisor.kill("base", 9).await.unwrap();
        let second = node.ask("base").0;
        assert_ne!(second, first, "the connection was answered by the next process");
        let units = self::units(&supervisor).await;
        assert_eq!((units[1].restarts, units[1].last_exit.as_str()), (1, "killed by SIGKILL (9)"));
        assert_eq!(units[2].restarts, 0);

        let logs: Vec<LogLine> = serde_json::from_str(&supervisor.logs("base", 50).await.unwrap()).unwrap();
        assert!(logs.iter().any(|l| l.text == format!("hello from {second}") && l.priority == 6), "{logs:?}");
        let probe: Vec<ProbeResult> = serde_json::from_str(&supervisor.probe("base").await.unwrap()).unwrap();
        assert!(probe.iter().any(|r| r.attempt == "socket(AF_INET, SOCK_DGRAM)" && r.error == "EPERM"));
        assert!(
            probe
                .iter()
                .any(|r| r.attempt.starts_with("write ") && r.attempt.ends_with("state/base") && r.allowed)
        );

        // The static program at hand: as a probe it ends well, with a word it does not know it complains.
        let program = node.dir.path().join("supervisor").to_string_lossy().into_owned();
        let check = async |words: &[&str], timeout_s: u32| -> CheckReport {
            let exec: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            serde_json::from_str(&supervisor.check(&exec, timeout_s).await.unwrap()).unwrap()
        };
        let well = check(&[&program, "probe"], 20).await;
        assert!(well.passed, "{well:?}");
        let badly = check(&[&program, "nonsense"], 20).await;
        assert!(!badly.passed && badly.reason.starts_with("exited with code 2: "), "{badly:?}");
        let absent = check(&["/nonexistent"], 20).await;
        assert!(!absent.passed && absent.reason.contains("/nonexistent"), "{absent:?}");
        assert!(!check(&["relative"], 20).await.passed);

        assert!(supervisor.kill("nobody", 9).await.is_err());
        assert!(supervisor.kill("base", 0).await.is_err());
        assert!(supervisor.probe("../base").await.is_err());
        supervisor.reboot("a test\nalive").await.unwrap();
        node.pid1_hears("reboot a test alive");
        restart_and_follow(&supervisor).await;
        while self::units(&supervisor).await[1].restarts < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// Whoever has read everything waits, and hears the next line when it is there.
async fn restart_and_follow(supervisor: &SupervisorProxy<'_>) {
    let page = async |run: &str, after: u64, wait_ms: u32| -> LogsPage {
        serde_json::from_str(&supervisor.logs_since("base", run, after, 100, wait_ms).await.unwrap()).unwrap()
    };
    let tail = page("", 0, 0).await;
    assert!(!tail.run.is_empty() && !tail.lines.is_empty());
    let nothing = Instant::now();
    assert!(page(&tail.run, tail.last, 300).await.lines.is_empty());
    assert!(nothing.elapsed() >= Duration::from_millis(300));
    let (next, restarted) = tokio::join!(page(&tail.run, tail.last, 25_000), supervisor.restart("base"));
    restarted.unwrap();
    assert!(next.lines.iter().all(|l| l.seq > tail.last && l.unit == "base"), "{next:?}");
    assert!(!next.lines.is_empty() && !next.lost && next.run == tail.run);
}

async fn units(supervisor: &SupervisorProxy<'_>) -> Vec<UnitReport> {
    serde_json::from_str(&supervisor.units().await.unwrap()).unwrap()
}
