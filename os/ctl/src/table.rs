//! Tables in plain text: a head, columns as wide as their widest cell, two spaces between them.

use crate::output::{Color, Palette, clean};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

pub struct Cell {
    text: String,
    color: Color,
}

pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// A cell. Control characters in `text` are replaced.
pub fn cell(text: impl AsRef<str>) -> Cell {
    colored(Color::Plain, text)
}

pub fn colored(color: Color, text: impl AsRef<str>) -> Cell {
    Cell { text: clean(text.as_ref()), color }
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Missing cells stay empty, further ones are dropped.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// With a line break at the end; `empty` instead when there is no row.
    pub fn render(&self, palette: Palette, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let heads: Vec<Cell> = self.columns.iter().map(|(name, _)| colored(Color::Bold, name)).collect();
        let widths = self.widths();
        let lines = std::iter::once(&heads).chain(&self.rows);
        lines.map(|cells| self.line(cells, &widths, palette) + "\n").collect()
    }

    fn widths(&self) -> Vec<usize> {
        let width = |i: usize, name: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|c| c.text.chars().count());
            cells.max().unwrap_or(0).max(name.chars().count())
        };
        self.columns.iter().enumerate().map(|(i, (name, _))| width(i, name)).collect()
    }

    fn line(&self, cells: &[Cell], widths: &[usize], palette: Palette) -> String {
        let mut line = String::new();
        let mut pending = 0;
        for ((cell, (_, align)), width) in cells.iter().zip(&self.columns).zip(widths) {
            let pad = width - cell.text.chars().count();
            let (before, after) = if *align == Align::Right { (pad, 0) } else { (0, pad) };
            if !cell.text.is_empty() {
                line.push_str(&" ".repeat(pending + before));
                line.push_str(&palette.paint(cell.color, &cell.text));
                pending = after + 2;
            } else {
                pending += width + 2;
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Align::{Left, Right};

    #[test]
    fn columns_line_up_and_lines_end_where_their_text_ends() {
        let mut t = Table::new(&[("NAME", Left), ("RSS", Right), ("STATUS", Left)]);
        t.row(vec![cell("mesh"), cell("1.5 MiB"), cell("3 peers")]);
        t.row(vec![cell("reconciler"), cell("9 B"), cell("")]);
        t.row(vec![cell("é"), cell(""), cell("ok")]);
        t.row(vec![cell("short")]);
        let expected = "\
NAME            RSS  STATUS
mesh        1.5 MiB  3 peers
reconciler      9 B
é                    ok
short
";
        assert_eq!(t.render(Palette::default(), "none"), expected);
    }

    #[test]
    fn colours_do_not_move_columns_and_nothing_is_said_in_words() {
        let mut t = Table::new(&[("STATE", Left), ("PID", Right)]);
        assert_eq!(t.render(Palette::default(), "no units"), "no units\n");
        t.row(vec![colored(Color::Green, "ready"), cell("7")]);
        t.row(vec![colored(Color::Red, "failed\x1b[2J"), cell("12")]);
        let colors = t.render(Palette { colors: true }, "");
        let plain = t.render(Palette::default(), "");
        let stripped =
            ["\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"].iter().fold(colors, |t, c| t.replace(c, ""));
        assert_eq!(stripped, plain);
        assert!(!plain.contains('\x1b'));
    }
}
