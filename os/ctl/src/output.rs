//! What the user sees: text or JSON on stdout, colours only on a terminal.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Plain,
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// Whether escape sequences may be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Palette {
    pub colors: bool,
}

impl Palette {
    pub fn paint(self, color: Color, text: &str) -> String {
        let code = match color {
            Color::Plain => return text.to_string(),
            _ if !self.colors => return text.to_string(),
            Color::Bold => "1",
            Color::Dim => "2",
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Red => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub palette: Palette,
    /// stdout is a terminal: a picture may be drawn anew in place.
    pub terminal: bool,
}

impl Output {
    #[cfg(test)]
    pub fn new(json: bool) -> Self {
        Self::with_color(json, ColorChoice::Auto)
    }

    pub fn with_color(json: bool, color: ColorChoice) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let colors = match color {
            ColorChoice::Auto => terminal && !dumb && set("NO_COLOR").is_none(),
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self { json, palette: Palette { colors: colors && !json }, terminal }
    }

    /// The value as JSON, or the text made from it.
    pub fn show<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce(Palette) -> String) -> Result<()> {
        if self.json {
            print(&(serde_json::to_string_pretty(value)? + "\n"));
        } else {
            print(&text(self.palette));
        }
        Ok(())
    }

    /// One value on one line of JSON, for streams of them.
    pub fn show_line<T: Serialize>(&self, value: &T) -> Result<()> {
        print(&(serde_json::to_string(value)? + "\n"));
        Ok(())
    }

    /// For what was done and has nothing more to show.
    pub fn done(&self, text: &str) -> Result<()> {
        self.show(&serde_json::json!({ "done": text }), |_| format!("{text}\n"))
    }

    /// A bar over bytes on stderr; invisible with `--json` or without a terminal.
    pub fn bytes_bar(&self, what: &str, total: u64) -> ProgressBar {
        if self.json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total);
        let style = "{msg:24} {bar:30} {bytes:>10} of {total_bytes}  {bytes_per_sec}  {elapsed}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_string());
        bar
    }

    /// A sign of life on stderr for work of unknown length.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        if self.json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// Writes to stdout. A reader that went away (`| head`) ends the program quietly.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        std::process::exit(if e.kind() == ErrorKind::BrokenPipe { 0 } else { 1 });
    }
}

/// Text from a node, fit for a terminal: no control characters, so that no log line can play with it.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An error with its causes on one line. A cause that the text before it tells already is left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    clean(&text.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; "))
}

/// `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2 d 3 h`, `4 min 5 s`, `6 s`: the two largest units.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, m) => format!("{m} min {rest} s"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// Unix seconds as `2026-11-23 08:30:05` (UTC).
pub fn timestamp(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.map_or_else(
        || format!("@{unix}"),
        |t| {
            let (date, (h, m, s)) = (t.date(), t.time().as_hms());
            format!("{:04}-{:02}-{:02} {h:02}:{m:02}:{s:02}", date.year(), u8::from(date.month()), date.day())
        },
    )
}

/// `[######----]`; an unknown total is an empty bar.
pub fn bar(done: u64, total: u64, width: usize) -> String {
    let part = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (part * width as f64) as usize;
    format!("[{}{}]", "#".repeat(filled), "-".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!([0, 1023, 1024, 1536, 1_048_575, 28 << 20].map(bytes).join(" "), {
            "0 B 1023 B 1.0 KiB 1.5 KiB 1.0 MiB 28.0 MiB"
        });
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([59, 61, 3660, 90_000].map(duration).join(", "), "59 s, 1 min 1 s, 1 h 1 min, 1 d 1 h");
        assert_eq!(timestamp(1_795_422_605), "2026-11-23 08:30:05");
        assert_eq!(timestamp(u64::MAX), format!("@{}", u64::MAX));
    }

    #[test]
    fn a_bar_never_leaves_its_width() {
        assert_eq!(bar(0, 0, 4), "[----]");
        assert_eq!(bar(1, 2, 4), "[##--]");
        assert_eq!(bar(9, 2, 4), "[####]");
    }

    #[test]
    fn errors_are_one_line_and_say_nothing_twice() {
        let error = anyhow::anyhow!("b\n  | 1\n").context("a: b\n  | 1\n").context("file\x1b");
        assert_eq!(one_line(&error), "file\u{fffd}: a: b; | 1");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{9b}"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}");
        assert_eq!(Palette { colors: false }.paint(Color::Red, "x"), "x");
        assert_eq!(Palette { colors: true }.paint(Color::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
