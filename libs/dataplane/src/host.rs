//! The host side of endpoints: sysctls, routes, permanent neighbours, the link itself.
//! In: endpoints that are wanted and the links that are there. Out: a host that reaches each, one failure at a time.
//! Invariant: ours is a route with [`ROUTE_PROTOCOL`] and a permanent neighbour on a `cali*` interface, nothing else.
//! Never: a sysctl of `all` or `default`; a route of another protocol; a link set up before its policy is in force.

use crate::{
    ApplyError,
    drift::DriftKind,
    network::{Network, Seen},
    programs::in_full,
};
use abi::endpoint::GATEWAY_MAC;
use calc::EndpointSpec;
use model::{Cidr, Ifindex, Mac};
use netlink::{Link, Neighbour, Route, Scope, sysctl::SysctlError};
use std::{collections::BTreeSet, error::Error, net::IpAddr};

/// The number in `/etc/iproute2/rt_protos` terms by which our routes are known after a restart.
pub const ROUTE_PROTOCOL: u8 = 84;
/// The same of routes to other nodes and to our own blocks, which belong to no interface of a pod.
pub const NODE_ROUTE_PROTOCOL: u8 = 85;
/// What the host side of every pod's interface is called, as in Calico.
pub const INTERFACE_PREFIX: &str = "cali";

/// Settings of a pod's host interface, and why (calico.md §4.5 has Calico's): `bpf_fib_lookup` asks for forwarding on
/// the interface a packet came in by; ARP, neighbours and sources are the programs' business, not the stack's.
const SYSCTLS: [(&str, &str, &str); 8] = [
    ("ipv4", "forwarding", "1"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv4", "rp_filter", "0"),
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "forwarding", "1"),
    // What the programs leave to the stack (hop limit at its end, too big) it answers only if it would forward; from
    // Linux 6.17 on that can be said of one interface.
    ("ipv6", "force_forwarding", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_dad", "0"),
];

/// Whether the whole node forwards IPv6.
const FORWARDING: &str = "ipv6/conf/all/forwarding";

/// Those that this node needs. Where all of it forwards, no interface has to be told: who sets that waits for the kernel's lock of all
/// interfaces in a loop, for long while many pods are wired.
fn settings(network: &impl Network) -> Result<Vec<(&'static str, &'static str, &'static str)>, SysctlError> {
    let forwards = network.setting(FORWARDING)?.as_deref() == Some("1");
    Ok(SYSCTLS.into_iter().filter(|(_, name, _)| !(forwards && *name == "force_forwarding")).collect())
}

fn failed(step: String, error: &dyn Error) -> ApplyError {
    ApplyError { step, reason: in_full(error) }
}

/// Before programs are attached: the settings they count on. The link may still be down.
///
/// # Errors
/// A setting cannot be made.
pub fn prepare(network: &mut impl Network, link: &Link) -> Result<(), ApplyError> {
    for (family, name, value) in settings(network).map_err(|error| failed(format!("look at {FORWARDING}"), &error))? {
        let path = format!("{family}/conf/{}/{name}", link.name);
        let step = || format!("set {path}");
        let found = network.setting(&path).map_err(|error| failed(step(), &error))?;
        // A kernel without IPv6, or an older one, has nothing to set.
        let nothing_to_set = found.is_none() && family == "ipv6";
        if !nothing_to_set && found.as_deref() != Some(value) {
            network.set(&path, value).map_err(|error| failed(step(), &error))?;
        }
    }
    give_mac(network, link)
}

fn give_mac(network: &mut impl Network, link: &Link) -> Result<(), ApplyError> {
    if has_gateway_mac(link) {
        return Ok(());
    }
    let step = || format!("set the MAC of {}", link.name);
    network.set_mac(link.index, Mac(GATEWAY_MAC)).map_err(|error| failed(step(), &error))
}

fn has_gateway_mac(link: &Link) -> bool {
    link.mac == Some(Mac(GATEWAY_MAC))
}

/// What [`prepare`] would change, in words.
///
/// # Errors
/// In words: a setting cannot be read.
pub fn off(network: &impl Network, link: &Link) -> Result<Vec<String>, String> {
    let mut off = Vec::new();
    for (family, name, value) in settings(network).map_err(|error| in_full(&error))? {
        let path = format!("{family}/conf/{}/{name}", link.name);
        let found = network.setting(&path).map_err(|error| in_full(&error))?;
        off.extend(found.filter(|found| found != value).map(|found| format!("{path} was {found}")));
    }
    Ok(off)
}

/// What [`connect`] would change, in words.
pub fn missing(seen: &Seen, link: &Link, endpoint: &EndpointSpec) -> Vec<(DriftKind, String)> {
    if !link.up {
        return vec![(DriftKind::Link, format!("{} was down", link.name))];
    }
    let mut missing = Vec::new();
    if !has_gateway_mac(link) {
        missing.push((DriftKind::Link, format!("{} had another MAC", link.name)));
    }
    for address in reached(endpoint) {
        if !seen.neighbours.contains(&neighbour(address, link.index, endpoint.mac)) {
            missing.push((DriftKind::Neighbour, format!("{address} on {} was gone or changed", link.name)));
        }
        if !seen.routes.contains(&route(address, link.index)) {
            missing.push((DriftKind::Route, format!("{address} on {} was gone or changed", link.name)));
        }
    }
    missing
}

/// After policy is in force: the link up, with its MAC, then the ways to the endpoint.
///
/// # Errors
/// The first that failed; the next pass tries again.
pub fn connect(
    network: &mut impl Network,
    seen: &Seen,
    link: &Link,
    endpoint: &EndpointSpec,
) -> Result<(), ApplyError> {
    give_mac(network, link)?;
    if !link.up {
        network.set_up(link.index).map_err(|error| failed(format!("set {} up", link.name), &error))?;
    }
    for address in reached(endpoint) {
        // Setting a link up or down flushes its neighbours and routes.
        if !link.up || !seen.neighbours.contains(&neighbour(address, link.index, endpoint.mac)) {
            network
                .replace_neighbour(link.index, address, endpoint.mac)
                .map_err(|error| failed(format!("set neighbour {address} on {}", link.name), &error))?;
        }
        let wanted = route(address, link.index);
        if !link.up || !seen.routes.contains(&wanted) {
            network.replace_route(&wanted).map_err(|error| failed(format!("set the route to {address}"), &error))?;
        }
    }
    Ok(())
}

/// Addresses by which this host reaches an endpoint. What it sends to one that floats is the pod's when it comes to its interface.
pub fn reached(endpoint: &EndpointSpec) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().chain(&endpoint.floating).copied()
}

