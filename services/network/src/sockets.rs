//! The two sockets of a link: UDP for DHCP, a packet socket for ARP. Both are bound to the link, whatever addresses it has.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::sockopt::{BindToDevice, Broadcast, ReuseAddr};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket};
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use crate::link_local::Arp;

pub const CLIENT_PORT: u16 = 68;
pub const SERVER_PORT: u16 = 67;

/// A socket at 0.0.0.0:68 that sends and receives on `link` alone.
pub fn dhcp(link: &str) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // The link comes first: then the sockets of several links may share the port.
    setsockopt(&fd, BindToDevice, &OsString::from(link))?;
    setsockopt(&fd, Broadcast, &true)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)))?;
    UdpSocket::from_std(fd.into())
}

/// Every ARP packet of one link.
pub struct ArpSocket {
    fd: AsyncFd<OwnedFd>,
    link: i32,
}

impl ArpSocket {
    pub fn open(link_index: u32) -> io::Result<Self> {
        let link = i32::try_from(link_index).map_err(io::Error::other)?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system call; a result that is not negative is a descriptor which nobody else owns.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol()));
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let address = address(link);
        // SAFETY: `address` is a valid sockaddr_ll of the length given and outlives the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) } as isize)?;
        // SAFETY: the descriptor lives inside, and as long as, its registration.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd, link })
    }

    /// Sends to everybody on the link.
    pub async fn send(&self, arp: &Arp) -> io::Result<()> {
        let bytes = arp.encode();
        let mut address = address(self.link);
        address.sll_halen = 6;
        address.sll_addr[..6].fill(0xff);
        let send = |fd: &OwnedFd| {
            // SAFETY: buffer and address are valid for the lengths given and outlive the call.
            check(unsafe {
                let (data, to) = (bytes.as_ptr().cast(), (&raw const address).cast());
                libc::sendto(fd.as_raw_fd(), data, bytes.len(), 0, to, ADDRESS_BYTES)
            })
        };
        self.fd.async_io(tokio::io::Interest::WRITABLE, send).await.map(drop)
    }

    /// The next packet that can be read as ARP for IPv4.
    pub async fn receive(&self) -> io::Result<Arp> {
        loop {
            let mut bytes = [0u8; 64];
            let receive = |fd: &OwnedFd| {
                nix::sys::socket::recv(fd.as_raw_fd(), &mut bytes, nix::sys::socket::MsgFlags::empty())
                    .map_err(io::Error::from)
            };
            let count = self.fd.async_io(tokio::io::Interest::READABLE, receive).await?;
            if let Some(arp) = bytes.get(..count).and_then(Arp::decode) {
                return Ok(arp);
            }
        }
    }
}

const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// Network byte order, as packet(7) wants it.
fn protocol() -> u16 {
    (libc::ETH_P_ARP as u16).to_be()
}

fn address(link: i32) -> libc::sockaddr_ll {
    // SAFETY: all fields are integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol();
    address.sll_ifindex = link;
    address
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
