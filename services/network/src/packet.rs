//! DHCPv4 packets (RFC 2131, 2132, 3442) to and from what [`crate::lease`] knows.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use dhcproto::v4::{
    Decodable, Decoder, DhcpOption, Encodable, Encoder, Flags, Message, MessageType, Opcode, OptionCode,
};

use crate::lease::{LIST_MAX, Outgoing, Reply, ReplyKind, Route};

/// Longest packet we ask for and read.
pub const BYTES_MAX: usize = 1472;
/// Some servers drop anything shorter (RFC 1542, 2.1).
const BYTES_MIN: usize = 300;

const WANTED: [OptionCode; 8] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
];

/// The bytes of a packet from the client with this hardware address and this name.
pub fn encode(outgoing: &Outgoing, mac: [u8; 6], host_name: &str) -> Result<Vec<u8>> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(outgoing.xid, outgoing.client, none, none, none, &mac);
    message.set_secs(outgoing.seconds);
    // Until the address is set the kernel takes nothing that is sent to it.
    if outgoing.client.is_unspecified() {
        message.set_flags(Flags::default().set_broadcast());
    }
    let kind = if outgoing.is_request { MessageType::Request } else { MessageType::Discover };
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ClientIdentifier([&[1], &mac[..]].concat()));
    options.insert(DhcpOption::MaxMessageSize(BYTES_MAX as u16));
    options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
    if !host_name.is_empty() {
        options.insert(DhcpOption::Hostname(host_name.to_owned()));
    }
    if let Some(address) = outgoing.requested {
        options.insert(DhcpOption::RequestedIpAddress(address));
    }
    if let Some(server) = outgoing.server {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    let mut bytes = Vec::with_capacity(BYTES_MIN);
    message.encode(&mut Encoder::new(&mut bytes)).context("cannot encode a DHCP packet")?;
    bytes.resize(bytes.len().max(BYTES_MIN), 0);
    Ok(bytes)
}

/// A server's packet. Lists are cut at [`LIST_MAX`].
///
/// # Errors
/// What is wrong with it, for the log.
pub fn decode(bytes: &[u8]) -> Result<Reply> {
    // Checked before the codec sees it, which believes the length of the hardware address.
    if bytes.get(1..3) != Some(&[1, 6]) {
        bail!("a hardware address that is not Ethernet's");
    }
    let message = Message::decode(&mut Decoder::new(bytes)).context("not a DHCP packet")?;
    if message.opcode() != Opcode::BootReply {
        bail!("a packet from another client");
    }
    let options = message.opts();
    let kind = match options.msg_type() {
        Some(MessageType::Offer) => ReplyKind::Offer,
        Some(MessageType::Ack) => ReplyKind::Ack,
        Some(MessageType::Nak) => ReplyKind::Nak,
        other => bail!("message type {other:?}, which is not for clients"),
    };
    let client_mac = message.chaddr().try_into().context("the hardware address is cut off")?;
    let seconds = |code| match options.get(code) {
        Some(
            DhcpOption::AddressLeaseTime(value) | DhcpOption::Renewal(value) | DhcpOption::Rebinding(value),
        ) => Some(*value),
        _ => None,
    };
    Ok(Reply {
        kind,
        xid: message.xid(),
        client_mac,
        offered: message.yiaddr(),
        server: match options.get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
            _ => None,
        },
        prefix: match options.get(OptionCode::SubnetMask) {
            Some(DhcpOption::SubnetMask(mask)) => Some(prefix(*mask)?),
            _ => None,
        },
        routes: routes(&message),
        dns: match options.get(OptionCode::DomainNameServer) {
            Some(DhcpOption::DomainNameServer(servers)) => servers.iter().copied().take(LIST_MAX).collect(),
            _ => Vec::new(),
        },
        lifetime_s: seconds(OptionCode::AddressLeaseTime),
        renewal_s: seconds(OptionCode::Renewal),
        rebinding_s: seconds(OptionCode::Rebinding),
    })
}

