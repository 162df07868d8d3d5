//! `console`: a small prompt on a node's serial console, and the card ([`crate::card`]) there and on the screen.
//!
//! Only looks, changes nothing: whoever stands at the serial line is not thereby the owner. Each command connects anew, so a
//! service that restarts meanwhile does no harm. Ends when stdin does.

use std::convert::Infallible;
use std::io::{BufRead, Read};
use std::time::Duration;

use anyhow::Result;
use services_api::bus;
use services_api::pairing::{CodeReport, PairingProxy};

use super::{Session, network, status, units};
use crate::card::{Size, card};
use crate::node::{Node, local_addresses};
use crate::output::{Color, Output, Palette, clean, one_line, print};
use crate::screen::Screen;

const LOG_LINES: u32 = 40;
/// After a service that is not there, and between two paintings of the same card.
const AGAIN: Duration = Duration::from_secs(2);
const REPAINT: Duration = Duration::from_secs(20);
/// Noise on a serial line must not grow into memory.
const MAX_LINE: u64 = 1024;

const HELP: &str = "\
  status       what this node runs and does
  units        its services
  peers        its peers in the mesh
  links        its network links and addresses
  events       what happened to the OS lately
  logs [UNIT]  the newest log lines
  config       its configuration
  help         this
To control the node use maculactl from your own machine. A factory reset is in the boot menu: press a key while it starts.
";

pub async fn console(s: &Session) -> Result<()> {
    services_api::daemon::ready();
    banner(&s.out).await;
    // The prompt waits for a person, and the card is shown meanwhile.
    let out = s.out;
    let prompt = tokio::task::spawn_blocking(move || prompt(&out, &tokio::runtime::Handle::current()));
    tokio::select! {
        ended = prompt => ended?,
        never = follow() => match never {},
    }
}

/// Shows the card whenever it changes: on the screen always, on the serial line when there is a code.
async fn follow() -> Infallible {
    let mut screen = Screen::passed();
    let pairing = bus::Link::new("pairing");
    let version = Node::Local.status().await.map(|r| clean(&r.version)).unwrap_or_default();
    let (mut serial, mut shown) = (0, (String::new(), false));
    loop {
        let report = match code_after(&pairing, serial).await {
            Ok(report) => report,
            Err(_) => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        // A phone can use a code once there is an address in it.
        let now = (report.secret.clone(), !report.web.is_empty());
        if !report.secret.is_empty() && now != shown {
            print(&format!("\n{}\n> ", card(&report, &version, Size::SERIAL).join("\n")));
        }
        (serial, shown) = (report.serial, now);
        if let Some(painted) = &mut screen {
            let size = painted.size();
            if painted.paint(&card(&report, &version, size)).is_err() {
                screen = None;
            }
        }
    }
}

async fn code_after(pairing: &bus::Link, serial: u64) -> Result<CodeReport> {
    let proxy = PairingProxy::new(&pairing.get().await?).await?;
    // What scrolled or changed its font in between is painted over.
    let asked = tokio::time::timeout(REPAINT, proxy.code_after(serial)).await;
    let json = match asked {
        Ok(report) => report?,
        Err(_) => proxy.code().await?,
    };
    Ok(serde_json::from_str(&json)?)
}

fn prompt(out: &Output, runtime: &tokio::runtime::Handle) -> Result<()> {
    let mut input = std::io::stdin().lock();
    loop {
        print("> ");
        let mut line = Vec::new();
        if (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            print("\n");
            return Ok(());
        }
        match runtime.block_on(answer(&String::from_utf8_lossy(&line), out.palette)) {
            Ok(text) => print(&text),
            Err(e) => print(&format!("{}\n", one_line(&e))),
        }
    }
}

async fn banner(out: &Output) {
    print("\n");
    match Node::Local.status().await {
        Ok(r) => {
            let name = out.palette.paint(Color::Bold, &clean(&r.name));
            let version =
                format!("Macula OS {} ({}), slot {}", clean(&r.version), clean(&r.board), clean(&r.slot));
            print(&format!("{name}  {version}\n{}\n", clean(&r.node)));
        }
        Err(e) => print(&format!("Macula OS is starting ({})\n", one_line(&e))),
    }
    if let Ok(addresses) = local_addresses().await {
        print(&format!("reachable at {}\n", clean(&addresses.join(" "))));
    }
    print("`help` lists what can be asked here.\n");
}

async fn answer(line: &str, palette: Palette) -> Result<String> {
    let mut words = line.split_whitespace();
    let (verb, argument) = (words.next().unwrap_or(""), words.next());
    Ok(match (verb, argument) {
        ("", _) => String::new(),
        ("status", None) => status::render(&Node::Local.status().await?, palette),
        ("events", None) => status::render_events(&Node::Local.status().await?.events, palette),
        ("units", None) => units::render_units(&Node::Local.units().await?, palette),
        ("peers" | "nodes", None) => network::render_peers(&Node::Local.peers().await?, palette),
        ("links", None) => network::render_links(&Node::Local.links().await?, palette),
        ("logs", unit) => {
            units::render_logs(&Node::Local.logs(unit.unwrap_or(""), LOG_LINES).await?, palette)
        }
        ("config", None) => Node::Local.config(None).await?.lines().map(|line| clean(line) + "\n").collect(),
        ("help" | "?", _) => HELP.into(),
        _ => format!("`{}` is not known here, `help` lists what is\n", clean(line.trim())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn unknown_and_empty_lines_are_harmless() {
        let ask = async |line| answer(line, Palette::default()).await.unwrap();
        assert_eq!(ask(" \r\n").await, "");
        assert_eq!(ask("help\n").await, HELP);
        assert!(ask("rm -rf \x1b[2J\n").await.starts_with("`rm -rf \u{fffd}[2J` is not known"));
        assert!(ask("status now\n").await.contains("is not known"));
    }
}
