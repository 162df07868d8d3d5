//! What services write, kept in RAM: for each unit the last lines, bounded in number and in bytes.

use std::collections::{BTreeMap, VecDeque};

use services_api::report::{LogLine, LogsPage};
use tokio::sync::watch;

use crate::notify::one_line;

const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 256 * 1024;
/// Text in one answer; more than any one line has.
const PAGE_BYTES_MAX: usize = 512 * 1024;
/// A longer line is cut into several.
pub const LINE_MAX: usize = 4096;
/// syslog priorities: 3 error, 4 warning, 6 informational, 7 debug.
pub const INFO: u8 = 6;
pub const ERROR: u8 = 3;

#[derive(Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Number of the newest line that fell out.
    dropped: u64,
}

impl Ring {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(old) = self.lines.pop_front() else { return };
            self.bytes -= old.text.len();
            self.dropped = old.seq;
        }
    }

    fn after(&self, seq: u64) -> impl Iterator<Item = &LogLine> {
        self.lines.range(self.lines.partition_point(|line| line.seq <= seq)..)
    }
}

/// All units' rings. Units are added by name only from unit files, so their number is bounded too.
#[derive(Default)]
pub struct Logs {
    rings: BTreeMap<String, Ring>,
    /// Names this life of the log: numbers mean nothing in another.
    run: String,
    /// Number of the newest line.
    newest: watch::Sender<u64>,
}

impl Logs {
    pub fn begin(run: String) -> Self {
        Self { run, ..Self::default() }
    }

    pub fn push(&mut self, at_ms: u64, unit: &str, priority: u8, text: &str) {
        let seq = *self.newest.borrow() + 1;
        let line = LogLine { at_ms, unit: unit.into(), priority, text: text.into(), seq };
        self.rings.entry(unit.into()).or_default().push(line);
        self.newest.send_replace(seq);
    }

    /// Changes with each new line.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The last lines of one unit, or of all when `unit` is empty, oldest first.
    pub fn last(&self, unit: &str, max_lines: usize) -> Vec<LogLine> {
        let mut lines: Vec<LogLine> = self.of(unit).flat_map(|r| r.lines.iter().cloned()).collect();
        lines.sort_by_key(|l| l.at_ms);
        lines.split_off(lines.len().saturating_sub(max_lines))
    }

    /// As [`services_api::report::LogsSince`] has it.
    pub fn since(&self, unit: &str, run: &str, after: u64, max_lines: usize) -> LogsPage {
        let after = if run == self.run { after } else { 0 };
        let mut lines: Vec<&LogLine> = self.of(unit).flat_map(|ring| ring.after(after)).collect();
        lines.sort_by_key(|line| line.seq);
        let mut last = *self.newest.borrow();
        if run.is_empty() {
            lines.drain(..lines.len().saturating_sub(max_lines));
        }
        let fitting = fitting(&lines, max_lines.max(1));
        if fitting < lines.len() {
            lines.truncate(fitting);
            last = lines.last().map_or(after, |line| line.seq);
        }
        let lost = !run.is_empty() && self.of(unit).any(|ring| ring.dropped > after);
        LogsPage { run: self.run.clone(), last, lost, lines: lines.into_iter().cloned().collect() }
    }

    fn of<'a>(&'a self, unit: &'a str) -> impl Iterator<Item = &'a Ring> {
        let wanted = move |name: &str| unit.is_empty() || name == unit;
        self.rings.iter().filter(move |(name, _)| wanted(name)).map(|(_, ring)| ring)
    }
}

/// How many of the first lines fit into one page.
fn fitting(lines: &[&LogLine], max_lines: usize) -> usize {
    let mut bytes = 0;
    let fits = |line: &&&LogLine| {
        bytes += line.text.len();
        bytes <= PAGE_BYTES_MAX
    };
    lines.iter().take(max_lines).take_while(fits).count()
}

/// Splits what a service wrote into its priority (`<N>` in front, as sd-daemon(3) has it; informational without) and
/// its text, made safe for a terminal.
pub fn parse_line(line: &[u8]) -> (u8, String) {
    let (priority, rest) = match line {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (digit - b'0', rest),
        _ => (INFO, line),
    };
    (priority, one_line(String::from_utf8_lossy(rest).trim_end(), LINE_MAX))
}

