//! Free ports of the host's loopback address.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// A UDP port of 127.0.0.1 that nobody has now. Another process may take it before it is used; QEMU then says so.
pub fn free_udp_port() -> io::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// As [`free_udp_port`], for TCP.
pub fn free_tcp_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
