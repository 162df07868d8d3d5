//! What a download knows about one provider.

use std::collections::{HashMap, VecDeque};

use os_content_id::Hash;

use super::Wanted;

/// Assumed of somebody who has not sent anything yet: bytes per millisecond.
const UNKNOWN_RATE: f64 = 256.0;
/// Asked ahead of a provider whose rate is known: so much time's worth.
const AHEAD_MS: f64 = 1500.0;
/// Chunks asked ahead of anybody.
const AHEAD_MIN: usize = 2;
/// A chunk is late after four times its expected time, within these bounds.
const LATE_MS: (f64, f64) = (2_000.0, 20_000.0);
/// Nothing at all for so long although asked: the stream is given up.
const SILENT_MS: u64 = 20_000;
/// A rate older than this is measured again.
const STALE_MS: u64 = 10_000;
/// For how long a provider is not asked again for a chunk that it lacked.
const LACK_MS: u64 = 5_000;
const RETRY_MS: (u64, u64) = (500, 8_000);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Idle { retry_at: u64 },
    Connecting,
    Up,
    Dropped(String),
}

#[derive(Debug)]
pub(super) struct Ask {
    pub hash: Hash,
    pub index: u32,
    pub len: u32,
    pub sent_at: u64,
    late_at: u64,
    /// Asked elsewhere meanwhile.
    pub late: bool,
}

pub(super) struct Provider {
    pub link: Link,
    pub outstanding: VecDeque<Ask>,
    pub lacking: HashMap<Hash, u64>,
    pub last_heard: u64,
    pub bytes: u64,
    rate: Option<f64>,
    measured_at: u64,
    missing: u32,
    /// In a row, without a chunk in between.
    failures: u32,
    last_failure: String,
}

impl Provider {
    pub fn new(now: u64) -> Self {
        Self {
            link: Link::Idle { retry_at: now },
            outstanding: VecDeque::new(),
            lacking: HashMap::new(),
            last_heard: now,
            bytes: 0,
            rate: None,
            measured_at: now,
            missing: 0,
            failures: 0,
            last_failure: String::new(),
        }
    }

    pub fn is_dropped(&self) -> bool {
        matches!(self.link, Link::Dropped(_))
    }

    pub fn is_measured(&self) -> bool {
        self.rate.is_some()
    }

    pub fn needs_probe(&self, now: u64) -> bool {
        self.rate.is_none() || now >= self.measured_at + STALE_MS
    }

    /// Whether asking for the chunk makes sense: not known to lack it, not asked already.
    pub fn can_have(&self, hash: &Hash, now: u64) -> bool {
        self.lacking.get(hash).is_none_or(|until| *until <= now)
            && !self.outstanding.iter().any(|a| a.hash == *hash)
    }

    /// Until one more chunk would be here, in milliseconds.
    pub fn eta_ms(&self, len: u32) -> f64 {
        let ahead: u64 = self.outstanding.iter().map(|a| u64::from(a.len)).sum();
        (ahead + u64::from(len)) as f64 / self.rate.unwrap_or(UNKNOWN_RATE)
    }

    pub fn has_room(&self, len: u32) -> bool {
        self.outstanding.len() < AHEAD_MIN || self.is_measured() && self.eta_ms(len) <= AHEAD_MS
    }

    pub fn ask(&mut self, w: &Wanted, now: u64) {
        if self.outstanding.is_empty() {
            // Silence is counted from the first ask that waits for an answer.
            self.last_heard = now;
        }
        let late_at = now + (4.0 * self.eta_ms(w.len)).clamp(LATE_MS.0, LATE_MS.1) as u64;
        let ask = Ask { hash: w.hash, index: w.index, len: w.len, sent_at: now, late_at, late: false };
        self.outstanding.push_back(ask);
    }

    pub fn delivered(&mut self, ask: &Ask, now: u64) {
        let took = now.saturating_sub(ask.sent_at.max(self.last_heard)).max(1) as f64;
        let sample = f64::from(ask.len.max(1)) / took;
        self.rate = Some(self.rate.map_or(sample, |r| r * 0.7 + sample * 0.3).max(0.1));
        self.bytes += u64::from(ask.len);
        self.failures = 0;
        self.heard(now);
        self.measured_at = now;
    }

    pub fn lacks(&mut self, ask: &Ask, now: u64) {
        self.lacking.retain(|_, until| *until > now);
        self.lacking.insert(ask.hash, now + LACK_MS);
        self.missing += 1;
        self.heard(now);
    }

    fn heard(&mut self, now: u64) {
        self.last_heard = now;
    }

    /// Marks what should have been here by now, so that it is asked of somebody else.
    pub fn give_up_late_asks(&mut self, now: u64) {
        let mut any = false;
        for ask in self.outstanding.iter_mut().filter(|a| !a.late && a.late_at <= now) {
            ask.late = true;
            any = true;
        }
        if any {
            self.rate = self.rate.map(|r| (r / 2.0).max(0.1));
            self.measured_at = now;
        }
    }

    pub fn is_silent(&self, now: u64) -> bool {
        self.link == Link::Up && !self.outstanding.is_empty() && now >= self.last_heard + SILENT_MS
    }

    /// A stream that ends while nothing was asked is no fault: the other side may close idle ones.
    pub fn fail(&mut self, reason: &str, now: u64) {
        if !matches!(self.link, Link::Up | Link::Connecting) {
            return;
        }
        let idle = self.link == Link::Up && self.outstanding.is_empty();
        self.outstanding.clear();
        if idle {
            self.link = Link::Idle { retry_at: now + RETRY_MS.0 };
            return;
        }
        self.failures += 1;
        self.last_failure = reason.to_string();
        let wait = RETRY_MS.0 << self.failures.min(6).saturating_sub(1);
        self.link = Link::Idle { retry_at: now + wait.min(RETRY_MS.1) };
    }

    /// When time alone changes something.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let soon = |at: &u64| *at > now;
        match self.link {
            Link::Idle { retry_at } => Some(retry_at).filter(soon),
            Link::Up => {
                let silent = (!self.outstanding.is_empty()).then_some(self.last_heard + SILENT_MS);
                let late = self.outstanding.iter().filter(|a| !a.late).map(|a| a.late_at);
                late.chain(silent).chain(self.lacking.values().copied()).filter(soon).min()
            }
            Link::Connecting | Link::Dropped(_) => None,
        }
    }

    /// Why nobody asks this one now.
    pub fn trouble(&self) -> Option<String> {
        match &self.link {
            Link::Dropped(reason) => Some(reason.clone()),
            Link::Idle { .. } | Link::Connecting if self.failures > 0 => Some(self.last_failure.clone()),
            _ => None,
        }
    }

    pub fn summary(&self) -> String {
        match (self.trouble(), self.missing) {
            (Some(trouble), _) => trouble,
            (None, _) if self.failures > 0 => self.last_failure.clone(),
            (None, 0) => format!("{} bytes so far", self.bytes),
            (None, n) => format!("lacked {n} of the chunks asked of it"),
        }
    }
}