/// Collects bytes into lines.
#[derive(Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |t| (t, true));
            for piece in text.chunks(LINE_MAX) {
                if self.pending.len() + piece.len() > LINE_MAX {
                    line(&std::mem::take(&mut self.pending));
                }
                self.pending.extend_from_slice(piece);
            }
            if ended {
                line(&std::mem::take(&mut self.pending));
            }
        }
    }

    /// What was written without a last newline.
    pub fn finish(self, mut line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            line(&self.pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_bounded_in_lines_and_bytes() {
        let mut logs = Logs::default();
        for n in 0..LINES_MAX as u64 + 5 {
            logs.push(n, "chatty", INFO, "x");
        }
        assert_eq!(logs.last("chatty", usize::MAX).len(), LINES_MAX);
        assert_eq!(logs.last("chatty", 2)[0].at_ms, LINES_MAX as u64 + 3);
        for n in 0..100 {
            logs.push(n, "wordy", INFO, &"y".repeat(LINE_MAX));
        }
        assert_eq!(logs.last("wordy", usize::MAX).len(), BYTES_MAX / LINE_MAX);
        assert!(logs.last("nobody", 10).is_empty());
    }

    #[test]
    fn all_units_come_in_order_of_time() {
        let mut logs = Logs::default();
        logs.push(2, "b", INFO, "second");
        logs.push(1, "a", ERROR, "first");
        logs.push(3, "a", INFO, "third");
        let texts: Vec<String> = logs.last("", 2).into_iter().map(|l| l.text).collect();
        assert_eq!(texts, ["second", "third"]);
    }

    fn numbers(page: &LogsPage) -> Vec<u64> {
        page.lines.iter().map(|l| l.seq).collect()
    }

    #[test]
    fn whoever_follows_gets_each_line_once_and_hears_of_those_that_are_gone() {
        let mut logs = Logs::begin("one".into());
        (1..=6).for_each(|n| logs.push(n, if n % 2 == 0 { "even" } else { "odd" }, INFO, "x"));
        let first = logs.since("", "", 0, 2);
        assert_eq!((numbers(&first), first.last, first.lost), (vec![5, 6], 6, false));
        assert!(logs.since("", &first.run, first.last, 10).lines.is_empty());
        let page = logs.since("", "one", 1, 2);
        assert_eq!((numbers(&page), page.last), (vec![2, 3], 3));
        let page = logs.since("", "one", 3, 10);
        assert_eq!((numbers(&page), page.last), (vec![4, 5, 6], 6));
        let page = logs.since("odd", "one", 3, 10);
        assert_eq!((numbers(&page), page.last, page.lost), (vec![5], 6, false));

        (0..LINES_MAX).for_each(|_| logs.push(7, "odd", INFO, "x"));
        let page = logs.since("", "one", 6, usize::MAX);
        assert!(!page.lost && page.lines.len() == LINES_MAX);
        let page = logs.since("odd", "one", 3, 1);
        assert!(page.lost && numbers(&page) == [7], "5 is gone");
        assert!(!logs.since("even", "one", 3, 1).lost);
    }

    #[test]
    fn numbers_of_an_earlier_run_mean_nothing() {
        let mut logs = Logs::begin("two".into());
        (1..=3).for_each(|n| logs.push(n, "a", INFO, "x"));
        let page = logs.since("", "one", 900, 2);
        assert_eq!((numbers(&page), page.run.as_str(), page.last), (vec![1, 2], "two", 2));
        assert_eq!(numbers(&logs.since("", "two", 2, 0)), [3], "a page that brings nothing would never end");
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let mut logs = Logs::begin("one".into());
        let per_unit = BYTES_MAX / LINE_MAX;
        for n in 0..4 * per_unit {
            logs.push(0, &format!("unit{}", n % 4), INFO, &"y".repeat(LINE_MAX));
        }
        let (mut after, mut seen) = (0, Vec::new());
        while seen.len() < 4 * per_unit {
            let page = logs.since("", "one", after, usize::MAX);
            assert!(page.lines.len() <= PAGE_BYTES_MAX / LINE_MAX && !page.lines.is_empty() && !page.lost);
            seen.extend(numbers(&page));
            after = page.last;
        }
        assert!(seen.iter().copied().eq(1..=seen.len() as u64));
    }

    #[test]
    fn priorities_are_read_and_terminals_protected() {
        assert_eq!(parse_line(b"<3>no route"), (3, "no route".into()));
        assert_eq!(parse_line(b"plain\r"), (INFO, "plain".into()));
        assert_eq!(parse_line(b"<9>odd"), (INFO, "<9>odd".into()));
        assert_eq!(parse_line(b"<4>\x1b[2Jgone\xff"), (4, " [2Jgone\u{fffd}".into()));
    }

    #[test]
    fn lines_are_split_wherever_reads_end() {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in [&b"one\ntw"[..], b"o", b"\n\nthree"] {
            splitter.feed(chunk, |l| lines.push(String::from_utf8_lossy(l).into_owned()));
        }
        splitter.finish(|l| lines.push(String::from_utf8_lossy(l).into_owned()));
        assert_eq!(lines, ["one", "two", "", "three"]);

        let mut splitter = LineSplitter::default();
        let mut lengths = Vec::new();
        splitter.feed(&vec![b'z'; 3 * LINE_MAX + 1], |l| lengths.push(l.len()));
        splitter.finish(|l| lengths.push(l.len()));
        assert_eq!(lengths, [LINE_MAX, LINE_MAX, LINE_MAX, 1]);
    }
}
