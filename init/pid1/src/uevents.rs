//! The kernel's events: new devices, and blocks that dm-verity found corrupt.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use init_plan::uevent::{self, Uevent};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

/// Room for a few thousand events, for when a whole bus appears at once.
const RECEIVE_BUFFER: usize = 2 << 20;

pub struct Uevents(OwnedFd);

/// One read from the socket.
pub enum Received {
    Event(Uevent),
    /// Events were lost; look at everything again.
    Overflow,
    Nothing,
}

impl Uevents {
    pub fn open() -> io::Result<Uevents> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Uevents(socket))
    }

    pub fn receive(&self) -> Received {
        let mut datagram = [0; 8192];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut datagram) {
                // Only the kernel has port 0; anybody else with the capability could send here, too.
                Ok((length, Some(sender))) if sender.pid() == 0 => {
                    if let Some(event) = uevent::parse(&datagram[..length]) {
                        return Received::Event(event);
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Received::Overflow,
                Err(_) => return Received::Nothing,
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
