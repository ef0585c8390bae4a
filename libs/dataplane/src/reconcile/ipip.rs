//! IPIP at the uplink: the programs that wrap and unwrap, and this node's own address within.
//! In: how this node takes part, as desired; the uplink, loopback's addresses. Out: programs at the uplink; the address on loopback.
//! Invariant: no route goes by IPIP before the programs are there; they go once no table says that packets do.
//! Never: takes an address from loopback that has not our label.

use super::{Pass, Reconciler};
use crate::{
    ApplyError, DriftKind,
    drift::Looked,
    links::Guards,
    network::{Network, Seen, to},
    programs::{Hook, in_full},
    tables::Store,
};
use abi::{
    TunnelEnd,
    tunnel::{FROM_IPIP, TO_IPIP},
};
use calc::{IpipSpec, Latest};
use model::Cidr;
use netlink::{LOOPBACK, Link, MAIN_TABLE, Route, RouteKind};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// The programs at the uplink.
pub const IPIP_HOOKS: [Hook; 2] = [Hook::FromIpip, Hook::ToIpip];
/// By which our address on loopback is known.
pub const LABEL: &str = "lo:tortie-ipip";

/// What is told of it where something is wrong.
const ITEM: &str = "IPIP";

/// How far the kernel has what is wanted.
#[derive(Debug, Default)]
pub struct Ipip {
    /// As it was wanted last; `None`: it is not.
    spec: Option<Arc<IpipSpec>>,
    /// The programs are at the uplink.
    is_up: bool,
    /// Its address within, which is on loopback.
    own: Option<Ipv4Addr>,
    /// Loopback was looked at, and has that.
    is_settled: bool,
}

/// What all routes by IPIP are made of, beside the ways to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapping {
    mtu: Option<u32>,
    own: Option<Ipv4Addr>,
}

impl Ipip {
    /// `None`: nothing wraps.
    pub fn wrapping(&self) -> Option<Wrapping> {
        let spec = self.spec.as_ref().filter(|_| self.is_up)?;
        Some(Wrapping { mtu: spec.mtu, own: self.own })
    }
}

/// From there packets come.
pub fn of_peer(address: Ipv4Addr) -> TunnelEnd {
    TunnelEnd { ways: FROM_IPIP, ..end(address) }
}

/// There they go.
pub fn of_way(remote: Ipv4Addr) -> TunnelEnd {
    TunnelEnd { ways: TO_IPIP, ..end(remote) }
}

fn end(address: Ipv4Addr) -> TunnelEnd {
    TunnelEnd { remote: abi::Address::from_v4(address.octets()), ..TunnelEnd::default() }
}

