//! The guest's serial console: a reader thread, lines with the time they ended, and ways to wait for one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// A guest that prints without end must not fill the host's memory.
const LINES_MAX: usize = 200_000;
const LINE_BYTES_MAX: usize = 4096;
/// An unfinished line (a prompt) counts as seen once nothing followed it for this long.
const PROMPT_QUIET: Duration = Duration::from_millis(300);
const TAIL_LINES: usize = 25;

/// One line of output without its terminal escape sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since the machine was last started by us (a reboot from within the guest does not restart the clock).
    pub at: Duration,
    pub text: String,
}

/// A place in the output, to wait for what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

pub(crate) type Callback = Box<dyn FnMut(&Line) + Send>;

/// The console's output over all starts of one machine. Cheap to clone.
#[derive(Clone)]
pub struct Serial {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: VecDeque<Line>,
    /// Number of the first line kept.
    first: u64,
    partial: Vec<u8>,
    run: Mark,
    started: Instant,
    open: bool,
    tee: Option<File>,
    callback: Option<Callback>,
}

impl Serial {
    pub(crate) fn new(name: &str, tee: Option<File>, callback: Option<Callback>) -> Self {
        let state = State {
            lines: VecDeque::new(),
            first: 0,
            partial: Vec::new(),
            run: Mark(0),
            started: Instant::now(),
            open: false,
            tee,
            callback,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Self { name: name.to_owned(), shared }
    }

    /// Waits until a line since the last start, restart or reset holds `text`, and returns that line.
    ///
    /// # Errors
    /// [`Error::Timeout`], or [`Error::Closed`] as soon as the machine has ended without it; both carry the tail.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<String, Error> {
        self.wait_for_any_after(self.run(), &[text], timeout).map(|(_, line)| line)
    }

    /// As [`wait_for`](Self::wait_for), looking only at what comes after `mark`.
    pub fn wait_for_after(&self, mark: Mark, text: &str, timeout: Duration) -> Result<String, Error> {
        self.wait_for_any_after(mark, &[text], timeout).map(|(_, line)| line)
    }

    /// Waits for whichever of `texts` comes first; returns its index and the line.
    pub fn wait_for_any(&self, texts: &[&str], timeout: Duration) -> Result<(usize, String), Error> {
        self.wait_for_any_after(self.run(), texts, timeout)
    }

    /// As [`wait_for_any`](Self::wait_for_any), looking only at what comes after `mark`.
    pub fn wait_for_any_after(
        &self,
        mark: Mark,
        texts: &[&str],
        timeout: Duration,
    ) -> Result<(usize, String), Error> {
        let deadline = Instant::now() + timeout;
        let mut next = mark.0;
        let mut state = self.lock();
        loop {
            let from = next.max(state.first);
            let skip = (from - state.first) as usize;
            for line in state.lines.iter().skip(skip) {
                if let Some(index) = texts.iter().position(|text| line.text.contains(text)) {
                    return Ok((index, line.text.clone()));
                }
            }
            next = state.end();
            let now = Instant::now();
            if !state.open {
                return Err(Error::Closed {
                    name: self.name.clone(),
                    wanted: wanted(texts),
                    tail: state.tail(),
                });
            }
            if now >= deadline {
                let (name, wanted, tail) = (self.name.clone(), wanted(texts), state.tail());
                return Err(Error::Timeout { name, wanted, after: timeout, tail });
            }
            let before = (state.end(), state.partial.len());
            let pause = PROMPT_QUIET.min(deadline - now);
            state = self.shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            if before == (state.end(), state.partial.len()) {
                let prompt = plain(&state.partial);
                if let Some(index) = texts.iter().position(|text| prompt.contains(text)) {
                    return Ok((index, prompt));
                }
            }
        }
    }

    /// Here: what the guest prints from now on comes after this.
    pub fn mark(&self) -> Mark {
        Mark(self.lock().end())
    }

    /// Where the output of the last start, restart or reset begins.
    pub fn run(&self) -> Mark {
        self.lock().run
    }

    /// All lines since `mark`, the unfinished one last.
    pub fn lines_after(&self, mark: Mark) -> Vec<Line> {
        let state = self.lock();
        let skip = mark.0.saturating_sub(state.first) as usize;
        let mut lines: Vec<Line> = state.lines.iter().skip(skip).cloned().collect();
        if !state.partial.is_empty() {
            lines.push(Line { at: state.started.elapsed(), text: plain(&state.partial) });
        }
        lines
    }

