//! What a node should do about its operating system: [`plan`] compares what is wanted with what is and decides. It
//! knows no clock, no disk and no network, so every decision can be printed, compared and tested.

use std::fmt;
use std::time::Duration;

use os_content_id::Mcid;
use os_release::Version;

/// Pause after the first attempt that led to nothing; doubles with each further one.
const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// What the owner wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Where the wish comes from, for people: a channel, or an exact release. `None`: nothing is wanted, the node
    /// updates only when told to.
    pub source: Option<String>,
    /// The release to run. `None`: the source has not named one yet (a channel whose head is not found).
    pub release: Option<Release>,
}

/// A release by name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub version: Version,
    /// The release statement's: what ran or failed here is remembered under it.
    pub mcid: Mcid,
    /// The bundle's that proves it; signed anew now and then.
    pub metadata: Mcid,
}

/// What is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    pub version: Version,
    /// The rescue system runs: no slot does, and any release that is not older than `version` is better.
    pub rescue: bool,
    /// The release that the running slot was installed from; `None` for the factory image.
    pub release: Option<Mcid>,
    /// A release that runs uncommitted, and what its gate says.
    pub trial: Option<Busy>,
    /// An installation under way, and its phase.
    pub installing: Option<Busy>,
    pub failed: Vec<Failed>,
    /// What we have asked for ourselves since we started.
    pub attempted: Option<Attempted>,
    /// The metadata bundle that was followed last since we started.
    pub followed: Option<Mcid>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    pub version: String,
    pub state: String,
}

/// A release that was on trial here and did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub release: Mcid,
    pub reason: String,
}

/// Installations from one metadata bundle that we asked for and that led to nothing. A new bundle may be taken where the
/// old one was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    pub metadata: Mcid,
    /// At least 1.
    pub count: u32,
    /// Since the last one ended.
    pub ago: Duration,
}

/// What to do. Running apps will add theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Install {
        mcid: Mcid,
        metadata: Mcid,
        version: Version,
        reason: String,
    },
    /// Believe what a metadata bundle says about its signers, with nothing to install: a lost key must not count for longer
    /// than the channel has said so.
    Follow {
        metadata: Mcid,
    },
    /// There is or may be something to do, but not now.
    Wait {
        why: String,
    },
    /// All is as it should be, or nobody wants anything that can be done.
    Nothing {
        why: String,
    },
}

/// The decision. Never acts while a trial or an installation runs, never installs an older version, never tries a
/// release again that failed here, and asks ever more rarely for one that cannot be installed.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Action> {
    let system = operating_system(desired, actual);
    let follow = follow(desired, actual).filter(|_| matches!(system, Action::Nothing { .. }));
    [system].into_iter().chain(follow).collect()
}

fn follow(desired: &Desired, actual: &Actual) -> Option<Action> {
    let metadata = desired.release.as_ref()?.metadata;
    (actual.followed != Some(metadata)).then_some(Action::Follow { metadata })
}

fn operating_system(desired: &Desired, actual: &Actual) -> Action {
    if let Some(trial) = &actual.trial {
        return wait(format!("{} is on trial: {}", trial.version, trial.state));
    }
    if let Some(installing) = &actual.installing {
        return wait(format!("{} is being installed: {}", installing.version, installing.state));
    }
    let Some(source) = &desired.source else {
        return nothing("no channel is followed".into());
    };
    let Some(wanted) = &desired.release else {
        return wait(format!("{source} names no release yet"));
    };
    if actual.release == Some(wanted.mcid) && !actual.rescue {
        return nothing(format!("{} is wanted and runs", wanted.version));
    }
    if let Some(failed) = actual.failed.iter().find(|failed| failed.release == wanted.mcid) {
        return nothing(format!("{} failed here and is not tried again: {}", wanted.version, failed.reason));
    }
    if wanted.version < actual.version || (wanted.version == actual.version && !actual.rescue) {
        let relation = if wanted.version == actual.version { "the same version as" } else { "older than" };
        return nothing(format!("{source} has {}, {relation} what runs", wanted.version));
    }
    match actual.attempted.as_ref().filter(|attempted| attempted.metadata == wanted.metadata) {
        Some(attempted) if attempted.ago < retry_pause(attempted.count) => wait(format!(
            "{} could not be installed ({} so far); next attempt {} s after the last",
            wanted.version,
            if attempted.count == 1 { "1 attempt".into() } else { format!("{} attempts", attempted.count) },
            retry_pause(attempted.count).as_secs(),
        )),
        _ => Action::Install {
            mcid: wanted.mcid,
            metadata: wanted.metadata,
            version: wanted.version.clone(),
            reason: match actual.rescue {
                true => format!("{source} has it and no slot runs"),
                false => format!("{source} has it and {} runs", actual.version),
            },
        },
    }
}

fn retry_pause(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    (RETRY_MIN * (1 << doublings)).min(RETRY_MAX)
}

fn wait(why: String) -> Action {
    Action::Wait { why }
}

fn nothing(why: String) -> Action {
    Action::Nothing { why }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install { mcid, version, reason, .. } => write!(f, "install {version} ({mcid}): {reason}"),
            Self::Follow { metadata } => write!(f, "follow its signers' metadata ({metadata})"),
            Self::Wait { why } => write!(f, "wait: {why}"),
            Self::Nothing { why } => write!(f, "nothing to do: {why}"),
        }
    }
}

