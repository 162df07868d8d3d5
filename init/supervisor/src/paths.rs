//! Where things are. The defaults are the contract of `docs/ARCHITECTURE.md`; options move them for tests on a host.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone)]
pub struct Paths {
    /// Sockets, device nodes, `boot.json`.
    pub run: PathBuf,
    /// Parent of the services' state directories.
    pub state: PathBuf,
    /// Unit files.
    pub units: PathBuf,
    /// Our cgroup (v2); each unit gets a child.
    pub cgroup: PathBuf,
    /// `None`: stderr.
    pub console: Option<PathBuf>,
    /// This program.
    pub supervisor: PathBuf,
}

pub const RUN: &str = "/run/macula";

impl Paths {
    pub fn from_options(options: &[&str]) -> Result<Self> {
        let mut paths = Paths {
            run: RUN.into(),
            state: "/state".into(),
            units: "/usr/lib/macula/units".into(),
            cgroup: "/sys/fs/cgroup/macula".into(),
            console: Some("/dev/console".into()),
            supervisor: std::env::current_exe().context("cannot find this program's own path")?,
        };
        for pair in options.chunks(2) {
            let &[option, value] = pair else { bail!("{} needs a value\n{}", pair[0], crate::USAGE) };
            match option {
                "--run" => paths.run = value.into(),
                "--state" => paths.state = value.into(),
                "--units" => paths.units = value.into(),
                "--cgroup" => paths.cgroup = value.into(),
                "--console" => paths.console = (value != "-").then(|| value.into()),
                _ => bail!("{option} is not an option\n{}", crate::USAGE),
            }
        }
        Ok(paths)
    }

    pub fn socket(&self, unit: &str) -> PathBuf {
        self.run.join(format!("{unit}.sock"))
    }

    /// The text of the node's configuration; empty if it cannot be read.
    pub fn config(&self) -> String {
        let path = self.state.join("config.toml");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub fn notify_dir(&self) -> PathBuf {
        self.run.join("notify")
    }

    pub fn notify_socket(&self, unit: &str) -> PathBuf {
        self.notify_dir().join(unit)
    }

    /// Parent of the units' private device nodes.
    pub fn devices(&self) -> PathBuf {
        self.run.join("dev")
    }

    pub fn tmp(&self, unit: &str) -> PathBuf {
        self.run.join("tmp").join(unit)
    }

    pub fn boot_info(&self) -> PathBuf {
        self.run.join("boot.json")
    }

    /// True unless an option moved the directory that services find each other in.
    pub fn run_is_default(&self) -> bool {
        self.run == std::path::Path::new(RUN)
    }
}
