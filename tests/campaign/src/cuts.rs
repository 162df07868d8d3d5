//! Where the power goes: a cut as a value that prints, parses and comes from a seed.
//!
//! What a disk may do is assumed to be this. A sector is written whole or not at all. A completed flush puts every request that
//! was complete before it on the disk; what came after the last one may be there or not, each request by itself. Of the request
//! under way any of its sectors may be there. Discards are requests like writes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::disk::{REGIONS, Region};
use crate::operation::Operation;

/// Most sectors that are missing in one request.
const HOLES_MAX: usize = 8;

/// One request of an operation, as far as cuts care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub region: Region,
    pub is_superblock: bool,
    pub sectors: u64,
    pub is_flush: bool,
    pub is_discard: bool,
}

/// What a request is for, as far as a place can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    Region(Region),
    /// Of the state file system.
    Superblock,
}

impl Spot {
    fn has(self, request: &Request) -> bool {
        match self {
            Self::Region(region) => request.region == region && request.sectors > 0,
            Self::Superblock => request.is_superblock,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Region(region) => region.name(),
            Self::Superblock => "superblock",
        }
    }

    fn named(text: &str) -> Option<Self> {
        let all = REGIONS.into_iter().map(Self::Region).chain([Self::Superblock]);
        all.into_iter().find(|spot| spot.name() == text)
    }
}

/// A request of an operation: by its number, or the nth one to a spot (from the end, if negative), which means the same
/// in every recording of code that writes that spot in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Number(usize),
    Nth(Spot, i64),
}

