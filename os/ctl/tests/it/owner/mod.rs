//! Somebody who runs `maculactl`.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::Value;

/// A command that does not end by itself, and its lines.
pub struct Running {
    child: Child,
    pub said: Receiver<String>,
    pub notices: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    lines
}

/// The next `count` lines; generous, since machines that test are busy.
pub fn next(lines: &Receiver<String>, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| lines.recv_timeout(WAIT).unwrap_or_else(|e| panic!("line {n} of {count}: {e}")))
        .collect()
}

const WAIT: Duration = Duration::from_secs(120);

/// An owner with a home of their own.
pub struct Owner {
    pub home: tempfile::TempDir,
    pub id: String,
}

impl Owner {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut owner = Self { home, id: String::new() };
        owner.id = owner.ok("", "key new").trim().to_string();
        owner
    }

    /// Another key in a file of this name; its id.
    pub fn new_key(&self, name: &str) -> String {
        self.ok("", &format!("key new --key {name}")).trim().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn run(&self, node: &str, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_maculactl"))
            .args(line.split_whitespace())
            .current_dir(self.home.path())
            .env_clear()
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("MACULA_NODE", node)
            .output()
            .unwrap()
    }

    /// Something that goes on until it is dropped.
    pub fn spawn(&self, node: &str, line: &str) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_maculactl"));
        command.args(line.split_whitespace()).current_dir(self.home.path()).env_clear();
        command.env("XDG_CONFIG_HOME", self.home.path()).env("MACULA_NODE", node);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = read_lines(child.stdout.take().unwrap());
        let notices = read_lines(child.stderr.take().unwrap());
        Running { child, said, notices }
    }

    pub fn ok(&self, node: &str, line: &str) -> String {
        let output = self.run(node, line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, node: &str, line: &str) -> Value {
        serde_json::from_str(&self.ok(node, &format!("{line} --json"))).unwrap()
    }

    /// The one line that a failure says.
    pub fn error(&self, node: &str, line: &str) -> String {
        let output = self.run(node, line);
        assert_eq!(output.status.code(), Some(1), "{line} must fail");
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap_or("").to_string();
        assert!(last.starts_with("maculactl: "), "{said}");
        last
    }
}
