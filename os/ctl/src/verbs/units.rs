//! `units` and `logs`.

use anyhow::{Result, bail};
use services_api::report::{LogLine, ProbeResult, UnitReport};

use super::Session;
use crate::cli::Units;
use crate::node::Node;
use crate::output::{Color, Palette, bytes, clean, duration};
use crate::table::{Align, Table, cell, colored};

pub async fn units(s: &Session, verb: Option<Units>) -> Result<()> {
    match verb {
        None => {
            let units = s.ask(async |n| n.units().await).await?;
            s.out.show(&units, |palette| render_units(&units, palette))
        }
        Some(Units::Restart { name }) => {
            s.ask(async |n| n.restart(&name).await).await?;
            s.out.done(&format!("{name} is being restarted"))
        }
        Some(Units::Kill { name, signal }) => {
            s.ask(async |n| n.kill(&name, signal).await).await?;
            s.out.done(&format!("sent signal {signal} to {name}"))
        }
        Some(Units::Probe { name }) => {
            let results = s.ask(async |n| n.probe(&name).await).await?;
            if results.is_empty() {
                bail!("the node tried nothing for `{name}`");
            }
            s.out.show(&results, |palette| render_probe(&results, palette))
        }
    }
}

pub async fn logs(s: &Session, all: bool, unit: &str, lines: u32) -> Result<()> {
    if all || s.names_several() {
        let unit = unit.to_owned();
        let ask = async move |n: &Node| n.logs(&unit, lines).await;
        return s.show_each(all, ask, |lines, palette| render_logs(lines, palette)).await;
    }
    let lines = s.ask(async |n| n.logs(unit, lines).await).await?;
    s.out.show(&lines, |palette| render_logs(&lines, palette))
}

pub fn render_units(units: &[UnitReport], palette: Palette) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NAME", Left),
        ("STATE", Left),
        ("FOR", Right),
        ("PID", Right),
        ("RSS", Right),
        ("RESTARTS", Right),
        ("STATUS", Left),
    ]);
    for u in units {
        let color = match u.state.as_str() {
            "ready" => Color::Green,
            "failed" => Color::Red,
            "stopped" | "idle" => Color::Dim,
            _ => Color::Yellow,
        };
        let running = u.pid != 0;
        let status = match (u.state.as_str(), u.status.as_str(), u.last_exit.as_str()) {
            ("ready", status, _) => status.to_string(),
            (_, status, "") => status.to_string(),
            (_, "", exit) => format!("last exit: {exit}"),
            (_, status, exit) => format!("{status}; last exit: {exit}"),
        };
        table.row(vec![
            cell(&u.name),
            colored(color, &u.state),
            cell(duration(u.since_s)),
            cell(if running { u.pid.to_string() } else { String::new() }),
            cell(if running { bytes(u.rss_bytes) } else { String::new() }),
            colored(if u.restarts > 0 { Color::Yellow } else { Color::Plain }, u.restarts.to_string()),
            cell(status),
        ]);
    }
    table.render(palette, "no unit is known")
}

pub fn render_logs(lines: &[LogLine], palette: Palette) -> String {
    let width = lines.iter().map(|l| l.unit.chars().count()).max().unwrap_or(0);
    lines.iter().map(|line| log_line(line, width, palette) + "\n").collect()
}

/// `width`: of the longest unit name beside it.
pub fn log_line(l: &LogLine, width: usize, palette: Palette) -> String {
    let color = match l.priority {
        0..=3 => Color::Red,
        4 => Color::Yellow,
        7 => Color::Dim,
        _ => Color::Plain,
    };
    let head = format!("[{:>6}.{:03}] {:width$}", l.at_ms / 1000, l.at_ms % 1000, clean(&l.unit));
    format!("{}  {}", palette.paint(Color::Dim, &head), palette.paint(color, &clean(&l.text)))
}

fn render_probe(results: &[ProbeResult], palette: Palette) -> String {
    let mut table = Table::new(&[("ATTEMPT", Align::Left), ("RESULT", Align::Left), ("ERROR", Align::Left)]);
    for r in results {
        let result =
            if r.allowed { colored(Color::Yellow, "allowed") } else { colored(Color::Green, "denied") };
        table.row(vec![cell(&r.attempt), result, cell(&r.error)]);
    }
    table.render(palette, "nothing was tried")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_show_why_they_are_not_ready() {
        let ready = UnitReport {
            name: "mesh".into(),
            state: "ready".into(),
            pid: 42,
            since_s: 61,
            rss_bytes: 3 << 20,
            status: "2 peers".into(),
            last_exit: "signal 9".into(),
            ..UnitReport::default()
        };
        let failed = UnitReport {
            name: "content".into(),
            state: "failed".into(),
            restarts: 5,
            last_exit: "status 1".into(),
            ..UnitReport::default()
        };
        let expected = "\
NAME     STATE         FOR  PID      RSS  RESTARTS  STATUS
mesh     ready   1 min 1 s   42  3.0 MiB         0  2 peers
content  failed        0 s                       5  last exit: status 1
";
        assert_eq!(render_units(&[ready, failed], Palette::default()), expected);
    }

    #[test]
    fn log_lines_are_one_line_each_whatever_they_hold() {
        let line = |unit: &str, text: &str| LogLine {
            at_ms: 12_034,
            unit: unit.into(),
            priority: 6,
            text: text.into(),
            seq: 0,
        };
        let text = render_logs(&[line("dht", "a\nb\x1b[2J"), line("mesh", "up")], Palette::default());
        assert_eq!(text, "[    12.034] dht   a\u{fffd}b\u{fffd}[2J\n[    12.034] mesh  up\n");
    }
}
