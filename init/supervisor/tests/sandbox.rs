//! Runs the probe inside the sandbox that a unit's service would get, and looks at what it could do.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use common::{SUPERVISOR, has_landlock, install, is_root, open_dir};
use serde_json::{Value, json};
use services_api::report::ProbeResult;

const UID: u32 = 54_321;

struct Outcome(Vec<ProbeResult>);

impl Outcome {
    #[track_caller]
    fn find(&self, attempt: &str) -> &ProbeResult {
        self.0
            .iter()
            .find(|r| r.attempt == attempt)
            .unwrap_or_else(|| panic!("{attempt} was not tried: {:?}", self.0))
    }

    #[track_caller]
    fn allowed(&self, attempts: &[&str]) {
        attempts.iter().for_each(|a| assert!(self.find(a).allowed, "{:?}", self.find(a)));
    }

    #[track_caller]
    fn denied(&self, error: &str, attempts: &[&str]) {
        attempts.iter().for_each(|a| assert_eq!(self.find(a).error, error, "{a}"));
    }
}

/// Probes with the given parts of the specification changed; `own` are extra paths to try.
fn probe(dir: &Path, change: Value, own: &[&str]) -> Outcome {
    let program = install(Path::new(SUPERVISOR), dir);
    let mut exec = vec![program.to_str().unwrap(), "probe"];
    exec.extend(own);
    let mut spec = json!({
        "unit": "probe", "exec": exec, "environment": {}, "uid": UID, "groups": [], "cgroup": null,
        "host_network": false, "capabilities": [], "run_dir": "/run", "state_dir": null, "tmp": null,
        "read": [], "write": [], "devices": [], "listen_fd": null, "notify_socket": null, "watchdog_us": null
    });
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let output = Command::new(SUPERVISOR).arg("exec-unit").arg(spec.to_string()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", output.status);
    Outcome(serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")))
}

#[test]
fn without_the_network_there_are_only_local_sockets() {
    if !is_root("without_the_network_there_are_only_local_sockets") {
        return;
    }
    let dir = open_dir();
    let outcome = probe(dir.path(), json!({}), &[]);
    outcome.denied(
        "EPERM",
        &[
            "socket(AF_INET, SOCK_STREAM)",
            "socket(AF_INET, SOCK_DGRAM)",
            "socket(AF_INET6, SOCK_STREAM)",
            "socket(AF_INET6, SOCK_DGRAM)",
            "socket(AF_INET, SOCK_RAW)",
            "socket(AF_PACKET, SOCK_RAW)",
            "socket(AF_NETLINK, SOCK_RAW)",
            "socket(AF_VSOCK, SOCK_STREAM)",
            "socket(AF_ALG, SOCK_SEQPACKET)",
        ],
    );
    outcome.allowed(&["socket(AF_UNIX, SOCK_STREAM)"]);
}

#[test]
fn with_the_network_there_are_its_sockets_and_no_others() {
    if !is_root("with_the_network_there_are_its_sockets_and_no_others") {
        return;
    }
    let dir = open_dir();
    let host = probe(dir.path(), json!({"host_network": true}), &[]);
    host.allowed(&[
        "socket(AF_INET, SOCK_STREAM)",
        "socket(AF_INET, SOCK_DGRAM)",
        "socket(AF_NETLINK, SOCK_RAW)",
    ]);
    host.denied(
        "EPERM",
        &["socket(AF_INET, SOCK_RAW)", "socket(AF_PACKET, SOCK_RAW)", "socket(AF_VSOCK, SOCK_STREAM)"],
    );
    host.denied("EPERM", &["socket(AF_ALG, SOCK_SEQPACKET)", "mount(tmpfs)"]);

    const CAP_NET_RAW: u32 = 13;
    let raw = probe(dir.path(), json!({"host_network": true, "capabilities": [CAP_NET_RAW]}), &[]);
    raw.allowed(&["socket(AF_INET, SOCK_RAW)"]);
    raw.denied("EPERM", &["setuid(0)", "mount(tmpfs)"]);

    let radio = probe(dir.path(), json!({"host_network": true, "radio": true}), &[]);
    // The host's kernel may not have it.
    assert_ne!(radio.find("socket(AF_ALG, SOCK_SEQPACKET)").error, "EPERM");
    radio.denied("EPERM", &["socket(AF_PACKET, SOCK_RAW)", "socket(AF_VSOCK, SOCK_STREAM)"]);
}

#[test]
fn no_service_can_change_the_system_or_start_a_process() {
    if !is_root("no_service_can_change_the_system_or_start_a_process") {
        return;
    }
    let dir = open_dir();
    let outcome = probe(dir.path(), json!({}), &[]);
    outcome.denied(
        "EPERM",
        &[
            "mount(tmpfs)",
            "unshare(CLONE_NEWUSER)",
            "unshare(CLONE_NEWNET)",
            "fork",
            "ptrace(PTRACE_TRACEME)",
            "kill(1, 0)",
            "kill(parent, 0)",
            "bpf",
            "io_uring_setup",
            "init_module",
            "kexec_load",
            "reboot",
            "settimeofday",
            "setuid(0)",
        ],
    );
    outcome.allowed(&["thread", "read /usr/bin"]);
    outcome.denied("EACCES", &["write /usr"]);
}

#[test]
fn files_outside_the_lists_are_closed() {
    if !is_root("files_outside_the_lists_are_closed") {
        return;
    }
    let dir = open_dir();
    let make = |name: &str, owner: u32| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (own, other, foreign) = (make("own", UID), make("other", UID), make("foreign", 54_322));
    let paths = [own.as_str(), other.as_str(), foreign.as_str()];
    let outcome = probe(dir.path(), json!({"state_dir": own, "read": ["/etc/passwd", "/not/there"]}), &paths);
    outcome.allowed(&["read /etc/passwd", &format!("read {own}"), &format!("write {own}")]);
    outcome.denied("EACCES", &[&format!("write {foreign}")]);
    if has_landlock() {
        let unlisted = probe(dir.path(), json!({"state_dir": own}), &paths);
        unlisted.denied("EACCES", &["read /etc/passwd", &format!("read {other}"), &format!("write {other}")]);
        unlisted.denied("EACCES", &[&format!("read {foreign}")]);
    }
}

#[test]
fn a_bad_description_is_refused_with_its_own_code() {
    for bad in ["", "{}", "[1]", &"x".repeat(100_000)] {
        let output = Command::new(SUPERVISOR).args(["exec-unit", bad]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("<3>sandbox:"));
    }
}
