//! `status` and `events`.

use std::time::Duration;

use anyhow::Result;
use services_api::report::{EventReport, FailedReport, InstallReport, OsReport, TrialReport};

use super::Session;
use crate::node::Node;
use crate::output::{Color, Palette, bar, bytes, clean, duration, one_line, print, timestamp};
use crate::table::{Align, Table, cell, colored};

const ROUND: Duration = Duration::from_secs(1);
/// How long the node may take for a status before it counts as away.
const PATIENCE: Duration = Duration::from_secs(5);
/// What to do about a node without release keys.
pub(super) const TAKES_NONE: &str = "say whose it may: `config set update.release_keys '[\"did:key:...\"]'`";
const EVENTS_SHOWN: usize = 8;

pub async fn status(s: &Session) -> Result<()> {
    let report = s.ask(async |n| n.status().await).await?;
    s.out.show(&report, |palette| render(&report, palette))
}

pub async fn events(s: &Session, all: bool) -> Result<()> {
    if all || s.names_several() {
        let ask = async |n: &Node| Ok(n.status().await?.events);
        return s.show_each(all, ask, |events, palette| render_events(events, palette)).await;
    }
    let report = s.ask(async |n| n.status().await).await?;
    s.out.show(&report.events, |palette| render_events(&report.events, palette))
}

/// Whether a report ends the watching, and how.
pub type Verdict<'a> = Box<dyn Fn(&OsReport) -> Option<Result<String>> + 'a>;