/// The plan with what it rests on, as a few lines for people.
pub fn describe(desired: &Desired, actual: &Actual, actions: &[Action]) -> String {
    let wanted = match (&desired.release, &desired.source) {
        (Some(release), Some(source)) => format!("{} {} by {source}", release.version, release.mcid),
        (None, Some(source)) => format!("what {source} will name"),
        (_, None) => "nothing in particular".into(),
    };
    let release = actual.release.map_or_else(|| "the factory image".to_owned(), |mcid| mcid.to_string());
    let mut text = format!("wanted   {wanted}\nrunning  {} {release}\n", actual.version);
    for action in actions {
        text += &format!("plan     {action}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: &str = "channel `stable`";

    fn mcid(content: &str) -> Mcid {
        Mcid::of_raw(content.as_bytes())
    }

    fn wants(version: &str) -> Desired {
        let metadata = mcid(&format!("metadata of {version}"));
        let release = Release { version: version.parse().unwrap(), mcid: mcid(version), metadata };
        Desired { source: Some(CHANNEL.into()), release: Some(release) }
    }

    fn runs(version: &str) -> Actual {
        Actual {
            version: version.parse().unwrap(),
            rescue: false,
            release: None,
            trial: None,
            installing: None,
            failed: Vec::new(),
            attempted: None,
            followed: None,
        }
    }

    fn attempted(count: u32, seconds: u64) -> Option<Attempted> {
        Some(Attempted { metadata: mcid("metadata of 0.2.0"), count, ago: Duration::from_secs(seconds) })
    }

    fn busy(state: &str) -> Option<Busy> {
        Some(Busy { version: "0.2.0".into(), state: state.into() })
    }

    /// Scenarios by name; what is decided in each stands in `plans.txt`.
    fn scenarios() -> Vec<(&'static str, Desired, Actual)> {
        let no_channel = Desired { source: None, release: None };
        let no_head = Desired { source: Some(CHANNEL.into()), release: None };
        let failure = |version| Failed { release: mcid(version), reason: "mesh did not become ready".into() };
        vec![
            ("nobody wants anything", no_channel.clone(), runs("0.1.0")),
            (
                "no channel, but a trial by hand",
                no_channel,
                Actual { trial: busy("waiting for mesh"), ..runs("0.2.0") },
            ),
            ("the channel's head is not found", no_head, runs("0.1.0")),
            ("a newer release", wants("0.2.0"), runs("0.1.0")),
            ("a newer release after a pre-release", wants("0.2.0"), runs("0.2.0-rc.1")),
            (
                "the wanted release runs",
                wants("0.2.0"),
                Actual { release: Some(mcid("0.2.0")), ..runs("0.2.0") },
            ),
            (
                "the wanted release runs and its metadata is known",
                wants("0.2.0"),
                Actual {
                    release: Some(mcid("0.2.0")),
                    followed: Some(mcid("metadata of 0.2.0")),
                    ..runs("0.2.0")
                },
            ),
            (
                "the wanted release runs and has been signed anew",
                wants("0.2.0"),
                Actual {
                    release: Some(mcid("0.2.0")),
                    followed: Some(mcid("earlier metadata of 0.2.0")),
                    ..runs("0.2.0")
                },
            ),
            ("another build of the running version", wants("0.2.0"), runs("0.2.0")),
            ("an older release", wants("0.1.0"), runs("0.2.0")),
            (
                "an older release while installing",
                wants("0.1.0"),
                Actual { installing: busy("fetch"), ..runs("0.1.5") },
            ),
            ("on trial", wants("0.3.0"), Actual { trial: busy("2 of 7 units ready"), ..runs("0.2.0") }),
            ("installing", wants("0.3.0"), Actual { installing: busy("fetch"), ..runs("0.1.0") }),
            ("it failed here", wants("0.2.0"), Actual { failed: vec![failure("0.2.0")], ..runs("0.1.0") }),
            (
                "another one failed here",
                wants("0.3.0"),
                Actual { failed: vec![failure("0.2.0")], ..runs("0.1.0") },
            ),
            ("refused a moment ago", wants("0.2.0"), Actual { attempted: attempted(1, 29), ..runs("0.1.0") }),
            ("refused a while ago", wants("0.2.0"), Actual { attempted: attempted(1, 30), ..runs("0.1.0") }),
            (
                "refused again and again",
                wants("0.2.0"),
                Actual { attempted: attempted(40, 3599), ..runs("0.1.0") },
            ),
            (
                "its metadata was refused and has been signed anew",
                wants("0.2.0"),
                Actual {
                    attempted: Some(Attempted {
                        metadata: mcid("expired metadata of 0.2.0"),
                        count: 40,
                        ago: Duration::ZERO,
                    }),
                    ..runs("0.1.0")
                },
            ),
            (
                "another one was refused",
                wants("0.3.0"),
                Actual { attempted: attempted(40, 0), ..runs("0.1.0") },
            ),
            (
                "rescue takes what was committed again",
                wants("0.2.0"),
                Actual { rescue: true, release: Some(mcid("0.2.0")), ..runs("0.2.0") },
            ),
            ("rescue takes nothing older", wants("0.1.0"), Actual { rescue: true, ..runs("0.2.0") }),
        ]
    }

    /// After a wanted change: run with `MACULA_GOLDEN=write` and read the difference.
    #[test]
    fn plans_are_as_written() {
        let mut text = String::new();
        for (name, desired, actual) in scenarios() {
            let actions = plan(&desired, &actual);
            text += &format!("# {name}\n{}\n", describe(&desired, &actual, &actions));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plans.txt");
        if std::env::var("MACULA_GOLDEN").is_ok_and(|value| value == "write") {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn nothing_is_done_during_a_trial_or_an_installation_whatever_is_wanted() {
        for (name, desired, actual) in scenarios() {
            for busy_actual in [
                Actual { trial: busy("x"), ..actual.clone() },
                Actual { installing: busy("x"), ..actual.clone() },
            ] {
                assert!(matches!(plan(&desired, &busy_actual)[..], [Action::Wait { .. }]), "{name}");
            }
        }
    }
}
