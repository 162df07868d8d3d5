//! Where claimants come from (an address, a node), and how much is heard from each.

use std::collections::BTreeMap;

use crate::limits::{BAN_MS, HELLOS_A_MINUTE, HELLOS_A_MINUTE_EACH, MAX_PLACES, WRONG_EACH};

const MINUTE_MS: u64 = 60_000;
const MAX_NAME: usize = 64;

#[derive(Default)]
pub struct Places {
    places: BTreeMap<String, Place>,
    all: Count,
}

#[derive(Default)]
struct Place {
    hellos: Count,
    wrong: u32,
    banned_until: u64,
    last: u64,
}

#[derive(Default)]
struct Count {
    since: u64,
    count: u32,
}

impl Count {
    fn allows(&mut self, most: u32, now: u64) -> bool {
        if now >= self.since + MINUTE_MS {
            *self = Count { since: now, count: 0 };
        }
        self.count += 1;
        self.count <= most
    }
}

impl Places {
    /// Whether one more run may begin.
    pub fn hello(&mut self, from: &str, now: u64) -> bool {
        let place = self.place(from, now);
        let here = now >= place.banned_until && place.hellos.allows(HELLOS_A_MINUTE_EACH, now);
        // What is refused to one place is not taken from the others.
        here && self.all.allows(HELLOS_A_MINUTE, now)
    }

    pub fn is_banned(&mut self, from: &str, now: u64) -> bool {
        now < self.place(from, now).banned_until
    }

    pub fn wrong(&mut self, from: &str, now: u64) {
        let place = self.place(from, now);
        place.wrong += 1;
        if place.wrong >= WRONG_EACH {
            place.wrong = 0;
            place.banned_until = now + BAN_MS;
        }
    }

    fn place(&mut self, from: &str, now: u64) -> &mut Place {
        let name: String = from.chars().take(MAX_NAME).collect();
        if !self.places.contains_key(&name) && self.places.len() >= MAX_PLACES {
            let oldest = self.places.iter().min_by_key(|(_, place)| (place.banned_until, place.last));
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.map(|name| self.places.remove(&name));
        }
        let place = self.places.entry(name).or_default();
        place.last = now;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_share_and_so_have_all() {
        let mut places = Places::default();
        let granted =
            |places: &mut Places, from: &str, now| (0..100).filter(|_| places.hello(from, now)).count();
        assert_eq!(granted(&mut places, "a", 0), HELLOS_A_MINUTE_EACH as usize);
        assert_eq!(granted(&mut places, "b", 1), HELLOS_A_MINUTE_EACH as usize);
        let rest: usize = (0..50).map(|n| granted(&mut places, &n.to_string(), 2)).sum();
        assert_eq!(rest, (HELLOS_A_MINUTE - 2 * HELLOS_A_MINUTE_EACH) as usize);
        assert!(places.hello("a", MINUTE_MS));
    }

    #[test]
    fn wrong_guesses_ban_a_place_for_a_while_and_places_are_few() {
        let mut places = Places::default();
        (0..WRONG_EACH).for_each(|_| places.wrong("a", 5));
        assert!(places.is_banned("a", 5 + BAN_MS - 1) && !places.is_banned("b", 5));
        (0..2 * MAX_PLACES).for_each(|n| assert!(!places.is_banned(&n.to_string(), 6)));
        assert_eq!(places.places.len(), MAX_PLACES);
        assert!(places.is_banned("a", 7), "those who are banned are forgotten last");
        assert!(!places.is_banned("a", 5 + BAN_MS));
    }
}