/// Shows the status again and again, also while the node reboots, until `verdict` has one.
///
/// On a terminal the picture is drawn anew in place; elsewhere, and as JSON, each change is written.
pub async fn watch(s: &Session, verdict: Option<Verdict<'_>>) -> Result<()> {
    // The first connection must succeed: a wrong address or key should not be waited for.
    let mut node = Some(s.node().await?);
    let mut last = None;
    let mut away = false;
    loop {
        match look(s, &mut node).await {
            Ok(report) => {
                away = false;
                if last.as_ref().is_none_or(|l| changed(l, &report)) || s.out.terminal {
                    draw(s, &report)?;
                }
                if let Some(end) = verdict.as_ref().and_then(|v| v(&report)) {
                    if let Some(node) = node.take() {
                        node.close().await;
                    }
                    return end.and_then(|text| if s.out.json { Ok(()) } else { s.out.done(&text) });
                }
                last = Some(report);
            }
            Err(e) => {
                if !away && !s.out.json {
                    print(&format!("the node is away, waiting for it ({})\n", one_line(&e)));
                }
                away = true;
                node = None;
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn look(s: &Session, node: &mut Option<Node>) -> Result<OsReport> {
    let connected = match node.take() {
        Some(node) => node,
        None => s.node().await?,
    };
    let report = tokio::time::timeout(PATIENCE, connected.status()).await??;
    *node = Some(connected);
    Ok(report)
}

/// Whether two reports differ in more than the time that went by.
fn changed(before: &OsReport, after: &OsReport) -> bool {
    *before != OsReport { uptime_s: before.uptime_s, ..after.clone() }
}

fn draw(s: &Session, report: &OsReport) -> Result<()> {
    if s.out.json {
        return s.out.show_line(report);
    }
    // Home, each line cleared as it is written, the rest of the screen cleared after it: no flicker.
    let text = render(report, s.out.palette);
    if s.out.terminal {
        print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")));
    } else {
        print(&format!("{text}\n"));
    }
    Ok(())
}

pub fn render(r: &OsReport, palette: Palette) -> String {
    let mut text = String::new();
    let mut line = |head: &str, value: String| {
        let head = palette.paint(Color::Bold, &format!("{head:9}"));
        text.push_str(&format!("{head} {value}\n"));
    };
    line("node", clean(&r.node));
    line("name", clean(&r.name));
    line("board", clean(&r.board));
    if !r.rescue.is_empty() {
        line("rescue", palette.paint(Color::Red, &clean(&r.rescue)));
    }
    if !r.rescue_version.is_empty() {
        line("rescue", format!("{} is on the disk", clean(&r.rescue_version)));
    }
    line("version", format!("{}, slot {}, install {}", clean(&r.version), clean(&r.slot), r.seq));
    line("release", if r.release.is_empty() { "factory image".into() } else { clean(&r.release) });
    if let Some(releases) = releases(r) {
        line("follows", releases);
    }
    line("up", duration(r.uptime_s));
    if !r.secure_boot.is_empty() {
        line("firmware", format!("Secure Boot: {}", clean(&r.secure_boot)));
    }
    line("entries", clean(&r.entries.join(" ")));
    if !r.encryption.is_empty() {
        line("state", format!("encrypted, opened by: {}", clean(&r.encryption)));
    }
    line("trial", r.trial.as_ref().map_or_else(|| "none".into(), |t| trial(t, palette)));
    match &r.installing {
        Some(i) => install(i).into_iter().enumerate().for_each(|(n, l)| {
            line(if n == 0 { "install" } else { "" }, l);
        }),
        None => line("install", "none".into()),
    }
    r.warnings.iter().for_each(|w| text.push_str(&format!("{}\n", palette.paint(Color::Yellow, &clean(w)))));
    if !r.failed_releases.is_empty() {
        text.push_str(&format!("\n{}\n", palette.paint(Color::Bold, "failed releases")));
        text.extend(r.failed_releases.iter().map(|f| failed(f, palette)));
    }
    if !r.events.is_empty() {
        let newest = &r.events[r.events.len().saturating_sub(EVENTS_SHOWN)..];
        text.push_str(&format!("\n{}", render_events(newest, palette)));
    }
    text
}

/// Where its next release comes from, if it says so.
fn releases(r: &OsReport) -> Option<String> {
    let channel = r.follows.as_ref().map(|f| format!("{} of {}", clean(&f.channel), clean(&f.publisher)));
    match (channel, r.release_keys?) {
        (_, 0) => Some(format!("nobody: it takes no release ({TAKES_NONE})")),
        (None, _) => Some("no channel: it updates when told to".into()),
        (channel, _) => channel,
    }
}

fn trial(t: &TrialReport, palette: Palette) -> String {
    let what = format!("{} in slot {}, {} tries left", clean(&t.version), clean(&t.slot), t.tries_left);
    format!("{}: {}", palette.paint(Color::Yellow, &what), clean(&t.gate))
}

fn install(i: &InstallReport) -> Vec<String> {
    let percent = (i.bytes_done.min(i.bytes_total) as u128 * 100).checked_div(i.bytes_total.into());
    let mut lines = vec![format!(
        "{} {} {} {:>3} %",
        clean(&i.version),
        bar(i.bytes_done, i.bytes_total, 30),
        clean(&i.phase),
        percent.unwrap_or(0)
    )];
    lines.push(format!(
        "{} of {}, {} of it from own slots",
        bytes(i.bytes_done),
        bytes(i.bytes_total),
        bytes(i.bytes_reused)
    ));
    lines.extend(i.from.iter().map(|(peer, n)| format!("{} from {}", bytes(*n), clean(peer))));
    lines
}

fn failed(f: &FailedReport, palette: Palette) -> String {
    let head = format!("  {} {}", clean(&f.version), palette.paint(Color::Red, &clean(&f.reason)));
    let tail: String = f.log_tail.iter().map(|l| format!("    {}\n", clean(l))).collect();
    format!("{head}\n    {}, {}\n{tail}", timestamp(f.at_unix), clean(&f.release))
}

/// A table; log lines stand below it, under their event's time and kind.
pub fn render_events(events: &[EventReport], palette: Palette) -> String {
    let mut table = Table::new(&[("TIME (UTC)", Align::Left), ("EVENT", Align::Left), ("", Align::Left)]);
    for e in events {
        table.row(vec![cell(timestamp(e.at_unix)), colored(event_color(&e.kind), &e.kind), cell(&e.text)]);
    }
    let lines = |e: &EventReport| {
        let tail: String = e.log_tail.iter().map(|l| format!("    {}\n", clean(l))).collect();
        format!("\n{} {}, last lines:\n{tail}", timestamp(e.at_unix), clean(&e.kind))
    };
    let tails: String = events.iter().filter(|e| !e.log_tail.is_empty()).map(lines).collect();
    table.render(palette, "nothing happened yet") + &tails
}

fn event_color(kind: &str) -> Color {
    match kind {
        "committed" => Color::Green,
        "refused" | "rolled-back" => Color::Yellow,
        "corruption" | "fell-back" | "install-failed" | "boot-failed" => Color::Red,
        _ => Color::Plain,
    }
}

/// One event as it happens.
pub fn event_line(e: &EventReport, palette: Palette) -> String {
    let kind = palette.paint(event_color(&e.kind), &format!("{:15}", clean(&e.kind)));
    format!("{} {kind} {}", palette.paint(Color::Dim, &timestamp(e.at_unix)), clean(&e.text))
}

#[cfg(test)]
mod tests {
    use services_api::report::FollowsReport;

    use super::*;

    fn report() -> OsReport {
        OsReport {
            node: "did:key:z6MkA".into(),
            name: "kitchen".into(),
            board: "x86-generic".into(),
            version: "0.2.0".into(),
            slot: "B".into(),
            seq: 2,
            entries: vec!["macula-000002.efi".into(), "macula-000001.efi".into()],
            uptime_s: 62,
            ..OsReport::default()
        }
    }

    #[test]
    fn an_install_and_its_sources_are_shown() {
        let mut r = report();
        r.installing = Some(InstallReport {
            version: "0.3.0".into(),
            phase: "fetch".into(),
            bytes_done: 15 << 20,
            bytes_total: 30 << 20,
            bytes_reused: 10 << 20,
            from: vec![("did:key:z6MkB".into(), 5 << 20)],
            ..InstallReport::default()
        });
        let text = render(&r, Palette::default());
        for part in [
            "version   0.2.0, slot B, install 2\n",
            "release   factory image\n",
            "install   0.3.0 [###############---------------] fetch  50 %\n",
            "          15.0 MiB of 30.0 MiB, 10.0 MiB of it from own slots\n",
            "          5.0 MiB from did:key:z6MkB\n",
            "trial     none\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn reasons_are_shown_and_cannot_play_with_the_terminal() {
        let mut r = report();
        r.trial =
            Some(TrialReport { version: "0.3.0".into(), gate: "mesh\x1b[2J".into(), ..Default::default() });
        r.failed_releases = vec![FailedReport {
            version: "0.2.9".into(),
            reason: "mesh never became ready".into(),
            log_tail: vec!["line\r1".into()],
            ..FailedReport::default()
        }];
        r.installing = Some(InstallReport { bytes_done: u64::MAX, ..InstallReport::default() });
        r.rescue_version = "0.2.0".into();
        let text = render(&r, Palette::default());
        assert!(text.contains("rescue    0.2.0 is on the disk"), "{text}");
        assert!(text.contains("0.2.9 mesh never became ready") && text.contains("line\u{fffd}1"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\r'));
    }

    #[test]
    fn an_events_log_lines_stand_below_the_table() {
        let events = [EventReport {
            at_unix: 0,
            kind: "boot-failed".into(),
            text: "install 1 in slot A, panic: kernel panic: x".into(),
            log_tail: vec!["[    1.000000] first".into(), "sec\x1bond".into()],
            number: 0,
        }];
        let text = render_events(&events, Palette::default());
        assert!(text.contains("boot-failed  install 1 in slot A, panic"), "{text}");
        assert!(
            text.ends_with("boot-failed, last lines:\n    [    1.000000] first\n    sec\u{fffd}ond\n"),
            "{text}"
        );
    }

    #[test]
    fn where_releases_come_from_is_said_and_that_none_do() {
        let text = |follows: Option<FollowsReport>, release_keys| {
            render(&OsReport { follows, release_keys, ..report() }, Palette::default())
        };
        let stable = FollowsReport { channel: "stable".into(), publisher: "did:key:z6MkC".into() };
        assert!(text(Some(stable.clone()), Some(1)).contains("follows   stable of did:key:z6MkC\n"));
        assert!(text(None, Some(1)).contains("follows   no channel"));
        assert!(
            text(Some(stable), Some(0)).contains("follows   nobody")
                && text(None, Some(0)).contains("release_keys")
        );
        assert!(!text(None, None).contains("follows"), "an older node does not say");
    }

    #[test]
    fn time_alone_is_no_change() {
        let (before, mut after) = (report(), report());
        after.uptime_s += 1;
        assert!(!changed(&before, &after));
        after.slot = "A".into();
        assert!(changed(&before, &after));
    }
}
