//! What is shown of a code.

use std::net::{IpAddr, SocketAddr};

use pairing_proto::{Fingerprint, PairCode, Slot, Standing};
use services_api::pairing::CodeReport;

use crate::desk::Desk;

/// Addresses that a code holds.
const MAX_ADDRESSES: usize = 4;

pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Unowned => "unowned",
        Standing::Owned => "owned",
        Standing::Invited { .. } => "invited",
    }
}

pub fn report(desk: &Desk, serial: u64) -> CodeReport {
    let addresses = desk.addresses().clone();
    let mut report = CodeReport {
        serial,
        state: word(desk.standing()).into(),
        name: desk.node().config.as_ref().map(|config| config.name.clone()).unwrap_or_default(),
        node: desk.me().to_string(),
        addresses: addresses.clone(),
        ..CodeReport::default()
    };
    if let Some((secret, left)) = desk.code(Slot::Screen) {
        let code = PairCode {
            fingerprint: Fingerprint::of(&desk.me()),
            secret,
            slot: Slot::Screen,
            addresses: addresses.iter().filter_map(|text| text.parse().ok()).take(MAX_ADDRESSES).collect(),
            name: Some(report.name.clone()).filter(|name| !name.is_empty()),
        };
        report.uri = code.uri();
        report.web = code.web().unwrap_or_default();
        report.qr = code.qr();
        report.secret = code.secret.grouped();
        report.expires_in_s = left.unwrap_or_default() / 1000;
    }
    report
}

/// The text of `macula-pair.txt`. It says no address, so that a new one is no reason to write.
pub fn file_text(desk: &Desk) -> Option<String> {
    let (secret, _) = desk.code(Slot::File)?;
    let name = desk.node().config.as_ref().map(|config| config.name.clone());
    let fingerprint = Fingerprint::of(&desk.me());
    let code = PairCode { fingerprint, secret, slot: Slot::File, addresses: Vec::new(), name };
    Some(format!(
        "This node waits for its owner. On a computer in the same network:\n\n    maculactl pair '{}'\n\n\
         The code is good for one use, and goes from here when the node has an owner.\n",
        code.uri()
    ))
}

/// Those that a phone in the same network can use first: private IPv4, other IPv4, IPv6.
pub fn in_order(addresses: &[String]) -> Vec<String> {
    let mut parsed: Vec<SocketAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
    parsed.sort_by_key(|address| match address.ip() {
        IpAddr::V4(ip) if ip.is_private() => 0,
        IpAddr::V4(ip) if !ip.is_link_local() => 1,
        IpAddr::V6(_) => 2,
        IpAddr::V4(_) => 3,
    });
    parsed.iter().map(SocketAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phones_addresses_come_first() {
        let given = ["[2001:db8::1]:4433", "169.254.3.4:4433", "203.0.113.5:4433", "192.168.1.9:4433"];
        let order = in_order(&given.map(String::from));
        assert_eq!(order, ["192.168.1.9:4433", "203.0.113.5:4433", "[2001:db8::1]:4433", "169.254.3.4:4433"]);
    }
}
