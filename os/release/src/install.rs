//! Which of the believed releases a node may install.

use std::cmp::Ordering;

use os_content_id::Mcid;
use semver::Version;

use crate::{Release, ReleaseError};

/// A statement and the name of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub release: Release,
    pub mcid: Mcid,
}

/// What a node holds a release against.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    pub board: &'a str,
    pub running: &'a Version,
    /// Whether `running` itself may be installed again, as the rescue system does.
    pub reinstall: bool,
    /// Seconds since 1970, as well as this node knows.
    pub now_unix: u64,
}

/// The releases that may be installed, newest first; if there are none, what is wrong with the newest.
pub fn installable(releases: Vec<Named>, expected: &Expected<'_>) -> Result<Vec<Named>, ReleaseError> {
    let boards: Vec<String> = releases.iter().map(|n| n.release.board.clone()).collect();
    let mut own: Vec<Named> = releases.into_iter().filter(|n| n.release.board == expected.board).collect();
    own.sort_by(|a, b| b.release.version.cmp(&a.release.version));
    let Some(newest) = own.first() else {
        return Err(wrong_board(boards, expected.board));
    };
    let refusal = newest.release.check_install(expected);
    let fitting: Vec<Named> = own.into_iter().filter(|n| n.release.check_install(expected).is_ok()).collect();
    match refusal {
        Err(why) if fitting.is_empty() => Err(why),
        _ => Ok(fitting),
    }
}

fn wrong_board(mut boards: Vec<String>, node: &str) -> ReleaseError {
    boards.sort();
    boards.dedup();
    boards.truncate(8);
    let release = if boards.is_empty() { "none".into() } else { boards.join(", ") };
    ReleaseError::WrongBoard { release, node: node.to_string() }
}

impl Release {
    /// Everything about the statement itself that must hold before this node installs it.
    pub fn check_install(&self, expected: &Expected<'_>) -> Result<(), ReleaseError> {
        if self.board != expected.board {
            return Err(wrong_board(vec![self.board.clone()], expected.board));
        }
        let running = expected.running;
        match self.version.cmp_precedence(running) {
            Ordering::Less => {
                return Err(ReleaseError::OlderVersion {
                    release: self.version.clone(),
                    running: running.clone(),
                });
            }
            Ordering::Equal if expected.reinstall => {}
            Ordering::Equal => return Err(ReleaseError::SameVersion(running.clone())),
            Ordering::Greater => {}
        }
        if running.cmp_precedence(&self.min_version).is_lt() {
            let minimum = self.min_version.clone();
            return Err(ReleaseError::CannotReplace { minimum, running: running.clone() });
        }
        if expected.now_unix >= self.expires_unix {
            return Err(ReleaseError::Expired { ago_s: expected.now_unix - self.expires_unix });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::tests::sample;

    fn named(version: Version, change: fn(&mut Release)) -> Named {
        let mut release = Release { version, ..sample() };
        change(&mut release);
        Named { mcid: Mcid::of_raw(&release.encode()), release }
    }

    fn choose(releases: Vec<Named>, running: Version, now_unix: u64) -> Result<Vec<String>, String> {
        let expected = Expected { board: "x86-generic", running: &running, reinstall: false, now_unix };
        let found = installable(releases, &expected).map_err(|e| e.to_string())?;
        Ok(found.iter().map(|n| n.release.version.to_string()).collect())
    }

    #[test]
    fn the_newest_that_fits_comes_first() {
        let offered = || {
            vec![
                named(Version::new(0, 2, 0), |_| {}),
                named(Version::new(0, 4, 0), |r| r.min_version = Version::new(0, 3, 0)),
                named(Version::new(0, 3, 0), |_| {}),
                named(Version::new(0, 9, 0), |r| r.board = "rpi5".into()),
            ]
        };
        assert_eq!(
            choose(offered(), Version::new(0, 1, 0), 1_500).unwrap(),
            ["0.3.0", "0.2.0"],
            "step by step"
        );
        assert_eq!(choose(offered(), Version::new(0, 3, 0), 1_500).unwrap(), ["0.4.0"]);
    }

    #[test]
    fn rescue_takes_what_ran_and_nothing_older() {
        let fits = |running: &Version| {
            let expected = Expected { board: "x86-generic", running, reinstall: true, now_unix: 1_500 };
            named(Version::new(0, 2, 0), |_| {}).release.check_install(&expected).is_ok()
        };
        assert!(fits(&Version::new(0, 2, 0)) && !fits(&Version::new(0, 2, 1)));
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        let refusal = |running: Version, now: u64, change: fn(&mut Release)| {
            choose(vec![named(Version::new(0, 2, 0), change)], running, now).unwrap_err()
        };
        let said = [
            refusal(Version::new(0, 1, 5), 1_500, |r| r.board = "rpi5".into()),
            refusal(Version::new(0, 3, 0), 1_500, |_| {}),
            refusal(Version::new(0, 2, 0), 1_500, |_| {}),
            refusal(Version::new(0, 0, 9), 1_500, |_| {}),
            refusal(Version::new(0, 1, 5), 2_001, |_| {}),
            choose(vec![], Version::new(0, 1, 5), 1_500).unwrap_err(),
        ];
        let expected = [
            "wrong board: the release is for rpi5, this node is x86-generic",
            "older version: the release is 0.2.0, this node runs 0.3.0",
            "runs version 0.2.0 already",
            "replaces 0.1.0 or newer, this node runs 0.0.9",
            "expired 1 s ago",
            "wrong board: the release is for none",
        ];
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said}");
        }
    }
}
