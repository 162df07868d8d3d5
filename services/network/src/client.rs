//! One link's task: feeds the state machines with packets and time and does what they say.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rtnetlink::Handle;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::lease::{self, Outgoing};
use crate::link_local::{self, Claim};
use crate::links::Carrier;
use crate::sockets::{self, ArpSocket, SERVER_PORT};
use crate::state::Shared;
use crate::{links, packet};

/// How long DHCP may take until the link gets a link-local address meanwhile.
const FALLBACK_AFTER: Duration = Duration::from_secs(10);
/// Between two attempts to open the sockets.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);
/// Between two lines about bad packets: whoever sends many must not fill the log.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

pub struct LinkClient {
    index: u32,
    name: String,
    mac: [u8; 6],
    handle: Handle,
    shared: Arc<Shared>,
    carrier: watch::Receiver<Carrier>,
    origin: Instant,
    dhcp: lease::Client,
    claim: Option<Claim>,
    carrier_count: u32,
    /// When to fall back to a link-local address.
    fallback_at: Duration,
    complained_at: Option<Duration>,
    /// The address that the log has told of.
    announced: Option<Ipv4Addr>,
}

enum Event {
    Carrier(Carrier),
    Packet(Vec<u8>),
    Arp(link_local::Arp),
    Timeout,
}

