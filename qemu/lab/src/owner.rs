//! The owner: `maculactl` with its own key and its own memory of nodes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Runs `maculactl` as the owner of the lab's nodes.
pub struct Owner {
    maculactl: PathBuf,
    config: PathBuf,
    key: PathBuf,
    did: String,
}

impl Owner {
    /// The owner whose key is in `dir`; makes the key if there is none.
    pub(crate) fn new(maculactl: &Path, dir: &Path) -> Result<Self> {
        let config = dir.join("owner");
        std::fs::create_dir_all(&config)?;
        let key = config.join("owner.key");
        let mut owner = Self { maculactl: maculactl.to_path_buf(), config, key, did: String::new() };
        if !owner.key.exists() {
            owner.run(&["key", "new"])?;
        }
        owner.did = owner.run(&["key", "show"])?.trim().to_string();
        Ok(owner)
    }

    /// `did:key:...`: owner of the nodes, signer of releases, publisher of channels.
    pub fn did(&self) -> &str {
        &self.did
    }

    /// `maculactl ARGUMENTS`: its standard output; its standard error as the error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_as(&self.key, arguments)
    }

    /// The same with another key.
    pub fn run_as(&self, key: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.maculactl);
        command.arg("--key").arg(key).args(arguments).env("XDG_CONFIG_HOME", &self.config);
        let output = command.output().with_context(|| format!("cannot run {}", self.maculactl.display()))?;
        if !output.status.success() {
            bail!("maculactl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `maculactl --node NODE ARGUMENTS` that goes on until it is killed.
    pub fn start(&self, node: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(&self.maculactl);
        command.arg("--key").arg(&self.key).args(["--node", node]).args(arguments);
        command.env("XDG_CONFIG_HOME", &self.config).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().with_context(|| format!("cannot run {}", self.maculactl.display()))
    }

    /// The words with which a person starts `maculactl` as this owner in a shell.
    pub fn command_line(&self) -> String {
        let show = |path: &Path| path.display().to_string();
        format!("XDG_CONFIG_HOME={} {} --key {}", show(&self.config), show(&self.maculactl), show(&self.key))
    }

    /// `maculactl --json --node NODE ARGUMENTS`.
    pub fn json(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["--json", "--node", node], arguments].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("maculactl {} printed no JSON", arguments.join(" ")))
    }
}
