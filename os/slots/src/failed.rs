//! Releases that failed on this node. Remembered with their reason, shown to the owner, and not tried again by the
//! node itself; the owner may order another try.

use serde::{Deserialize, Serialize};

/// Failures kept; the oldest goes first.
pub const FAILED_RELEASES_MAX: usize = 16;

/// Log lines kept per failure.
pub const LOG_TAIL_MAX: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRelease {
    /// Text form of the release's MCID.
    pub mcid: String,
    pub version: String,
    /// The install that failed.
    pub seq: u32,
    /// One sentence: what failed.
    pub reason: String,
    #[serde(default)]
    pub log_tail: Vec<String>,
    /// Seconds since 1970 by the node's clock.
    pub at_unix: u64,
}

/// At most [`FAILED_RELEASES_MAX`] failures, oldest first, one per MCID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailedReleases {
    list: Vec<FailedRelease>,
}

impl FailedReleases {
    pub fn find(&self, mcid: &str) -> Option<&FailedRelease> {
        self.list.iter().find(|f| f.mcid == mcid)
    }

    /// Adds a failure, replacing an earlier one of the same release; the log tail is cut to its last lines.
    pub fn record(&mut self, mut failure: FailedRelease) {
        let surplus = failure.log_tail.len().saturating_sub(LOG_TAIL_MAX);
        failure.log_tail.drain(..surplus);
        self.forget(&failure.mcid);
        self.list.push(failure);
        let surplus = self.list.len().saturating_sub(FAILED_RELEASES_MAX);
        self.list.drain(..surplus);
    }

    /// The owner wants another try. Returns whether the release was in the list.
    pub fn forget(&mut self, mcid: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|f| f.mcid != mcid);
        self.list.len() != before
    }

    pub fn iter(&self) -> impl Iterator<Item = &FailedRelease> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(mcid: &str, seq: u32) -> FailedRelease {
        FailedRelease {
            mcid: mcid.into(),
            version: "0.2.0".into(),
            seq,
            reason: "mesh".into(),
            log_tail: (0..100).map(|i| i.to_string()).collect(),
            at_unix: 0,
        }
    }

    #[test]
    fn memory_is_bounded_and_has_one_line_per_release() {
        let mut failed = FailedReleases::default();
        for i in 0..40 {
            failed.record(failure(&format!("m{i}"), i));
        }
        failed.record(failure("m39", 77));
        assert_eq!(failed.iter().count(), FAILED_RELEASES_MAX);
        let newest = failed.find("m39").unwrap();
        assert_eq!((newest.seq, newest.log_tail.len()), (77, LOG_TAIL_MAX));
        assert_eq!(newest.log_tail.last().unwrap(), "99");
        assert!(failed.find("m0").is_none());
        assert!(failed.forget("m39") && !failed.forget("m39"));
    }
}