/// By which neighbour packets to an address leave, and by which interface: what the main table says, our own routes apart. The longest
/// network is the first, of those the smallest metric.
fn next_hop(seen: &Seen, remote: Ipv4Addr) -> Option<(IpAddr, model::Ifindex)> {
    let routes = (0..=32).rev().filter_map(|length| {
        let network = Cidr::new(remote.into(), length).ok()?;
        let is_it = |route: &&Route| route.table == MAIN_TABLE && route.kind != RouteKind::Other;
        to(&seen.routes, network).filter(is_it).min_by_key(|route| route.metric)
    });
    let route = routes.into_iter().next().filter(|route| route.kind == RouteKind::Unicast)?;
    Some((route.gateway.unwrap_or(remote.into()), route.interface))
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Before the commit. What fails is named; the rest of the revision goes on.
    pub(super) fn guard_ipip(&mut self, pass: &mut Pass, desired: Latest<'_>) {
        let was_up = std::mem::take(&mut self.ipip.is_up);
        self.ipip.spec.clone_from(&desired.ipip);
        let own = desired.ipip.as_ref().and_then(|spec| spec.own);
        let is_known = self.ipip.is_settled && self.ipip.own == own;
        if let Some(error) = (!is_known).then(|| self.own_address(own).err()).flatten() {
            pass.failed.push((ITEM.to_owned(), error));
        }
        if desired.ipip.is_none() {
            return;
        }
        match self.guard_wire(&pass.seen) {
            Ok(()) => {
                self.ipip.is_up = true;
                if !was_up {
                    tracing::info!("packets go to other nodes by IPIP");
                }
            }
            Err(reason) => {
                let step = "wrap and unwrap at the uplink".to_owned();
                pass.failed.push((ITEM.to_owned(), ApplyError { step, reason }));
            }
        }
    }

    /// What comes in is looked at before anything goes out.
    fn guard_wire(&mut self, seen: &Seen) -> Result<(), String> {
        let link = self.uplink_link(seen).ok_or("this node has no uplink: give the node's own with --uplink")?;
        let index = link.index.0;
        IPIP_HOOKS.into_iter().try_for_each(|hook| self.guards.attach(hook, index).map_err(|error| in_full(&error)))
    }

    fn uplink_link<'s>(&self, seen: &'s Seen) -> Option<&'s Link> {
        seen.links.get(self.uplink.as_ref()?)
    }

    /// This one, and no other of our label.
    fn own_address(&mut self, own: Option<Ipv4Addr>) -> Result<(), ApplyError> {
        let failed = |step: &str, error: netlink::Error| {
            let step = format!("{step} this node's address within");
            ApplyError { step, reason: in_full(&error) }
        };
        (self.ipip.own, self.ipip.is_settled) = (None, false);
        let held = self.network.labelled(LOOPBACK, LABEL).map_err(|error| failed("look for", error))?;
        if let Some(address) = own.filter(|own| !held.contains(own)) {
            self.network.add_labelled(LOOPBACK, address, LABEL).map_err(|error| failed("give loopback", error))?;
        }
        self.ipip.own = own;
        for address in held.into_iter().filter(|held| Some(*held) != own) {
            self.network.delete_address(LOOPBACK, address).map_err(|error| failed("take away", error))?;
        }
        self.ipip.is_settled = true;
        Ok(())
    }

    /// The route by which packets to a network are wrapped for a node.
    pub(super) fn by_ipip(&self, seen: &Seen, network: Cidr, remote: Ipv4Addr) -> Result<Route, String> {
        let spec = self.ipip.spec.as_ref().filter(|_| self.ipip.is_up);
        let spec = spec.ok_or("nothing at the uplink wraps packets by IPIP")?;
        let (gateway, interface) = next_hop(seen, remote).ok_or_else(|| format!("no route leads to {remote}"))?;
        let link = self.uplink_link(seen).filter(|link| link.index == interface && link.up);
        let link =
            link.ok_or_else(|| format!("the route to {remote} is not by the uplink, where packets are wrapped"))?;
        let route = super::node_routes::via(network, gateway, interface);
        let source = self.ipip.own.map(IpAddr::V4);
        Ok(Route { mtu: spec.mtu_over(link.mtu), source, ..route })
    }

    /// Routes that may be the way to another node, where packets go there by IPIP.
    pub(super) fn ways_of_ipip(&self, seen: &Seen) -> Vec<Route> {
        if self.ipip.spec.is_none() {
            return Vec::new();
        }
        let uplink = self.uplink_link(seen).map(|link| link.index);
        let is_way = |route: &&Route| route.table == MAIN_TABLE && Some(route.interface) == uplink;
        seen.routes.iter().filter(is_way).cloned().collect()
    }

    /// Whether the address is not on loopback any more.
    pub(super) fn look_at_ipip(&mut self, looked: &mut Looked) {
        let Some(own) = self.ipip.own else { return };
        match self.network.labelled(LOOPBACK, LABEL) {
            Ok(held) if held.contains(&own) => {}
            Ok(_) => match self.own_address(Some(own)) {
                Ok(()) => looked.repaired(DriftKind::Link, format!("{own} was gone from loopback")),
                Err(error) => looked.failed.push((ITEM.to_owned(), error)),
            },
            Err(error) => looked.failed(ITEM, "look for this node's address within", in_full(&error)),
        }
    }

    /// Whether programs of IPIP are to be at this interface.
    pub(super) fn wraps_at(&self, ifindex: u32) -> bool {
        self.ipip.spec.is_some() && self.uplink_index() == Some(ifindex)
    }

    /// Whether any are wanted.
    pub(super) fn uplink_of_ipip<'s>(&self, seen: &'s Seen) -> Option<&'s Link> {
        self.uplink_link(seen).filter(|_| self.ipip.spec.is_some())
    }
}

/// Takes away what is ours on loopback. What is left, in words.
pub fn clear(network: &mut impl Network) -> Vec<String> {
    let held = match network.labelled(LOOPBACK, LABEL) {
        Ok(held) => held,
        Err(error) => return vec![in_full(&error)],
    };
    held.into_iter()
        .filter_map(|address| network.delete_address(LOOPBACK, address).err())
        .map(|e| in_full(&e))
        .collect()
}
