//! Progress of long steps: a bar with bytes on a terminal, one line per finished step otherwise.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a step that does not end says so when there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Where steps report to. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    bars: MultiProgress,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Bars,
    Lines,
    Silent,
}

/// One step under way. Dropping it without [`Step::done`] removes its bar.
pub struct Step {
    bar: ProgressBar,
    how: How,
    name: String,
    begun: Instant,
    spoke: Instant,
}

impl Progress {
    /// Bars on standard error if that is a terminal, else lines.
    pub fn stderr() -> Progress {
        let bars = MultiProgress::new();
        let how = if bars.is_hidden() { How::Lines } else { How::Bars };
        Progress { bars, how }
    }

    /// Says nothing; for tests.
    pub fn silent() -> Progress {
        Progress { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), how: How::Silent }
    }

    /// Starts a step whose size is not known (yet).
    pub fn step(&self, name: &str) -> Step {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg}  {bytes}  {elapsed}"));
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        let now = Instant::now();
        Step { bar, how: self.how, name: name.to_owned(), begun: now, spoke: now }
    }

    /// One line that is no step.
    pub fn say(&self, line: &str) {
        match self.how {
            How::Bars => drop(self.bars.println(line)),
            How::Lines => eprintln!("{line}"),
            How::Silent => {}
        }
    }
}

impl Step {
    pub fn total(&self, bytes: u64) {
        self.bar
            .set_style(style("{spinner} {msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed}"));
        self.bar.set_length(bytes);
    }

    /// Sets how many bytes are done.
    pub fn reach(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if self.how == How::Lines && self.spoke.elapsed() >= HEARTBEAT {
            self.spoke = Instant::now();
            let of = self.bar.length().map(|all| format!(" of {}", mib(all))).unwrap_or_default();
            eprintln!("  {} ... {}{of}", self.name, mib(bytes));
        }
    }

    pub fn advance(&mut self, bytes: u64) {
        self.reach(self.bar.position() + bytes);
    }

    /// Ends the step with a line: name, `detail`, seconds.
    pub fn done(self, detail: &str) {
        let line = format!("  {:<26} {detail:<34} {:>6.1} s", self.name, self.begun.elapsed().as_secs_f64());
        match self.how {
            How::Bars => self.bar.suspend(|| eprintln!("{line}")),
            How::Lines => eprintln!("{line}"),
            How::Silent => {}
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes for people, such as `13.4 MiB`.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours and valid; a typing error would only cost the looks.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
