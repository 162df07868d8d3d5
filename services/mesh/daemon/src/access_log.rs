//! What of all grants and refusals is worth a line in the audit log, which is small and on a disk that wears out.
//!
//! The first of each kind is told at once. The same again within the hour is counted, and told with the next. Strangers can be refused as
//! often as they like under as many names as they like, so refusals have a budget; what goes beyond it is one number.

use std::collections::BTreeMap;
use std::fmt;

use os_identity::NodeId;

const HOUR_MS: u64 = 3_600_000;
const MAX_SEEN: usize = 256;
/// Told at once, and earned again one by one.
const GRANTS: Budget = Budget { burst: 64, each_ms: HOUR_MS / 4 };
const REFUSALS: Budget = Budget { burst: 16, each_ms: HOUR_MS };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Granted,
    Refused,
}

impl Verdict {
    /// The kind of the audit record.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Granted => "granted",
            Verdict::Refused => "refused",
        }
    }
}

struct Budget {
    burst: u64,
    each_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub verdict: Verdict,
    pub text: String,
}

#[derive(Default)]
struct Seen {
    told_at_ms: u64,
    since: u64,
}

/// Per verdict: what was spent of the budget, and what fell outside of it.
#[derive(Default)]
struct Account {
    spent: u64,
    at_ms: u64,
    left_out: u64,
}

#[derive(Default)]
pub struct AccessLog {
    seen: BTreeMap<(Verdict, NodeId, String), Seen>,
    accounts: BTreeMap<Verdict, Account>,
}

impl AccessLog {
    /// `what`: ability and resource. `why`: by which tokens, or why not; two refusals of the same for other reasons are the same.
    pub fn note(
        &mut self,
        verdict: Verdict,
        who: NodeId,
        what: &str,
        why: &dyn fmt::Display,
        now_ms: u64,
    ) -> Option<Line> {
        let key = (verdict, who, what.to_owned());
        if let Some(seen) = self.seen.get_mut(&key)
            && now_ms < seen.told_at_ms + HOUR_MS
        {
            seen.since += 1;
            return None;
        }
        let account = self.accounts.entry(verdict).or_default();
        if !account.take(verdict, now_ms) {
            account.left_out += 1;
            return None;
        }
        let left_out = std::mem::take(&mut account.left_out);
        let since = self.remember(key, now_ms);
        let mut text = format!("{who} {what}: {why}");
        if since > 0 {
            text.push_str(&format!(" ({since} more since the last record)"));
        }
        if left_out > 0 {
            text.push_str(&format!(" ({left_out} others were not recorded)"));
        }
        Some(Line { verdict, text })
    }

    /// How often it happened since it was told.
    fn remember(&mut self, key: (Verdict, NodeId, String), now_ms: u64) -> u64 {
        if self.seen.len() >= MAX_SEEN && !self.seen.contains_key(&key) {
            self.seen.retain(|_, seen| now_ms < seen.told_at_ms + HOUR_MS);
        }
        if self.seen.len() >= MAX_SEEN && !self.seen.contains_key(&key) {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.told_at_ms).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.seen.remove(&key));
        }
        let before = self.seen.insert(key, Seen { told_at_ms: now_ms, since: 0 });
        before.map_or(0, |seen| seen.since)
    }
}

impl Account {
    fn take(&mut self, verdict: Verdict, now_ms: u64) -> bool {
        let budget = match verdict {
            Verdict::Granted => GRANTS,
            Verdict::Refused => REFUSALS,
        };
        let earned = now_ms.saturating_sub(self.at_ms) / budget.each_ms;
        self.at_ms += earned * budget.each_ms;
        self.spent = self.spent.saturating_sub(earned);
        let enough = self.spent < budget.burst;
        self.spent += u64::from(enough);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeId {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut log = AccessLog::default();
        let mut note = |now_ms| log.note(Verdict::Refused, node(1), "a b", &"no token", now_ms);
        assert_eq!(note(0).unwrap().text, format!("{} a b: no token", node(1)));
        assert!((1..100).all(|n| note(n).is_none()));
        let again = note(HOUR_MS).unwrap();
        assert!(again.text.ends_with("no token (99 more since the last record)"), "{}", again.text);
        assert_eq!(again.verdict.word(), "refused");
    }

    #[test]
    fn strangers_cannot_fill_the_log_nor_hide_what_is_granted() {
        let mut log = AccessLog::default();
        let day = 24 * HOUR_MS;
        let mut told = 0;
        for n in 0..100_000 {
            let line = log.note(Verdict::Refused, node(n), "a b", &"no token", u64::from(n) * day / 100_000);
            told += usize::from(line.is_some());
        }
        assert!((16..=40).contains(&told), "{told}");
        assert!(log.seen.len() <= MAX_SEEN);
        assert!(log.note(Verdict::Granted, node(1), "a b", &"by x", day).is_some());
        let next = log.note(Verdict::Refused, node(1_000_000), "a b", &"no token", 3 * day).unwrap();
        assert!(next.text.contains("others were not recorded"), "{}", next.text);
    }
}
