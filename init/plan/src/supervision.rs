//! When PID 1 feeds the watchdog, restarts the supervisor, or gives up on this boot. Times are durations since boot.

use crate::reset::Wish;
use std::collections::VecDeque;
use std::time::Duration;

use os_slots::{BootInfo, Evidence, SETTLED_MS};
use serde::Deserialize;

/// The hardware watchdog's time-out.
pub const WATCHDOG: Duration = Duration::from_secs(60);
/// How often it is fed.
pub const FEED_EVERY: Duration = Duration::from_secs(10);
/// A supervisor silent for this long no longer keeps the watchdog fed.
const FED_WITHIN: Duration = Duration::from_secs(30);
/// A supervisor silent for this long is killed. Also its grace at the start.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// More starts than this within the window end the boot.
const STARTS_MAX: usize = 10;
const STARTS_WINDOW: Duration = Duration::from_secs(300);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Longest message from the supervisor.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// How much longer than the gate a required unit may be down on trial: the gate should speak first. This is for when
/// `update`, which runs the gate, is itself the unit that is down.
const AFTER_GATE: Duration = Duration::from_secs(120);
/// How long a required unit of a committed release may be down before the node boots again. Doubles with each such end of
/// this install's boots.
const DOWN_FIRST: Duration = Duration::from_secs(600);
const DOWN_MAX: Duration = Duration::from_secs(24 * 3600);
/// As in `os_config`.
const GATE_DEFAULT: Duration = Duration::from_secs(180);
const GATE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long all required units are ready, without a break, until the boot has settled.
pub const SETTLED_AFTER: Duration = Duration::from_millis(SETTLED_MS);

/// The stage of the evidence that a required unit stayed down.
pub const STAGE_UNITS: &str = "units";

/// How long a required unit may be down before this boot ends, by the text of `config.toml`.
pub fn patience(boot: &BootInfo, config: &str) -> Duration {
    if boot.trial {
        return trial_watch(config);
    }
    let counts = |e: &&Evidence| e.seq == boot.seq && e.stage == STAGE_UNITS && !e.settled;
    let ends = boot.evidence.iter().filter(counts).count();
    let doublings = u32::try_from(ends).unwrap_or(u32::MAX).min(16);
    (DOWN_FIRST * 2u32.pow(doublings)).min(DOWN_MAX)
}

/// By when, counted from the boot, a trial has its verdict.
pub fn trial_watch(config: &str) -> Duration {
    gate_timeout(config) + AFTER_GATE
}

/// `[gate] timeout_s`. The rest of `config.toml` is the services' business; what is wrong with it must not matter here.
fn gate_timeout(config: &str) -> Duration {
    #[derive(Deserialize)]
    struct Config {
        gate: Gate,
    }
    #[derive(Deserialize)]
    struct Gate {
        timeout_s: u32,
    }
    let written = toml::from_str(config).ok().map(|c: Config| Duration::from_secs(c.gate.timeout_s.into()));
    written.unwrap_or(GATE_DEFAULT).min(GATE_MAX)
}

/// What the supervisor tells PID 1, one datagram each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Alive,
    /// With the reason, for the log.
    Reboot(String),
    /// Into the rescue system.
    Rescue(String),
    PowerOff(String),
    /// Factory reset, then reboot. On the line: `reset <wish> <reason>`.
    Reset {
        encryption: Wish,
        reason: String,
    },
    /// A required unit stays down: this boot has failed.
    Failed(String),
    /// All required units have been ready for [`SETTLED_AFTER`].
    Settled,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "message {0:?} is none of: alive, settled, and reboot, rescue, poweroff, reset or failed with a reason"
)]
pub struct UnknownMessage(String);

impl Message {
    pub fn parse(datagram: &[u8]) -> Result<Message, UnknownMessage> {
        let text = String::from_utf8_lossy(&datagram[..datagram.len().min(MESSAGE_BYTES_MAX)]);
        let (word, reason) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), "no reason given"));
        let unknown = || UnknownMessage(text.chars().take(64).collect());
        match word {
            "alive" => Ok(Message::Alive),
            "settled" => Ok(Message::Settled),
            "reboot" => Ok(Message::Reboot(reason.to_owned())),
            "rescue" => Ok(Message::Rescue(reason.to_owned())),
            "poweroff" => Ok(Message::PowerOff(reason.to_owned())),
            "failed" => Ok(Message::Failed(reason.to_owned())),
            "reset" => reset(reason).ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }
}

fn reset(rest: &str) -> Option<Message> {
    let (wish, reason) = rest.split_once(' ')?;
    Some(Message::Reset { encryption: Wish::parse(wish).ok()?, reason: reason.to_owned() })
}

/// What follows from the supervisor's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again at this time.
    StartAt(Duration),
    /// It does not stay up: end this boot, bounded.
    GiveUp,
}

/// The supervisor as PID 1 sees it.
#[derive(Debug, Default)]
pub struct Watch {
    starts: VecDeque<Duration>,
    /// Time of the last start or `alive`; `None` while it is down.
    heard: Option<Duration>,
    start_at: Option<Duration>,
}

impl Watch {
    pub fn started(&mut self, now: Duration) {
        self.starts.push_back(now);
        self.heard = Some(now);
        self.start_at = None;
    }

    /// An `alive` message.
    pub fn alive(&mut self, now: Duration) {
        if self.heard.is_some() {
            self.heard = Some(now);
        }
    }

