//! How much one peer may ask for, so that the others are still answered.

use std::collections::BTreeMap;

use os_identity::NodeId;

/// A token bucket: `burst` at once, `per_s` in the long run.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub burst: u32,
    pub per_s: u32,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths of a token.
    level: u64,
    at_ms: u64,
}

impl Bucket {
    fn full(rate: Rate, now_ms: u64) -> Self {
        Self { level: u64::from(rate.burst) * 1000, at_ms: now_ms }
    }

    fn take(&mut self, rate: Rate, count: u32, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.at_ms).saturating_mul(rate.per_s.into());
        self.level = self.level.saturating_add(earned).min(u64::from(rate.burst) * 1000);
        self.at_ms = self.at_ms.max(now_ms);
        let cost = u64::from(count) * 1000;
        let enough = self.level >= cost;
        if enough {
            self.level -= cost;
        }
        enough
    }

    /// Whether nobody would notice if it were forgotten.
    fn is_full(&self, rate: Rate, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.at_ms).saturating_mul(rate.per_s.into());
        self.level.saturating_add(earned) >= u64::from(rate.burst) * 1000
    }
}

/// One bucket per key, at most `max` of them.
#[derive(Debug)]
pub struct Limiter<K> {
    rate: Rate,
    max: usize,
    buckets: BTreeMap<K, Bucket>,
}

/// Streams that a peer opens.
pub type StreamLimiter = Limiter<NodeId>;

impl<K: Ord + Clone> Limiter<K> {
    pub fn new(rate: Rate, max: usize) -> Self {
        Self { rate, max, buckets: BTreeMap::new() }
    }

    /// Whether `key` may have one more now. When there are more keys than can be counted, new ones may not: whoever can make up
    /// keys must not get more by doing so.
    pub fn allow(&mut self, key: &K, now_ms: u64) -> bool {
        self.allow_many(key, 1, now_ms)
    }

    /// Whether `key` may have `count` more now, all of them.
    pub fn allow_many(&mut self, key: &K, count: u32, now_ms: u64) -> bool {
        if let Some(bucket) = self.buckets.get_mut(key) {
            return bucket.take(self.rate, count, now_ms);
        }
        if self.buckets.len() >= self.max {
            let rate = self.rate;
            self.buckets.retain(|_, bucket| !bucket.is_full(rate, now_ms));
        }
        if self.buckets.len() >= self.max {
            return false;
        }
        let mut bucket = Bucket::full(self.rate, now_ms);
        let allowed = bucket.take(self.rate, count, now_ms);
        self.buckets.insert(key.clone(), bucket);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 10, per_s: 5 };

    #[test]
    fn a_burst_then_the_long_run() {
        let mut limiter = Limiter::new(RATE, 4);
        assert_eq!((0..100).filter(|_| limiter.allow(&1, 0)).count(), 10);
        assert_eq!((0..1000).filter(|ms| limiter.allow(&1, *ms)).count(), 4);
        assert_eq!((0..1000).filter(|s| limiter.allow(&1, 10_000 + s)).count(), 10 + 4);
        assert!(limiter.allow(&2, 0), "one does not pay for another");
    }

    #[test]
    fn made_up_keys_get_no_more_than_there_is_room_for() {
        let mut limiter = Limiter::new(RATE, 4);
        let allowed = (0..1000).filter(|key| limiter.allow(key, 0)).count();
        assert_eq!(allowed, 4);
        assert!(limiter.allow(&0, 1), "those who were there first go on");
        assert!(limiter.allow(&5000, 60_000), "and who was quiet makes room");
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        let mut limiter = Limiter::new(RATE, 4);
        (0..10).for_each(|_| assert!(limiter.allow(&1, 1000)));
        assert!(!limiter.allow(&1, 1000) && !limiter.allow(&1, 0));
        assert!(!limiter.allow(&1, 1000), "going back and forth earns nothing");
    }
}