/// What is on the disk of an operation's requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// All before this one.
    Prefix,
    /// All before this one, and this one's first sectors.
    Torn(u64),
    /// All before this one, and this one without these of its sectors.
    Holes(BTreeSet<u64>),
    /// All before this one, except these.
    Lost(BTreeSet<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cut {
    pub operation: Operation,
    pub place: Place,
    pub kind: Kind,
}

impl Cut {
    /// The number of the request at which the power goes, checked against the operation's requests.
    pub fn at(&self, requests: &[Request]) -> Result<usize> {
        let at = match self.place {
            Place::Number(number) => Some(number).filter(|n| *n <= requests.len()),
            Place::Nth(spot, nth) => nth_at(requests, spot, nth),
        };
        let at = at.with_context(|| format!("{self}: the operation has no such request"))?;
        match &self.kind {
            Kind::Prefix => {}
            Kind::Torn(sectors) => {
                let most = requests.get(at).map_or(0, |r| r.sectors);
                ensure!(*sectors < most, "{self}: that request has {most} sectors");
            }
            Kind::Holes(holes) => {
                let most = requests.get(at).map_or(0, |r| r.sectors);
                ensure!(holes.iter().all(|s| *s < most), "{self}: that request has {most} sectors");
            }
            Kind::Lost(lost) => {
                let durable = durable_before(requests, at);
                let fine = lost.iter().all(|n| (durable..at).contains(n));
                ensure!(fine, "{self}: only requests {durable} to {at} are not flushed by then");
            }
        }
        Ok(at)
    }
}

fn nth_at(requests: &[Request], spot: Spot, nth: i64) -> Option<usize> {
    let mut found = requests.iter().enumerate().filter(|(_, r)| spot.has(r)).map(|(n, _)| n);
    match usize::try_from(nth) {
        Ok(nth) => found.nth(nth),
        Err(_) => found.rev().nth(usize::try_from(-1 - nth).ok()?),
    }
}

/// Requests before this number are on the disk for good when the power goes at `at`.
pub fn durable_before(requests: &[Request], at: usize) -> usize {
    requests[..at].iter().rposition(|r| r.is_flush).unwrap_or(0)
}

/// `count` cuts of an operation, no two the same: first every prefix, as far as they go, evenly spread; then torn and lost
/// requests where there are any. The same seed gives the same cuts.
pub fn generate(operation: Operation, requests: &[Request], seed: u64, count: usize) -> Vec<Cut> {
    let mut random = Random::new(seed ^ (operation as u64 + 1) << 56);
    let mut cuts = BTreeSet::new();
    // At most half are prefixes where there is a choice: two thirds of a log are requests that nobody flushed yet.
    let prefixes = (requests.len() + 1).min(count.div_ceil(2));
    for number in 0..prefixes {
        let at = match prefixes > requests.len() {
            true => number,
            false => random.below(requests.len() + 1),
        };
        cuts.insert(Cut { operation, place: Place::Number(at), kind: Kind::Prefix });
    }
    let mut barren = 0;
    while cuts.len() < count && barren < 1000 {
        let cut = random_cut(operation, requests, &mut random);
        barren = if cut.is_some_and(|cut| cuts.insert(cut)) { 0 } else { barren + 1 };
    }
    cuts.into_iter().collect()
}

fn random_cut(operation: Operation, requests: &[Request], random: &mut Random) -> Option<Cut> {
    if requests.is_empty() {
        return None;
    }
    let at = random.below(requests.len());
    let sectors = requests[at].sectors as usize;
    let kind = match random.below(4) {
        0 | 1 if sectors < 2 => return None,
        0 => Kind::Torn(1 + random.below(sectors - 1) as u64),
        1 => Kind::Holes((0..=random.below(HOLES_MAX)).map(|_| random.below(sectors) as u64).collect()),
        _ => lost(requests, at + 1, random)?,
    };
    let at = if matches!(kind, Kind::Lost(_)) { at + 1 } else { at };
    Some(Cut { operation, place: Place::Number(at), kind })
}

/// A few, about half, or nearly all of what is not flushed yet: each finds other mistakes.
fn lost(requests: &[Request], at: usize, random: &mut Random) -> Option<Kind> {
    let open: Vec<usize> = (durable_before(requests, at)..at).filter(|n| requests[*n].sectors > 0).collect();
    let of_ten = [1, 5, 9][random.below(3)];
    let mut lost: BTreeSet<usize> = open.iter().copied().filter(|_| random.below(10) < of_ten).collect();
    if lost.is_empty() && !open.is_empty() {
        lost.insert(open[random.below(open.len())]);
    }
    (!lost.is_empty()).then_some(Kind::Lost(lost))
}

/// xorshift64*, so that a seed means the same everywhere and for ever.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // splitmix64's first step: near seeds must not give near sequences, and zero must not stay.
        let mixed =
            (seed.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self(mixed | 1)
    }

    /// Below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % bound
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Nth(spot, nth) => write!(f, "{}#{nth}", spot.name()),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((spot, nth)) = text.split_once('#') else {
            return Ok(Self::Number(
                text.parse().with_context(|| format!("{text:?} is no request's number"))?,
            ));
        };
        let spot = Spot::named(spot).with_context(|| format!("{spot:?} is no spot of the disk"))?;
        Ok(Self::Nth(spot, nth.parse().with_context(|| format!("{nth:?} is no number"))?))
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, place) = (self.operation, self.place);
        match &self.kind {
            Kind::Prefix => write!(f, "{operation}:prefix {place}"),
            Kind::Torn(sectors) => write!(f, "{operation}:torn {place}/{sectors}"),
            Kind::Holes(holes) => write!(f, "{operation}:holes {place} {}", set_text(holes)),
            Kind::Lost(lost) => write!(f, "{operation}:lost {place} {}", set_text(lost)),
        }
    }
}

fn set_text<T: ToString>(set: &BTreeSet<T>) -> String {
    format!("{{{}}}", set.iter().map(T::to_string).collect::<Vec<_>>().join(","))
}

fn parse_set<T: FromStr + Ord>(text: &str) -> Option<BTreeSet<T>> {
    let numbers = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    numbers.split(',').map(|n| n.trim().parse().ok()).collect()
}

