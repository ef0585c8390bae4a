//! What this host is, as the kernel says: its addresses, its uplink, its interfaces.
//! In: netlink. Out: addresses and interfaces, as they change; a word when something else changed that pods depend on.
//! Invariant: a change that was missed is found again, because every change of what is listed lists it all anew.
//! Never: decides what a change means; counts loopback and link-local addresses, or the interfaces of pods.

use dataplane::{NODE_ROUTE_PROTOCOL, is_pods};
use model::{Cidr, IfaceName};
use netlink::{
    Address, Error, LOOPBACK, Link, MAIN_TABLE, Route, RouteKind, Socket,
    watch::{Event, Watch},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

/// After a failure of netlink, before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// What this host has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Addresses that others may use.
    pub addresses: BTreeSet<IpAddr>,
    /// Interfaces that a host endpoint may mean, with those of their addresses.
    pub interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
    /// The networks that those are in by their addresses.
    pub nets: BTreeMap<IfaceName, BTreeSet<Cidr>>,
    /// The largest packet of each interface.
    pub mtus: BTreeMap<IfaceName, u32>,
}

/// Asks the kernel.
pub fn host(socket: &mut Socket) -> Result<Host, Error> {
    let mut interfaces = BTreeMap::new();
    let (mut names, mut mtus) = (BTreeMap::new(), BTreeMap::new());
    for link in socket.links()?.into_iter().filter(is_own) {
        names.insert(link.index, link.name.clone());
        mtus.insert(link.name.clone(), link.mtu);
        interfaces.insert(link.name, BTreeSet::new());
    }
    let listed = socket.addresses()?.into_iter().filter(is_of_use);
    let (mut addresses, mut nets) = (BTreeSet::new(), BTreeMap::<IfaceName, BTreeSet<Cidr>>::new());
    for address in listed {
        addresses.insert(address.address);
        let own = names.get(&address.interface).and_then(|name| interfaces.get_mut(name));
        own.into_iter().for_each(|own: &mut BTreeSet<IpAddr>| own.extend([address.address]));
        if let (Some(name), Ok(net)) = (names.get(&address.interface), Cidr::new(address.address, address.prefix_len)) {
            nets.entry(name.clone()).or_default().insert(net);
        }
    }
    Ok(Host { addresses, interfaces, nets, mtus })
}

/// Whether a link is one of the node's own, to which traffic comes from elsewhere.
fn is_own(link: &Link) -> bool {
    link.index != LOOPBACK && !is_pods(link)
}

/// Whether others may use it. Each pod's interface gets one that they may not, and a crowd of pods is no reason to list all links.
fn is_of_use(found: &Address) -> bool {
    let is_link_local = match found.address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    found.global && !found.address.is_loopback() && !is_link_local
}

/// The interface of the default route, IPv4 first.
pub fn uplink(socket: &mut Socket) -> Result<Option<Link>, Error> {
    let routes = socket.routes()?;
    let default = |v4: bool| {
        let is_default = |route: &&Route| {
            let leads_out = route.table == MAIN_TABLE && route.kind == RouteKind::Unicast;
            leads_out && route.destination.prefix_len() == 0 && route.destination.is_v4() == v4
        };
        routes.iter().find(is_default).map(|route| route.interface)
    };
    match default(true).or_else(|| default(false)) {
        Some(index) => socket.link_by_index(index),
        None => Ok(None),
    }
}

/// What `watch` tells.
pub enum Change {
    /// The host's addresses and interfaces are these now.
    Host(Host),
    /// A link, route, neighbour or queueing discipline changed, perhaps one of ours.
    Network,
}

/// Tells `changed` the host's addresses and interfaces whenever they change, and of every other change; ends when it answers
/// false.
pub fn watch(mut changed: impl FnMut(Change) -> bool + Send + 'static) -> std::io::Result<()> {
    let run = move || {
        let mut last = None;
        loop {
            match follow(&mut last, &mut changed) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!("the host's network: {error}; trying again");
                    thread::sleep(PAUSE);
                }
            }
        }
    };
    thread::Builder::new().name("observe".into()).spawn(run).map(drop)
}

/// Listens first, then lists: what changes in between is not missed.
fn follow(last: &mut Option<Host>, changed: &mut impl FnMut(Change) -> bool) -> Result<(), Error> {
    let mut events = Watch::open()?;
    let mut socket = Socket::open()?;
    loop {
        let now = host(&mut socket)?;
        if last.as_ref() != Some(&now) {
            *last = Some(now.clone());
            if !changed(Change::Host(now.clone())) {
                return Ok(());
            }
        }
        if !until_changed(&mut events, &now, changed)? {
            return Ok(());
        }
    }
}

/// Whether to go on.
fn until_changed(events: &mut Watch, host: &Host, changed: &mut impl FnMut(Change) -> bool) -> Result<bool, Error> {
    for event in events {
        match event? {
            Event::Address(address) | Event::AddressGone(address) if is_of_use(&address) => return Ok(true),
            Event::Lost => return Ok(changed(Change::Network)),
            event if is_of_interest(&event) && !changed(Change::Network) => return Ok(false),
            Event::Link(link) if is_own(&link) && host.mtus.get(&link.name) != Some(&link.mtu) => return Ok(true),
            Event::LinkGone(link) if host.interfaces.contains_key(&link.name) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// Whether a look is worth it. What is learnt about neighbours comes all day, and no permanent entry is changed by it.
fn is_of_interest(event: &Event) -> bool {
    match event {
        Event::Neighbour(neighbour) => neighbour.permanent,
        // Those of use are listed.
        Event::Address(_) | Event::AddressGone(_) => false,
        // Only routes to single hosts lead to pods of this node; those to other nodes are marked.
        Event::Route(route) | Event::RouteGone(route) => {
            route.destination == Cidr::host(route.destination.network()) || route.protocol == NODE_ROUTE_PROTOCOL
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_cannot_use_is_no_reason_to_list_all_links_nor_to_look_at_what_pods_have() {
        let found = |address: &str, global| Address {
            interface: model::Ifindex(7),
            address: address.parse().expect("an address"),
            prefix_len: 64,
            global,
            tentative: false,
            label: String::new(),
        };
        for (address, global) in [("fe80::1", false), ("169.254.1.1", true), ("127.0.0.2", true), ("::1", false)] {
            assert!(!is_of_use(&found(address, global)), "{address}");
            assert!(!is_of_interest(&Event::Address(found(address, global))), "{address}");
        }
        assert!(is_of_use(&found("192.0.2.1", true)) && is_of_use(&found("2001:db8::1", true)));
    }
}
