//! A picture of the model, for any size of terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::model::{Model, NodeView, PANES, Pane, State};
use crate::output::{bar, bytes, clean, duration};

const HELP: [&str; 11] = [
    "1 2 3 4      nodes, transfers, apps, logs",
    "Tab, arrows  the next one, the one before",
    "up, down     choose a line, or scroll the logs",
    "PgUp, PgDn   ten at a time",
    "Home, End    the first, the last (in logs: go on with new lines)",
    "Enter        look at the chosen node alone",
    "a, Esc       look at all nodes again",
    "?            this",
    "q, Ctrl-C    leave",
    "",
    "any key goes back",
];

pub fn draw(model: &mut Model, frame: &mut Frame<'_>) {
    let parts = Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]);
    let [head, body, foot] = parts.areas(frame.area());
    frame.render_widget(heading(model), head);
    match model.pane {
        Pane::Nodes => nodes(model, frame, body),
        Pane::Transfers => transfers(model, frame, body),
        Pane::Apps => apps(model, frame, body),
        Pane::Logs => logs(model, frame, body),
    }
    frame.render_widget(
        Line::from("1-4 view  up/down choose  Enter one node  a all nodes  ? help  q leave"),
        foot,
    );
    if model.help {
        help(frame);
    }
}

fn heading(model: &Model) -> Line<'static> {
    let up = model.nodes.iter().filter(|n| matches!(n.state, State::Up)).count();
    let mut spans = vec![Span::raw(format!("macula  {up} of {} up ", model.nodes.len()))];
    for (n, pane) in PANES.iter().enumerate() {
        let style = if *pane == model.pane { Modifier::REVERSED } else { Modifier::empty() };
        spans.push(Span::raw(" "));
        spans.push(Span::styled(format!(" {} {} ", n + 1, pane.title()), Style::new().add_modifier(style)));
    }
    if let Some(node) = model.alone.and_then(|at| model.nodes.get(at)) {
        spans.push(Span::raw(format!("  only {}", clean(node.name()))));
    }
    Line::from(spans)
}

/// A colour says nothing that the words beside it do not say.
fn colored(model: &Model, color: Color) -> Style {
    if model.colors { Style::new().fg(color) } else { Style::new() }
}

fn nodes(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let rows: Vec<Row> = model.nodes.iter().map(|node| node_row(model, node)).collect();
    let widths = [
        Constraint::Length(16),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Length(11),
        Constraint::Fill(1),
    ];
    table(model, frame, area, ["NAME", "STATE", "VERSION", "SLOT", "PEERS", "UP", ""], rows, &widths);
}

fn node_row(model: &Model, node: &NodeView) -> Row<'static> {
    let status = node.said.as_ref().map(|said| &said.status);
    let (state, color, note) = match (&node.state, status) {
        (State::Asked, _) => ("asked", Color::Yellow, String::new()),
        (State::Away(why), _) => ("away", Color::Red, why.clone()),
        (State::Up, Some(s)) if !s.rescue.is_empty() => ("rescue", Color::Red, s.rescue.clone()),
        (State::Up, Some(s)) => match (&s.installing, &s.trial) {
            (Some(i), _) => (
                "installing",
                Color::Yellow,
                format!("{} {}", i.version, progress(i.bytes_done, i.bytes_total)),
            ),
            (None, Some(trial)) => ("trial", Color::Yellow, trial.gate.clone()),
            (None, None) => ("up", Color::Green, s.warnings.first().cloned().unwrap_or_default()),
        },
        (State::Up, None) => ("up", Color::Green, String::new()),
    };
    let text = |f: fn(&services_api::report::OsReport) -> String| status.map(f).unwrap_or_default();
    let peers = node.said.as_ref().map(|s| s.peers.iter().filter(|p| p.connected).count().to_string());
    Row::new([
        Cell::from(clean(node.name())),
        Cell::from(state).style(colored(model, color)),
        Cell::from(clean(&text(|s| s.version.clone()))),
        Cell::from(clean(&text(|s| s.slot.clone()))),
        Cell::from(peers.unwrap_or_default()),
        Cell::from(text(|s| duration(s.uptime_s))),
        Cell::from(clean(&note)),
    ])
}

fn progress(done: u64, total: u64) -> String {
    let percent = (u128::from(done.min(total)) * 100).checked_div(total.into()).unwrap_or(0);
    format!("{} {percent:>3} %", bar(done, total, 16))
}

