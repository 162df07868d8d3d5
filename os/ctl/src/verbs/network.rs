//! `nodes` (`peers`) and `links`.

use std::time::Duration;

use anyhow::Result;
use services_api::report::{LinkReport, PeerReport, WifiReport};

use super::Session;
use crate::output::{Color, Palette, bytes};
use crate::table::{Align, Table, cell, colored};

pub async fn peers(s: &Session) -> Result<()> {
    let peers = s.ask(async |n| n.peers().await).await?;
    s.out.show(&peers, |palette| render_peers(&peers, palette))
}

pub async fn links(s: &Session) -> Result<()> {
    let links = s.ask(async |n| n.links().await).await?;
    s.out.show(&links, |palette| render_links(&links, palette))
}

pub fn render_peers(peers: &[PeerReport], palette: Palette) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NODE", Left),
        ("STATE", Left),
        ("ADDRESS", Left),
        ("FROM", Left),
        ("RTT", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("LAST ERROR", Left),
    ]);
    for p in peers {
        let state =
            if p.connected { colored(Color::Green, &p.direction) } else { colored(Color::Dim, "away") };
        let rtt =
            if p.rtt_us == 0 { String::new() } else { format!("{:.1?}", Duration::from_micros(p.rtt_us)) };
        let error = if p.connected { "" } else { &p.last_error };
        table.row(vec![
            cell(&p.node),
            state,
            cell(if p.via.is_empty() { p.address.clone() } else { format!("via {}", p.via) }),
            cell(&p.source),
            cell(rtt),
            cell(bytes(p.sent_bytes)),
            cell(bytes(p.received_bytes)),
            cell(error),
        ]);
    }
    table.render(palette, "no peer is known yet")
}

fn wifi_text(wifi: &WifiReport) -> String {
    match (wifi.ssid.as_str(), wifi.note.as_str()) {
        ("", note) => note.to_owned(),
        (ssid, _) => format!("in {ssid} ({} dBm)", wifi.dbm),
    }
}

pub fn render_links(links: &[LinkReport], palette: Palette) -> String {
    use Align::Left;
    let mut table =
        Table::new(&[("LINK", Left), ("STATE", Left), ("MAC", Left), ("DHCP", Left), ("ADDRESSES", Left)]);
    for l in links {
        let state = if l.up { colored(Color::Green, "up") } else { colored(Color::Dim, "down") };
        let wifi = l.wifi.as_ref().map(wifi_text).unwrap_or_default();
        let addresses =
            [l.addresses.join(" "), wifi].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>();
        table.row(vec![cell(&l.name), state, cell(&l.mac), cell(&l.dhcp), cell(addresses.join(", "))]);
    }
    table.render(palette, "no network link")
}
