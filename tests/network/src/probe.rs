//! Whether the lab's routers do what they are called, found out with plain sockets: without it the table would prove little.

use std::fs::File;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::lab::{Lab, Place};
use crate::nat::Nat;

/// Long enough for a packet within one machine, however loaded.
const WAIT: Duration = Duration::from_millis(300);

/// What RFC 4787 asks of a router.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Anything gets out.
    passes: bool,
    /// Two destinations see the same port.
    one_mapping: bool,
    /// Gets in from another port of an address that was sent to.
    other_port: bool,
    /// Gets in from an address that was never sent to.
    other_address: bool,
}

pub fn check(number: usize, nat: Nat) -> Result<()> {
    let mut lab = Lab::new(number)?;
    let inside = lab.behind("inside", &[nat], None)?;
    let (one, two) = (lab.public("one", 1)?, lab.public("two", 2)?);
    let seen = probe(&inside, &one, &two).with_context(|| format!("cannot probe {}", nat.word()))?;
    ensure!(seen == expected(nat), "{} behaves as {seen:?}", nat.word());
    Ok(())
}

fn expected(nat: Nat) -> Behaviour {
    let (passes, one_mapping, other_port, other_address) = match nat {
        Nat::Open | Nat::FullCone => (true, true, true, true),
        Nat::AddressRestricted => (true, true, true, false),
        Nat::PortRestricted => (true, true, false, false),
        Nat::Symmetric => (true, false, false, false),
        Nat::NoUdp => (false, false, false, false),
    };
    Behaviour { passes, one_mapping, other_port, other_address }
}

fn probe(inside: &Place, one: &Place, two: &Place) -> Result<Behaviour> {
    let host = socket(inside, 4433)?;
    let (known, same_host, other, stranger) =
        (socket(one, 5000)?, socket(one, 5001)?, socket(two, 5000)?, socket(two, 5001)?);
    let mut buffer = [0; 16];
    host.send_to(b"out", (one.address.as_str(), 5000))?;
    let Ok((_, mapped)) = known.recv_from(&mut buffer) else {
        return Ok(Behaviour { passes: false, one_mapping: false, other_port: false, other_address: false });
    };
    let gets_in = |from: &UdpSocket| -> Result<bool> {
        from.send_to(b"in", mapped)?;
        Ok(host.recv_from(&mut [0; 16]).is_ok())
    };
    // Before anything goes to the other machine.
    let (other_port, other_address) = (gets_in(&same_host)?, gets_in(&stranger)?);
    ensure!(gets_in(&known)?, "an answer does not get in");
    host.send_to(b"out", (two.address.as_str(), 5000))?;
    let (_, again) = other.recv_from(&mut buffer).context("nothing gets out to the other machine")?;
    Ok(Behaviour { passes: true, one_mapping: mapped == again, other_port, other_address })
}

/// Made in a thread of its own, since entering a namespace concerns a thread; the socket stays there.
fn socket(place: &Place, port: u16) -> Result<UdpSocket> {
    let path = format!("/var/run/netns/{}", place.space);
    let made = std::thread::spawn(move || -> Result<UdpSocket> {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind(("0.0.0.0", port))?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(socket)
    });
    made.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
}
