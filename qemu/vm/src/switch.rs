//! An Ethernet switch in user space. Machines plug in with QEMU's `-netdev stream`: each frame goes over a Unix
//! stream behind its length (32 bits, big-endian). No root, no host interface, nothing shared with the host's network.
//!
//! Each port has a reading and a writing thread and a bounded queue between: a machine that does not read loses
//! frames, as on a real wire, and holds up nobody else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// QEMU's NET_BUFSIZE: the longest frame it sends or takes.
const FRAME_BYTES_MAX: usize = 4096 + 65536;
const FRAME_BYTES_MIN: usize = 14;
const QUEUE_FRAMES: usize = 1024;
const ADDRESSES_MAX: usize = 4096;

/// A socket of the switch; stays with its machine over restarts. Printed as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(usize);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What went from one port to another. A broadcast counts once for each port it went to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub frames: u64,
    pub bytes: u64,
    /// Lost to [`Switch::set_loss`] or to a full queue; not in the other two.
    pub frames_dropped: u64,
}

/// The switch; clones are handles to the same one. It ends with its last handle.
#[derive(Clone)]
pub struct Switch {
    shared: Arc<Shared>,
}

struct Shared {
    number: u8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: Vec<Port>,
    addresses: HashMap<[u8; 6], PortId>,
    traffic: BTreeMap<(PortId, PortId), Traffic>,
    loss: Option<Loss>,
}

struct Port {
    name: String,
    connected: bool,
    plug: Option<Plug>,
    /// Counts plugs, so that the reader of an old one cannot speak for the new one.
    generation: u64,
    fault: Option<String>,
}

struct Plug {
    stream: UnixStream,
    queue: SyncSender<Arc<[u8]>>,
}

