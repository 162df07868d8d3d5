//! Datagrams that go through a relay: what a QUIC datagram between a node and its relay holds.
//!
//! `[kind, node id (32 bytes), packet]`, or for half a packet `[kind, node id, number (2 bytes, big-endian), bytes]`. What is in
//! the packet is between the two far ends, who encrypt it for each other: the relay cannot read it.

use std::collections::VecDeque;

use os_identity::NodeId;

/// Offered in hello by a node that relays for its peers.
pub const OFFERS_RELAY: &str = "relay";
/// Offered in hello by a node that takes packets from relays.
pub const TAKES_RELAYED: &str = "relayed";

/// Packets up to this size always get through, in two halves where the way is narrow; QUIC needs 1200 bytes. A larger one that does
/// not fit is dropped, as any network would, so that the two ends find out what does.
pub const MUST_PASS: usize = 1200;
const NODE: usize = 32;
/// Bytes before the packet, and before half a packet.
pub const HEADER: usize = 1 + NODE;
const HALF_HEADER: usize = HEADER + 2;
/// First halves (or second ones) of one sender whose other half has not come.
const MAX_WAITING: usize = 16;

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the relay, for the node that is named.
    To,
    /// From the relay, sent by the node that is named.
    From,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    First(u16),
    Second(u16),
}

/// One datagram between a node and a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed<'a> {
    pub way: Way,
    pub node: NodeId,
    pub part: Part,
    pub bytes: &'a [u8],
}

impl<'a> Relayed<'a> {
    pub fn whole(way: Way, node: NodeId, bytes: &'a [u8]) -> Self {
        Self { way, node, part: Part::Whole, bytes }
    }

    /// `None`: not a datagram of ours. Strangers send them, so that is no event.
    pub fn decode(datagram: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = datagram.split_first()?;
        let (node, rest) = rest.split_first_chunk::<NODE>()?;
        let way = if kind & 1 == 0 { Way::To } else { Way::From };
        let numbered = || rest.split_first_chunk::<2>().map(|(n, bytes)| (u16::from_be_bytes(*n), bytes));
        let (part, bytes) = match kind >> 1 {
            0 => (Part::Whole, rest),
            1 => numbered().map(|(n, bytes)| (Part::First(n), bytes))?,
            2 => numbered().map(|(n, bytes)| (Part::Second(n), bytes))?,
            _ => return None,
        };
        (!bytes.is_empty()).then_some(Self { way, node: NodeId::from_bytes(*node), part, bytes })
    }

    pub fn encode(&self) -> Vec<u8> {
        let (kind, number) = match self.part {
            Part::Whole => (0, None),
            Part::First(n) => (1, Some(n)),
            Part::Second(n) => (2, Some(n)),
        };
        let mut out = Vec::with_capacity(HALF_HEADER + self.bytes.len());
        out.push(kind << 1 | u8::from(self.way == Way::From));
        out.extend_from_slice(self.node.as_bytes());
        out.extend(number.into_iter().flat_map(u16::to_be_bytes));
        out.extend_from_slice(self.bytes);
        out
    }

    /// The datagrams of at most `max` bytes that carry this: one, two halves numbered `number`, or none.
    pub fn fit(self, max: usize, number: u16) -> Vec<Vec<u8>> {
        let header = if self.part == Part::Whole { HEADER } else { HALF_HEADER };
        if header + self.bytes.len() <= max {
            return vec![self.encode()];
        }
        if self.part != Part::Whole || self.bytes.len() > MUST_PASS {
            return Vec::new();
        }
        let (first, second) = self.bytes.split_at(self.bytes.len().div_ceil(2));
        if HALF_HEADER + first.len() > max {
            return Vec::new();
        }
        let half = |part, bytes| Relayed { part, bytes, ..self }.encode();
        vec![half(Part::First(number), first), half(Part::Second(number), second)]
    }
}

