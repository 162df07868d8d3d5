//! cgroup v2, by its files. Where there is no cgroup (a host without v2) limits are not enforced and killing falls back
//! to the main process; the supervisor says so once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use init_plan::unit::{Limits, SUPERVISOR};

/// The supervisor's own cgroup, with a child for each unit.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// Makes the tree and moves this process into a leaf of it, because a cgroup with children that have controllers
    /// may hold no process itself. Returns what does not work, for the log.
    pub fn prepare(root: &Path) -> (Option<Self>, Vec<String>) {
        if let Err(e) = fs::create_dir_all(root.join(SUPERVISOR)).and_then(|()| join(&root.join(SUPERVISOR)))
        {
            return (None, vec![format!("no cgroups, so limits are not enforced: {}: {e}", root.display())]);
        }
        let mut problems = Vec::new();
        for controller in ["memory", "pids", "cpu"] {
            for dir in [root.parent().unwrap_or(root), root] {
                if let Err(e) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
                    problems.push(format!("{controller} is not limited: {}: {e}", dir.display()));
                    break;
                }
            }
        }
        (Some(Self { root: root.into() }), problems)
    }

    pub fn unit(&self, unit: &str) -> PathBuf {
        self.root.join(unit)
    }

    /// Makes a unit's cgroup, empty, with its limits. Limits whose controller is missing are skipped: `prepare` said so.
    pub fn create(&self, unit: &str, limits: &Limits) -> io::Result<PathBuf> {
        let dir = self.unit(unit);
        fs::create_dir_all(&dir)?;
        let values = [
            ("memory.max", limits.memory_max_bytes.to_string()),
            ("memory.oom.group", "1".into()),
            ("pids.max", limits.pids_max.to_string()),
            ("cpu.weight", limits.cpu_weight.to_string()),
        ];
        for (file, value) in values {
            let file = dir.join(file);
            if file.exists() {
                fs::write(file, value)?;
            }
        }
        Ok(dir)
    }

    /// Kills every process of the unit at once.
    pub fn kill(&self, unit: &str) -> io::Result<()> {
        fs::write(self.unit(unit).join("cgroup.kill"), "1")
    }

    /// Bytes, or 0 when not known.
    pub fn memory_current(&self, unit: &str) -> u64 {
        read_number(&self.unit(unit).join("memory.current"))
    }

    /// How often the kernel has killed something here for want of memory.
    pub fn oom_kills(&self, unit: &str) -> u64 {
        let text = fs::read_to_string(self.unit(unit).join("memory.events")).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    pub fn processes(&self, unit: &str) -> Vec<u32> {
        let text = fs::read_to_string(self.unit(unit).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }
}

/// Moves the calling process into a cgroup.
pub fn join(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), "0")
}

fn read_number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}
