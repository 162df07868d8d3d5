//! Networks in namespaces: an Internet (a bridge with 203.0.113.0/24 and 2001:db8:1::/64) with machines on it and behind routers.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::nat::{Nat, firewall};
use crate::wire::{Quality, Wire};

/// One case's networks; gone when it is dropped.
pub struct Lab {
    prefix: String,
    spaces: Vec<String>,
    wires: Vec<Wire>,
    routers: u8,
}

/// A namespace with a node's addresses.
#[derive(Debug, Clone)]
pub struct Place {
    pub space: String,
    /// Where the node itself thinks it is.
    pub address: String,
    /// The router next to the Internet, if there is one.
    pub router: Option<String>,
}

impl Lab {
    pub fn new(case: usize) -> Result<Self> {
        let prefix = format!("macula-{}-{case}", std::process::id());
        let mut lab = Self { prefix, spaces: Vec::new(), wires: Vec::new(), routers: 0 };
        let internet = lab.space("internet")?;
        ip(&internet, "link add br0 type bridge")?;
        ip(&internet, "link set br0 up")?;
        Ok(lab)
    }

    /// A machine on the Internet.
    pub fn public(&mut self, name: &str, number: u8) -> Result<Place> {
        let space = self.space(name)?;
        self.plug(&space, "eth0")?;
        let address = format!("203.0.113.{number}");
        ip(&space, &format!("addr add {address}/24 dev eth0"))?;
        Ok(Place { space, address, router: None })
    }

    /// A machine behind routers, the one next to the Internet first.
    pub fn behind(&mut self, name: &str, nats: &[Nat], quality: Option<Quality>) -> Result<Place> {
        self.routers += 1;
        let number = self.routers;
        if nats == [Nat::Open] {
            return self.public(name, 100 + number);
        }
        let mut router = self.space(&format!("{name}-router0"))?;
        let first = router.clone();
        self.plug(&router, "wan")?;
        ip(&router, &format!("addr add 203.0.113.{}/24 dev wan", 100 + number))?;
        for (i, nat) in nats.iter().enumerate() {
            let last = i + 1 == nats.len();
            let network = if last { format!("10.{number}.0") } else { format!("100.64.{number}") };
            let inside = format!("{network}.2");
            rules(&router, &nat.rules(&inside))?;
            let next =
                self.space(&if last { name.to_string() } else { format!("{name}-router{}", i + 1) })?;
            let port = if last { "eth0" } else { "wan" };
            match quality.filter(|_| last) {
                Some(quality) => self.wires.push(Wire::between((&router, "lan"), (&next, port), quality)?),
                None => cable((&router, "lan"), (&next, port))?,
            }
            ip(&router, &format!("addr add {network}.1/24 dev lan"))?;
            ip(&next, &format!("addr add {inside}/24 dev {port}"))?;
            ip(&next, &format!("route add default via {network}.1"))?;
            router = next;
        }
        Ok(Place { space: router, address: format!("10.{number}.0.2"), router: Some(first) })
    }

    /// A machine on the IPv6 Internet, which has no IPv4.
    pub fn public6(&mut self, name: &str, number: u8) -> Result<Place> {
        let space = self.space(name)?;
        self.plug(&space, "eth0")?;
        let address = format!("2001:db8:1::{number}");
        ip(&space, &format!("addr add {address}/64 dev eth0 nodad"))?;
        ip(&space, "route add 2001:db8:a000::/36 dev eth0 via 2001:db8:1::fe")?;
        Ok(Place { space, address, router: None })
    }

    /// A machine behind an IPv6 router that lets nothing in unasked.
    pub fn behind6(&mut self, name: &str) -> Result<Place> {
        self.routers += 1;
        let number = self.routers;
        let router = self.space(&format!("{name}-router0"))?;
        self.plug(&router, "wan")?;
        ip(&router, &format!("addr add 2001:db8:1::f{number}/64 dev wan nodad"))?;
        ip(&router, "route add default via 2001:db8:1::fe")?;
        let internet = self.spaces[0].clone();
        let network = format!("2001:db8:a00{number}:");
        if number == 1 {
            forward(&internet)?;
            ip(&internet, "addr add 2001:db8:1::fe/64 dev br0 nodad")?;
        }
        ip(&internet, &format!("route add {network}:/48 via 2001:db8:1::f{number}"))?;
        rules(&router, &firewall(""))?;
        let space = self.space(name)?;
        cable((&router, "lan"), (&space, "eth0"))?;
        ip(&router, &format!("addr add {network}:1/64 dev lan nodad"))?;
        ip(&space, &format!("addr add {network}:2/64 dev eth0 nodad"))?;
        ip(&space, &format!("route add default via {network}:1"))?;
        Ok(Place { space, address: format!("{network}:2"), router: Some(router) })
    }

    fn plug(&self, space: &str, port: &str) -> Result<()> {
        let internet = &self.spaces[0];
        let plug = format!("p{}", self.spaces.len());
        cable((internet, &plug), (space, port))?;
        ip(internet, &format!("link set {plug} master br0"))
    }

    fn space(&mut self, name: &str) -> Result<String> {
        let space = format!("{}-{name}", self.prefix);
        run(Command::new("ip").args(["netns", "add", &space]))?;
        self.spaces.push(space.clone());
        ip(&space, "link set lo up")?;
        if name.contains("router") {
            forward(&space)?;
        }
        Ok(space)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.wires.clear();
        for space in self.spaces.iter().rev() {
            if let Err(e) = run(Command::new("ip").args(["netns", "del", space])) {
                eprintln!("left behind: {e:#}");
            }
        }
    }
}

fn forward(space: &str) -> Result<()> {
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    run(Command::new("ip").args(["netns", "exec", space, "sh", "-c", script]))
}

fn cable(a: (&str, &str), b: (&str, &str)) -> Result<()> {
    let words = format!("link add {} netns {} type veth peer name {} netns {}", a.1, a.0, b.1, b.0);
    run(Command::new("ip").args(words.split(' ')))?;
    ip(a.0, &format!("link set {} up", a.1))?;
    ip(b.0, &format!("link set {} up", b.1))
}

/// `ip` in a namespace.
pub fn ip(space: &str, words: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", space]).args(words.split(' ')))
}

fn rules(space: &str, text: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space, "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run nft")?;
    use std::io::Write;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft refused its rules: {}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
