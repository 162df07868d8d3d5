//! Which network to join, when to look again, and what to tell people meanwhile. Pure: what iwd sees and the time go in.
//!
//! The first of the configured networks that is in reach wins. One that could not be joined has to wait, each time for longer, and
//! the next one gets its turn.

use std::collections::BTreeMap;
use std::time::Duration;

use os_config::Wifi;

/// Between two looks around while no network is joined: at first, and at last.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a failure, doubled with each.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Networks that a note names.
const NAMED_MAX: usize = 3;

/// A network in reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub ssid: String,
    pub dbm: i16,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Open,
    /// WPA2 or WPA3 with a passphrase.
    Passphrase,
    /// What no passphrase opens, such as WPA-Enterprise.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Joined,
    /// On the way in or out.
    Busy,
    Apart,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The index of a network that is seen.
    Join(usize),
    Look,
    Rest,
}

/// Why a network was not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Passphrase,
    /// It did not let us in, and it cannot be told whether it is for the passphrase.
    Refused,
    /// It was gone, or the radio was busy.
    Unreachable,
}

struct Failure {
    times: u32,
    until: Duration,
    why: Why,
}

pub struct Choice {
    wanted: Vec<(String, Kind)>,
    failures: BTreeMap<String, Failure>,
    look_at: Duration,
    look_pause: Duration,
}

impl Choice {
    pub fn new(wifi: &[Wifi]) -> Self {
        let kind = |wifi: &Wifi| if wifi.passphrase.is_some() { Kind::Passphrase } else { Kind::Open };
        Self {
            wanted: wifi.iter().map(|wifi| (wifi.ssid.clone(), kind(wifi))).collect(),
            failures: BTreeMap::new(),
            look_at: Duration::ZERO,
            look_pause: LOOK_PAUSE,
        }
    }

    pub fn next(&mut self, state: State, seen: &[Seen], now: Duration) -> Step {
        match state {
            State::Busy => return Step::Rest,
            State::Joined => {
                (self.look_at, self.look_pause) = (now, LOOK_PAUSE);
                return Step::Rest;
            }
            State::Apart => {}
        }
        let may_be_tried = |ssid: &str| self.failures.get(ssid).is_none_or(|failure| failure.until <= now);
        let candidates = self.wanted.iter().filter(|(ssid, _)| may_be_tried(ssid));
        let mut found = candidates
            .filter_map(|(ssid, kind)| seen.iter().position(|s| s.ssid == *ssid && s.kind == *kind));
        if let Some(index) = found.next() {
            return Step::Join(index);
        }
        if self.wanted.is_empty() || now < self.look_at {
            return Step::Rest;
        }
        self.look_at = now + self.look_pause;
        self.look_pause = (self.look_pause * 2).min(LOOK_PAUSE_MAX);
        Step::Look
    }

    pub fn joined(&mut self, ssid: &str) {
        self.failures.remove(ssid);
    }

    pub fn failed(&mut self, ssid: &str, why: Why, now: Duration) {
        let times = self.failures.get(ssid).map_or(0, |failure| failure.times).saturating_add(1);
        let pause = RETRY.saturating_mul(1 << (times - 1).min(8)).min(RETRY_MAX);
        self.failures.insert(ssid.to_owned(), Failure { times, until: now + pause, why });
    }

    /// Why no network is joined, for people.
    pub fn note(&self, seen: &[Seen]) -> String {
        if self.wanted.is_empty() {
            return "no Wi-Fi network is configured".into();
        }
        let notes: Vec<String> =
            self.wanted.iter().take(NAMED_MAX).map(|(ssid, kind)| self.note_of(ssid, *kind, seen)).collect();
        let more = self.wanted.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        notes.join("; ") + &more
    }

    fn note_of(&self, ssid: &str, kind: Kind, seen: &[Seen]) -> String {
        let what = match self.failures.get(ssid).map(|failure| failure.why) {
            Some(Why::Passphrase) => "does not accept the passphrase",
            Some(Why::Refused) if kind == Kind::Passphrase => {
                "does not let this node in; is the passphrase right?"
            }
            Some(Why::Refused) => "does not let this node in",
            Some(Why::Unreachable) => "could not be reached",
            None => match seen.iter().find(|network| network.ssid == ssid) {
                None => "is not in reach",
                Some(network) if network.kind == kind => "is in reach",
                Some(network) if network.kind == Kind::Open => {
                    "is an open network, but has a passphrase here"
                }
                Some(network) if network.kind == Kind::Passphrase => {
                    "wants a passphrase, and none is configured"
                }
                Some(_) => "wants more than a passphrase (WPA-Enterprise), which this node cannot give",
            },
        };
        format!("{ssid} {what}")
    }
}

