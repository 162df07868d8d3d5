//! The kernel's links and addresses, through rtnetlink.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope, CacheInfo};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::lease::{Lease, Route};
use crate::link_local;

/// The kernel's "for ever".
const FOREVER: u32 = u32::MAX;
/// Routes of links with a lower index are preferred.
const METRIC: u32 = 100;

/// What we know of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    /// Set up by an administrator, that is, by us.
    pub up: bool,
    pub carrier: Carrier,
    /// A radio: iwd sets it up, not we.
    pub wireless: bool,
    /// `192.0.2.15/24`
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carrier {
    /// The cable is in.
    pub present: bool,
    /// How often it was plugged in so far: the kernel may tell of a short interruption only when it is over.
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Loopback,
    /// A link that we ask for addresses on, with its hardware address.
    Ethernet([u8; 6]),
    /// Anything else: tunnels, bridges, a bridge's members.
    Other,
}

/// All links with their addresses, by index.
pub async fn snapshot(handle: &Handle) -> Result<BTreeMap<u32, Link>> {
    let messages: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.context("cannot list the links")?;
    let mut links: BTreeMap<u32, Link> =
        messages.iter().map(|message| (message.header.index, link(message))).collect();
    for message in addresses(handle).await? {
        if let (Some(link), Some(address)) = (links.get_mut(&message.header.index), address(&message)) {
            link.addresses.push(format!("{address}/{}", message.header.prefix_len));
        }
    }
    Ok(links)
}

pub async fn bring_up(handle: &Handle, link: &Link) -> Result<()> {
    let message = LinkUnspec::new_with_index(link.index).up().build();
    let change = handle.link().change(message).execute().await;
    change.with_context(|| format!("cannot bring up link {}", link.name))
}

/// Sets the lease's address and routes, and takes away what an earlier lease or a link-local claim has left. The kernel
/// drops the address when the lease ends, even if nobody is there to renew it.
pub async fn configure(handle: &Handle, index: u32, lease: &Lease) -> Result<()> {
    let seconds = lease.lifetime.map_or(FOREVER, |time| time.as_secs().min(u64::from(FOREVER) - 1) as u32);
    let mut request = handle.address().add(index, lease.address.into(), lease.prefix).replace();
    let mut times = CacheInfo::default();
    (times.ifa_preferred, times.ifa_valid) = (seconds, seconds);
    request.message_mut().attributes.push(AddressAttribute::CacheInfo(times));
    request
        .execute()
        .await
        .with_context(|| format!("cannot set address {}/{}", lease.address, lease.prefix))?;
    for old in addresses(handle).await?.into_iter().filter(|old| old.header.index == index) {
        let ours = is_ours(&old) && address(&old) != Some(lease.address.into());
        if ours && let Err(error) = handle.address().del(old).execute().await {
            tracing::warn!("cannot remove an old address: {error}");
        }
    }
    for route in &lease.routes {
        let added = handle.route().add(message(index, lease, route)).replace().execute().await;
        added.with_context(|| {
            format!("cannot set the route to {}/{} by {}", route.destination, route.prefix, route.gateway)
        })?;
    }
    Ok(())
}

/// Sets a link-local address.
pub async fn configure_link_local(handle: &Handle, index: u32, address: Ipv4Addr) -> Result<()> {
    let mut request = handle.address().add(index, address.into(), link_local::PREFIX).replace();
    request.message_mut().header.scope = AddressScope::Link;
    request.execute().await.with_context(|| format!("cannot set the link-local address {address}"))
}

/// Removes an address; the routes that use it as their source go with it.
pub async fn unconfigure(handle: &Handle, index: u32, gone: Ipv4Addr) -> Result<()> {
    for old in addresses(handle).await? {
        if old.header.index == index && address(&old) == Some(gone.into()) {
            let removed = handle.address().del(old).execute().await;
            removed.with_context(|| format!("cannot remove the address {gone}"))?;
        }
    }
    Ok(())
}

fn message(index: u32, lease: &Lease, route: &Route) -> netlink_packet_route::route::RouteMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination, route.prefix)
        .output_interface(index)
        .pref_source(lease.address)
        .protocol(RouteProtocol::Dhcp)
        .priority(METRIC + index);
    if !route.gateway.is_unspecified() {
        // The gateway may lie outside the subnet, as with a prefix of 32.
        builder = builder.gateway(route.gateway).onlink();
    }
    builder.build()
}

async fn addresses(handle: &Handle) -> Result<Vec<AddressMessage>> {
    handle.address().get().execute().try_collect().await.context("cannot list the addresses")
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    // IPv6 has no separate local address.
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// IPv4, and either with an end (a lease) or link-local. Addresses that somebody set by hand are neither.
fn is_ours(message: &AddressMessage) -> bool {
    let ends = message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::CacheInfo(times) => times.ifa_valid != FOREVER,
        _ => false,
    });
    matches!(address(message), Some(IpAddr::V4(address)) if ends || address.is_link_local())
}

fn link(message: &LinkMessage) -> Link {
    let mut name = format!("#{}", message.header.index);
    let (mut mac, mut is_plain, mut count) = (None, true, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::CarrierUpCount(ups) => count = *ups,
            LinkAttribute::Controller(_) => is_plain = false,
            LinkAttribute::LinkInfo(infos) => is_plain &= infos.iter().all(is_wire),
            _ => {}
        }
    }
    let kind = match (message.header.link_layer_type, mac) {
        (LinkLayerType::Loopback, _) => Kind::Loopback,
        (LinkLayerType::Ether, Some(mac)) if is_plain => Kind::Ethernet(mac),
        _ => Kind::Other,
    };
    let flags = message.header.flags;
    let up = flags.contains(LinkFlags::Up);
    let carrier = Carrier { present: up && flags.contains(LinkFlags::LowerUp), count };
    let wireless = matches!(kind, Kind::Ethernet(_)) && is_wireless(&name);
    Link { index: message.header.index, name, kind, up, carrier, wireless, addresses: Vec::new() }
}

/// Looks at names in sysfs only; what is in there is closed to this service.
fn is_wireless(name: &str) -> bool {
    std::fs::symlink_metadata(format!("/sys/class/net/{name}/phy80211")).is_ok()
}

/// Hardware names no kind; of the kinds there are, a veth is like a wire.
fn is_wire(info: &LinkInfo) -> bool {
    !matches!(info, LinkInfo::Kind(kind) if *kind != InfoKind::Veth)
}
