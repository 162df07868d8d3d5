//! What services write, kept in RAM: for each unit the last lines, bounded in number and in bytes.

use std::collections::{BTreeMap, VecDeque};

use services_api::report::LogLine;

use crate::notify::one_line;

const LINES_MAX: usize = 1000;
const BYTES_MAX: usize = 256 * 1024;
/// A longer line is cut into several.
pub const LINE_MAX: usize = 4096;
/// syslog priorities: 3 error, 4 warning, 6 informational, 7 debug.
pub const INFO: u8 = 6;
pub const ERROR: u8 = 3;

#[derive(Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(old) = self.lines.pop_front() else { return };
            self.bytes -= old.text.len();
        }
    }
}

/// All units' rings. Units are added by name only from unit files, so their number is bounded too.
#[derive(Default)]
pub struct Logs {
    rings: BTreeMap<String, Ring>,
}

impl Logs {
    pub fn push(&mut self, at_ms: u64, unit: &str, priority: u8, text: &str) {
        let line = LogLine { at_ms, unit: unit.into(), priority, text: text.into() };
        self.rings.entry(unit.into()).or_default().push(line);
    }

    /// The last lines of one unit, or of all when `unit` is empty, oldest first.
    pub fn last(&self, unit: &str, max_lines: usize) -> Vec<LogLine> {
        let rings = self.rings.iter().filter(|(name, _)| unit.is_empty() || name.as_str() == unit);
        let mut lines: Vec<LogLine> = rings.flat_map(|(_, r)| r.lines.iter().cloned()).collect();
        lines.sort_by_key(|l| l.at_ms);
        lines.split_off(lines.len().saturating_sub(max_lines))
    }
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
