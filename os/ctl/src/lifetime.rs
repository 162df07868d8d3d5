//! `30d`, `12h`, `15m`, `90s`: how long something is to hold.

/// Seconds, 1 to ten years.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a time such as 30d, 12h, 15m or 90s");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(factor).ok_or_else(wrong)?;
    if (1..=3_650 * 86_400).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("{} or ten years at most", wrong()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_read() {
        assert_eq!(
            ["30d", "12h", "15m", "90s"].map(|t| super::parse(t).unwrap()),
            [2_592_000, 43_200, 900, 90]
        );
        for bad in ["", "d", "30", "-1d", "0s", "3651d", "1.5h", "99999999999999999999d", "30é"] {
            assert!(super::parse(bad).is_err(), "{bad}");
        }
    }
}
