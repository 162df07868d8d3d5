//! What time it can be at least, and what a node makes of its peers' clocks. Seconds since 1970 throughout.
//!
//! A machine without a battery starts in 1970, and whoever sets its clock back can show it expired metadata as fresh. So
//! the clock has a floor: when the running release was built, what the node last saved, what somebody trusted has signed.
//! The machine's own clock may also be far ahead; so what is saved is time that the node has lived through or that others
//! confirm, never what its clock alone says. Pure: no clock is read and none is set here.

use serde::{Deserialize, Serialize};

/// The file below `/state` in which the floor is kept, written by `update`, read by PID 1.
pub const FILE: &str = "update/clock";
/// A saved time is renewed when it is this old: rarely, for the disk's sake.
pub const SAVE_EVERY_S: u64 = 3600;
/// So many peers must have said what time it is before they count: one or two may be wrong together.
pub const PEERS_MIN: usize = 3;
/// 2200-01-01: nothing later is believed, wherever it is written.
pub const LATEST: u64 = 7_258_118_400;
/// A machine's clock that is further ahead of the floor than this is taken for broken: five years.
pub const AHEAD_MAX_S: u64 = 5 * 365 * 86_400;
/// Clocks that differ by less than this agree. The DHT's records allow for ten minutes.
pub const AGREE_S: u64 = 5 * 60;

/// What PID 1 found out about the time when it booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootClock {
    /// Seconds since 1970 that had certainly passed.
    pub floor_unix: u64,
    /// The machine's clock was before that or absurdly far ahead, so the system's was set to the floor.
    pub lost: bool,
}

impl BootClock {
    pub fn judge(system: u64, floor: u64) -> Self {
        let known = (1..=LATEST).contains(&floor);
        let lost = known && !(floor..=floor.saturating_add(AHEAD_MAX_S)).contains(&system);
        Self { floor_unix: floor, lost }
    }
}

/// The latest of the times that have certainly been. What lies beyond [`LATEST`] is damaged and does not count.
pub fn floor(certain: &[u64]) -> u64 {
    certain.iter().copied().filter(|at| *at <= LATEST).max().unwrap_or(0)
}

/// What to judge expiry by: what enough peers say, or else the system's clock; in either case not before the floor. With
/// fewer than half of them lying, their median lies between two honest ones' times.
pub fn trusted(system: u64, floor: u64, peers: &[u64]) -> u64 {
    median(peers).unwrap_or(system).max(floor)
}

/// What the system's clock should be set to because of what peers say; `None` to leave it. A clock that is lost takes any
/// peer's word, and of two the later one, because without the time the node finds nothing and nobody, and who lags may
/// have lost it, too. It never goes before the floor.
pub fn adjustment(system: u64, floor: u64, lost: bool, peers: &[u64]) -> Option<u64> {
    let theirs = if lost { upper_median(&sorted(peers)) } else { median(peers) };
    let to = theirs?.max(floor);
    (to.abs_diff(system) > AGREE_S).then_some(to)
}

/// By how many seconds the system's clock is ahead of (negative: behind) what the peer nearest to it says, if they do not agree.
pub fn dispute(system: u64, peers: &[u64]) -> Option<i64> {
    let nearest = sorted(peers).into_iter().min_by_key(|at| at.abs_diff(system))?;
    (nearest.abs_diff(system) > AGREE_S).then(|| system.min(LATEST) as i64 - nearest as i64)
}

/// The time that the system's clock and enough peers agree on: certain enough to be a floor.
pub fn confirmed(system: u64, peers: &[u64]) -> Option<u64> {
    let theirs = median(peers)?;
    (theirs.abs_diff(system) <= AGREE_S).then_some(theirs.min(system))
}

/// The lower one of two middle times; `None` with too few peers.
fn median(peers: &[u64]) -> Option<u64> {
    let times = sorted(peers);
    if times.len() < PEERS_MIN {
        return None;
    }
    times.get((times.len() - 1) / 2).copied()
}

fn upper_median(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 2).copied()
}

/// Those that can be times.
fn sorted(peers: &[u64]) -> Vec<u64> {
    let mut times: Vec<u64> = peers.iter().copied().filter(|at| *at <= LATEST).collect();
    times.sort_unstable();
    times
}

/// Whether the floor is worth writing again.
pub fn is_worth_saving(saved: u64, now: u64) -> bool {
    now <= LATEST && now >= saved.saturating_add(SAVE_EVERY_S)
}

/// The last line of the saved file, a plain number. Damage reads as no floor at all, which is what a first boot has.
pub fn parse_saved(bytes: &[u8]) -> u64 {
    let line = bytes.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let digits = line.len() <= 20 && !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(line).ok().filter(|_| digits);
    floor(&[text.and_then(|t| t.parse().ok()).unwrap_or(0)])
}

