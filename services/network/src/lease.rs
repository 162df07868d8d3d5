//! DHCPv4 as a client sees it (RFC 2131, section 4.4): a state machine without clock, socket or chance. It takes the
//! time, replies and a seed; it gives back what to send, what to configure and when to be called again.
//!
//! Deviations: the first retransmission comes after one second instead of four (a node should be there quickly), and
//! an address is not probed by ARP before use.

use std::net::Ipv4Addr;
use std::time::Duration;

/// First and longest pause between two packets of the same kind while there is no lease.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);
/// Requests for an offer, or for the old address after the cable was plugged in, before starting over.
const REQUESTS_MAX: u32 = 4;
/// RFC 2131, 4.4.5: renewals and rebindings are not repeated faster than this.
const RENEWAL_PAUSE_MIN: Duration = Duration::from_secs(60);
/// A lease shorter than this would have us talk to the server all the time.
const LIFETIME_MIN: Duration = Duration::from_secs(10);
/// Lists in a lease are cut here.
pub const LIST_MAX: usize = 16;

/// What a server lets us use, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub server: Ipv4Addr,
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    /// From the moment the request was sent. `None`: for ever.
    pub lifetime: Option<Duration>,
}

/// Destination 0.0.0.0/0 is the default route. Gateway 0.0.0.0: directly on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

/// A packet to send. Fields that a kind does not carry are absent as RFC 2131, table 5 has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub is_request: bool,
    pub xid: u32,
    /// Since this exchange began.
    pub seconds: u16,
    /// Our address, if we may use it; else 0.0.0.0.
    pub client: Ipv4Addr,
    pub requested: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
    /// Where it goes, port 67.
    pub to: Ipv4Addr,
}

/// A server's packet, as far as it matters; see `packet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: ReplyKind,
    pub xid: u32,
    pub client_mac: [u8; 6],
    pub offered: Ipv4Addr,
    pub server: Option<Ipv4Addr>,
    /// Absent: as the address's class had it.
    pub prefix: Option<u8>,
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    /// Seconds; `u32::MAX` is for ever.
    pub lifetime_s: Option<u32>,
    pub renewal_s: Option<u32>,
    pub rebinding_s: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    Offer,
    Ack,
    Nak,
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Send(Outgoing),
    /// Use this lease, instead of an earlier one if there was one.
    Configure(Lease),
    /// The lease is gone: remove its address and routes.
    Unconfigure(Lease),
}

/// Why a reply was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("it answers another client or an older question")]
    NotForUs,
    #[error("nothing like it is expected in state {0}")]
    Unexpected(&'static str),
    #[error("it offers {0}, which is no address for a host")]
    BadAddress(Ipv4Addr),
    #[error("it names no server")]
    NoServer,
    #[error("its prefix length of {0} leaves no room for hosts")]
    BadPrefix(u8),
    #[error("it grants a lease of {0:?} seconds; at least {min} are needed", min = LIFETIME_MIN.as_secs())]
    BadLifetime(Option<u32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Looking for servers.
    Selecting,
    /// Asked for one server's offer.
    Requesting {
        offered: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// The cable was plugged in again: asks whether the old lease still holds.
    Rebooting {
        held: Held,
    },
    Bound {
        held: Held,
    },
    /// Asks the server for more time.
    Renewing {
        held: Held,
    },
    /// Asks any server for more time.
    Rebinding {
        held: Held,
    },
}

/// A lease with its times, since the same origin as `now`. `Duration::MAX`: never.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    lease: Lease,
    renew_at: Duration,
    rebind_at: Duration,
    expires_at: Duration,
}

/// The client of one link. All times are durations since one origin of the caller's choice, which must not jump.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    state: State,
    has_carrier: bool,
    random: u64,
    xid: u32,
    exchange_began: Duration,
    /// When the packet was sent that a reply would answer.
    sent_at: Duration,
    attempts: u32,
    next: Duration,
}

