//! What a node shows to whoever stands before it: name, network, and, while nobody owns it, the code as a QR code and as text.
//!
//! Pure: a report and the size of the screen in, lines of text out. Works on 80 by 25 characters.

use qrcode::{EcLevel, QrCode};
use services_api::pairing::CodeReport;

use crate::output::clean;

/// Light modules around a code; readers want four, take two, and on 25 lines there is no room for more.
const QUIET: usize = 2;
/// What text beside the code needs.
const MIN_BESIDE: usize = 26;
/// Light is lit: bright white on black, whatever the terminal's own colours are.
const LIT: &str = "\x1b[0;1;37;40m";
const PLAIN: &str = "\x1b[0m";

/// Characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

impl Size {
    /// What a serial line is taken for.
    pub const SERIAL: Size = Size { columns: 80, rows: 25 };
}

/// The whole card, one string for each line, none wider than the screen.
pub fn card(report: &CodeReport, version: &str, size: Size) -> Vec<String> {
    let code = (!report.qr.is_empty()).then(|| qr(&report.qr, size)).flatten();
    let beside = code.as_ref().map_or(size.columns, |code| size.columns - code.width - 2);
    let text = text(report, version, beside.min(60), code.is_some());
    let Some(code) = code else { return text.into_iter().take(size.rows).collect() };
    let rows = code.lines.len().max(text.len()).min(size.rows);
    (0..rows)
        .map(|row| {
            let said = text.get(row).map_or("", String::as_str);
            match code.lines.get(row) {
                Some(line) => format!("{LIT}{line}{PLAIN}  {said}"),
                None => format!("{:1$}  {said}", "", code.width),
            }
        })
        .collect()
}

struct Picture {
    lines: Vec<String>,
    /// Columns.
    width: usize,
}

/// As large as fits: a module is two characters, or half of one. `None` if nothing does, or it is too much for any code.
fn qr(text: &str, size: Size) -> Option<Picture> {
    // The likeliest to be read comes first; the smallest picture last.
    let codes = [EcLevel::M, EcLevel::L].map(|level| QrCode::with_error_correction_level(text, level).ok());
    let codes = || codes.iter().flatten();
    let fits = |width: usize, rows: usize| width + 2 + MIN_BESIDE <= size.columns && rows < size.rows;
    let whole = codes().find(|code| fits(2 * (code.width() + 2 * QUIET), code.width() + 2 * QUIET));
    if let Some(code) = whole {
        return Some(draw_whole(code));
    }
    codes().find(|code| fits(code.width() + 2 * QUIET, (code.width() + 2 * QUIET).div_ceil(2))).map(draw_half)
}

/// Whether the module is light; all around the code is.
fn light(code: &QrCode, x: usize, y: usize) -> bool {
    let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < code.width());
    match (inside(x), inside(y)) {
        (Some(x), Some(y)) => code[(x, y)] == qrcode::Color::Light,
        _ => true,
    }
}

fn draw_whole(code: &QrCode) -> Picture {
    let side = code.width() + 2 * QUIET;
    let line = |y| (0..side).map(|x| if light(code, x, y) { "██" } else { "  " }).collect();
    Picture { lines: (0..side).map(line).collect(), width: 2 * side }
}

fn draw_half(code: &QrCode) -> Picture {
    let side = code.width() + 2 * QUIET;
    let half = |x, y| match (light(code, x, y), light(code, x, y + 1)) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    };
    let lines = (0..side).step_by(2).map(|y| (0..side).map(|x| half(x, y)).collect()).collect();
    Picture { lines, width: side }
}

fn text(report: &CodeReport, version: &str, width: usize, is_shown: bool) -> Vec<String> {
    let mut said = vec![format!("Macula OS {version}"), String::new(), clean(&report.name), String::new()];
    match report.addresses.as_slice() {
        [] => said.push("No network. Plug in a cable.".into()),
        addresses => {
            said.push("Network:".into());
            said.extend(addresses.iter().take(3).map(|a| format!("  {}", clean(a))));
        }
    }
    said.push(String::new());
    match report.state.as_str() {
        "owned" => said.push("It has an owner.".into()),
        _ if report.secret.is_empty() => said.push("Pairing is not ready yet.".into()),
        state => {
            said.push(
                if state == "invited" { "Its owner invites you:" } else { "It belongs to nobody:" }.into(),
            );
            if is_shown && !report.web.is_empty() {
                said.push("scan the code with a phone,".into());
                said.push("or on a computer:".into());
            }
            said.push("  maculactl pair".into());
            said.push(String::new());
            said.push(format!("Code {}", clean(&report.secret)));
            said.push(format!("good for {} min", report.expires_in_s.div_ceil(60)));
        }
    }
    said.iter().flat_map(|line| wrap(line, width)).collect()
}

