//! Landlock: which files a service can open at all, whatever their modes say.
//!
//! A rule holds for the file that a path names now: one that is replaced later (a new `config.toml`) is out of reach until
//! the service starts again. Of programs a service may execute only its own; seccomp keeps it from forking anyway.

use std::path::Path;

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::spec::ExecSpec;

/// The newest version whose rights were thought through here. Older kernels enforce what they know.
const VERSION: ABI = ABI::V9;

/// What the kernel runs for a dynamically linked program.
const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Opens the paths, as root, since the way to some is closed to the service.
pub fn allowed(spec: &ExecSpec) -> Result<RulesetCreated> {
    build(spec).context("Landlock rules")
}

/// No way back from here. A kernel without Landlock gets a warning.
pub fn restrict(rules: RulesetCreated) -> Result<()> {
    let status: RestrictionStatus = rules.restrict_self().context("cannot enforce the Landlock rules")?;
    if status.ruleset == RulesetStatus::NotEnforced {
        eprintln!("<4>sandbox: this kernel does not enforce Landlock ({:?})", status.landlock);
    }
    Ok(())
}

fn build(spec: &ExecSpec) -> Result<RulesetCreated> {
    let mut ruleset =
        Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.scope(Scope::from_all(VERSION))?;
    if !spec.host_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(VERSION))?;
    }
    let mut rules = ruleset.create()?;
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = AccessFs::from_all(VERSION)
        & !make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | IoctlDev | ResolveUnix});
    let device = make_bitflags!(AccessFs::{ReadFile | IoctlDev});

    rules = allow(rules, Path::new("/usr"), read)?;
    rules = allow(rules, Path::new(&spec.exec[0]), make_bitflags!(AccessFs::{ReadFile | Execute}))?;
    if spec.linked {
        rules = allow(rules, Path::new(LINKER), make_bitflags!(AccessFs::{ReadFile | Execute}))?;
    }
    rules = allow(rules, &spec.run_dir, read | AccessFs::ResolveUnix)?;
    rules = allow(rules, Path::new("/dev/null"), read | AccessFs::WriteFile)?;
    rules = allow(rules, Path::new("/dev/urandom"), read)?;
    for path in &spec.read {
        rules = allow(rules, path, read)?;
    }
    for path in spec.state_dir.iter().chain(&spec.tmp).chain(&spec.write) {
        rules = allow(rules, path, write)?;
    }
    for node in &spec.devices {
        let more = if node.write { AccessFs::WriteFile.into() } else { BitFlags::EMPTY };
        rules = allow(rules, &node.path, device | more)?;
    }
    Ok(rules)
}

/// What is not there needs no rule: nobody can open it.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(rules) };
    let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
    let fd = PathFd::new(path).with_context(|| format!("cannot open {}", path.display()))?;
    rules.add_rule(PathBeneath::new(fd, access)).with_context(|| path.display().to_string())
}
