//! The name of an entry on the ESP: `macula-<seq>[+<left>[-<done>]].efi`.
//!
//! Source: Boot Loader Specification, "Boot counting"; order as systemd-boot 262 has it
//! (`boot_entry_compare`, entries without a sort key).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Slot, TRIAL_TRIES, slot_of_seq};

/// Largest install sequence number: six decimal digits, so that comparing names and comparing numbers agree.
pub const SEQ_MAX: u32 = 999_999;

/// File name of the rescue system's UKI, beside the slots'. Sorts behind every entry that has boots left, so that the boot
/// loader takes it by itself only when no slot has one that it can load.
pub const RESCUE_ENTRY: &str = "macula-0-rescue.efi";

/// Largest value of either counter that we accept in a name.
pub const TRIES_MAX: u32 = 999;

/// A boot counter: `left` boots to go, `done` boots made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tries {
    pub left: u32,
    pub done: u32,
}

/// One entry file. `tries: None` means committed, and the boot loader writes nothing when it boots it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entry {
    pub seq: u32,
    pub tries: Option<Tries>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("{0:?} is not an entry of ours (expected macula-<6 digits>[+<left>[-<done>]].efi)")]
    NotOurs(String),
    #[error("entry {0:?} has sequence number 0; numbers start at 1")]
    Zero(String),
    #[error("entry {0:?} has a bad boot counter (expected +<left> or +<left>-<done>, each 0 to {TRIES_MAX})")]
    Counter(String),
}

impl Entry {
    pub fn committed(seq: u32) -> Self {
        Self { seq, tries: None }
    }

    /// The entry of a fresh trial: all tries left, none made.
    pub fn armed(seq: u32) -> Self {
        Self { seq, tries: Some(Tries { left: TRIAL_TRIES, done: 0 }) }
    }

    /// The name this entry gets when it must not be chosen again. Sorts last, so it stays as a last resort.
    pub fn marked_bad(self) -> Self {
        let done = self.tries.map_or(TRIAL_TRIES, |t| t.done.max(1));
        Self { seq: self.seq, tries: Some(Tries { left: 0, done }) }
    }

    pub fn slot(&self) -> Slot {
        slot_of_seq(self.seq)
    }

    pub fn is_committed(&self) -> bool {
        self.tries.is_none()
    }

    /// On trial with boots left.
    pub fn is_armed(&self) -> bool {
        self.tries.is_some_and(|t| t.left > 0)
    }

    /// Counted down to zero or marked bad.
    pub fn is_exhausted(&self) -> bool {
        self.tries.is_some_and(|t| t.left == 0)
    }

    /// `macula-000002`: what the firmware's `LoaderEntrySelected` has before `.efi`; the same for every counter.
    pub fn id(&self) -> String {
        format!("macula-{:06}", self.seq)
    }

    /// The order in which systemd-boot lists (and so tries) entries: `Less` is tried first.
    pub fn boot_order(&self, other: &Self) -> Ordering {
        self.is_exhausted().cmp(&other.is_exhausted()).then_with(|| other.seq.cmp(&self.seq)).then_with(
            || match (self.tries, other.tries) {
                (Some(a), Some(b)) => b.left.cmp(&a.left).then(a.done.cmp(&b.done)),
                _ => Ordering::Equal,
            },
        )
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "macula-{:06}", self.seq)?;
        match self.tries {
            None => {}
            Some(Tries { left, done: 0 }) => write!(f, "+{left}")?,
            Some(Tries { left, done }) => write!(f, "+{left}-{done}")?,
        }
        f.write_str(".efi")
    }
}

impl FromStr for Entry {
    type Err = EntryError;

