//! Records of `/dev/kmsg`: `<priority>,<sequence>,<microseconds>,<flags>[,...];<text>`, then continuation lines.
//! Source: `Documentation/ABI/testing/dev-kmsg`.

const LINE_CHARS_MAX: usize = 240;

/// One line for people, such as `[    1.234567] text`. `None` for what is not a record.
pub fn line(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let (head, rest) = text.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let message = bounded(rest.lines().next().unwrap_or(""));
    Some(format!("[{:5}.{:06}] {message}", micros / 1_000_000, micros % 1_000_000))
}

/// A line for people: short, without control characters.
pub fn bounded(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn shows_time_and_text_only() {
        let record = b"6,339,5140900,-;verity: 254:0: data block 7 is corrupted\n SUBSYSTEM=block\n";
        assert_eq!(line(record).unwrap(), "[    5.140900] verity: 254:0: data block 7 is corrupted");
        assert_eq!(line(b"6,1,0,-,caller=T1;a;b\n").unwrap(), "[    0.000000] a;b");
    }

    #[test]
    fn other_bytes_are_no_record() {
        assert_eq!(line(b""), None);
        assert_eq!(line(b"6,1;x"), None);
        assert_eq!(line(b"6,1,\xff,-;x"), None);
        assert_eq!(line(format!("6,1,1,-;{}", "x".repeat(5000)).as_bytes()).unwrap().len(), 15 + 240);
    }
}