/// For those who choose: each name once, strongest first, at most `most`.
pub fn list(mut seen: Vec<Seen>, most: usize) -> Vec<Seen> {
    seen.sort_by_key(|network| std::cmp::Reverse(network.dbm));
    let mut names = std::collections::BTreeSet::new();
    seen.retain(|network| names.insert(network.ssid.clone()));
    seen.truncate(most);
    seen
}

#[cfg(test)]
mod tests {
    use os_config::Config;

    use super::*;

    fn choice() -> Choice {
        let text = "[network]\nwifi = [{ ssid = 'home', passphrase = '12345678' }, { ssid = 'guests' }]\n";
        Choice::new(&Config::parse(text).unwrap().network.wifi)
    }

    fn seen(ssid: &str, dbm: i16, kind: Kind) -> Seen {
        Seen { ssid: ssid.into(), dbm, kind }
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_first_that_is_in_reach_wins_however_weak() {
        let around = [seen("guests", -30, Kind::Open), seen("home", -85, Kind::Passphrase)];
        assert_eq!(choice().next(State::Apart, &around, S(0)), Step::Join(1));
        assert_eq!(choice().next(State::Apart, &around[..1], S(0)), Step::Join(0));
        assert_eq!(choice().next(State::Joined, &around, S(0)), Step::Rest);
        assert_eq!(choice().next(State::Busy, &around, S(0)), Step::Rest);
    }

    #[test]
    fn a_network_of_that_name_and_another_kind_is_another_network() {
        let around = [seen("home", -30, Kind::Open), seen("guests", -30, Kind::Other)];
        let mut choice = choice();
        assert_eq!(choice.next(State::Apart, &around, S(0)), Step::Look);
        let note = choice.note(&around);
        assert!(note.contains("home is an open network") && note.contains("guests wants more"), "{note}");
    }

    #[test]
    fn one_that_fails_waits_and_the_next_has_its_turn() {
        let around = [seen("guests", -30, Kind::Open), seen("home", -35, Kind::Passphrase)];
        let mut choice = choice();
        choice.failed("home", Why::Passphrase, S(0));
        assert!(choice.note(&around).starts_with("home does not accept the passphrase"));
        assert_eq!(choice.next(State::Apart, &around, S(1)), Step::Join(0));
        assert_eq!(choice.next(State::Apart, &around, S(10)), Step::Join(1));
        choice.failed("home", Why::Refused, S(10));
        assert_eq!(choice.next(State::Apart, &around, S(29)), Step::Join(0));
        assert_eq!(choice.next(State::Apart, &around, S(30)), Step::Join(1));
        (0..60).for_each(|_| choice.failed("home", Why::Refused, S(100)));
        assert_eq!(choice.next(State::Apart, &around[1..], S(399)), Step::Look);
        assert_eq!(choice.next(State::Apart, &around[1..], S(400)), Step::Join(0));
        choice.joined("home");
        assert_eq!(choice.next(State::Apart, &around, S(401)), Step::Join(1));
    }

    #[test]
    fn it_looks_around_less_and_less_often_until_it_has_been_in() {
        let mut choice = choice();
        let mut looks = |from: u64, to: u64| {
            (from..to).filter(|s| choice.next(State::Apart, &[], S(*s)) == Step::Look).collect::<Vec<_>>()
        };
        assert_eq!(looks(0, 200), [0, 10, 30, 70, 130, 190]);
        assert_eq!(choice.next(State::Joined, &[], S(200)), Step::Rest);
        assert_eq!(choice.next(State::Apart, &[], S(201)), Step::Look);
        assert_eq!(choice.next(State::Apart, &[], S(211)), Step::Look);
        assert_eq!(choice.note(&[]), "home is not in reach; guests is not in reach");
    }

    #[test]
    fn who_wants_nothing_leaves_the_radio_alone() {
        let mut idle = Choice::new(&[]);
        assert_eq!(idle.next(State::Apart, &[seen("guests", -30, Kind::Open)], S(0)), Step::Rest);
        assert_eq!(idle.note(&[]), "no Wi-Fi network is configured");
    }

    #[test]
    fn the_list_has_each_name_once_strongest_first_and_an_end() {
        let around = vec![
            seen("a", -80, Kind::Open),
            seen("b", -50, Kind::Open),
            seen("a", -40, Kind::Passphrase),
            seen("c", -90, Kind::Open),
        ];
        let listed = list(around, 2);
        let names: Vec<_> = listed.iter().map(|n| (n.ssid.as_str(), n.dbm)).collect();
        assert_eq!(names, [("a", -40), ("b", -50)]);
    }
}