/// `20261123T080000Z`, the time of a release's parts, as seconds; `None` for anything else.
pub fn parse_stamp(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let fits = |(byte, form): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form };
    if bytes.len() != 16 || !bytes.iter().zip(b"ddddddddTddddddZ").all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    let in_range = (1970..2200).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years that begin in March have their odd day at the end.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn the_floor_is_the_latest_certain_time() {
        assert_eq!(floor(&[NOW - 5, NOW, 0]), NOW);
        assert_eq!(floor(&[]), 0);
        assert_eq!(floor(&[NOW, u64::MAX]), NOW, "damage does not push the clock to the end of time");
        assert_eq!((trusted(0, NOW, &[]), trusted(NOW + 9, NOW, &[])), (NOW, NOW + 9));
    }

    #[test]
    fn a_clock_before_the_floor_or_absurdly_ahead_is_lost() {
        let lost = |system| BootClock::judge(system, NOW).lost;
        assert!(lost(0) && lost(NOW - 1) && lost(NOW + AHEAD_MAX_S + 1) && lost(u64::MAX));
        assert!(!lost(NOW) && !lost(NOW + AHEAD_MAX_S));
        assert!(!BootClock::judge(5, 0).lost, "without a floor nothing is known");
    }

    #[test]
    fn enough_peers_outvote_the_clock_but_not_the_floor() {
        let (ahead, behind) = (NOW + 1000, NOW - 1000);
        assert_eq!(trusted(NOW, 0, &[ahead, ahead]), NOW, "two are not enough");
        assert_eq!(trusted(NOW, 0, &[ahead, ahead, NOW - 7]), ahead);
        assert_eq!(trusted(NOW, behind, &[behind, behind, behind]), behind, "a clock that is ahead");
        assert_eq!(trusted(0, NOW, &[5, 6, 7]), NOW, "never below the floor");
        assert_eq!(trusted(NOW, 0, &[u64::MAX, u64::MAX, u64::MAX]), NOW, "the end of time is no time");
    }

    #[test]
    fn a_lost_clock_follows_any_peer_and_a_sound_one_a_majority() {
        let (ahead, year) = (NOW + 1000, 365 * 86_400);
        assert_eq!(adjustment(NOW, NOW, true, &[ahead]), Some(ahead));
        assert_eq!(adjustment(NOW, NOW, true, &[NOW - 9, ahead]), Some(ahead), "the other has lost it, too");
        assert_eq!(adjustment(NOW, NOW, true, &[u64::MAX]), None, "the end of time is no time");
        assert_eq!(adjustment(NOW, NOW, false, &[ahead, ahead]), None, "two are not enough");
        assert_eq!(adjustment(NOW, NOW - year, false, &[ahead; 3]), Some(ahead));
        assert_eq!(adjustment(NOW + year, NOW, false, &[ahead; 3]), Some(ahead), "back, too");
        assert_eq!(adjustment(NOW + year, NOW, false, &[5; 3]), Some(NOW), "but not before the floor");
        assert_eq!(adjustment(NOW, NOW, true, &[5]), None);
        assert_eq!(adjustment(NOW, NOW, true, &[NOW + AGREE_S]), None, "they agree");
        assert_eq!(adjustment(NOW, NOW, true, &[]), None);
    }

    #[test]
    fn a_dispute_is_with_every_peer() {
        let day = 86_400;
        assert_eq!(dispute(NOW + day, &[NOW, NOW - 7]), Some(day as i64));
        assert_eq!(dispute(NOW - day, &[NOW]), Some(-(day as i64)));
        assert_eq!(dispute(NOW + day, &[NOW, NOW + day + 9]), None, "one agrees");
        assert_eq!(dispute(NOW, &[]), None);
    }

    #[test]
    fn only_time_that_clock_and_peers_agree_on_is_confirmed() {
        assert_eq!(confirmed(NOW, &[NOW + 60; 3]), Some(NOW));
        assert_eq!(confirmed(NOW, &[NOW - 60; 3]), Some(NOW - 60));
        assert_eq!(confirmed(NOW, &[NOW; 2]), None);
        assert_eq!(confirmed(NOW + 86_400, &[NOW; 3]), None);
    }

    /// Whatever fewer than half of the peers say, the result is not later than the latest honest time.
    #[test]
    fn a_minority_of_liars_cannot_move_it_beyond_honest_clocks() {
        for honest in 2..8u64 {
            for lie in [0, NOW - 1, NOW + 500_000, LATEST] {
                let mut peers: Vec<u64> = (0..honest).map(|i| NOW + i).collect();
                peers.extend(vec![lie; honest as usize - 1]);
                let judged = trusted(NOW - 100, NOW - 200, &peers);
                assert!((NOW..NOW + honest).contains(&judged), "{honest} honest, lie {lie}: {judged}");
            }
        }
    }

    #[test]
    fn saved_times_are_read_with_and_without_their_checksum() {
        assert_eq!(parse_saved(b"1800000000"), NOW);
        assert_eq!(parse_saved(b"00ff\n1800000000"), NOW);
        for bad in
            [&b""[..], b"x", b"1800000000\n", b"-5", b"99999999999999999999", b"18000000000", &[0xff; 30]]
        {
            assert_eq!(parse_saved(bad), 0, "{bad:?}");
        }
    }

    #[test]
    fn it_is_saved_rarely() {
        assert!(!is_worth_saving(NOW, NOW + SAVE_EVERY_S - 1) && is_worth_saving(NOW, NOW + SAVE_EVERY_S));
        assert!(!is_worth_saving(NOW, NOW - 1) && !is_worth_saving(0, LATEST + 1));
    }

    #[test]
    fn stamps_are_read() {
        let known = [
            ("19700101T000000Z", 0),
            ("20000229T235959Z", 951_868_799),
            ("20241231T000000Z", 1_735_603_200),
            ("21000301T000000Z", 4_107_542_400),
        ];
        for (text, unix) in known {
            assert_eq!(parse_stamp(text), Some(unix));
        }
        for bad in
            ["", "yesterday", "20241331T000000Z", "20241231T000000", "20241231T240000Z", "2024é231T00000Z"]
        {
            assert_eq!(parse_stamp(bad), None, "{bad}");
        }
    }
}
