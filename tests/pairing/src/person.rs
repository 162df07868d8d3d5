//! Somebody with a computer: a home folder, and `maculactl`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::program;

pub struct Person {
    home: TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub struct Seen {
    pub ok: bool,
    pub stdout: String,
    /// What the person reads when it fails.
    pub stderr: String,
}

impl Seen {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Default for Person {
    fn default() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }
}

impl Person {
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs it aside, since the test's own services must go on meanwhile.
    pub async fn maculactl(&self, arguments: &[&str]) -> Seen {
        self.maculactl_with(arguments, &[]).await
    }

    /// The same with something on standard input.
    pub async fn maculactl_with(&self, arguments: &[&str], input: &[u8]) -> Seen {
        let mut command = Command::new(program("maculactl"));
        command.args(arguments).env_clear().env("HOME", self.home.path()).current_dir(self.home.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_vec();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let _ = child.stdin.take().unwrap().write_all(&input);
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Seen { ok: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