impl FromStr for Cut {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shape = "expected OPERATION:prefix N, OPERATION:torn N/SECTORS, OPERATION:holes N {SECTOR,...} or OPERATION:lost N {N,...}";
        let (operation, rest) = text.trim().split_once(':').context(shape)?;
        let (kind, rest) = rest.trim().split_once(' ').context(shape)?;
        let operation = operation.parse()?;
        let (place, kind) = match kind {
            "prefix" => (rest, Kind::Prefix),
            "torn" => {
                let (place, sectors) = rest.split_once('/').context(shape)?;
                (place, Kind::Torn(sectors.trim().parse().context(shape)?))
            }
            "holes" => {
                let (place, set) = rest.trim().split_once(' ').context(shape)?;
                (place, Kind::Holes(parse_set(set).context(shape)?))
            }
            "lost" => {
                let (place, set) = rest.trim().split_once(' ').context(shape)?;
                (place, Kind::Lost(parse_set(set).context(shape)?))
            }
            other => bail!("{other:?} is no kind of cut; {shape}"),
        };
        Ok(Self { operation, place: place.trim().parse()?, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let write = |region, sectors| {
            let is_superblock = region == Region::State && sectors == 8;
            Request { region, is_superblock, sectors, is_flush: false, is_discard: false }
        };
        let flush = Request { is_flush: true, ..write(Region::Gpt, 0) };
        vec![
            write(Region::State, 8),
            write(Region::Esp, 8),
            flush,
            write(Region::Esp, 1),
            write(Region::State, 16),
            write(Region::Esp, 8),
        ]
    }

    #[test]
    fn text_and_value_agree() {
        for text in [
            "update:prefix 4",
            "update:torn 4/3",
            "commit:lost 6 {3,5}",
            "commit:holes 4 {0,9}",
            "rollback:torn esp#-1/2",
        ] {
            assert_eq!(text.parse::<Cut>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "update",
            "update:prefix",
            "update:prefix x",
            "nap:prefix 1",
            "update:lost 3 3",
            "update:torn 3",
            "update:torn moon#1/1",
        ] {
            assert!(text.parse::<Cut>().is_err(), "{text}");
        }
    }

    #[test]
    fn places_are_found_by_number_and_by_region() {
        let requests = requests();
        let at = |text: &str| text.parse::<Cut>().unwrap().at(&requests);
        assert_eq!(at("update:prefix 6").unwrap(), 6);
        assert_eq!(at("update:prefix esp#0").unwrap(), 1);
        assert_eq!(at("update:torn esp#-1/7").unwrap(), 5);
        assert_eq!(at("update:torn superblock#-1/3").unwrap(), 0);
        assert!(at("update:prefix 7").is_err() && at("update:prefix esp#3").is_err());
        assert!(at("update:torn esp#-1/8").is_err(), "all of its sectors is no tear");
        assert!(at("update:prefix gpt#0").is_err(), "a flush is nowhere");
    }

    #[test]
    fn what_was_flushed_cannot_be_lost() {
        let requests = requests();
        let at = |text: &str| text.parse::<Cut>().unwrap().at(&requests);
        assert!(at("update:lost 5 {3,4}").is_ok());
        assert!(at("update:lost 5 {1}").is_err());
        assert!(at("update:lost 5 {5}").is_err(), "it has not been written yet");
    }

    #[test]
    fn a_seed_gives_the_same_valid_cuts_each_time() {
        let requests = requests();
        let cuts = generate(Operation::Update, &requests, 7, 20);
        assert_eq!(cuts, generate(Operation::Update, &requests, 7, 20));
        assert_ne!(cuts, generate(Operation::Update, &requests, 8, 20));
        assert!(cuts.iter().all(|c| c.at(&requests).is_ok()), "{cuts:?}");
        let of = |is: fn(&Kind) -> bool| cuts.iter().filter(|c| is(&c.kind)).count();
        assert_eq!(of(|k| *k == Kind::Prefix), 7, "each prefix once, the empty and the whole one, too");
        assert!(
            of(|k| matches!(k, Kind::Torn(_) | Kind::Holes(_))) > 0 && of(|k| matches!(k, Kind::Lost(_))) > 0
        );
        assert!(generate(Operation::Update, &[], 7, 20).len() == 1);
    }
}
