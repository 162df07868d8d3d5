//! A door from the host into a switch: datagrams to a UDP port of 127.0.0.1 reach one port of one machine, and its
//! answers come back.
//!
//! QEMU's own user network could do this only while it also lets the guest out: with `restrict=on` it drops a UDP
//! answer. This door is a station on the switch that speaks just enough IPv6 (RFC 8200, neighbour discovery of RFC 4861)
//! over link-local addresses: the guest's follows from its MAC address (modified EUI-64, RFC 4291), which is what Linux
//! gives a card by itself. Nothing here reaches any network of the host.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use crate::switch::Switch;

/// Clients of the host remembered at once; the one heard of longest ago makes room.
const CLIENTS_MAX: usize = 64;
/// A client's port on the switch is this plus its number.
const FIRST_PORT: u16 = 40_000;
const DATAGRAM_MAX: usize = 1452;
const FRAME_MAX: usize = 2048;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// An open door. It closes with its switch, or when the machine's switch port goes.
pub(crate) struct UdpForward {
    pub guest_port: u16,
    pub host_port: u16,
}

struct Ends {
    guest_mac: [u8; 6],
    guest: Ipv6Addr,
    guest_port: u16,
    mac: [u8; 6],
    address: Ipv6Addr,
}

/// Who is behind which port, the one heard of last at the end.
type Clients = Arc<Mutex<VecDeque<(u16, SocketAddr)>>>;

impl UdpForward {
    /// Leads to `guest_port` of the machine whose card on the switch has this MAC address.
    pub fn open(switch: &Switch, guest_mac: [u8; 6], guest_port: u16) -> std::io::Result<Self> {
        let port = switch.add_port("host");
        let mac = switch.mac_bytes(port);
        let ends =
            Ends { guest_mac, guest: link_local(guest_mac), guest_port, mac, address: link_local(mac) };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let host_port = socket.local_addr()?.port();
        let cable = UnixStream::from(switch.plug(port)?);
        let (ends, clients) = (Arc::new(ends), Clients::default());
        let (to_guest, from_guest) = (cable.try_clone()?, cable);
        let (receive, answer) = (socket.try_clone()?, socket);
        {
            let (ends, clients) = (ends.clone(), clients.clone());
            std::thread::spawn(move || inwards(&receive, to_guest, &ends, &clients));
        }
        std::thread::spawn(move || outwards(from_guest, &answer, &ends, &clients));
        Ok(Self { guest_port, host_port })
    }
}

/// From the host to the guest, until the switch ends.
fn inwards(socket: &UdpSocket, mut cable: UnixStream, ends: &Ends, clients: &Clients) {
    let mut buffer = [0; FRAME_MAX];
    loop {
        // A refused answer of an earlier datagram surfaces here as an error; it says nothing about the next one.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if length > DATAGRAM_MAX {
            continue;
        }
        let port = port_of(clients, from);
        if send(&mut cable, &datagram(ends, port, &buffer[..length])).is_err() {
            return;
        }
    }
}

fn port_of(clients: &Clients, from: SocketAddr) -> u16 {
    let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
    let known = clients.iter().position(|(_, client)| *client == from);
    let port = match known.and_then(|i| clients.remove(i)) {
        Some((port, _)) => port,
        None if clients.len() < CLIENTS_MAX => FIRST_PORT + clients.len() as u16,
        None => clients.pop_front().map_or(FIRST_PORT, |(port, _)| port),
    };
    clients.push_back((port, from));
    port
}

/// From the guest to the host, until the switch ends.
fn outwards(mut cable: UnixStream, socket: &UdpSocket, ends: &Ends, clients: &Clients) {
    let Ok(mut answers) = cable.try_clone() else { return };
    let mut frame = Vec::new();
    while receive(&mut cable, &mut frame).is_ok() {
        if is_question_about(ends, &frame) {
            let _ = send(&mut answers, &advertisement(ends, &frame));
        } else if let Some((port, bytes)) = datagram_for(ends, &frame) {
            let clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, client)) = clients.iter().find(|(p, _)| *p == port) {
                let _ = socket.send_to(bytes, client);
            }
        }
    }
}

fn send(cable: &mut UnixStream, frame: &[u8]) -> std::io::Result<()> {
    cable.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat())
}

fn receive(cable: &mut UnixStream, frame: &mut Vec<u8>) -> std::io::Result<()> {
    let mut length = [0; 4];
    cable.read_exact(&mut length)?;
    frame.resize(u32::from_be_bytes(length) as usize, 0);
    cable.read_exact(frame)
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn datagram(ends: &Ends, from_port: u16, bytes: &[u8]) -> Vec<u8> {
    let length = (8 + bytes.len()) as u16;
    let head =
        [from_port.to_be_bytes(), ends.guest_port.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    packet(ends, ends.guest_mac, ends.guest, UDP, 64, &[&head, bytes].concat(), 6)
}

/// A whole frame; the checksum goes to `checksum_at` of the payload.
fn packet(
    ends: &Ends,
    to_mac: [u8; 6],
    to: Ipv6Addr,
    protocol: u8,
    hops: u8,
    payload: &[u8],
    checksum_at: usize,
) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let sum = checksum(ends.address, to, protocol, &payload);
    payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let length = (payload.len() as u16).to_be_bytes();
    let ip =
        [&[0x60, 0, 0, 0][..], &length, &[protocol, hops], &ends.address.octets(), &to.octets()].concat();
    [&to_mac[..], &ends.mac, &ETHERTYPE_IPV6, &ip, &payload].concat()
}

/// RFC 8200 section 8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> u16 {
    let length = (payload.len() as u32).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, protocol], payload].concat();
    let words = pseudo.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The payload of an IPv6 packet of this protocol, without extension headers.
