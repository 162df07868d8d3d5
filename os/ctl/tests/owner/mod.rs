//! Somebody who runs `maculactl`.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

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