    /// Strict: for every name that parses, printing gives the same name again.
    fn from_str(name: &str) -> Result<Self, EntryError> {
        let not_ours = || EntryError::NotOurs(shortened(name));
        let stem = name.strip_prefix("macula-").and_then(|s| s.strip_suffix(".efi")).ok_or_else(not_ours)?;
        let (digits, counter) = match stem.split_once('+') {
            Some((digits, counter)) => (digits, Some(counter)),
            None => (stem, None),
        };
        if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(not_ours());
        }
        let seq: u32 = digits.parse().map_err(|_| not_ours())?;
        if seq == 0 {
            return Err(EntryError::Zero(shortened(name)));
        }
        let tries = match counter {
            None => None,
            Some(text) => Some(parse_counter(text).ok_or_else(|| EntryError::Counter(shortened(name)))?),
        };
        Ok(Self { seq, tries })
    }
}

fn parse_counter(text: &str) -> Option<Tries> {
    match text.split_once('-') {
        None => Some(Tries { left: parse_count(text)?, done: 0 }),
        Some((left, done)) => {
            let done = parse_count(done)?;
            (done > 0).then_some(Tries { left: parse_count(left)?, done })
        }
    }
}

fn parse_count(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = plain && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

impl TryFrom<String> for Entry {
    type Error = EntryError;

    fn try_from(name: String) -> Result<Self, EntryError> {
        name.parse()
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> String {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(name: &str) -> Entry {
        name.parse().unwrap()
    }

    #[test]
    fn names_round_trip() {
        for name in
            ["macula-000001.efi", "macula-000002+3.efi", "macula-000002+2-1.efi", "macula-999999+0-3.efi"]
        {
            assert_eq!(e(name).to_string(), name);
        }
        assert_eq!(e("macula-000002+2-1.efi").tries, Some(Tries { left: 2, done: 1 }));
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "macula-.efi",
            "macula-1.efi",
            "macula-0000001.efi",
            "macula-000000.efi",
            "macula-000001",
            "macula-00000a.efi",
            "macula-+00001.efi",
            "macula-000001+.efi",
            "macula-000001+3-.efi",
            "macula-000001+3-0.efi",
            "macula-000001+03.efi",
            "macula-000001+-1.efi",
            "macula-000001+1000.efi",
            "macula-000001+3-1-1.efi",
            "macula-000001+3+1.efi",
            "MACULA-000001.EFI",
            "macula-٠٠٠٠٠١.efi",
            "rescue.efi",
        ] {
            assert!(name.parse::<Entry>().is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn order_is_the_boot_loaders() {
        let mut list =
            ["macula-000004+0-3.efi", "macula-000001.efi", "macula-000003+1-2.efi", "macula-000002.efi"]
                .map(e);
        list.sort_by(Entry::boot_order);
        let names = list.map(|x| x.to_string());
        assert_eq!(
            names,
            ["macula-000003+1-2.efi", "macula-000002.efi", "macula-000001.efi", "macula-000004+0-3.efi"]
        );
    }

    #[test]
    fn rule_2_tries_that_are_used_up_lead_to_the_committed_entry_and_never_to_none() {
        let first = |names: &[&str]| {
            names.iter().map(|name| e(name)).min_by(Entry::boot_order).map(|e| e.to_string())
        };
        let committed = Some("macula-000001.efi".to_owned());
        assert_eq!(first(&["macula-000002+0-3.efi", "macula-000001.efi"]), committed);
        assert_eq!(
            first(&["macula-000001.efi", "macula-000002+0-3.efi", "macula-000004+0-1.efi"]),
            committed
        );
        // Should even the committed entry have been counted down, there is something to start.
        assert_eq!(
            first(&["macula-000001+0-3.efi", "macula-000002+0-3.efi"]),
            Some("macula-000002+0-3.efi".to_owned())
        );
    }

    #[test]
    fn marking_bad_keeps_the_count_of_boots_and_sorts_last() {
        assert_eq!(e("macula-000002+1-2.efi").marked_bad().to_string(), "macula-000002+0-2.efi");
        assert_eq!(e("macula-000002.efi").marked_bad().to_string(), "macula-000002+0-3.efi");
        assert!(e("macula-000002+3.efi").marked_bad().is_exhausted());
    }
}