    /// Everything printed so far, over all starts (the oldest lines go after 200,000).
    pub fn contents(&self) -> String {
        self.lines_after(Mark(0)).iter().fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        self.lock().tail()
    }

    /// Hands each finished line to `callback` from now on, on the reader's thread. It must not use this machine's [`Serial`].
    pub fn on_line(&self, callback: impl FnMut(&Line) + Send + 'static) {
        self.lock().callback = Some(Box::new(callback));
    }

    /// The machine was reset: [`wait_for`](Self::wait_for) looks no further back than here.
    pub(crate) fn begin_run(&self) {
        let mut state = self.lock();
        state.finish_line();
        state.run = Mark(state.end());
        state.started = Instant::now();
    }

    /// Reads `source` to its end on a thread of its own.
    pub(crate) fn read_from(&self, mut source: impl Read + Send + 'static) -> std::thread::JoinHandle<()> {
        self.begin_run();
        self.lock().open = true;
        let serial = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                serial.lock().push(&buffer[..count]);
                serial.shared.changed.notify_all();
            }
            let mut state = serial.lock();
            state.finish_line();
            state.open = false;
            drop(state);
            serial.shared.changed.notify_all();
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() >= LINE_BYTES_MAX {
                self.finish_line();
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
    }

    fn finish_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let line = Line { at: self.started.elapsed(), text: plain(&std::mem::take(&mut self.partial)) };
        if let Some(tee) = &mut self.tee {
            // A full disk must not stop the guest; the lines stay in memory.
            let _ = writeln!(tee, "[{:9.3}] {}", line.at.as_secs_f64(), line.text);
        }
        if let Some(callback) = &mut self.callback {
            callback(&line);
        }
        self.lines.push_back(line);
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
            self.first += 1;
        }
    }

    fn tail(&self) -> String {
        let skip = self.lines.len().saturating_sub(TAIL_LINES);
        let mut lines: Vec<String> = self
            .lines
            .iter()
            .skip(skip)
            .map(|line| format!("  [{:9.3}] {}", line.at.as_secs_f64(), line.text))
            .collect();
        if !self.partial.is_empty() {
            lines.push(format!("  [unfinished] {}", plain(&self.partial)));
        }
        lines.join("\n")
    }
}

fn wanted(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" or ")
}

/// Text without carriage returns, terminal escape sequences (ECMA-48) and other control characters.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
                Some(']') => while chars.next().is_some_and(|next| next != '\x07') {},
                Some('(' | ')') => drop(chars.next()),
                _ => {}
            },
            '\t' => out.push('\t'),
            char if char.is_control() => {}
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn console() -> (Serial, UnixStream) {
        let serial = Serial::new("vm", None, None);
        let (guest, host) = UnixStream::pair().unwrap();
        drop(serial.read_from(host));
        (serial, guest)
    }

    #[test]
    fn waits_for_lines_prompts_and_later_occurrences() {
        let (serial, mut guest) = console();
        guest.write_all(b"\x1b[2J\x1b[01;01Hboot one\r\nready in 1 s\r\nlogin: ").unwrap();
        assert_eq!(serial.wait_for("ready", SOON).unwrap(), "ready in 1 s");
        assert_eq!(serial.wait_for("login:", SOON).unwrap(), "login: ");
        let mark = serial.mark();
        guest.write_all(b"\nready in 2 s\n").unwrap();
        assert_eq!(serial.wait_for_after(mark, "ready", SOON).unwrap(), "ready in 2 s");
        assert_eq!(serial.wait_for_any(&["panic", "one"], SOON).unwrap(), (1, "boot one".to_owned()));
        serial.begin_run();
        let error = serial.wait_for("ready", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("\"ready\"") && error.contains("ready in 2 s"), "{error}");
    }

    #[test]
    fn end_of_the_machine_ends_the_wait() {
        let (serial, mut guest) = console();
        guest.write_all(b"Kernel panic").unwrap();
        drop(guest);
        assert!(matches!(serial.wait_for("ready", SOON), Err(Error::Closed { .. })));
        assert_eq!(serial.wait_for("panic", SOON).unwrap(), "Kernel panic");
    }

    #[test]
    fn endless_line_is_cut() {
        let (serial, mut guest) = console();
        guest.write_all(&vec![b'x'; 3 * LINE_BYTES_MAX]).unwrap();
        guest.write_all(b"\nend\n").unwrap();
        serial.wait_for("end", SOON).unwrap();
        assert!(serial.lines_after(Mark(0)).iter().all(|line| line.text.len() <= LINE_BYTES_MAX));
    }
}
