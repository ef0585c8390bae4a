//! Routes: with one next hop, or to nowhere; and that others are there.
//! In: routes to be there or to go. Out: routes as they are.
//! Invariant: what `replace_route` put there reads back equal, except that IPv6 has no scopes: they read as `Global`.
//! Never: lists local, broadcast, anycast, multicast or cached routes, which the kernel makes by itself; writes one of several next hops.

use crate::{Error, Socket, address::family_of, error::deleted, socket::About};
use model::{Cidr, Ifindex};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The main routing table.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// How far away a destination is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Behind a gateway, or anywhere.
    #[default]
    Global,
    /// On this link.
    Link,
    /// This host.
    Host,
    /// Another number.
    Other(u8),
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// They go on.
    #[default]
    Unicast,
    /// They are dropped without a word.
    Blackhole,
    /// They go one of several ways, or are refused: read, and never written.
    Other,
}

/// The bit of the MTU in a route's lock (`1 << RTAX_MTU`).
const MTU_LOCK: u32 = 1 << 2;

/// The metric that IPv6 gives where none is asked for.
const METRIC_V6: u32 = 1024;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Cidr,
    /// Through this interface; 0 where it is of another kind than [`RouteKind::Unicast`].
    pub interface: Ifindex,
    /// Next hop; `None`: on the link itself.
    pub gateway: Option<IpAddr>,
    /// Who put it there (rtnetlink's `RTPROT_*`; 3 is boot, which CNI plugins use).
    pub protocol: u8,
    /// How far away. IPv6 routes have none and read as [`Scope::Global`].
    pub scope: Scope,
    /// Routing table.
    pub table: u32,
    /// The gateway counts as reachable on the link without a route to it.
    pub on_link: bool,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// Of several to one destination the smallest is taken; 0: what the kernel gives by itself.
    pub metric: u32,
    /// No packet is longer, whatever the path says; 0: nothing is said.
    pub mtu: u32,
    /// From which address this host's own packets go there, where they have none yet.
    pub source: Option<IpAddr>,
}

impl Route {
    /// One of the main table, on the link itself, to anywhere.
    #[must_use]
    pub const fn new(destination: Cidr, interface: Ifindex, protocol: u8) -> Self {
        Self {
            destination,
            interface,
            gateway: None,
            protocol,
            scope: Scope::Global,
            table: MAIN_TABLE,
            on_link: false,
            kind: RouteKind::Unicast,
            metric: 0,
            mtu: 0,
            source: None,
        }
    }
}

impl Socket {
    /// Routes of both families and all tables.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let about = About { operation: "list", object: &"routes" };
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            found.extend(self.dump(about, &Message::GetRoute(question))?.iter().filter_map(route_of));
        }
        Ok(found)
    }

    /// Adds a route, or puts it in the place of one with the same destination, table and metric.
    ///
    /// # Errors
    /// The interface is not there or down, the gateway is not reachable, or the kernel refuses.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let object = route_text(route);
        let about = About { operation: "replace route", object: &object };
        self.change(about, Message::NewRoute(message_of(route)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes exactly this route, protocol included; one without a metric is the first of any, as the kernel takes it. `false`: it
    /// was not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, Error> {
        let object = route_text(route);
        let about = About { operation: "delete route", object: &object };
        deleted(self.change(about, Message::DelRoute(message_of(route)), 0))
    }
}

fn route_text(route: &Route) -> String {
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let metric = if route.metric == 0 { String::new() } else { format!(" metric {}", route.metric) };
    match route.kind {
        RouteKind::Unicast => format!("{}{via} on interface {}{metric}", route.destination, route.interface.0),
        RouteKind::Blackhole => format!("{} to nowhere", route.destination),
        RouteKind::Other => format!("{} by several ways or none", route.destination),
    }
}

fn message_of(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let network = route.destination.network();
    message.header.address_family = family_of(network);
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = route.protocol.into();
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other => RouteType::Unspec,
    };
    if network.is_ipv4() && route.kind == RouteKind::Unicast {
        message.header.scope = scope_number(route.scope);
    }
    if route.on_link {
        message.header.flags = RouteFlags::Onlink;
    }
    // The header has room for eight bits of table; the attribute is the one that counts.
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![RouteAttribute::Table(route.table)];
    if route.kind == RouteKind::Unicast {
        message.attributes.push(RouteAttribute::Oif(route.interface.0));
    }
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(network.into()));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    if route.mtu != 0 {
        let metrics = vec![RouteMetric::Lock(MTU_LOCK), RouteMetric::Mtu(route.mtu)];
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

fn scope_number(scope: Scope) -> RouteScope {
    match scope {
        Scope::Global => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
        Scope::Other(number) => number.into(),
    }
}

fn scope_of(scope: RouteScope) -> Scope {
    match scope {
        RouteScope::Universe => Scope::Global,
        RouteScope::Link => Scope::Link,
        RouteScope::Host => Scope::Host,
        other => Scope::Other(other.into()),
    }
}

/// The route a message is about, if it is one of the shape described above.
pub(crate) fn route_of(message: &Message) -> Option<Route> {
    let (Message::NewRoute(message) | Message::DelRoute(message)) = message else { return None };
    let header = &message.header;
    let is_multipath = message.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)));
    let kind = match header.kind {
        RouteType::Unicast if is_multipath => RouteKind::Other,
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => RouteKind::Other,
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut network = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut interface, mut gateway, mut table, mut metric) = (None, None, u32::from(header.table), 0);
    let (mut mtu, mut source) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => network = ip_of(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::Oif(index) => interface = Some(Ifindex(*index)),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Metrics(metrics) => mtu = locked_mtu(metrics),
            _ => {}
        }
    }
    Some(Route {
        destination: Cidr::new(network, header.destination_prefix_length).ok()?,
        // The kernel says the loopback's for IPv6, and none for IPv4.
        interface: if kind == RouteKind::Unicast { interface? } else { Ifindex(0) },
        gateway,
        protocol: header.protocol.into(),
        scope: scope_of(header.scope),
        table,
        on_link: header.flags.contains(RouteFlags::Onlink),
        kind,
        metric: if network.is_ipv6() && metric == METRIC_V6 { 0 } else { metric },
        mtu,
        source,
    })
}

/// One that is not locked is the path's to say.
fn locked_mtu(metrics: &[RouteMetric]) -> u32 {
    let is_locked = |metric: &RouteMetric| matches!(metric, RouteMetric::Lock(bits) if bits & MTU_LOCK != 0);
    let mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
    mtu.filter(|_| metrics.iter().any(is_locked)).unwrap_or_default()
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