/// Puts one sender's halves together, in whatever order they come.
#[derive(Debug, Default)]
pub struct Halves {
    waiting: VecDeque<(Part, Vec<u8>)>,
}

impl Halves {
    /// The whole packet, once it is there.
    pub fn push(&mut self, part: Part, bytes: &[u8]) -> Option<Vec<u8>> {
        let other = match part {
            Part::Whole => return Some(bytes.to_vec()),
            Part::First(n) => Part::Second(n),
            Part::Second(n) => Part::First(n),
        };
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == other) {
            let (_, waiting) = self.waiting.remove(at)?;
            let (first, second) =
                if matches!(part, Part::First(_)) { (bytes, &waiting[..]) } else { (&waiting[..], bytes) };
            return Some([first, second].concat());
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        // A newer half with the same number: the older one's other half will not come.
        self.waiting.retain(|(waiting, _)| *waiting != part);
        self.waiting.push_back((part, bytes.to_vec()));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::from_bytes([7; 32])
    }

    #[test]
    fn what_is_encoded_is_decoded_and_the_rest_is_nothing() {
        for part in [Part::Whole, Part::First(0x102), Part::Second(3)] {
            for way in [Way::To, Way::From] {
                let relayed = Relayed { way, node: node(), part, bytes: b"packet" };
                let bytes = relayed.encode();
                assert_eq!(Relayed::decode(&bytes), Some(relayed));
                for cut in 0..bytes.len() - b"packet".len() {
                    assert_eq!(Relayed::decode(&bytes[..cut]), None);
                }
            }
        }
        let mut unknown = Relayed::whole(Way::To, node(), b"x").encode();
        unknown[0] = 6;
        assert_eq!(Relayed::decode(&unknown), None);
    }

    #[test]
    fn what_must_pass_passes_a_narrow_way_in_halves() {
        let packet: Vec<u8> = (0..MUST_PASS).map(|i| i as u8).collect();
        for (max, count) in [(2000, 1), (HEADER + MUST_PASS, 1), (1150, 2), (700, 2), (600, 0)] {
            let datagrams = Relayed::whole(Way::From, node(), &packet).fit(max, 9);
            assert_eq!(datagrams.len(), count, "{max}");
            assert!(datagrams.iter().all(|d| d.len() <= max));
            for order in [[0, 1], [1, 0]].iter().take(count) {
                let mut halves = Halves::default();
                let came = order.iter().filter(|i| **i < count).filter_map(|i| {
                    let part = Relayed::decode(&datagrams[*i]).unwrap();
                    halves.push(part.part, part.bytes)
                });
                assert_eq!(came.collect::<Vec<_>>(), [&packet[..]], "once, in order {order:?}");
            }
        }
        assert!(Relayed::whole(Way::To, node(), &[0; 1300]).fit(1200, 0).is_empty(), "a probe finds out");
    }

    #[test]
    fn a_relay_passes_halves_on_as_they_are() {
        let half = Relayed { way: Way::To, node: node(), part: Part::First(1), bytes: &[0; 600] };
        assert_eq!(half.clone().fit(1150, 5), [half.encode()]);
        assert!(half.fit(600, 5).is_empty());
    }

    #[test]
    fn lost_halves_are_forgotten() {
        let mut halves = Halves::default();
        (0..1000).for_each(|n| assert_eq!(halves.push(Part::First(n), b"a"), None));
        assert_eq!(halves.waiting.len(), MAX_WAITING);
        assert_eq!(halves.push(Part::Second(1), b"b"), None, "its other half was too long ago");
        assert_eq!(halves.push(Part::Second(999), b"b"), Some(b"ab".to_vec()));
        assert_eq!(halves.push(Part::First(5), b"old"), None);
        assert_eq!(halves.push(Part::First(5), b"new"), None);
        assert_eq!(halves.push(Part::Second(5), b"!"), Some(b"new!".to_vec()));
    }
}
