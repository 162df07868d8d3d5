//! A state partition without a free byte: filled from outside, because nothing on a node takes that much.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use image_layout::STATE;

/// Gives all blocks that are not reserved to one file, on a disk that was shut down in order. Needs e2fsprogs.
pub fn fill_state(disk: &Path) -> Result<()> {
    let part = format!("{}?offset={}", disk.display(), STATE.start);
    let facts = tool("dumpe2fs", &["-h", &part])?;
    let (free, reserved) = (number(&facts, "Free blocks:")?, number(&facts, "Reserved block count:")?);
    let last = free.checked_sub(reserved + 1).context("the state partition is full already")?;
    for order in ["write /dev/null /filler", &format!("fallocate /filler 0 {last}")] {
        tool("debugfs", &["-w", "-R", order, &part])?;
    }
    let left = number(&tool("dumpe2fs", &["-h", &part])?, "Free blocks:")?;
    if left > reserved {
        bail!("{} blocks are still free after the partition was filled", left - reserved);
    }
    Ok(())
}

fn number(facts: &str, name: &str) -> Result<u64> {
    let value = facts.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no `{name}`"))?;
    value.trim().parse().with_context(|| format!("{name}{value}"))
}

fn tool(name: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(format!("/usr/sbin/{name}")).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {name} (package e2fsprogs)"))?;
    if !output.status.success() {
        bail!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
