//! Programs of the initramfs that init starts and waits for: never longer than told, and with the watchdog fed meanwhile.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console::say;
use crate::sys::files;

const LOG: &str = "/tool.log";
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Lines of a program's output that are shown.
const LINES_MAX: usize = 20;

/// A call: what is run, what it reads, what it may know.
pub struct Tool<'a> {
    pub program: &'a str,
    pub arguments: &'a [&'a str],
    /// Written to its standard input.
    pub input: &'a str,
    /// Its whole environment.
    pub environment: &'a [(&'a str, &'a str)],
    pub patience: Duration,
}

impl Tool<'_> {
    /// Runs it to its end. Returns the exit code, 8 after a death by signal (e2fsck's own code for an operational error); what
    /// it has said is shown unless that is 0.
    pub fn run(&self, feed: &mut dyn FnMut()) -> Result<i32> {
        let log = File::create(LOG).with_context(|| format!("cannot create {LOG}"))?;
        let mut child = Command::new(self.program)
            .args(self.arguments)
            .env_clear()
            .envs(self.environment.iter().copied())
            .stdin(Stdio::piped())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read it has ended, and says so by its exit code.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        let code = exit_code(self.wait(&mut child, feed)?);
        if code != 0 {
            self.show_output();
        }
        Ok(code)
    }

    fn wait(&self, child: &mut Child, feed: &mut dyn FnMut()) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            feed();
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > self.patience {
                let _ = child.kill();
                let _ = child.wait();
                self.show_output();
                bail!("{} did not end within {} s", self.program, self.patience.as_secs());
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn show_output(&self) {
        let name = Path::new(self.program).file_name().unwrap_or_default().to_string_lossy();
        let output = files::read_bounded(Path::new(LOG), LOG_BYTES_MAX).unwrap_or_default();
        output.lines().take(LINES_MAX).for_each(|line| say(&format!("{name}: {line}")));
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    match status.signal() {
        Some(_) => 8,
        None => status.code().unwrap_or(8),
    }
}
