//! A token bucket: so many frames per second, and some at once.

/// Counted in thousandths of a frame, so that a slow rate loses nothing to rounding.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    milli: u64,
    at_ms: u64,
}

impl Bucket {
    pub fn full(burst: u32, now_ms: u64) -> Self {
        Self { milli: u64::from(burst) * 1000, at_ms: now_ms }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, per_second: u32, burst: u32, now_ms: u64) -> bool {
        let grown = now_ms.saturating_sub(self.at_ms).saturating_mul(u64::from(per_second));
        self.milli = self.milli.saturating_add(grown).min(u64::from(burst) * 1000);
        self.at_ms = self.at_ms.max(now_ms);
        let enough = self.milli >= 1000;
        self.milli -= if enough { 1000 } else { 0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_comes_back_with_time() {
        let mut bucket = Bucket::full(3, 0);
        let mut take = |now| bucket.take(2, 3, now);
        assert_eq!([take(0), take(0), take(0), take(0)], [true, true, true, false]);
        assert_eq!([take(499), take(500), take(501), take(1000)], [false, true, false, true]);
        assert_eq!([take(60_000), take(60_000), take(60_000), take(60_000)], [true, true, true, false]);
        assert!(!take(0), "time that goes back gives nothing");
    }
}
