//! Ways to a peer that are no IP addresses: through a relay, or over TCP.
//!
//! QUIC sees such a way as an address like any other (`mesh_proto::detour_address`, made of what the way is), so handshake, encryption,
//! loss recovery and migration are the same on all of them. The endpoint's socket sends packets for these addresses to whoever carries
//! them, and takes what they bring; an address of this kind that comes from the network is nobody's.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use mesh_proto::{detour_address, is_detour};
use os_identity::NodeId;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, Runtime, UdpPoller};
use tokio::sync::mpsc;

/// Ways that are remembered; the one used longest ago is forgotten for a further one, and remembered again when it is used.
const MAX_WAYS: usize = 4096;
/// Packets between the socket and the carriers, each way.
const MAX_PACKETS: usize = 1024;
/// Received packets given to QUIC at once.
const MAX_BATCH: usize = 32;

/// A way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// Through a node that both are connected to.
    Relay { relay: NodeId, node: NodeId },
    /// Packets over a TCP connection with the peer itself.
    Tcp { node: NodeId },
}

/// A packet for whoever carries it.
pub type Outgoing = (Via, Vec<u8>);

/// The ways of one endpoint.
#[derive(Debug, Clone)]
pub struct Paths(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    udp: UdpSocket,
    ways: Mutex<Ways>,
    outgoing: mpsc::Sender<Outgoing>,
    bring: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    brought: Mutex<mpsc::Receiver<(SocketAddr, Vec<u8>)>>,
}

#[derive(Debug, Default)]
struct Ways {
    known: HashMap<SocketAddr, (Via, u64)>,
    uses: u64,
}

impl Via {
    /// The same for the same way, always.
    fn address(&self) -> SocketAddr {
        let mut text = b"macula-os way\0".to_vec();
        match self {
            Via::Relay { relay, node } => {
                text.push(0);
                text.extend_from_slice(relay.as_bytes());
                text.extend_from_slice(node.as_bytes());
            }
            Via::Tcp { node } => {
                text.push(1);
                text.extend_from_slice(node.as_bytes());
            }
        }
        let hash = ring::digest::digest(&ring::digest::SHA256, &text);
        detour_address(u128::from_be_bytes(hash.as_ref().first_chunk().copied().unwrap_or_default()))
    }
}

impl Paths {
    pub(crate) fn new(udp: UdpSocket) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, to_carriers) = mpsc::channel(MAX_PACKETS);
        let (bring, brought) = mpsc::channel(MAX_PACKETS);
        let brought = Mutex::new(brought);
        let shared = Shared { udp, ways: Mutex::default(), outgoing, bring, brought };
        (Self(Arc::new(shared)), to_carriers)
    }

    pub(crate) fn socket(&self) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let udp = quinn::TokioRuntime.wrap_udp_socket(self.0.udp.try_clone()?)?;
        Ok(Arc::new(PathSocket { udp, shared: self.0.clone(), network_first: AtomicBool::new(false) }))
    }

    /// The address by which the endpoint takes this way.
    pub fn address(&self, via: Via) -> SocketAddr {
        let address = via.address();
        self.0.ways().touch(address, via);
        address
    }

    /// What way an address is; `None` for those of the network.
    pub fn via(&self, address: SocketAddr) -> Option<Via> {
        if !is_detour(&address.ip()) {
            return None;
        }
        self.0.ways().known.get(&address).map(|(via, _)| *via)
    }

    pub fn knows(&self, via: &Via) -> bool {
        self.0.ways().known.contains_key(&via.address())
    }

    /// A packet has come by this way. When QUIC is behind with reading it is dropped, as a socket does.
    pub fn deliver(&self, via: Via, packet: Vec<u8>) {
        let _ = self.0.bring.try_send((self.address(via), packet));
    }

    /// One byte that is no packet of QUIC, from the endpoint's own port: a NAT in between now expects answers from there.
    pub fn open_door(&self, to: SocketAddr) -> io::Result<()> {
        self.0.udp.send_to(&[0], to).map(drop)
    }

    /// This node's addresses have changed: every connection tells its peer at once, instead of when it has something to say.
    pub fn moved(&self, endpoint: &Endpoint) -> Result<()> {
        Ok(endpoint.rebind_abstract(self.socket()?)?)
    }
}