fn ipv6_payload(frame: &[u8], protocol: u8) -> Option<&[u8]> {
    if frame.get(12..14)? != ETHERTYPE_IPV6 || *frame.get(20)? != protocol {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    frame.get(54..54 + length)
}

/// A neighbour solicitation for our address.
fn is_question_about(ends: &Ends, frame: &[u8]) -> bool {
    let question = ipv6_payload(frame, ICMPV6).filter(|p| p.first() == Some(&NEIGHBOUR_SOLICITATION));
    question.and_then(|p| p.get(8..24)) == Some(&ends.address.octets()[..])
}

fn advertisement(ends: &Ends, question: &[u8]) -> Vec<u8> {
    let mut asker = [0; 16];
    asker.copy_from_slice(&question[22..38]);
    // Solicited and override flags; option 2, one unit of eight bytes, is the link-layer address.
    let head = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
    let payload = [&head[..], &ends.address.octets(), &[2, 1], &ends.mac].concat();
    packet(ends, ends.guest_mac, Ipv6Addr::from(asker), ICMPV6, 255, &payload, 2)
}

/// A datagram from the guest's port to one of ours.
fn datagram_for<'a>(ends: &Ends, frame: &'a [u8]) -> Option<(u16, &'a [u8])> {
    let udp = ipv6_payload(frame, UDP)?;
    let to_us = frame.get(38..54)? == ends.address.octets();
    let from = u16::from_be_bytes([*udp.first()?, *udp.get(1)?]);
    let to = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    (to_us && from == ends.guest_port).then(|| udp.get(8..).map(|bytes| (to, bytes)))?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A guest played on a second port: it asks for our address, takes the datagram and answers.
    #[test]
    fn datagrams_go_in_and_answers_come_back() {
        let switch = Switch::new();
        let port = switch.add_port("guest");
        let mac = switch.mac_bytes(port);
        let mut guest = UnixStream::from(switch.plug(port).unwrap());
        guest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let door = UdpForward::open(&switch, mac, 4433).unwrap();

        let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        host.send_to(b"hello", (Ipv4Addr::LOCALHOST, door.host_port)).unwrap();
        let mut frame = Vec::new();
        receive(&mut guest, &mut frame).unwrap();
        assert_eq!(frame[..6], mac);
        let (udp, from) = (&frame[54..], &frame[22..38]);
        assert_eq!((&udp[2..4], &udp[8..]), (&4433u16.to_be_bytes()[..], &b"hello"[..]));
        let (source, target) =
            (<[u8; 16]>::try_from(from).unwrap(), <[u8; 16]>::try_from(&frame[38..54]).unwrap());
        assert_eq!(target, link_local(mac).octets());

        // The same ends seen from the other side.
        let mirrored = Ends {
            guest_mac: frame[6..12].try_into().unwrap(),
            guest: source.into(),
            guest_port: u16::from_be_bytes([udp[0], udp[1]]),
            mac,
            address: link_local(mac),
        };
        let mut question = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        question.extend(source);
        let asked = packet(&mirrored, [0x33, 0x33, 0xff, 0, 0, 1], source.into(), ICMPV6, 255, &question, 2);
        send(&mut guest, &asked).unwrap();
        receive(&mut guest, &mut frame).unwrap();
        assert_eq!((frame[54], &frame[62..78]), (NEIGHBOUR_ADVERTISEMENT, &source[..]));

        send(&mut guest, &datagram(&mirrored, 4433, b"world")).unwrap();
        let mut answer = [0; 16];
        let (length, _) = host.recv_from(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"world");
    }

    #[test]
    fn short_and_foreign_frames_are_nobodys() {
        let mac = [0x52, 0x54, 0, 0xa0, 0, 1];
        let ends =
            Ends { guest_mac: mac, guest: link_local(mac), guest_port: 1, mac, address: link_local(mac) };
        let whole = datagram(&ends, 1, b"x");
        assert!(datagram_for(&ends, &whole).is_some());
        for end in 0..whole.len() {
            assert!(datagram_for(&ends, &whole[..end]).is_none());
            assert!(!is_question_about(&ends, &whole[..end]));
        }
    }

    #[test]
    fn checksums_are_those_of_the_rfc() {
        // RFC 8200: a receiver that sums over everything gets all ones.
        let (a, b) = (link_local([2, 0, 0, 0, 0, 1]), link_local([2, 0, 0, 0, 0, 2]));
        let mut bytes = vec![0x9c, 0x40, 0x11, 0x51, 0, 11, 0, 0, 1, 2, 3];
        let sum = checksum(a, b, UDP, &bytes);
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(a, b, UDP, &bytes), 0xffff);
    }
}
