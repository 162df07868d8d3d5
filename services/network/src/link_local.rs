//! IPv4 link-local addresses (RFC 3927): an address for links where no DHCP server answers, so that two nodes on one
//! cable find each other. A state machine without clock or socket, like [`crate::lease`].
//!
//! An address is probed before it is used and defended while it is. The same hardware address tries the same
//! addresses in the same order, so a node keeps its address over restarts.

use std::net::Ipv4Addr;
use std::time::Duration;

pub const PREFIX: u8 = 16;
/// RFC 3927, section 9.
const PROBE_WAIT: Duration = Duration::from_secs(1);
const PROBE_COUNT: u32 = 3;
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(2);
const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
const ANNOUNCE_COUNT: u32 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
const CONFLICTS_MAX: u32 = 10;
const RATE_LIMIT: Duration = Duration::from_secs(60);
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// The parts of an ARP packet (RFC 826) for IPv4 over Ethernet. All of ours are broadcast requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub is_request: bool,
    pub sender_mac: [u8; 6],
    /// 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send(Arp),
    Configure(Ipv4Addr),
    /// Somebody else has it too.
    Unconfigure(Ipv4Addr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Probing,
    Announcing,
    Holding,
}

/// The claim to one address of one link. Times as in [`crate::lease::Client`].
#[derive(Debug)]
pub struct Claim {
    mac: [u8; 6],
    random: u64,
    address: Ipv4Addr,
    phase: Phase,
    sent: u32,
    conflicts: u32,
    defended_at: Option<Duration>,
    next: Duration,
}

impl Claim {
    pub fn new(mac: [u8; 6], now: Duration) -> Self {
        let random = mac.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let mut claim = Self {
            mac,
            random,
            address: Ipv4Addr::UNSPECIFIED,
            phase: Phase::Probing,
            sent: 0,
            conflicts: 0,
            defended_at: None,
            next: now,
        };
        claim.choose(now);
        claim
    }

    /// The address in use; none while it is only probed.
    pub fn address(&self) -> Option<Ipv4Addr> {
        (self.phase != Phase::Probing).then_some(self.address)
    }

    pub fn next_deadline(&self) -> Duration {
        self.next
    }