impl Shared {
    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, transmit: &Transmit) {
        let mut ways = self.ways();
        let Some((via, _)) = ways.known.get(&transmit.destination).copied() else { return };
        ways.touch(transmit.destination, via);
        drop(ways);
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(size) {
            // A full queue loses packets, like any other queue in a network.
            let _ = self.outgoing.try_send((via, packet.to_vec()));
        }
    }

    fn poll_brought(&self, cx: &mut Context, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < bufs.len().min(meta.len()).min(MAX_BATCH) {
            let Poll::Ready(Some((addr, packet))) = brought.poll_recv(cx) else { break };
            if let Some(room) = bufs[count].get_mut(..packet.len()) {
                room.copy_from_slice(&packet);
                let len = packet.len();
                meta[count] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                count += 1;
            }
        }
        count
    }
}

impl Ways {
    fn touch(&mut self, address: SocketAddr, via: Via) {
        self.uses += 1;
        if self.known.len() >= MAX_WAYS && !self.known.contains_key(&address) {
            let oldest = self.known.iter().min_by_key(|(_, (_, used))| *used).map(|(address, _)| *address);
            oldest.map(|address| self.known.remove(&address));
        }
        self.known.insert(address, (via, self.uses));
    }
}

/// The endpoint's UDP socket, and the other ways beside it.
#[derive(Debug)]
struct PathSocket {
    udp: Arc<dyn AsyncUdpSocket>,
    shared: Arc<Shared>,
    /// Whose turn it is, so that neither side starves the other.
    network_first: AtomicBool,
}

impl PathSocket {
    fn poll_network(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.udp.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = polled {
            // Nobody in the network has such an address: whoever uses one wants to be taken for somebody else.
            meta[..count].iter_mut().filter(|m| is_detour(&m.addr.ip())).for_each(|m| m.len = 0);
        }
        polled
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.udp.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        if is_detour(&transmit.destination.ip()) {
            self.shared.send(transmit);
            return Ok(());
        }
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.network_first.fetch_xor(true, Ordering::Relaxed)
            && let Poll::Ready(ready) = self.poll_network(cx, bufs, meta)
        {
            return Poll::Ready(ready);
        }
        match self.shared.poll_brought(cx, bufs, meta) {
            0 => self.poll_network(cx, bufs, meta),
            count => Poll::Ready(Ok(count)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn a_way_has_one_address_and_nobody_elses() {
        let ways = [
            Via::Relay { relay: node(1), node: node(2) },
            Via::Relay { relay: node(2), node: node(1) },
            Via::Tcp { node: node(1) },
        ];
        let mut addresses = ways.map(|via| via.address()).to_vec();
        assert!(addresses.iter().all(|a| is_detour(&a.ip())));
        assert_eq!(addresses, ways.map(|via| via.address()), "the same each time");
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), ways.len());
    }

    #[tokio::test]
    async fn ways_are_bounded_and_come_back() {
        let (paths, _outgoing) = Paths::new(UdpSocket::bind("[::1]:0").unwrap());
        let via = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            Via::Tcp { node: NodeId::from_bytes(bytes) }
        };
        let first = paths.address(via(0));
        for n in 1..=MAX_WAYS as u32 {
            paths.address(via(n));
        }
        assert_eq!((paths.via(first), paths.0.ways().known.len()), (None, MAX_WAYS));
        assert_eq!(paths.address(via(0)), first);
        assert_eq!(paths.via(first), Some(via(0)));
    }
}
