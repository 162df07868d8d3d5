//! Asks the person at the terminal which Wi-Fi network a node is to join, out of those that it sees.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};
use pairing_proto::setup::{Network, Wifi};

use crate::output::clean;

const SHOWN: usize = 16;

/// Whether there is somebody to ask.
pub fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// One of `networks`, or none.
pub fn wifi(networks: &[Network]) -> Result<Vec<Wifi>> {
    let shown = &networks[..networks.len().min(SHOWN)];
    eprintln!("Wi-Fi networks that it sees:");
    for (at, network) in shown.iter().enumerate() {
        let open = if network.secured { "" } else { ", open" };
        eprintln!("  {:>2}  {} ({} dBm{open})", at + 1, clean(&network.ssid), network.dbm);
    }
    loop {
        let Some(index) =
            chosen(&line("Which one is it to join? Its number, or Enter for none: ")?, shown.len())
        else {
            eprintln!("a number from 1 to {}, or nothing", shown.len());
            continue;
        };
        let Some(network) = index.and_then(|index| shown.get(index)) else { return Ok(Vec::new()) };
        let passphrase = if network.secured { Some(unseen("Its passphrase: ")?) } else { None };
        return Ok(vec![Wifi { ssid: network.ssid.clone(), passphrase }]);
    }
}

/// The index that an answer means, `Some(None)` if it means none of them.
fn chosen(answer: &str, count: usize) -> Option<Option<usize>> {
    match answer.trim() {
        "" => Some(None),
        number => number.parse().ok().filter(|n| (1..=count).contains(n)).map(|n| Some(n - 1)),
    }
}

fn line(question: &str) -> Result<String> {
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text).context("cannot read the answer")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// An answer that the terminal does not show.
fn unseen(question: &str) -> Result<String> {
    eprint!("{question}");
    console::Term::stderr().read_secure_line().context("cannot read the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_or_nothing() {
        assert_eq!(chosen("", 3), Some(None));
        assert_eq!((chosen("1", 3), chosen(" 3 ", 3)), (Some(Some(0)), Some(Some(2))));
        for wrong in ["0", "4", "-1", "attic"] {
            assert_eq!(chosen(wrong, 3), None, "{wrong}");
        }
    }
}
