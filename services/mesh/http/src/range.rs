//! Byte ranges (RFC 9110, section 14).

/// What of the content is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// From `first` to `last`, both included.
    Bytes {
        first: u64,
        last: u64,
    },
    /// Nothing that there is: 416.
    Nothing,
}

/// What a `Range` header asks of content of this size. One that is not understood is ignored, as is one that wants several parts:
/// then the whole is sent, which is always a right answer.
pub fn part(range: &str, size: u64) -> Part {
    let Some((unit, set)) = range.split_once('=') else { return Part::Whole };
    if !unit.eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = set.trim_matches([' ', '\t']).split_once('-') else { return Part::Whole };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if first > last => Part::Whole,
        (Number::Is(first), Number::Is(last)) => within(first, last, size),
        (Number::Is(first), Number::Absent) => within(first, u64::MAX, size),
        (Number::Absent, Number::Is(0)) => Part::Nothing,
        (Number::Absent, Number::Is(_)) if size == 0 => Part::Whole,
        (Number::Absent, Number::Is(suffix)) => within(size.saturating_sub(suffix), u64::MAX, size),
        _ => Part::Whole,
    }
}

fn within(first: u64, last: u64, size: u64) -> Part {
    if first >= size { Part::Nothing } else { Part::Bytes { first, last: last.min(size - 1) } }
}

enum Number {
    Absent,
    /// What is larger than 2^64 is larger than any content; one number is as good as another then.
    Is(u64),
    Bad,
}

fn number(text: &str) -> Number {
    match text {
        "" => Number::Absent,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Number::Is(digits.parse().unwrap_or(u64::MAX))
        }
        _ => Number::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_rfc() {
        let bytes = |first, last| Part::Bytes { first, last };
        for (range, size, expected) in [
            // RFC 9110, 14.1.2: the examples, of 10,000 bytes.
            ("bytes=0-499", 10_000, bytes(0, 499)),
            ("bytes=500-999", 10_000, bytes(500, 999)),
            ("bytes=-500", 10_000, bytes(9500, 9999)),
            ("bytes=9500-", 10_000, bytes(9500, 9999)),
            ("bytes=0-0,-1", 10_000, Part::Whole),
            ("bytes=500-600,601-999", 10_000, Part::Whole),
            // Edges.
            ("bytes=0-0", 1, bytes(0, 0)),
            ("bytes=0-", 1, bytes(0, 0)),
            ("bytes=-1", 1, bytes(0, 0)),
            ("bytes=-2", 1, bytes(0, 0)),
            ("bytes=9999-9999", 10_000, bytes(9999, 9999)),
            ("bytes=9999-10000", 10_000, bytes(9999, 9999)),
            ("bytes=10000-", 10_000, Part::Nothing),
            ("bytes=10000-10001", 10_000, Part::Nothing),
            ("bytes=0-0", 0, Part::Nothing),
            ("bytes=0-", 0, Part::Nothing),
            ("bytes=-0", 10, Part::Nothing),
            ("bytes=-5", 0, Part::Whole),
            ("bytes=0-18446744073709551615", 10, bytes(0, 9)),
            ("bytes=0-99999999999999999999999", 10, bytes(0, 9)),
            ("bytes=99999999999999999999999-", 10, Part::Nothing),
            ("bytes=-99999999999999999999999", 10, bytes(0, 9)),
            ("BYTES=1-2", 10, bytes(1, 2)),
            ("bytes= 1-2\t", 10, bytes(1, 2)),
            // Not understood: ignored.
            ("", 10, Part::Whole),
            ("bytes", 10, Part::Whole),
            ("bytes=", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=5", 10, Part::Whole),
            ("bytes=5-4", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("bytes=1--2", 10, Part::Whole),
            ("bytes=1 -2", 10, Part::Whole),
            ("bytes=0x1-2", 10, Part::Whole),
            ("bytes =1-2", 10, Part::Whole),
            ("chunks=0-1", 10, Part::Whole),
            ("bytes=\u{661}-2", 10, Part::Whole),
        ] {
            assert_eq!(part(range, size), expected, "{range} of {size}");
        }
    }
}
