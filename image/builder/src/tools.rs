//! The host's tools that the builder calls, and how it calls them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::{BuildError, Result};
use crate::secure_boot::SIGNING_PACKAGES;

/// Each tool and the Debian (and Ubuntu) package that has it.
pub const HOST_PACKAGES: &[(&str, &str)] =
    &[("mkfs.erofs", "erofs-utils"), ("mkfs.ext4", "e2fsprogs"), ("dpkg-deb", "dpkg"), ("apt-get", "apt")];

/// Tools that only the builder's tests call, to read images with other people's eyes.
pub const TEST_PACKAGES: &[(&str, &str)] = &[
    ("veritysetup", "cryptsetup-bin"),
    ("sfdisk", "fdisk"),
    ("fsck.vfat", "dosfstools"),
    ("fsck.erofs", "erofs-utils"),
    ("e2fsck", "e2fsprogs"),
    ("sbverify", "sbsigntool"),
];

/// Folders where administrators' tools are, though a user's `PATH` often lacks them.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How much of a tool's output an error repeats.
const OUTPUT_MAX: usize = 4000;

/// The tools of `wanted` that this host lacks, with their packages.
pub fn missing(wanted: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    wanted.iter().filter(|(tool, _)| find(tool).is_none()).copied().collect()
}

/// Where a tool is, looking also where administrators' tools are.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(tool)).find(|candidate| candidate.is_file())
}

/// A command for one of our tools, with messages in English and times in UTC.
pub fn command(tool: &str) -> Result<Command> {
    let path = find(tool)
        .ok_or_else(|| BuildError::ToolMissing { tool: tool.to_owned(), package: package(tool) })?;
    Ok(at(&path))
}

/// As [`command`], for a program whose place is known.
pub fn at(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs a command to its end and keeps what it printed; anything but success is an error that repeats it.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().map_err(|source| BuildError::Io {
        what: "start",
        path: Path::new(command.get_program()).to_path_buf(),
        source,
    })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failure(command, &output))
}

/// The error for a command that ended with `output`.
pub fn failure(command: &Command, output: &Output) -> BuildError {
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    let cut = text.char_indices().nth(OUTPUT_MAX).map_or(text.len(), |(at, _)| at);
    text.truncate(cut);
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let command = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    BuildError::Tool { command, status: output.status.to_string(), output: text.trim().to_owned() }
}

fn package(tool: &str) -> &'static str {
    let all = HOST_PACKAGES.iter().chain(SIGNING_PACKAGES).chain(TEST_PACKAGES);
    all.into_iter().find(|(name, _)| *name == tool).map_or("(unknown)", |(_, package)| package)
}