impl LinkClient {
    pub fn new(
        index: u32,
        name: &str,
        mac: [u8; 6],
        handle: Handle,
        shared: Arc<Shared>,
        carrier: watch::Receiver<Carrier>,
    ) -> Result<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).context("no random numbers for DHCP")?;
        let dhcp = lease::Client::new(mac, u64::from_le_bytes(seed), Duration::ZERO);
        Ok(Self {
            index,
            name: name.to_owned(),
            mac,
            handle,
            shared,
            carrier,
            origin: Instant::now(),
            dhcp,
            claim: None,
            carrier_count: 0,
            fallback_at: Duration::MAX,
            complained_at: None,
            announced: None,
        })
    }

    /// Runs until the task is aborted, which is when the link is gone.
    pub async fn run(mut self) {
        loop {
            let Err(error) = self.session().await;
            tracing::warn!("{}: {error:#}; again in {SOCKET_PAUSE:?}", self.name);
            sleep(SOCKET_PAUSE).await;
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible> {
        let socket = sockets::dhcp(&self.name).context("cannot open a DHCP socket")?;
        let arp = ArpSocket::open(self.index).context("cannot open an ARP socket")?;
        let carrier = *self.carrier.borrow_and_update();
        self.set_carrier(carrier);
        loop {
            self.shared.set_dhcp(self.index, self.state());
            match self.next_event(&socket, &arp).await? {
                Event::Carrier(carrier) => self.set_carrier(carrier),
                Event::Packet(bytes) => self.handle_packet(&bytes, &socket).await,
                Event::Arp(packet) => self.handle_arp(&packet, &arp).await,
                Event::Timeout => self.handle_timeout(&socket, &arp).await,
            }
        }
    }

    async fn next_event(&mut self, socket: &UdpSocket, arp: &ArpSocket) -> Result<Event> {
        let mut bytes = vec![0; packet::BYTES_MAX];
        let deadline = self.deadline();
        tokio::select! {
            changed = self.carrier.changed() => {
                changed.context("nobody watches this link any more")?;
                Ok(Event::Carrier(*self.carrier.borrow_and_update()))
            }
            received = socket.recv_from(&mut bytes) => {
                let (count, _) = received.context("cannot receive DHCP packets")?;
                bytes.truncate(count);
                Ok(Event::Packet(bytes))
            }
            received = arp.receive(), if self.claim.is_some() => {
                Ok(Event::Arp(received.context("cannot receive ARP packets")?))
            }
            () = sleep_until(deadline) => Ok(Event::Timeout),
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn deadline(&self) -> Instant {
        let claim = self.claim.as_ref().map_or(Duration::MAX, Claim::next_deadline);
        let fallback = if self.claim.is_none() { self.fallback_at } else { Duration::MAX };
        let next = self.dhcp.next_deadline().min(claim).min(fallback);
        // A year is never, for a timer.
        self.origin + next.min(self.now() + Duration::from_secs(31_536_000))
    }

    fn state(&self) -> &'static str {
        match &self.claim {
            _ if !self.carrier.borrow().present => "no carrier",
            Some(claim) if claim.address().is_some() => "link-local",
            _ => self.dhcp.state(),
        }
    }

    fn set_carrier(&mut self, carrier: Carrier) {
        let now = self.now();
        if carrier.count != self.carrier_count {
            self.carrier_count = carrier.count;
            self.dhcp.set_carrier(false, now);
        }
        self.dhcp.set_carrier(carrier.present, now);
        let waits = carrier.present && self.dhcp.lease().is_none();
        self.fallback_at = if waits { now + FALLBACK_AFTER } else { Duration::MAX };
    }

    async fn handle_timeout(&mut self, socket: &UdpSocket, arp: &ArpSocket) {
        let now = self.now();
        for action in self.dhcp.handle_timeout(now) {
            self.perform(action, socket).await;
        }
        if self.claim.is_none() && now >= self.fallback_at && self.dhcp.lease().is_none() {
            tracing::info!("{}: no DHCP server has answered; claiming a link-local address", self.name);
            self.fallback_at = Duration::MAX;
            self.claim = Some(Claim::new(self.mac, now));
        }
        let actions = self.claim.as_mut().map(|claim| claim.handle_timeout(now)).unwrap_or_default();
        self.perform_claim(&actions, arp).await;
    }

    async fn handle_arp(&mut self, packet: &link_local::Arp, arp: &ArpSocket) {
        let now = self.now();
        let actions = self.claim.as_mut().map(|claim| claim.handle_arp(packet, now)).unwrap_or_default();
        self.perform_claim(&actions, arp).await;
    }

    async fn handle_packet(&mut self, bytes: &[u8], socket: &UdpSocket) {
        let reply = match packet::decode(bytes) {
            Ok(reply) => reply,
            Err(error) => return self.complain(&format!("{error:#}")),
        };
        match self.dhcp.handle_reply(&reply, self.now()) {
            Ok(actions) => {
                for action in actions {
                    self.perform(action, socket).await;
                }
            }
            // Answers to other clients are broadcast; they are no news.
            Err(lease::Ignored::NotForUs) => {}
            Err(why) => self.complain(&why.to_string()),
        }
    }

    fn complain(&mut self, what: &str) {
        let now = self.now();
        if self.complained_at.is_none_or(|at| now >= at + COMPLAINT_PAUSE) {
            self.complained_at = Some(now);
            tracing::warn!("{}: ignored a DHCP packet: {what}", self.name);
        }
    }

    async fn perform(&mut self, action: lease::Action, socket: &UdpSocket) {
        match action {
            lease::Action::Send(outgoing) => {
                if let Err(error) = self.send(&outgoing, socket).await {
                    tracing::debug!("{}: cannot send a DHCP packet: {error:#}", self.name);
                }
            }
            lease::Action::Configure(lease) => {
                let lifetime = lease.lifetime.map_or("ever".into(), |time| format!("{} s", time.as_secs()));
                let (address, prefix, server) = (lease.address, lease.prefix, lease.server);
                if self.announced.replace(address) == Some(address) {
                    tracing::debug!("{}: address {address} renewed for {lifetime}", self.name);
                } else {
                    tracing::info!("{}: address {address}/{prefix} from {server} for {lifetime}", self.name);
                }
                self.claim = None;
                self.fallback_at = Duration::MAX;
                self.report(links::configure(&self.handle, self.index, &lease).await);
                self.shared.set_name_servers(self.index, lease.dns);
            }
            lease::Action::Unconfigure(lease) => {
                tracing::warn!("{}: address {} is no longer ours", self.name, lease.address);
                self.announced = None;
                self.fallback_at = self.now() + FALLBACK_AFTER;
                self.report(links::unconfigure(&self.handle, self.index, lease.address).await);
                self.shared.set_name_servers(self.index, Vec::new());
            }
        }
    }

    async fn perform_claim(&mut self, actions: &[link_local::Action], arp: &ArpSocket) {
        for action in actions {
            match action {
                link_local::Action::Send(packet) => {
                    if let Err(error) = arp.send(packet).await {
                        tracing::debug!("{}: cannot send an ARP packet: {error}", self.name);
                    }
                }
                link_local::Action::Configure(address) => {
                    tracing::info!("{}: link-local address {address}", self.name);
                    self.report(links::configure_link_local(&self.handle, self.index, *address).await);
                }
                link_local::Action::Unconfigure(address) => {
                    tracing::warn!("{}: another host has {address} too; looking for a new one", self.name);
                    self.report(links::unconfigure(&self.handle, self.index, *address).await);
                }
            }
        }
    }

    async fn send(&self, outgoing: &Outgoing, socket: &UdpSocket) -> Result<()> {
        let bytes = packet::encode(outgoing, self.mac, &host_name())?;
        socket.send_to(&bytes, (outgoing.to, SERVER_PORT)).await?;
        Ok(())
    }

    /// The link works on with what it has; the next lease tries again.
    fn report(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::error!("{}: {error:#}", self.name);
        }
    }
}

/// The node's name, for the server's list; none if it has not got one yet.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_name && name != "localhost" { name.chars().take(63).collect() } else { String::new() }
}
