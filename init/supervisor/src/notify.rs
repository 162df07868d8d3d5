//! What services say about themselves: the datagrams of sd_notify(3).

/// Longest datagram read, bytes; the rest of a longer one is lost.
pub const DATAGRAM_MAX: usize = 4096;
const STATUS_MAX: usize = 200;

/// The parts of a datagram that mean something here. `MAINPID` is ignored: we know our child.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notification {
    pub ready: bool,
    pub stopping: bool,
    pub watchdog: bool,
    pub status: Option<String>,
}

pub fn parse(datagram: &[u8]) -> Notification {
    let mut notification = Notification::default();
    for line in String::from_utf8_lossy(datagram).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => notification.ready = true,
            Some(("STOPPING", "1")) => notification.stopping = true,
            Some(("WATCHDOG", "1")) => notification.watchdog = true,
            Some(("STATUS", text)) => notification.status = Some(one_line(text, STATUS_MAX)),
            _ => {}
        }
    }
    notification
}

/// Text from elsewhere, made safe for a terminal and a datagram: no control characters, at most `max` bytes.
pub fn one_line(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_knows_and_ignores_the_rest() {
        let n = parse(b"READY=1\nSTATUS=3 peers\nMAINPID=1\nFDSTORE=1\nWATCHDOG=trigger");
        assert_eq!(n, Notification { ready: true, status: Some("3 peers".into()), ..Default::default() });
        assert_eq!(
            parse(b"WATCHDOG=1\nSTOPPING=1\n"),
            Notification { watchdog: true, stopping: true, ..Default::default() }
        );
    }

    #[test]
    fn bad_input_is_nothing() {
        for bad in [&b""[..], b"READY", b"READY=0", b"=1", b"\xff\xfe", b"READY=1\x00"] {
            assert_eq!(parse(bad), Notification::default(), "{bad:?}");
        }
        let long = format!("STATUS=\x1b[2J{}", "\u{e9}".repeat(500));
        let status = parse(long.as_bytes()).status.unwrap();
        assert!(status.len() <= STATUS_MAX && status.starts_with(" [2J"), "{status:?}");
    }
}