    /// It died, was killed or could not be started.
    pub fn ended(&mut self, now: Duration) -> Next {
        self.heard = None;
        while self.starts.front().is_some_and(|&start| now.saturating_sub(start) > STARTS_WINDOW) {
            self.starts.pop_front();
        }
        let recent = self.starts.len();
        if recent >= STARTS_MAX {
            return Next::GiveUp;
        }
        let pause = Duration::from_millis(250) * 2u32.pow(recent.saturating_sub(1).min(8) as u32);
        let at = now + pause.min(PAUSE_MAX);
        self.start_at = Some(at);
        Next::StartAt(at)
    }

    /// Whether it is time to start it again.
    pub fn due(&self, now: Duration) -> bool {
        self.heard.is_none() && self.start_at.is_some_and(|at| now >= at)
    }

    /// Whether the hardware watchdog may be fed: the supervisor was heard lately, or a start is planned (the number
    /// of starts bounds that).
    pub fn may_feed(&self, now: Duration) -> bool {
        match self.heard {
            Some(heard) => now.saturating_sub(heard) <= FED_WITHIN,
            None => self.start_at.is_some(),
        }
    }

    /// Whether it has been silent for so long that it is to be killed.
    pub fn is_stuck(&self, now: Duration) -> bool {
        self.heard.is_some_and(|heard| now.saturating_sub(heard) > SILENT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_layout::encryption::Encryption;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn messages_are_words() {
        assert_eq!(Message::parse(b"alive"), Ok(Message::Alive));
        assert_eq!(Message::parse(b"settled"), Ok(Message::Settled));
        assert_eq!(Message::parse(b"reboot trial of 0.2.0"), Ok(Message::Reboot("trial of 0.2.0".into())));
        for (word, encryption) in
            [("keep", Wish::AsItIs), ("off", Wish::Like(None)), ("tpm", Wish::Like(Some(Encryption::Tpm)))]
        {
            let reset = Message::parse(format!("reset {word} by order").as_bytes());
            assert_eq!(reset, Ok(Message::Reset { encryption, reason: "by order".into() }));
        }
        assert_eq!(Message::parse(b"poweroff"), Ok(Message::PowerOff("no reason given".into())));
        assert_eq!(Message::parse(b"failed mesh is down"), Ok(Message::Failed("mesh is down".into())));
        for bad in [&b""[..], b"reset", b"reset by order", b"Alive", b"\xff\xfe", &[b'x'; 4096]] {
            assert!(Message::parse(bad).is_err());
        }
    }

    fn boot(name: &str, ends: usize) -> BootInfo {
        let mut boot = BootInfo::of(name.parse().unwrap());
        let evidence = |seq: u32, stage: &str| -> Evidence {
            let text = format!(
                r#"{{"boot_id":"","seq":{seq},"slot":"B","stage":"{stage}","reason":"","at_unix":0}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        boot.evidence = (0..ends).map(|_| evidence(2, STAGE_UNITS)).collect();
        boot.evidence.extend([evidence(1, STAGE_UNITS), evidence(2, "panic")]);
        boot
    }

    #[test]
    fn rule_4_a_unit_that_stays_down_ends_the_boot_ever_more_rarely() {
        let after = |ends| patience(&boot("macula-000002.efi", ends), "").as_secs();
        assert_eq!([0, 1, 2, 7, 8, 100].map(after), [600, 1200, 2400, 76_800, 86_400, 86_400]);
        let mut settled = boot("macula-000002.efi", 2);
        settled.evidence[0].settled = true;
        assert_eq!(patience(&settled, "").as_secs(), 1200);
    }

    #[test]
    fn rule_4_on_trial_the_gate_speaks_first() {
        let trial = boot("macula-000002+2-1.efi", 3);
        for (config, seconds) in [
            ("", 300),
            ("[gate]\ntimeout_s = 60\nchecks = 7\n", 180),
            ("[gate]\ntimeout_s = \"x\"", 300),
            ("[gate", 300),
        ] {
            assert_eq!(patience(&trial, config).as_secs(), seconds, "{config}");
        }
        assert!(patience(&trial, "[gate]\ntimeout_s = 4294967295") <= GATE_MAX + AFTER_GATE);
    }

    #[test]
    fn a_silent_supervisor_starves_the_watchdog_then_is_killed() {
        let mut watch = Watch::default();
        watch.started(at(0));
        assert!(watch.may_feed(at(30)) && !watch.may_feed(at(31)));
        watch.alive(at(20));
        assert!(watch.may_feed(at(50)) && !watch.is_stuck(at(80)) && watch.is_stuck(at(81)));
        let Next::StartAt(again) = watch.ended(at(81)) else { panic!("gave up") };
        assert!(watch.may_feed(at(81)) && !watch.due(at(81)) && watch.due(again));
        // The watchdog, last fed at 50, is fed again before its 60 s are over.
        assert!(at(81) < at(50) + WATCHDOG);
        watch.alive(again);
        assert!(!watch.is_stuck(at(1000)), "a message from the dead does not count");
    }

    #[test]
    fn ten_starts_in_five_minutes_are_enough() {
        let (mut watch, mut now, mut starts) = (Watch::default(), at(0), 0);
        loop {
            watch.started(now);
            starts += 1;
            match watch.ended(now) {
                Next::StartAt(next) => {
                    assert!(next - now <= PAUSE_MAX);
                    now = next;
                }
                Next::GiveUp => break,
            }
        }
        assert_eq!(starts, STARTS_MAX);
        assert!(!watch.may_feed(now), "nothing keeps a given-up boot alive");
    }

    #[test]
    fn rare_deaths_are_forgiven_for_ever() {
        let mut watch = Watch::default();
        for hour in 0..100 {
            watch.started(at(hour * 3600));
            assert!(matches!(watch.ended(at(hour * 3600 + 60)), Next::StartAt(_)));
        }
    }
}
