//! `console`: a small prompt on a node's serial console.
//!
//! Only looks, changes nothing: whoever stands at the serial line is not thereby the owner. Each command connects anew, so a
//! service that restarts meanwhile does no harm. Ends when stdin does.

use std::io::{BufRead, Read};

use anyhow::Result;

use super::{Session, network, status, units};
use crate::node::{Node, local_addresses};
use crate::output::{Color, Output, Palette, clean, one_line, print};

const LOG_LINES: u32 = 40;
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
    let mut input = std::io::stdin().lock();
    loop {
        print("> ");
        let mut line = Vec::new();
        if (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            print("\n");
            return Ok(());
        }
        match answer(&String::from_utf8_lossy(&line), s.out.palette).await {
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
