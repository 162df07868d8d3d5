//! Who a node is and where it can be reached, and how that is written on the wire.
//!
//! An address is a byte string of 6 bytes (IPv4, port) or 18 bytes (IPv6, port), big-endian. Other lengths up to
//! [`MAX_ADDRESS_LEN`] are skipped, so that later kinds of address do not make a contact unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use minicbor::{Decoder, Encoder};
use os_identity::NodeId;

use crate::Key;
use crate::wire::{Bounded, WireError};

pub const MAX_ADDRESSES: usize = 8;
pub const MAX_ADDRESS_LEN: usize = 64;

/// A node with the addresses it is said to have. Cheap to copy: tables of many nodes share the list.
///
/// The id is proven by whoever carries messages to it; the addresses are hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    pub id: NodeId,
    pub addresses: Arc<[SocketAddr]>,
}

impl Contact {
    /// Keeps the first [`MAX_ADDRESSES`] addresses that a peer could use.
    pub fn new(id: NodeId, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { id, addresses: usable(addresses) }
    }

    pub fn key(&self) -> Key {
        Key::from(self.id)
    }

    pub(crate) fn encode(&self, e: &mut Encoder<Vec<u8>>) -> Result<(), WireError> {
        e.array(2)?.bytes(self.id.as_bytes())?;
        encode_addresses(e, &self.addresses)
    }

    pub(crate) fn decode(d: &mut Decoder<'_>) -> Result<Self, WireError> {
        d.array_of(2, "contact")?;
        let id = NodeId::from_bytes(d.bytes_32("contact id")?);
        Ok(Self { id, addresses: decode_addresses(d)? })
    }
}

/// Unspecified, multicast and port-zero addresses help nobody; doubles are dropped, order is kept. IPv4 addresses that a
/// dual-stack socket showed as IPv6 (`::ffff:a.b.c.d`) become IPv4 again.
fn usable(addresses: impl IntoIterator<Item = SocketAddr>) -> Arc<[SocketAddr]> {
    let mut kept: Vec<SocketAddr> = Vec::new();
    for mut address in addresses {
        let ip = address.ip().to_canonical();
        if ip != address.ip() {
            address = SocketAddr::new(ip, address.port());
        }
        let useless = address.port() == 0 || ip.is_unspecified() || ip.is_multicast();
        if kept.len() < MAX_ADDRESSES && !useless && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept.into()
}

pub(crate) fn encode_addresses(e: &mut Encoder<Vec<u8>>, addresses: &[SocketAddr]) -> Result<(), WireError> {
    let addresses = &addresses[..addresses.len().min(MAX_ADDRESSES)];
    e.array(addresses.len() as u64)?;
    for address in addresses {
        let mut bytes = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend(address.port().to_be_bytes());
        e.bytes(&bytes)?;
    }
    Ok(())
}

pub(crate) fn decode_addresses(d: &mut Decoder<'_>) -> Result<Arc<[SocketAddr]>, WireError> {
    let count = d.array_up_to(MAX_ADDRESSES, "addresses")?;
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        addresses.extend(address_from(d.bytes_up_to(MAX_ADDRESS_LEN, "address")?));
    }
    Ok(usable(addresses))
}

fn address_from(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let ip = match ip.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_addresses_of_use() {
        let texts =
            ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:5", "10.0.0.1:4433", "10.0.0.1:4433", "[fe80::1]:7"];
        let contact = Contact::new(NodeId::from_bytes([1; 32]), texts.map(|t| t.parse().unwrap()));
        let kept: Vec<String> = contact.addresses.iter().map(|a| a.to_string()).collect();
        assert_eq!(kept, ["10.0.0.1:4433", "[fe80::1]:7"]);
    }

    #[test]
    fn skips_kinds_of_address_it_does_not_know() {
        let mut e = Encoder::new(Vec::new());
        e.array(2).unwrap().bytes(&[9; 32]).unwrap().array(2).unwrap();
        e.bytes(b"node.example:4433").unwrap().bytes(&[10, 0, 0, 1, 0x11, 0x51]).unwrap();
        let bytes = e.into_writer();
        let contact = Contact::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(*contact.addresses, ["10.0.0.1:4433".parse().unwrap()]);
    }
}
