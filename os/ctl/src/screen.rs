//! The screen of a node, beside its serial line: the card stands at its top, and what others print scrolls beneath it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::card::Size;

/// The descriptor that the supervisor passed, if this machine has a screen.
const VARIABLE: &str = "MACULA_SCREEN_FD";
/// Lines left to what others print.
const LOG_ROWS: usize = 5;

pub struct Screen(File);

impl Screen {
    pub fn passed() -> Option<Self> {
        let fd: RawFd = std::env::var(VARIABLE).ok()?.parse().ok().filter(|fd| *fd > 2)?;
        // SAFETY: the supervisor passed this descriptor to this process alone, and nothing here took it before.
        Some(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Where the card goes.
    pub fn size(&self) -> Size {
        let whole = window(&self.0).unwrap_or(Size::SERIAL);
        Size { columns: whole.columns, rows: whole.rows.saturating_sub(LOG_ROWS).max(10) }
    }

    /// Paints the card. UTF-8, the cursor stays where it is for whoever prints next, in a scrolling region of its own.
    pub fn paint(&mut self, card: &[String]) -> std::io::Result<()> {
        let rows = window(&self.0).unwrap_or(Size::SERIAL).rows;
        let mut text = String::from("\x1b%G\x1b[?25l\x1b7\x1b[r\x1b[H");
        for line in card {
            text += line;
            text += "\x1b[0m\x1b[K\r\n";
        }
        let first = card.len() + 2;
        if first + 1 < rows {
            // Setting the region moves the cursor home, so it goes to the bottom, where printing goes on.
            text += &format!("\x1b[K\x1b[{first};{rows}r\x1b8\x1b[{rows};1H");
        }
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }
}

/// Of a terminal.
fn window(file: &File) -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills exactly this struct.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
    (asked == 0 && rows >= 10 && columns >= 40).then_some(Size { columns, rows })
}
