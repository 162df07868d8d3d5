//! The boot tests, several at a time: each waits for emulated machines most of the time, and prints what it sees once it
//! has ended.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::Tree;
use crate::host;
use crate::test::HOST_CRATES;

/// The package of the tests that boot images.
const PACKAGE: &str = "tests-boot";
/// Tests that take longest begin first, so that none is left over at the end.
const LONG: [&str; 4] = ["rules", "rollback", "power_cut", "rescue"];
/// More machines at once than that are slower for it.
const AT_ONCE_MAX: usize = 4;

struct Test {
    program: PathBuf,
    name: String,
}

/// Runs all tests whose name contains `only`, with the variable that tells them where the releases are.
pub fn run(tree: &Tree, only: Option<&str>, releases: (&str, &Path)) -> Result<()> {
    let mut tests = Vec::new();
    for program in programs(tree)? {
        tests.extend(list(&program)?.into_iter().filter(|t| only.is_none_or(|o| t.name.contains(o))));
    }
    if tests.is_empty() {
        bail!("no boot test is called {}", only.unwrap_or("anything"));
    }
    tests.sort_by_key(|t| LONG.iter().position(|l| t.program_name().starts_with(l)).unwrap_or(LONG.len()));
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE_MAX);
    eprintln!("{} boot tests, {at_once} at a time", tests.len());
    let (queue, failed) = (Mutex::new(VecDeque::from(tests)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(test) = next(&queue) {
                    if let Err(e) = test.run(tree, releases) {
                        eprintln!("{}: {e:#}", test.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(test.name);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        failed if failed.is_empty() => Ok(()),
        failed => bail!("failed: {}", failed.join(", ")),
    }
}

fn next(queue: &Mutex<VecDeque<Test>>) -> Option<Test> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Builds the test programs; their paths, as cargo tells them. With all that runs on this machine: another selection of packages has
/// other features, and compiles what they share once more.
fn programs(tree: &Tree) -> Result<Vec<PathBuf>> {
    let mut command = host::cargo();
    command.args([
        "test",
        "--release",
        "--locked",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.args(HOST_CRATES.iter().flat_map(|p| ["-p", p])).current_dir(&tree.root);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the boot tests do not compile");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let tests = messages.filter(|m| m["profile"]["test"] == true && m["target"]["kind"][0] == "test");
    let tests = tests.filter(|m| m["package_id"].as_str().is_some_and(|id| id.contains(PACKAGE)));
    Ok(tests.filter_map(|m| m["executable"].as_str().map(PathBuf::from)).collect())
}

/// Without those that are only for when they are named.
fn list(program: &Path) -> Result<Vec<Test>> {
    let ignored = names(program, &["--ignored"])?;
    let all = names(program, &[])?.into_iter().filter(|name| !ignored.contains(name));
    Ok(all.map(|name| Test { program: program.to_path_buf(), name }).collect())
}

fn names(program: &Path, more: &[&str]) -> Result<Vec<String>> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).args(more).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(lines.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

impl Test {
    fn program_name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn run(&self, tree: &Tree, (variable, releases): (&str, &Path)) -> Result<()> {
        eprintln!("begins: {}", self.name);
        let begun = Instant::now();
        let log = tempfile::tempfile()?;
        let mut command = Command::new(&self.program);
        command.args(["--exact", &self.name, "--nocapture"]).env(variable, releases);
        command.current_dir(tree.root.join("tests/boot")).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let status = command.status().with_context(|| format!("cannot run {}", self.program.display()))?;
        // One write, so that two tests that end together do not mix.
        let said = said(log)?;
        let seconds = begun.elapsed().as_secs();
        let how = if status.success() { "passed" } else { "FAILED" };
        eprintln!("{how} after {seconds} s: {}\n{}", self.name, said.trim_end());
        if status.success() { Ok(()) } else { bail!("failed") }
    }
}

/// What a test said, without the frame that the test program puts around it.
fn said(mut log: std::fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    log.rewind()?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let frame = |l: &&str| {
        !l.is_empty() && !l.starts_with("running 1 test") && !l.starts_with("test result: ok") && *l != "ok"
    };
    Ok(text.lines().filter(frame).map(|l| format!("{l}\n")).collect())
}
