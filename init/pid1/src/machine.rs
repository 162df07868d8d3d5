//! Performs plans: one step after the other, each failure with the consequence that the plan gives it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use anyhow::{Context, Error, Result};
use init_plan::failure::OnFailure;
use init_plan::steps::{CGROUP, Mount, Planned, STATE, Step};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::console::say;
use crate::node::Node;
use crate::{encryption, last_boot, state, switch_root, sys, verity};

/// A step that ends the boot.
#[derive(Debug)]
pub struct StepFailed {
    pub stage: &'static str,
    pub on_failure: OnFailure,
    pub error: Error,
}

/// Who performs steps: the machine, or a test's record of it.
pub trait Perform {
    fn perform(&mut self, step: &Step) -> Result<()>;

    /// Called before each step: time to feed the watchdog.
    fn breathe(&mut self);

    /// A step failed and the plan says to go on.
    fn went_on(&mut self, stage: &str, error: &Error);
}

pub fn run(plan: &[Planned], machine: &mut impl Perform) -> Result<(), StepFailed> {
    for Planned { stage, on_failure, step } in plan {
        machine.breathe();
        match machine.perform(step) {
            Ok(()) => {}
            Err(error) if *on_failure == OnFailure::Continue => machine.went_on(stage, &error),
            Err(error) => return Err(StepFailed { stage, on_failure: *on_failure, error }),
        }
    }
    Ok(())
}

impl Perform for Node {
    fn perform(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::MakeDir { path, mode } => {
                make_dir(path, *mode).with_context(|| format!("cannot make {path}"))
            }
            Step::Mount(mount) => self.mount(mount),
            Step::WriteFile { path, mode, content } => {
                write_file(path, *mode, content).with_context(|| format!("cannot write {path}"))
            }
            Step::Symlink { path, target } => {
                symlink(target, path).with_context(|| format!("cannot link {path}"))
            }
            Step::DeviceNode { path, of, mode } => {
                device_node(path, of, *mode).with_context(|| format!("cannot make {path} for {of}"))
            }
            Step::UnlockState { partition, kind } => encryption::unlock(self, partition, *kind),
            Step::CheckState { device } => state::check(device, &mut || self.watchdog.feed()),
            Step::GrowState { device } => state::grow(device),
            Step::LookBack => last_boot::look_back(self),
            Step::Provision { esp } => state::provision(esp),
            Step::OpenVerity { device, verity } => verity::open(device, verity),
            Step::RootReadOnly => switch_root::make_read_only(),
            Step::SwitchRoot { new_root } => switch_root::switch(new_root),
            Step::Cgroups => cgroups(),
            Step::Hostname(name) => nix::unistd::sethostname(name).context("cannot set the host name"),
            Step::LoopbackUp => sys::net::loopback_up().context("cannot bring up lo"),
        }
    }

    fn breathe(&mut self) {
        self.watchdog.feed();
    }

    fn went_on(&mut self, stage: &str, error: &Error) {
        say(&format!("{stage}: {error:#}; going on without"));
    }
}

impl Node {
    fn mount(&mut self, wanted: &Mount) -> Result<()> {
        let Mount { source, target, kind, options, .. } = wanted;
        mount(Some(source.as_str()), target.as_str(), Some(*kind), flags(wanted), Some(options.as_str()))
            .with_context(|| format!("cannot mount {source} ({kind}) on {target}"))?;
        self.state_is_mounted |= target == STATE;
        Ok(())
    }
}

fn flags(mount: &Mount) -> MsFlags {
    let wanted = mount.flags;
    [
        (wanted.read_only, MsFlags::MS_RDONLY),
        (wanted.no_dev, MsFlags::MS_NODEV),
        (wanted.no_suid, MsFlags::MS_NOSUID),
        (wanted.no_exec, MsFlags::MS_NOEXEC),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .collect()
}

fn make_dir(path: &str, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn write_file(path: &str, mode: u32, content: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn device_node(path: &str, of: &str, mode: u32) -> Result<()> {
    let number = fs::metadata(of)?.rdev();
    mknod(path, SFlag::S_IFBLK, Mode::from_bits_truncate(mode), number)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Controllers that a kernel lacks are left out; the supervisor says which limits it cannot set.
fn cgroups() -> Result<()> {
    for controller in ["cpu", "memory", "pids", "io"] {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
    fs::create_dir_all(format!("{CGROUP}/supervisor")).with_context(|| format!("cannot make {CGROUP}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use init_plan::cmdline::Verity;
    use init_plan::steps::{self, Devices};
    use os_slots::Slot;

    /// Performs nothing; fails at the steps that `fails` picks.
    struct Recorder<F: Fn(&Step) -> bool> {
        fails: F,
        done: Vec<Step>,
        skipped: Vec<String>,
    }

    impl<F: Fn(&Step) -> bool> Perform for Recorder<F> {
        fn perform(&mut self, step: &Step) -> Result<()> {
            if (self.fails)(step) {
                bail!("as told");
            }
            self.done.push(step.clone());
            Ok(())
        }

        fn breathe(&mut self) {}

        fn went_on(&mut self, stage: &str, _: &Error) {
            self.skipped.push(stage.to_owned());
        }
    }

    struct Outcome {
        done: Vec<Step>,
        skipped: Vec<String>,
        end: Result<(), (&'static str, OnFailure)>,
    }

    fn run_root(fails: impl Fn(&Step) -> bool) -> Outcome {
        let verity = Verity { root_hash: "ab".repeat(32), salt: "01".into(), data_blocks: 7 };
        let plan = steps::root(&Devices::default(), Slot::A, &verity);
        let mut recorder = Recorder { fails, done: Vec::new(), skipped: Vec::new() };
        let end = run(&plan, &mut recorder).map_err(|failed| (failed.stage, failed.on_failure));
        Outcome { done: recorder.done, skipped: recorder.skipped, end }
    }

    #[test]
    fn nothing_after_a_fatal_step_is_performed() {
        let outcome = run_root(|step| matches!(step, Step::OpenVerity { .. }));
        assert_eq!(outcome.end, Err(("verity", OnFailure::OtherSlot)));
        assert!(!outcome.done.iter().any(|step| matches!(step, Step::SwitchRoot { .. })));
        let outcome = run_root(|step| matches!(step, Step::CheckState { .. }));
        assert_eq!((outcome.done.len(), outcome.end), (0, Err(("state", OnFailure::Reboot))));
    }

    #[test]
    fn comforts_may_fail() {
        let outcome = run_root(|step| matches!(step, Step::GrowState { .. } | Step::Provision { .. }));
        assert_eq!(
            (outcome.end, outcome.skipped),
            (Ok(()), vec!["state".to_owned(), "provision".to_owned()])
        );
        assert!(matches!(outcome.done.last(), Some(Step::SwitchRoot { .. })));
    }

    #[test]
    fn flags_reach_the_kernel() {
        let plan = steps::root(
            &Devices::default(),
            Slot::A,
            &Verity { root_hash: String::new(), salt: String::new(), data_blocks: 1 },
        );
        let flags_of = |kind: &str| {
            plan.iter().find_map(|planned| match &planned.step {
                Step::Mount(mount) if mount.kind == kind => Some(flags(mount)),
                _ => None,
            })
        };
        let closed = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        assert_eq!(flags_of("ext4"), Some(closed | MsFlags::MS_NOEXEC));
        assert_eq!(flags_of("erofs"), Some(closed | MsFlags::MS_RDONLY));
    }
}