/// As it reads back.
fn neighbour(address: IpAddr, interface: Ifindex, mac: Mac) -> Neighbour {
    Neighbour { interface, address, mac: Some(mac), permanent: true }
}

/// As it reads back.
pub fn route(address: IpAddr, interface: Ifindex) -> Route {
    let scope = if address.is_ipv4() { Scope::Link } else { Scope::Global };
    Route { scope, ..Route::new(Cidr::host(address), interface, ROUTE_PROTOCOL) }
}

/// Takes away routes and neighbours of ours that nobody wants; `wanted` holds (interface, address).
/// With nothing wanted, all that is ours goes. A neighbour carries no mark: `pods` are the interfaces on which permanent ones are ours.
pub fn sweep(
    network: &mut impl Network,
    seen: &Seen,
    wanted: &BTreeSet<(Ifindex, IpAddr)>,
    pods: &BTreeSet<Ifindex>,
) -> Vec<(String, ApplyError)> {
    let mut left = Vec::new();
    let mut tried = |name: String, result: Result<bool, netlink::Error>| {
        if let Err(error) = result {
            left.push((name.clone(), failed(format!("delete the {name}"), &error)));
        }
    };
    let routes: BTreeSet<_> = wanted.iter().map(|(interface, address)| route(*address, *interface)).collect();
    for old in seen.routes.iter().filter(|route| route.protocol == ROUTE_PROTOCOL && !routes.contains(route)) {
        tried(format!("route to {}", old.destination), network.delete_route(old));
    }
    let ours = |old: &&Neighbour| old.permanent && pods.contains(&old.interface) && !old.address.is_multicast();
    for old in seen.neighbours.iter().filter(ours) {
        if !wanted.contains(&(old.interface, old.address)) {
            tried(format!("neighbour {}", old.address), network.delete_neighbour(old.interface, old.address));
        }
    }
    left
}

/// The interfaces of pods.
pub fn pods(seen: &Seen) -> BTreeSet<Ifindex> {
    seen.links.values().filter(|link| is_pods(link)).map(|link| link.index).collect()
}

/// Those to which a route of ours leads, or of which `pinned` says that it is ours: what is left once no agent runs.
pub fn own_pods(seen: &Seen, pinned: &BTreeSet<u32>) -> BTreeSet<Ifindex> {
    let routed = seen.routes.iter().filter(|route| route.protocol == ROUTE_PROTOCOL).map(|route| route.interface);
    let ours: BTreeSet<_> = routed.chain(pinned.iter().copied().map(Ifindex)).collect();
    pods(seen).intersection(&ours).copied().collect()
}

/// Whether a link is the host side of a pod's interface.
#[must_use]
pub fn is_pods(link: &Link) -> bool {
    link.name.0.starts_with(INTERFACE_PREFIX)
}

/// Whether packets to a link pass a queueing discipline, which a redirect to its peer would skip.
#[must_use]
pub fn is_queued(link: &Link) -> bool {
    !["", "noop", "noqueue"].contains(&link.qdisc.as_str())
}
