//! The codes that a node has out: which are shown, until when, and how often they were guessed wrong.

use crate::code::{Secret, Slot};
use crate::limits::{OPENING_MS, SHOWN_MS, TRIES};

pub struct Live {
    pub slot: Slot,
    pub secret: Secret,
    /// In milliseconds; `None`: until it is used or guessed at too often.
    pub until: Option<u64>,
    /// Names it among all codes there have been.
    pub serial: u64,
    wrong: u32,
    /// One whose time is over is good for those who had begun before.
    shown: bool,
}

#[derive(Default)]
pub struct Codes {
    live: Vec<Live>,
    serials: u64,
}

impl Codes {
    pub fn shown(&self, slot: Slot) -> Option<&Live> {
        self.live.iter().find(|code| code.shown && code.slot == slot)
    }

    pub fn is_alive(&self, serial: u64) -> bool {
        self.live.iter().any(|code| code.serial == serial)
    }

    /// Shows a code in place of the one that is shown in this slot.
    pub fn show(&mut self, slot: Slot, secret: Secret, until: Option<u64>) {
        self.live.retain(|code| code.slot != slot || !code.shown);
        self.serials += 1;
        self.live.push(Live { slot, secret, until, serial: self.serials, wrong: 0, shown: true });
    }

    /// One wrong guess.
    pub fn wrong(&mut self, serial: u64) {
        if let Some(code) = self.live.iter_mut().find(|code| code.serial == serial) {
            code.wrong += 1;
        }
        self.live.retain(|code| code.wrong < TRIES);
    }

    pub fn used(&mut self, serial: u64) {
        self.live.retain(|code| code.serial != serial);
    }

    pub fn clear(&mut self) {
        self.live.clear();
    }

    pub fn expire(&mut self, now: u64) {
        let over = |code: &Live, by: u64| code.until.is_some_and(|until| now >= until + by);
        self.live.retain(|code| !over(code, OPENING_MS));
        self.live.iter_mut().for_each(|code| code.shown &= code.until.is_none_or(|until| now < until));
    }

    /// When [`Codes::expire`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let next = |code: &Live| code.until.map(|until| if code.shown { until } else { until + OPENING_MS });
        self.live.iter().filter_map(next).min()
    }
}

/// How long one that is made now is shown.
pub fn until(slot: Slot, now: u64) -> Option<u64> {
    match slot {
        Slot::Screen => Some(now + SHOWN_MS),
        // Each new one is a write to the boot partition; and it is read, if at all, long after it was written.
        Slot::File => None,
    }
}