/// RFC 3442: whoever understands classless routes ignores the router option beside them.
fn routes(message: &Message) -> Vec<Route> {
    match (message.opts().get(OptionCode::ClasslessStaticRoute), message.opts().get(OptionCode::Router)) {
        (Some(DhcpOption::ClasslessStaticRoute(routes)), _) if !routes.is_empty() => routes
            .iter()
            .take(LIST_MAX)
            .map(|(net, gateway)| Route {
                destination: net.network(),
                prefix: net.prefix_len(),
                gateway: *gateway,
            })
            .collect(),
        (_, Some(DhcpOption::Router(routers))) => routers
            .first()
            .filter(|gateway| !gateway.is_unspecified())
            .map(|gateway| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: *gateway })
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

fn prefix(mask: Ipv4Addr) -> Result<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    if bits.count_ones() != ones {
        bail!("subnet mask {mask} has a hole");
    }
    Ok(ones as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn ack() -> Message {
        let any = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(9, any, Ipv4Addr::new(10, 0, 16, 15), any, any, &MAC);
        message.set_opcode(Opcode::BootReply);
        for option in [
            DhcpOption::MessageType(MessageType::Ack),
            DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 16, 2)),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 16, 2)]),
            DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 16, 3); 40]),
            DhcpOption::AddressLeaseTime(86400),
        ] {
            message.opts_mut().insert(option);
        }
        message
    }

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn reads_an_ack() {
        let reply = decode(&bytes(&ack())).unwrap();
        assert_eq!((reply.kind, reply.xid, reply.client_mac), (ReplyKind::Ack, 9, MAC));
        assert_eq!((reply.prefix, reply.lifetime_s, reply.dns.len()), (Some(24), Some(86400), LIST_MAX));
        let gateway = Ipv4Addr::new(10, 0, 16, 2);
        assert_eq!(reply.routes, [Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway }]);
    }

    #[test]
    fn asks_by_broadcast_until_it_has_an_address() {
        let mut outgoing = Outgoing {
            is_request: false,
            xid: 1,
            seconds: 3,
            client: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
            to: Ipv4Addr::BROADCAST,
        };
        let read = |outgoing: &Outgoing| {
            let bytes = encode(outgoing, MAC, "node").unwrap();
            assert!(bytes.len() >= BYTES_MIN);
            Message::decode(&mut Decoder::new(&bytes)).unwrap()
        };
        let discover = read(&outgoing);
        assert!(discover.flags().broadcast() && discover.opts().has_msg_type(MessageType::Discover));
        assert!(!discover.opts().contains(OptionCode::RequestedIpAddress));
        outgoing.is_request = true;
        outgoing.client = Ipv4Addr::new(10, 0, 16, 15);
        let renewal = read(&outgoing);
        assert!(!renewal.flags().broadcast() && renewal.opts().has_msg_type(MessageType::Request));
    }

    #[test]
    fn bad_packets_are_errors() {
        let whole = bytes(&ack());
        assert!(decode(&[]).is_err() && decode(&whole[..200]).is_err());
        let mut request = ack();
        request.set_opcode(Opcode::BootRequest);
        assert!(decode(&bytes(&request)).is_err());
        let mut holed = ack();
        holed.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0)));
        assert!(decode(&bytes(&holed)).unwrap_err().to_string().contains("hole"));
    }

    /// Whatever comes, there is an answer: each byte of a packet changed to each of a few values, and each length.
    #[test]
    fn no_packet_brings_us_down() {
        let whole = bytes(&ack());
        for at in 0..whole.len() {
            for value in [0, 1, 3, 33, 121, 127, 128, 254, 255] {
                let mut packet = whole.clone();
                packet[at] = value;
                let _ = decode(&packet);
            }
            let _ = decode(&whole[..at]);
        }
    }
}