impl Client {
    /// A client that begins at once when it has a carrier. `seed` decides transaction ids and jitter.
    pub fn new(mac: [u8; 6], seed: u64, now: Duration) -> Self {
        let (random, state) = (seed, State::Selecting);
        let has_carrier = false;
        let mut client = Self {
            mac,
            state,
            has_carrier,
            random,
            xid: 0,
            exchange_began: now,
            sent_at: now,
            attempts: 0,
            next: now,
        };
        client.begin(State::Selecting, now);
        client
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called. Without a carrier only a lease can run out.
    pub fn next_deadline(&self) -> Duration {
        let expiry = self.held().map_or(Duration::MAX, |held| held.expires_at);
        if self.has_carrier { self.next.min(expiry) } else { expiry }
    }

    /// For people: `selecting`, `requesting`, `rebooting`, `bound`, `renewing`, `rebinding`.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::Selecting => "selecting",
            State::Requesting { .. } => "requesting",
            State::Rebooting { .. } => "rebooting",
            State::Bound { .. } => "bound",
            State::Renewing { .. } => "renewing",
            State::Rebinding { .. } => "rebinding",
        }
    }

    /// The lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        self.held().map(|held| &held.lease)
    }

    /// The cable was plugged in or pulled out. A pulled cable keeps its lease until that runs out; a plugged one has it
    /// confirmed, because it may be another network.
    pub fn set_carrier(&mut self, carrier: bool, now: Duration) {
        if carrier && !self.has_carrier {
            let state = match self.held() {
                Some(held) => State::Rebooting { held: held.clone() },
                None => State::Selecting,
            };
            self.begin(state, now);
        }
        self.has_carrier = carrier;
    }

    /// To be called at [`next_deadline`](Self::next_deadline); earlier does no harm.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Action> {
        if now < self.next_deadline() {
            return Vec::new();
        }
        if let Some(held) = self.held().filter(|held| now >= held.expires_at) {
            let lost = Action::Unconfigure(held.lease.clone());
            self.begin(State::Selecting, now);
            return vec![lost];
        }
        match self.state.clone() {
            State::Requesting { .. } if self.attempts >= REQUESTS_MAX => {
                self.begin(State::Selecting, now);
                self.send(now)
            }
            State::Rebooting { held } if self.attempts >= REQUESTS_MAX => {
                self.begin(State::Selecting, now);
                [vec![Action::Unconfigure(held.lease)], self.send(now)].concat()
            }
            State::Bound { held } => {
                self.begin(State::Renewing { held }, now);
                self.send(now)
            }
            State::Renewing { held } if now >= held.rebind_at => {
                self.begin(State::Rebinding { held }, now);
                self.send(now)
            }
            _ => self.send(now),
        }
    }

    /// Takes a reply; what the caller cannot make sense of stays out (`packet`).
    ///
    /// # Errors
    /// Why the reply changes nothing.
    pub fn handle_reply(&mut self, reply: &Reply, now: Duration) -> Result<Vec<Action>, Ignored> {
        if reply.xid != self.xid || reply.client_mac != self.mac || self.attempts == 0 {
            return Err(Ignored::NotForUs);
        }
        match (&self.state, reply.kind) {
            (State::Selecting, ReplyKind::Offer) => {
                let offered = host_address(reply.offered)?;
                let server = reply.server.ok_or(Ignored::NoServer)?;
                self.begin(State::Requesting { offered, server }, now);
                Ok(self.send(now))
            }
            (State::Requesting { server, .. }, ReplyKind::Ack | ReplyKind::Nak)
                if reply.server.is_some_and(|other| other != *server) =>
            {
                Err(Ignored::NotForUs)
            }
            (State::Selecting | State::Bound { .. }, _) | (_, ReplyKind::Offer) => {
                Err(Ignored::Unexpected(self.state()))
            }
            (_, ReplyKind::Ack) => self.accept(reply, now),
            (_, ReplyKind::Nak) => {
                let lost = self.lease().cloned().map(Action::Unconfigure);
                self.begin(State::Selecting, now);
                // A server that refuses what it has just offered must not be asked in a tight loop.
                self.next = now + self.jittered(Duration::from_secs(5));
                Ok(lost.into_iter().collect())
            }
        }
    }

    fn accept(&mut self, reply: &Reply, now: Duration) -> Result<Vec<Action>, Ignored> {
        let held = self.held_from(reply)?;
        // A new address replaces the old one as a whole.
        let lost =
            self.lease().filter(|old| old.address != held.lease.address).cloned().map(Action::Unconfigure);
        let gained = Action::Configure(held.lease.clone());
        let renew_at = held.renew_at;
        self.begin(State::Bound { held }, now);
        self.next = renew_at;
        Ok(lost.into_iter().chain([gained]).collect())
    }

    fn held_from(&self, reply: &Reply) -> Result<Held, Ignored> {
        let address = host_address(reply.offered)?;
        let known_server = match &self.state {
            State::Requesting { server, .. } => Some(*server),
            _ => self.lease().map(|lease| lease.server),
        };
        let server = reply.server.or(known_server).ok_or(Ignored::NoServer)?;
        let prefix = reply.prefix.unwrap_or_else(|| class_prefix(address));
        if !(1..=32).contains(&prefix) {
            return Err(Ignored::BadPrefix(prefix));
        }
        let lifetime = match reply.lifetime_s {
            Some(u32::MAX) => None,
            Some(seconds) if Duration::from_secs(seconds.into()) >= LIFETIME_MIN => {
                Some(Duration::from_secs(seconds.into()))
            }
            other => return Err(Ignored::BadLifetime(other)),
        };
        let (renew_after, rebind_after) = renewal_times(lifetime, reply);
        let after = |time: Option<Duration>| time.map_or(Duration::MAX, |time| self.sent_at + time);
        let (routes, dns) = (reply.routes.clone(), reply.dns.clone());
        Ok(Held {
            lease: Lease { address, prefix, server, routes, dns, lifetime },
            renew_at: after(renew_after),
            rebind_at: after(rebind_after),
            expires_at: after(lifetime),
        })
    }

    fn begin(&mut self, state: State, now: Duration) {
        // A request continues the exchange that its offer began (RFC 2131, 4.4.1).
        if !matches!(state, State::Requesting { .. }) {
            self.xid = (self.draw() >> 32) as u32;
            self.exchange_began = now;
        }
        self.state = state;
        self.attempts = 0;
        self.next = now;
    }

    /// Sends what the state asks for and sets the time for the next attempt.
    fn send(&mut self, now: Duration) -> Vec<Action> {
        let any = Ipv4Addr::UNSPECIFIED;
        let (is_request, client, requested, server, to) = match &self.state {
            State::Bound { .. } => return Vec::new(),
            State::Selecting => (false, any, None, None, Ipv4Addr::BROADCAST),
            State::Requesting { offered, server } => {
                (true, any, Some(*offered), Some(*server), Ipv4Addr::BROADCAST)
            }
            State::Rebooting { held } => (true, any, Some(held.lease.address), None, Ipv4Addr::BROADCAST),
            State::Renewing { held } => (true, held.lease.address, None, None, held.lease.server),
            State::Rebinding { held } => (true, held.lease.address, None, None, Ipv4Addr::BROADCAST),
        };
        let seconds = now.saturating_sub(self.exchange_began).as_secs().try_into().unwrap_or(u16::MAX);
        let outgoing = Outgoing { is_request, xid: self.xid, seconds, client, requested, server, to };
        self.next = now + self.pause(now);
        self.sent_at = now;
        self.attempts += 1;
        vec![Action::Send(outgoing)]
    }

    /// How long to wait for an answer to what is sent now.
    fn pause(&mut self, now: Duration) -> Duration {
        let half_until = |at: Duration| (at.saturating_sub(now) / 2).max(RENEWAL_PAUSE_MIN);
        match &self.state {
            // At the end of a phase the next one begins, so nothing waits beyond it.
            State::Renewing { held } => half_until(held.rebind_at).min(held.rebind_at.saturating_sub(now)),
            State::Rebinding { held } => half_until(held.expires_at).min(held.expires_at.saturating_sub(now)),
            _ => {
                let doubled = PAUSE_MIN * (1 << self.attempts.min(10));
                self.jittered(doubled.min(PAUSE_MAX))
            }
        }
    }

    /// Up to a quarter more, so that a street of nodes does not ask in step after a power cut.
    fn jittered(&mut self, pause: Duration) -> Duration {
        pause + pause / 4 * (self.draw() >> 40) as u32 / (1 << 24)
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Selecting | State::Requesting { .. } => None,
            State::Rebooting { held }
            | State::Bound { held }
            | State::Renewing { held }
            | State::Rebinding { held } => Some(held),
        }
    }
}

/// T1 and T2: the server's if they are in order, else half and seven eighths of the lease.
fn renewal_times(lifetime: Option<Duration>, reply: &Reply) -> (Option<Duration>, Option<Duration>) {
    let Some(lifetime) = lifetime else { return (None, None) };
    let seconds = |value: Option<u32>| value.map(|value| Duration::from_secs(value.into()));
    let (renew, rebind) = (seconds(reply.renewal_s), seconds(reply.rebinding_s));
    match (renew.unwrap_or(lifetime / 2), rebind.unwrap_or(lifetime / 8 * 7)) {
        (renew, rebind) if LIFETIME_MIN / 2 <= renew && renew < rebind && rebind < lifetime => {
            (Some(renew), Some(rebind))
        }
        _ => (Some(lifetime / 2), Some(lifetime / 8 * 7)),
    }
}

fn host_address(address: Ipv4Addr) -> Result<Ipv4Addr, Ignored> {
    let [first, ..] = address.octets();
    let usable = (1..224).contains(&first) && first != 127;
    if usable { Ok(address) } else { Err(Ignored::BadAddress(address)) }
}

/// RFC 950's default, for servers that send no mask.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