fn transfers(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let mut rows = Vec::new();
    for (_, node) in model.shown() {
        let Some(said) = &node.said else { continue };
        for t in said.content.transfers.iter().rev() {
            let (state, color) = match (t.finished, t.error.is_empty()) {
                (true, true) => ("done".to_owned(), Color::Green),
                (false, true) => (format!("{}/s", bytes(node.speed(&t.mcid))), Color::Yellow),
                (_, false) => (clean(&t.error), Color::Red),
            };
            let sources = t.from.iter().filter(|(who, _)| who != "local").count();
            rows.push(Row::new([
                Cell::from(clean(node.name())),
                Cell::from(clean(end_of(&t.mcid))),
                Cell::from(progress(t.bytes_done, t.bytes_total)),
                Cell::from(bytes(t.bytes_total)),
                Cell::from(sources.to_string()),
                Cell::from(state).style(colored(model, color)),
            ]));
        }
    }
    let widths = [
        Constraint::Length(16),
        Constraint::Length(10),
        Constraint::Length(24),
        Constraint::Length(10),
        Constraint::Length(5),
        Constraint::Fill(1),
    ];
    table(model, frame, area, ["NODE", "CONTENT", "", "OF", "PEERS", "STATE"], rows, &widths);
}

/// Names of content begin all the same.
fn end_of(mcid: &str) -> &str {
    mcid.char_indices().nth_back(9).map_or(mcid, |(at, _)| &mcid[at..])
}

fn apps(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let mut rows = Vec::new();
    for (_, node) in model.shown() {
        for unit in node.said.iter().flat_map(|said| &said.units) {
            let color = match unit.state.as_str() {
                "ready" => Color::Green,
                "failed" => Color::Red,
                _ => Color::Yellow,
            };
            let note = if unit.state == "ready" { &unit.status } else { &unit.last_exit };
            rows.push(Row::new([
                Cell::from(clean(node.name())),
                Cell::from(clean(&unit.name)),
                Cell::from(clean(&unit.state)).style(colored(model, color)),
                Cell::from(duration(unit.since_s)),
                Cell::from(bytes(unit.rss_bytes)),
                Cell::from(unit.restarts.to_string()),
                Cell::from(clean(note)),
            ]));
        }
    }
    let widths = [
        Constraint::Length(16),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let heads = ["NODE", "APP", "STATE", "FOR", "MEMORY", "RESTARTS", "STATUS"];
    table(model, frame, area, heads, rows, &widths);
}

fn table<const N: usize>(
    model: &mut Model,
    frame: &mut Frame<'_>,
    area: Rect,
    heads: [&'static str; N],
    rows: Vec<Row<'static>>,
    widths: &[Constraint],
) {
    if rows.is_empty() {
        return frame.render_widget(Paragraph::new("nothing yet"), area);
    }
    let row = model.bound_row(rows.len());
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(row));
}

fn logs(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let shown: Vec<&(usize, _)> =
        model.lines.iter().filter(|(at, _)| model.alone.is_none_or(|alone| alone == *at)).collect();
    let count = shown.len();
    let height = usize::from(area.height);
    // The first line can come up to the top, not further.
    let back = model.row().min(count.saturating_sub(height));
    let to = count - back;
    let width = shown[to.saturating_sub(height)..to]
        .iter()
        .map(|(at, _)| model.nodes.get(*at).map_or(0, |node| node.name().chars().count()))
        .max()
        .unwrap_or(0);
    let line = |(at, line): &(usize, services_api::report::LogLine)| {
        let name = model.nodes.get(*at).map_or("", |node| node.name());
        let head = format!(
            "{:width$} [{:>6}.{:03}] {}  ",
            clean(name),
            line.at_ms / 1000,
            line.at_ms % 1000,
            clean(&line.unit)
        );
        let style = match line.priority {
            0..=3 => colored(model, Color::Red),
            4 => colored(model, Color::Yellow),
            _ => Style::new(),
        };
        Line::from(vec![Span::raw(head), Span::styled(clean(&line.text), style)])
    };
    let lines: Vec<Line> = shown[to.saturating_sub(height)..to].iter().map(|l| line(l)).collect();
    if lines.is_empty() {
        frame.render_widget(Paragraph::new("nothing yet"), area);
    } else {
        frame.render_widget(Paragraph::new(lines), area);
    }
    model.bound_row(count.saturating_sub(height) + 1);
}

fn help(frame: &mut Frame<'_>) {
    let width = HELP.iter().map(|line| line.len()).max().unwrap_or(0) as u16 + 4;
    let area = frame.area().centered(Constraint::Length(width), Constraint::Length(HELP.len() as u16 + 2));
    frame.render_widget(Clear, area);
    let lines: Vec<Line> = HELP.iter().map(|line| Line::from(*line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), area);
}
