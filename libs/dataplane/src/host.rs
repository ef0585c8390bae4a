//! The host side of endpoints: sysctls, routes, permanent neighbours, the link itself.
//! In: endpoints that are wanted and the links that are there. Out: a host that reaches each, one failure at a time.
//! Invariant: ours is a route with [`ROUTE_PROTOCOL`] and a permanent neighbour on a `cali*` interface, nothing else.
//! Never: a sysctl of `all` or `default`; a route of another protocol; a link set up before its policy is in force.

use crate::{ApplyError, programs::in_full};
use abi::endpoint::GATEWAY_MAC;
use calc::EndpointSpec;
use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{Link, LinkChange, Neighbour, Route, Scope, Socket, sysctl};
use std::{collections::BTreeSet, error::Error, net::IpAddr};

/// The number in `/etc/iproute2/rt_protos` terms by which our routes are known after a restart.
pub const ROUTE_PROTOCOL: u8 = 84;
/// What the host side of every pod's interface is called, as in Calico.
pub const INTERFACE_PREFIX: &str = "cali";

/// Settings of a pod's host interface, and why (calico.md §4.5 has Calico's): `bpf_fib_lookup` asks for forwarding on
/// the interface a packet came in by; ARP, neighbours and sources are the programs' business, not the stack's.
const SYSCTLS: [(&str, &str, &str); 7] = [
    ("ipv4", "forwarding", "1"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv4", "rp_filter", "0"),
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "forwarding", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_dad", "0"),
];

/// What the kernel holds, read once a pass.
#[derive(Debug, Default)]
pub struct Seen {
    /// Links.
    pub links: Vec<Link>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
}

impl Seen {
    /// Lists what there is.
    ///
    /// # Errors
    /// The kernel does not list it.
    pub fn list(socket: &mut Socket) -> Result<Self, netlink::Error> {
        Ok(Self { links: socket.links()?, routes: socket.routes()?, neighbours: socket.neighbours()? })
    }

    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &IfaceName) -> Option<&Link> {
        self.links.iter().find(|link| link.name == *name)
    }
}

fn failed(step: String, error: &dyn Error) -> ApplyError {
    ApplyError { step, reason: in_full(error) }
}

/// Before programs are attached: the settings they count on. The link may still be down.
///
/// # Errors
/// A setting cannot be made.
pub fn prepare(socket: &mut Socket, link: &Link) -> Result<(), ApplyError> {
    for (family, name, value) in SYSCTLS {
        let path = format!("{family}/conf/{}/{name}", link.name);
        sysctl::write(&path, value).map_err(|error| failed(format!("set {path}"), &error))?;
    }
    if link.mac != Some(Mac(GATEWAY_MAC)) {
        let change = LinkChange { mac: Some(Mac(GATEWAY_MAC)), ..LinkChange::default() };
        socket
            .set_link(link.index, &change)
            .map_err(|error| failed(format!("set the MAC of {}", link.name), &error))?;
    }
    Ok(())
}

/// After policy is in force: the link up, then the ways to the endpoint.
///
/// # Errors
/// The first that failed; the next pass tries again.
pub fn connect(socket: &mut Socket, seen: &Seen, link: &Link, endpoint: &EndpointSpec) -> Result<(), ApplyError> {
    if !link.up {
        let change = LinkChange { up: Some(true), ..LinkChange::default() };
        socket.set_link(link.index, &change).map_err(|error| failed(format!("set {} up", link.name), &error))?;
    }
    for address in &endpoint.addresses {
        let known = seen.neighbours.iter().any(|neighbour| is_ours(neighbour, link.index, *address, endpoint.mac));
        // Setting a link up or down flushes its neighbours and routes.
        if !known || !link.up {
            socket
                .replace_neighbour(link.index, *address, endpoint.mac)
                .map_err(|error| failed(format!("set neighbour {address} on {}", link.name), &error))?;
        }
        let wanted = route(*address, link.index);
        if !link.up || !seen.routes.contains(&wanted) {
            socket.replace_route(&wanted).map_err(|error| failed(format!("set the route to {address}"), &error))?;
        }
    }
    Ok(())
}

fn is_ours(neighbour: &Neighbour, interface: Ifindex, address: IpAddr, mac: Mac) -> bool {
    neighbour.permanent
        && neighbour.interface == interface
        && neighbour.address == address
        && neighbour.mac == Some(mac)
}

/// As it reads back.
fn route(address: IpAddr, interface: Ifindex) -> Route {
    Route {
        destination: Cidr::host(address),
        interface,
        gateway: None,
        protocol: ROUTE_PROTOCOL,
        scope: if address.is_ipv4() { Scope::Link } else { Scope::Global },
        table: netlink::MAIN_TABLE,
        on_link: false,
    }
}

/// Takes away routes and neighbours of ours that nobody wants; `wanted` holds (interface, address).
/// With nothing wanted, all that is ours goes.
pub fn sweep(socket: &mut Socket, seen: &Seen, wanted: &BTreeSet<(Ifindex, IpAddr)>) -> Vec<(String, ApplyError)> {
    let mut left = Vec::new();
    for old in seen.routes.iter().filter(|route| route.protocol == ROUTE_PROTOCOL) {
        if wanted.iter().any(|(interface, address)| *old == route(*address, *interface)) {
            continue;
        }
        if let Err(error) = socket.delete_route(old) {
            let name = format!("route to {}", old.destination);
            left.push((name.clone(), failed(format!("delete the {name}"), &error)));
        }
    }
    let pods: BTreeSet<_> = seen.links.iter().filter(|link| is_pods(link)).map(|link| link.index).collect();
    let ours = |neighbour: &&Neighbour| neighbour.permanent && pods.contains(&neighbour.interface);
    for old in seen.neighbours.iter().filter(ours) {
        if wanted.contains(&(old.interface, old.address)) || is_group(old.address) {
            continue;
        }
        if let Err(error) = socket.delete_neighbour(old.interface, old.address) {
            let name = format!("neighbour {}", old.address);
            left.push((name.clone(), failed(format!("delete the {name}"), &error)));
        }
    }
    left
}

/// Whether a link is the host side of a pod's interface.
#[must_use]
pub fn is_pods(link: &Link) -> bool {
    link.name.0.starts_with(INTERFACE_PREFIX)
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast()
}