    /// To be called at [`next_deadline`](Self::next_deadline); earlier does no harm.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Action> {
        if now < self.next {
            return Vec::new();
        }
        match self.phase {
            Phase::Probing if self.sent < PROBE_COUNT => {
                self.sent += 1;
                let last = self.sent == PROBE_COUNT;
                let pause = PROBE_MIN + self.part_of(PROBE_MAX - PROBE_MIN);
                self.next = now + if last { ANNOUNCE_WAIT } else { pause };
                vec![Action::Send(self.packet(Ipv4Addr::UNSPECIFIED))]
            }
            Phase::Probing => {
                (self.phase, self.sent, self.next) = (Phase::Announcing, 1, now + ANNOUNCE_INTERVAL);
                vec![Action::Configure(self.address), Action::Send(self.packet(self.address))]
            }
            Phase::Announcing if self.sent < ANNOUNCE_COUNT => {
                self.sent += 1;
                self.next = now + ANNOUNCE_INTERVAL;
                vec![Action::Send(self.packet(self.address))]
            }
            Phase::Announcing | Phase::Holding => {
                (self.phase, self.next) = (Phase::Holding, Duration::MAX);
                Vec::new()
            }
        }
    }

    /// Takes every ARP packet that the link brings.
    pub fn handle_arp(&mut self, arp: &Arp, now: Duration) -> Vec<Action> {
        if arp.sender_mac == self.mac {
            return Vec::new();
        }
        let uses_it = arp.sender == self.address;
        let probes_it = arp.sender.is_unspecified() && arp.is_request && arp.target == self.address;
        match self.phase {
            Phase::Probing if uses_it || probes_it => {
                self.choose_another(now);
                Vec::new()
            }
            Phase::Announcing | Phase::Holding if uses_it => self.defend(now),
            _ => Vec::new(),
        }
    }

    /// Once in a while by saying so; a second conflict soon after is lost (RFC 3927, 2.5 b).
    fn defend(&mut self, now: Duration) -> Vec<Action> {
        if self.defended_at.is_none_or(|at| now >= at + DEFEND_INTERVAL) {
            self.defended_at = Some(now);
            return vec![Action::Send(self.packet(self.address))];
        }
        let lost = self.address;
        self.choose_another(now);
        vec![Action::Unconfigure(lost)]
    }

    fn choose_another(&mut self, now: Duration) {
        self.conflicts += 1;
        self.choose(now);
        if self.conflicts >= CONFLICTS_MAX {
            self.next = now + RATE_LIMIT;
        }
    }

    /// From 169.254.1.0 to 169.254.254.255 (RFC 3927, 2.1).
    fn choose(&mut self, now: Duration) {
        let number = self.draw() % (254 * 256);
        self.address = Ipv4Addr::new(169, 254, 1 + (number / 256) as u8, (number % 256) as u8);
        (self.phase, self.sent, self.defended_at) = (Phase::Probing, 0, None);
        self.next = now + self.part_of(PROBE_WAIT);
    }

    fn packet(&self, sender: Ipv4Addr) -> Arp {
        Arp { is_request: true, sender_mac: self.mac, sender, target: self.address }
    }

    fn part_of(&mut self, span: Duration) -> Duration {
        span * (self.draw() >> 48) as u32 / (1 << 16)
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl Arp {
    /// The 28 bytes behind the Ethernet header.
    pub fn encode(&self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, if self.is_request { 1 } else { 2 }]);
        bytes[8..14].copy_from_slice(&self.sender_mac);
        bytes[14..18].copy_from_slice(&self.sender.octets());
        bytes[24..28].copy_from_slice(&self.target.octets());
        bytes
    }

    /// Nothing if it is not ARP for IPv4 over Ethernet. Ethernet's padding may follow.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        let is_request = match bytes.get(..8)? {
            [0, 1, 8, 0, 6, 4, 0, operation @ (1 | 2)] => *operation == 1,
            _ => return None,
        };
        let sender_mac = bytes.get(8..14)?.try_into().ok()?;
        Some(Self { is_request, sender_mac, sender: address(14)?, target: address(24)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const OTHER: [u8; 6] = [0x52, 0x54, 0, 1, 2, 4];

    /// Runs until the address is held; gives what was done and the time.
    fn claim() -> (Claim, Vec<Action>, Duration) {
        let mut claim = Claim::new(MAC, Duration::ZERO);
        let (mut actions, mut now) = (Vec::new(), Duration::ZERO);
        while claim.next_deadline() != Duration::MAX {
            now = claim.next_deadline();
            actions.extend(claim.handle_timeout(now));
        }
        (claim, actions, now)
    }

    fn probe_from_other(address: Ipv4Addr) -> Arp {
        Arp { is_request: true, sender_mac: OTHER, sender: Ipv4Addr::UNSPECIFIED, target: address }
    }

    #[test]
    fn probes_then_announces_and_stays() {
        let (claim, actions, now) = claim();
        let address = claim.address().unwrap();
        let probe = Action::Send(claim.packet(Ipv4Addr::UNSPECIFIED));
        let announcement = Action::Send(claim.packet(address));
        assert_eq!(actions, [probe, probe, probe, Action::Configure(address), announcement, announcement]);
        assert!(now < Duration::from_secs(12), "{now:?}");
        assert!(address.is_link_local() && (1..=254).contains(&address.octets()[2]));
        assert_eq!(Claim::new(MAC, Duration::from_secs(5)).address, address);
    }

    #[test]
    fn moves_on_while_probing_and_slows_down_after_many_conflicts() {
        let mut claim = Claim::new(MAC, Duration::ZERO);
        for _ in 0..CONFLICTS_MAX {
            let before = claim.address;
            assert_eq!(claim.handle_arp(&probe_from_other(before), Duration::ZERO), []);
            assert_ne!(claim.address, before);
        }
        assert!(claim.next_deadline() >= RATE_LIMIT);
    }

    #[test]
    fn defends_once_then_gives_way() {
        let (mut claim, _, now) = claim();
        let address = claim.address().unwrap();
        let taken = Arp { sender: address, ..probe_from_other(address) };
        assert_eq!(claim.handle_arp(&probe_from_other(address), now), []);
        assert_eq!(claim.handle_arp(&taken, now), [Action::Send(claim.packet(address))]);
        assert_eq!(claim.handle_arp(&taken, now + Duration::from_secs(1)), [Action::Unconfigure(address)]);
        assert_eq!(claim.address(), None);
        // Our own packets, looped back, are no conflict.
        let own = claim.packet(claim.address);
        assert_eq!(claim.handle_arp(&own, now), []);
    }

    #[test]
    fn arp_bytes() {
        let arp = probe_from_other(Ipv4Addr::new(169, 254, 7, 9));
        assert_eq!(Arp::decode(&arp.encode()), Some(arp));
        let mut bytes = arp.encode();
        assert_eq!(Arp::decode(&bytes[..27]), None);
        bytes[4] = 8;
        assert_eq!(Arp::decode(&bytes), None);
    }
}
