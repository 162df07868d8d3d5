//! From `update`'s report to what the plan needs to know.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use os_content_id::Mcid;
use os_release::Version;
use reconciler_plan::{Actual, Attempted, Busy, Failed};
use services_api::report::OsReport;

/// Our own requests for one metadata bundle, in memory: after a restart of this service the first one is free again.
#[derive(Debug, Clone, Default)]
pub struct Attempts {
    last: Option<(Mcid, u32, Instant)>,
    followed: Option<Mcid>,
}

impl Attempts {
    /// `metadata` was asked for just now.
    pub fn count(&mut self, metadata: Mcid, now: Instant) {
        let before = self.last.filter(|(last, ..)| *last == metadata).map_or(0, |(_, count, _)| count);
        self.last = Some((metadata, before.saturating_add(1), now));
    }

    /// `metadata` has been followed.
    pub fn follow(&mut self, metadata: Mcid) {
        self.followed = Some(metadata);
    }

    /// An attempt ends when nothing is being installed any more.
    fn observe(&mut self, is_busy: bool, now: Instant) {
        if let Some((_, _, at)) = self.last.as_mut().filter(|_| is_busy) {
            *at = now;
        }
    }

    fn seen(&self, now: Instant) -> Option<Attempted> {
        let (metadata, count, at) = self.last?;
        let ago: Duration = now.saturating_duration_since(at);
        Some(Attempted { metadata, count, ago })
    }
}

/// # Errors
/// A version or release in the report that cannot be read: then nothing must be decided.
pub fn actual(report: &OsReport, attempts: &mut Attempts, now: Instant) -> Result<Actual> {
    attempts.observe(report.installing.is_some(), now);
    let release = match report.release.as_str() {
        "" => None,
        text => Some(text.parse::<Mcid>().context("release of the running slot")?),
    };
    let failed = report.failed_releases.iter().map(|failed| {
        let release = failed.release.parse().context("a failed release")?;
        Ok(Failed { release, reason: failed.reason.clone() })
    });
    Ok(Actual {
        version: Version::parse(&report.version)
            .with_context(|| format!("version `{}` that runs", report.version))?,
        rescue: !report.rescue.is_empty(),
        release,
        trial: report.trial.as_ref().map(|trial| busy(&trial.version, &trial.gate)),
        installing: report.installing.as_ref().map(|install| busy(&install.version, &install.phase)),
        failed: failed.collect::<Result<_>>()?,
        attempted: attempts.seen(now),
        followed: attempts.followed,
    })
}

fn busy(version: &str, state: &str) -> Busy {
    let version = if version.is_empty() { "a release" } else { version };
    Busy { version: version.to_owned(), state: state.to_owned() }
}

#[cfg(test)]
mod tests {
    use services_api::report::{FailedReport, InstallReport};

    use super::*;

    fn report() -> OsReport {
        OsReport { version: "0.1.0".into(), ..OsReport::default() }
    }

    #[test]
    fn attempts_count_per_release_from_the_end_of_the_last() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (Mcid::of_raw(b"1"), Mcid::of_raw(b"2"));
        attempts.count(one, at(0));
        attempts.count(one, at(10));
        let installing = OsReport { installing: Some(InstallReport::default()), ..report() };
        actual(&installing, &mut attempts, at(50)).unwrap();
        let seen = actual(&report(), &mut attempts, at(60)).unwrap().attempted;
        assert_eq!(seen, Some(Attempted { metadata: one, count: 2, ago: Duration::from_secs(10) }));
        attempts.count(two, at(70));
        assert_eq!(attempts.seen(at(70)).unwrap().count, 1);
    }

    #[test]
    fn unreadable_reports_decide_nothing() {
        let cases = [
            (OsReport::default(), "version ``"),
            (OsReport { release: "mcid1-raw-blake3-xy".into(), ..report() }, "running slot"),
            (OsReport { failed_releases: vec![FailedReport::default()], ..report() }, "failed release"),
        ];
        for (bad, what) in cases {
            let error = actual(&bad, &mut Attempts::default(), Instant::now()).unwrap_err();
            assert!(format!("{error:#}").contains(what), "{error:#}");
        }
    }
}