/// Breaks what is too long at the width; names and addresses have no better places.
fn wrap(line: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = line.chars().collect();
    if characters.is_empty() {
        return vec![String::new()];
    }
    characters.chunks(width.max(1)).map(|part| part.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> CodeReport {
        CodeReport {
            serial: 1,
            state: "unowned".into(),
            name: "kitchen".into(),
            node: "did:key:z6MkoYnM2MxsiSZS9isfCxxJfPWfKTur3nqdw5UfiSCgSFad".into(),
            addresses: vec!["192.168.178.123:4433".into(), "[fe80::5054:ff:fe12:3456%eth0]:4433".into()],
            uri: "macula:pair?k=7K3M9QXT2FAB7K3M9QXT2FABCD&s=7K3M9QXT2FAB&a=192.168.178.123:4433".into(),
            web: "https://192.168.178.123:4433/pair#k=7K3M9QXT2FAB7K3M9QXT2FABCD&s=7K3M9QXT2FAB".into(),
            qr: "HTTPS://192.168.178.123:4433/pair#K=7K3M9QXT2FAB7K3M9QXT2FABCD&S=7K3M9QXT2FAB".into(),
            secret: "7K3M-9QXT-2FAB".into(),
            expires_in_s: 599,
        }
    }

    /// What is lit, module by module, read back from the characters.
    fn modules(lines: &[String], half: bool) -> Vec<Vec<bool>> {
        let picture = lines.iter().filter_map(|line| line.strip_prefix(LIT)?.split(PLAIN).next());
        let mut rows = Vec::new();
        for line in picture {
            let characters: Vec<char> = line.chars().collect();
            if half {
                rows.push(characters.iter().map(|c| "█▀".contains(*c)).collect());
                rows.push(characters.iter().map(|c| "█▄".contains(*c)).collect());
            } else {
                rows.push(characters.chunks(2).map(|pair| pair[0] == '█').collect());
            }
        }
        rows
    }

    fn visible(line: &str) -> usize {
        line.replace(LIT, "").replace(PLAIN, "").chars().count()
    }

    #[test]
    fn the_code_and_all_words_fit_a_serial_line() {
        let lines = card(&report(), "0.1.0", Size::SERIAL);
        assert!(lines.len() < 25 && lines.iter().all(|l| visible(l) <= 80), "{} lines", lines.len());
        let text = lines.join("\n");
        for word in ["kitchen", "192.168.178.123:4433", "7K3M-9QXT-2FAB", "good for 10 min", "maculactl pair"]
        {
            assert!(text.contains(word), "{word}");
        }
        let rows = modules(&lines, true);
        assert!(rows[..QUIET].iter().flatten().all(|lit| *lit), "a quiet zone above");
        assert!(rows.iter().all(|row| row[..QUIET].iter().chain(&row[row.len() - QUIET..]).all(|lit| *lit)));
        // The finder pattern's dark corner.
        assert!(rows[QUIET][QUIET..QUIET + 7].iter().all(|lit| !lit) && rows[QUIET][QUIET + 7]);
    }

    #[test]
    fn a_large_screen_gets_a_large_code() {
        let lines = card(&report(), "0.1.0", Size { columns: 160, rows: 50 });
        let rows = modules(&lines, false);
        assert!(rows.len() > 30 && rows.iter().all(|row| row.len() == rows.len()), "a square");
        assert!(lines.len() < 50 && lines.iter().all(|l| visible(l) <= 160));
    }

    #[test]
    fn without_a_code_or_room_for_it_there_are_words() {
        let owned =
            CodeReport { state: "owned".into(), qr: String::new(), secret: String::new(), ..report() };
        let text = card(&owned, "0.1.0", Size::SERIAL).join("\n");
        assert!(text.contains("has an owner") && !text.contains("pair") && !text.contains('█'), "{text}");
        let small = card(&report(), "0.1.0", Size { columns: 40, rows: 12 }).join("\n");
        assert!(small.contains("7K3M-9QXT-2FAB") && !small.contains('█'), "{small}");
        let offline = CodeReport { addresses: Vec::new(), web: String::new(), ..report() };
        assert!(card(&offline, "0.1.0", Size::SERIAL).join("\n").contains("Plug in a cable"));
        let long = CodeReport { qr: "x".repeat(5000), ..report() };
        assert!(!card(&long, "0.1.0", Size::SERIAL).join("\n").contains('█'));
        let hostile = CodeReport { name: "a\x1b[2Jb".into(), qr: String::new(), ..report() };
        assert!(!card(&hostile, "0.1.0", Size::SERIAL).join("\n").contains('\x1b'));
    }
}
