//! curl, which knows nothing of nodes.

use std::process::Stdio;

use tokio::process::Command;

use super::Machine;

pub fn curl(machine: &Machine, path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--insecure", "--globoff", "--max-time", "30"]);
    command.args(arguments).arg(format!("https://[::1]:{}{path}", machine.port));
    command.stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// Status, HTTP version, and the body, of one request.
pub async fn ask(machine: &Machine, path: &str, arguments: &[&str]) -> (u16, String, Vec<u8>) {
    let mut all = vec!["--write-out", "\n%{http_code} %{http_version}"];
    all.extend(arguments);
    let output = curl(machine, path, &all).output().await.unwrap();
    let at = output.stdout.iter().rposition(|b| *b == b'\n').unwrap_or_else(|| panic!("{output:?}"));
    let line = String::from_utf8(output.stdout[at + 1..].to_vec()).unwrap();
    assert!(!line.starts_with("000"), "{output:?}");
    let (status, version) = line.split_once(' ').unwrap();
    (status.parse().unwrap(), version.to_owned(), output.stdout[..at].to_vec())
}