impl Drop for Plug {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

struct Loss {
    share: f64,
    random: u64,
}

impl Loss {
    /// SplitMix64: enough to lose frames by, and the same for the same seed.
    fn hits(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((word ^ (word >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        unit < self.share
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    pub fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::new(Shared { number, state: Mutex::default() }) }
    }

    /// A new port, connected, with nothing plugged in. `name` is for reports only.
    pub fn add_port(&self, name: &str) -> PortId {
        let mut state = self.shared.lock();
        state.ports.push(Port {
            name: name.to_owned(),
            connected: true,
            plug: None,
            generation: 0,
            fault: None,
        });
        PortId(state.ports.len() - 1)
    }

    /// Plugs a new cable into `port` (an older one is pulled out) and returns its other end.
    pub fn plug(&self, port: PortId) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let (reader, writer) = (ours.try_clone()?, ours.try_clone()?);
        let (queue, frames) = sync_channel(QUEUE_FRAMES);
        let mut state = self.shared.lock();
        let slot = state.ports.get_mut(port.0).ok_or(std::io::ErrorKind::NotFound)?;
        slot.generation += 1;
        slot.fault = None;
        slot.plug = Some(Plug { stream: ours, queue });
        let (shared, generation) = (Arc::downgrade(&self.shared), slot.generation);
        drop(state);
        std::thread::spawn(move || write_frames(writer, &frames));
        std::thread::spawn(move || read_frames(reader, &shared, port, generation));
        Ok(theirs.into())
    }

    /// The address that a machine's card on this port gets: unlike any other of this process's machines.
    pub(crate) fn mac(&self, port: PortId) -> String {
        self.mac_bytes(port).map(|b| format!("{b:02x}")).join(":")
    }

    pub(crate) fn mac_bytes(&self, port: PortId) -> [u8; 6] {
        [0x52, 0x54, 0x00, 0xa0, self.shared.number, port.0 as u8]
    }

    /// Cuts `port` off: nothing in, nothing out, and what was learnt about it is forgotten.
    pub fn disconnect(&self, port: PortId) {
        let mut state = self.shared.lock();
        state.addresses.retain(|_, at| *at != port);
        state.set_connected(port, false);
    }

    /// Undoes [`disconnect`](Self::disconnect).
    pub fn connect(&self, port: PortId) {
        self.shared.lock().set_connected(port, true);
    }

    /// Loses `share` (0.0 to 1.0) of all frames from now on, the same ones for the same `seed` and traffic.
    pub fn set_loss(&self, share: f64, seed: u64) {
        self.shared.lock().loss = (share > 0.0).then_some(Loss { share, random: seed });
    }

    /// What has gone from `from` to `to` so far.
    pub fn traffic(&self, from: PortId, to: PortId) -> Traffic {
        self.shared.lock().traffic.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Everything counted so far, with the ports' names.
    pub fn traffic_by_name(&self) -> Vec<(String, String, Traffic)> {
        let state = self.shared.lock();
        let name = |port: &PortId| state.ports[port.0].name.clone();
        state.traffic.iter().map(|((from, to), traffic)| (name(from), name(to), *traffic)).collect()
    }

    /// Why the switch pulled out the cable of `port` by itself, if it did.
    pub fn fault(&self, port: PortId) -> Option<String> {
        self.shared.lock().ports.get(port.0).and_then(|port| port.fault.clone())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set_connected(&mut self, port: PortId, connected: bool) {
        if let Some(port) = self.ports.get_mut(port.0) {
            port.connected = connected;
        }
    }

    /// Takes a frame (with its length in front) from `source`. False: this plug is no longer the port's.
    fn forward(&mut self, source: PortId, generation: u64, packet: &Arc<[u8]>) -> bool {
        let port = &self.ports[source.0];
        if port.generation != generation || port.plug.is_none() {
            return false;
        }
        let frame = &packet[4..];
        if !port.connected || frame.len() < FRAME_BYTES_MIN {
            return true;
        }
        let address = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap_or_default();
        let (to, from) = (address(0), address(6));
        let is_group = |address: [u8; 6]| address[0] & 1 == 1;
        if !is_group(from) && (self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&from)) {
            self.addresses.insert(from, source);
        }
        match self.addresses.get(&to).copied().filter(|_| !is_group(to)) {
            Some(port) if port == source => {}
            Some(port) => self.deliver(source, port, packet),
            None => (0..self.ports.len()).map(PortId).filter(|port| *port != source).for_each(|port| {
                self.deliver(source, port, packet);
            }),
        }
        true
    }

    fn deliver(&mut self, source: PortId, target: PortId, packet: &Arc<[u8]>) {
        let port = &self.ports[target.0];
        let Some(plug) = port.plug.as_ref().filter(|_| port.connected) else { return };
        let lost = self.loss.as_mut().is_some_and(Loss::hits);
        let traffic = self.traffic.entry((source, target)).or_default();
        if lost || plug.queue.try_send(Arc::clone(packet)).is_err() {
            traffic.frames_dropped += 1;
        } else {
            traffic.frames += 1;
            traffic.bytes += packet.len() as u64 - 4;
        }
    }

    fn unplug(&mut self, port: PortId, generation: u64, fault: Option<String>) {
        let slot = &mut self.ports[port.0];
        if slot.generation == generation {
            slot.plug = None;
            slot.fault = fault;
            self.addresses.retain(|_, at| *at != port);
        }
    }
}

fn write_frames(mut stream: UnixStream, frames: &Receiver<Arc<[u8]>>) {
    for frame in frames {
        if stream.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Holds the switch only while it forwards a frame, so that the last handle's drop ends this thread too.
fn read_frames(stream: UnixStream, shared: &Weak<Shared>, port: PortId, generation: u64) {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let fault = loop {
        let packet = match read_packet(&mut stream) {
            Ok(packet) => packet,
            Err(fault) => break fault,
        };
        let Some(shared) = shared.upgrade() else { return };
        let goes_on = shared.lock().forward(port, generation, &packet);
        if !goes_on {
            return;
        }
    };
    if let Some(shared) = shared.upgrade() {
        shared.lock().unplug(port, generation, fault);
    }
}

/// One frame behind its length. `Err(None)`: the machine has closed the connection.
fn read_packet(stream: &mut impl Read) -> Result<Arc<[u8]>, Option<String>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).map_err(|_| None)?;
    let length = u32::from_be_bytes(prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Some(format!("sent a frame of {length} bytes; {FRAME_BYTES_MAX} are allowed")));
    }
    let mut packet = vec![0; 4 + length];
    packet[..4].copy_from_slice(&prefix);
    stream.read_exact(&mut packet[4..]).map_err(|_| None)?;
    Ok(packet.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Client {
        port: PortId,
        mac: [u8; 6],
        stream: UnixStream,
    }

    const EVERYBODY: [u8; 6] = [0xff; 6];

    impl Client {
        fn new(switch: &Switch, last: u8) -> Self {
            let port = switch.add_port(&format!("client-{last}"));
            let stream = UnixStream::from(switch.plug(port).unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            Self { port, mac: [2, 0, 0, 0, 0, last], stream }
        }

        fn send(&mut self, to: [u8; 6], payload: &str) {
            let frame = [&to[..], &self.mac, &[0x88, 0xb5], payload.as_bytes()].concat();
            self.stream.write_all(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat()).unwrap();
        }

        fn payload(&mut self) -> String {
            let packet = read_packet(&mut self.stream).unwrap();
            String::from_utf8(packet[18..].to_vec()).unwrap()
        }

        /// Closed by the switch, rather than silent.
        fn is_unplugged(&mut self) -> bool {
            self.stream.read(&mut [0]).is_ok_and(|count| count == 0)
        }
    }

    #[test]
    fn floods_the_unknown_and_learns_the_known() {
        let switch = Switch::new();
        let [mut a, mut b, mut c] = [1, 2, 3].map(|last| Client::new(&switch, last));
        a.send(EVERYBODY, "who is b");
        assert_eq!((b.payload(), c.payload()), ("who is b".into(), "who is b".into()));
        b.send(a.mac, "here");
        assert_eq!(a.payload(), "here");
        a.send(b.mac, "hello b");
        a.send(EVERYBODY, "all");
        assert_eq!((b.payload(), b.payload()), ("hello b".into(), "all".into()));
        // c never saw what was for a or b alone.
        assert_eq!(c.payload(), "all");
        assert_eq!(
            switch.traffic(a.port, b.port),
            Traffic { frames: 3, bytes: 42 + 8 + 7 + 3, frames_dropped: 0 }
        );
        assert_eq!(switch.traffic(b.port, c.port).frames, 0);
    }

    #[test]
    fn disconnected_port_neither_hears_nor_speaks() {
        let switch = Switch::new();
        let [mut a, mut b] = [1, 2].map(|last| Client::new(&switch, last));
        switch.disconnect(b.port);
        a.send(EVERYBODY, "lost");
        // A frame to itself comes back to nobody, but once a later one is counted this one was handled.
        let mut c = Client::new(&switch, 3);
        a.send(EVERYBODY, "seen by c");
        while c.payload() != "seen by c" {}
        switch.connect(b.port);
        a.send(b.mac, "back");
        assert_eq!(b.payload(), "back");
    }

    #[test]
    fn oversize_frame_unplugs_its_sender_only() {
        let switch = Switch::new();
        let [mut a, mut b, mut c] = [1, 2, 3].map(|last| Client::new(&switch, last));
        a.stream.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()).unwrap();
        assert!(a.is_unplugged());
        assert!(switch.fault(a.port).unwrap().contains("69633 bytes"));
        b.send(c.mac, "still here");
        assert_eq!(c.payload(), "still here");
        // A restarted machine plugs in again.
        a.stream = switch.plug(a.port).unwrap().into();
        a.send(EVERYBODY, "again");
        assert_eq!(b.payload(), "again");
    }

    #[test]
    fn slow_port_loses_frames_and_blocks_nobody() {
        let switch = Switch::new();
        let [mut a, slow, mut c] = [1, 2, 3].map(|last| Client::new(&switch, last));
        let payload = "x".repeat(1400);
        for _ in 0..4 * QUEUE_FRAMES {
            a.send(EVERYBODY, &payload);
            c.payload();
        }
        assert!(switch.traffic(a.port, slow.port).frames_dropped > 0);
        assert_eq!(switch.traffic(a.port, c.port).frames_dropped, 0);
    }

    #[test]
    fn loss_follows_its_seed() {
        let losses = |seed| {
            let mut loss = Loss { share: 0.25, random: seed };
            (0..10_000).map(|_| loss.hits()).collect::<Vec<_>>()
        };
        assert_eq!(losses(7), losses(7));
        assert_ne!(losses(7), losses(8));
        let share = losses(7).iter().filter(|hit| **hit).count();
        assert!((2300..2700).contains(&share), "{share}");
    }

    #[test]
    fn last_handle_unplugs_everybody() {
        let switch = Switch::new();
        let mut a = Client::new(&switch, 1);
        drop(switch);
        assert!(a.is_unplugged());
    }
}
