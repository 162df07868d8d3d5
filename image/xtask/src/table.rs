//! A plain table for the terminal.

/// Prints rows under headings; columns as wide as their longest cell, all but the first and last right-aligned.
pub fn print(headings: &[&str], rows: &[Vec<String>]) {
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([headings[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let last = cells.len() - 1;
        let cell = |(i, c): (usize, &&str)| match i {
            0 => format!("{c:<w$}", w = widths[i]),
            _ if i == last => (*c).to_string(),
            _ => format!("{c:>w$}", w = widths[i]),
        };
        println!("  {}", cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end());
    };
    line(headings.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}
