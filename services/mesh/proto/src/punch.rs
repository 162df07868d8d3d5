//! `punch/1`: two nodes that are connected through a relay agree on a moment at which both send to each other, so that each one's NAT
//! takes the other's packets for answers.
//!
//! On a stream over the relayed connection: the opener says [`Meet::Where`], the acceptor answers the same, the opener says
//! [`Meet::Go`] and waits half a round trip, by when the acceptor has heard it. `relay/1` asks the relay where it sees the other one.

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use crate::frame::framed;
use crate::observed::Mapping;

pub const PROTOCOL: &str = "punch/1";
/// The stream to a relay that asks for a node; its id (`did:key`) is the header's resource.
pub const RELAY_PROTOCOL: &str = "relay/1";
/// Largest frame on both, in bytes.
pub const MAX_MEET: usize = 1024;
/// Addresses that one end may name.
pub const MAX_NAMED: usize = 16;

/// What is said on a `punch/1` stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meet {
    Where {
        addresses: Vec<SocketAddr>,
        /// This end's NAT gives each destination another port: it has to dial itself.
        varies: bool,
    },
    Go,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeetError {
    #[error("does not decode: {0}")]
    Cbor(String),
    #[error("of kind {0}, which this release does not know")]
    Kind(u8),
    #[error("names more than {MAX_NAMED} addresses")]
    TooMany,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    kind: u8,
    #[n(1)]
    addresses: Option<Vec<String>>,
    #[n(2)]
    varies: Option<bool>,
}

impl Meet {
    pub fn located(mut addresses: Vec<SocketAddr>, mapping: Mapping) -> Self {
        addresses.truncate(MAX_NAMED);
        Self::Where { addresses, varies: mapping == Mapping::Varies }
    }

    pub fn frame(&self) -> Vec<u8> {
        framed(&match self {
            Self::Where { addresses, varies } => {
                let addresses = addresses.iter().map(SocketAddr::to_string).collect();
                Wire { kind: 0, addresses: Some(addresses), varies: varies.then_some(true) }
            }
            Self::Go => Wire { kind: 1, addresses: None, varies: None },
        })
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MeetError> {
        let wire: Wire = minicbor::decode(bytes).map_err(|e| MeetError::Cbor(e.to_string()))?;
        let named = wire.addresses.unwrap_or_default();
        if named.len() > MAX_NAMED {
            return Err(MeetError::TooMany);
        }
        match wire.kind {
            0 => Ok(Self::Where {
                addresses: named.iter().filter_map(|text| text.parse().ok()).collect(),
                varies: wire.varies.unwrap_or(false),
            }),
            1 => Ok(Self::Go),
            kind => Err(MeetError::Kind(kind)),
        }
    }
}

/// A relay's answer on `relay/1`: where it sees the node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Seen {
    #[n(0)]
    pub address: Option<String>,
}

impl Seen {
    /// `None`: it is here, but not by an address that others could use.
    pub fn at(address: Option<SocketAddr>) -> Self {
        Self { address: address.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()).to_string()) }
    }

    pub fn frame(&self) -> Vec<u8> {
        framed(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MeetError> {
        minicbor::decode(bytes).map_err(|e| MeetError::Cbor(e.to_string()))
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address.as_deref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn what_is_said_is_heard() {
        for meet in [
            Meet::Go,
            Meet::located(vec![at(1), "[2001:db8::1]:2".parse().unwrap()], Mapping::Varies),
            Meet::located(vec![], Mapping::Same),
        ] {
            assert_eq!(Meet::decode(&meet.frame()[4..]), Ok(meet));
        }
        let seen = Seen::at(Some("[::ffff:192.0.2.1]:1".parse().unwrap()));
        assert_eq!(Seen::decode(&seen.frame()[4..]).unwrap().address(), Some(at(1)));
        assert_eq!(Seen::decode(&Seen::at(None).frame()[4..]).unwrap().address(), None);
    }

    #[test]
    fn too_much_and_nonsense_are_refused() {
        let wire = |kind, count: usize| {
            let addresses = Some(vec!["192.0.2.1:1".to_owned(); count]);
            framed(&Wire { kind, addresses, varies: None }).split_off(4)
        };
        assert_eq!(Meet::decode(&wire(0, MAX_NAMED + 1)), Err(MeetError::TooMany));
        assert_eq!(Meet::decode(&wire(7, 0)), Err(MeetError::Kind(7)));
        assert!(Meet::decode(b"\xff").is_err() && Seen::decode(b"\x00").is_err());
        let most = Meet::located((1..100).map(at).collect(), Mapping::Unknown);
        assert!(most.frame().len() <= MAX_MEET);
    }
}
