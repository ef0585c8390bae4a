//! Routes to other nodes, and to nowhere for what nobody has of our own blocks.
//! In: the routes that are desired, and those of them that changed; routes and links as they are. Out: the kernel's main table has ours.
//! Invariant: ours is a route with [`NODE_ROUTE_PROTOCOL`]; where another's leads to the same network, that one stays, and ours waits.
//! Never: looks at what did not change, unless the kernel's routes to nodes or the links have.

use super::{Pass, Reconciler, ipip::Wrapping, tunnel::DEVICE};
use crate::{
    ApplyError, DriftKind,
    drift::Looked,
    host::{self, NODE_ROUTE_PROTOCOL, ROUTE_PROTOCOL},
    links::Guards,
    network::{Network, Seen, to},
    programs::in_full,
    tables::Store,
};
use calc::{Latest, NodeRoute};
use model::{Cidr, IfaceName, Ifindex};
use netlink::{MAIN_TABLE, Route, RouteKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Behind every other route to the same network: a block of one address is its pod's first.
const BLACKHOLE_METRIC: u32 = u32::MAX;

/// How far the kernel has what is wanted.
#[derive(Debug, Default)]
pub struct NodeRoutes {
    /// Of the Desired that was heard last; `None` within: it stands alone. `None`: none was.
    heard: Option<Option<u64>>,
    /// Networks to which the way is not as wanted, for now.
    open: BTreeSet<Cidr>,
    /// How routes by IPIP were made last.
    ipip: Option<Wrapping>,
    /// What the last look saw: routes, and the links that they need.
    looked: Option<(Arc<BTreeSet<Route>>, Ways)>,
}

type Links = BTreeMap<IfaceName, (Ifindex, u32)>;
/// Links with their MTU, and routes by which other nodes are reached where that counts.
type Ways = (Links, Vec<Route>);

/// What a round came to.
#[derive(Default)]
struct Round {
    /// Networks to which the kernel did not lead as it should, and does now.
    mended: Vec<Cidr>,
    failed: Vec<(String, ApplyError)>,
}

/// As it reads back; `None`: none is wanted. What goes by IPIP is asked for elsewhere.
fn wanted(route: Option<&NodeRoute>, to: Cidr, links: &Links) -> Result<Option<Route>, ApplyError> {
    match route {
        Some(NodeRoute::Blackhole) => Ok(Some(blackhole(to))),
        Some(NodeRoute::Via { gateway, interface }) => match links.get(interface) {
            Some((link, _)) => Ok(Some(via(to, *gateway, *link))),
            None => Err(failed(format!("its interface {interface} is down or gone"))),
        },
        Some(NodeRoute::Tunnel(end)) => match links.get(&IfaceName(DEVICE.to_owned())) {
            Some((link, _)) => Ok(Some(Route { on_link: true, ..via(to, end.gateway, *link) })),
            None => Err(failed(format!("the tunnel device {DEVICE} is down or gone"))),
        },
        Some(NodeRoute::None(..) | NodeRoute::Ipip { .. }) | None => Ok(None),
    }
}

/// Everywhere that ours lead or should.
fn places(desired: Latest<'_>, seen: &Seen) -> BTreeSet<Cidr> {
    let there = seen.node_routes.iter().map(|route| route.destination);
    desired.routes.keys().copied().chain(there).collect()
}

fn failed(reason: String) -> ApplyError {
    ApplyError { step: "set it".to_owned(), reason }
}

/// As it reads back.
pub fn via(destination: Cidr, gateway: IpAddr, interface: Ifindex) -> Route {
    Route { gateway: Some(gateway), ..Route::new(destination, interface, NODE_ROUTE_PROTOCOL) }
}

/// As it reads back.
pub fn blackhole(destination: Cidr) -> Route {
    let (kind, metric) = (RouteKind::Blackhole, BLACKHOLE_METRIC);
    Route { kind, metric, ..Route::new(destination, Ifindex(0), NODE_ROUTE_PROTOCOL) }
}

/// Those that are up, but for pods': no route to a node leads there.
fn links(seen: &Seen) -> Links {
    let own = seen.links.values().filter(|link| link.up && !host::is_pods(link));
    own.map(|link| (link.name.clone(), (link.index, link.mtu))).collect()
}

/// Whose the route to the same network is that is not ours.
fn others(seen: &Seen, destination: Cidr) -> Option<u8> {
    let is_others = |route: &&Route| route.table == MAIN_TABLE && route.protocol != ROUTE_PROTOCOL;
    to(&seen.routes, destination).find(is_others).map(|route| route.protocol)
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Routes to other nodes are as wanted. What cannot be so now the next look tells, and tries again.
    pub(super) fn route_nodes(&mut self, pass: &Pass, desired: Latest<'_>) {
        let heard = self.node_routes.heard.replace(desired.number());
        let mut places = match heard.and_then(|number| desired.since(number)) {
            Some(touched) => touched.routes.union(&self.node_routes.open).copied().collect(),
            None => places(desired, &pass.seen),
        };
        let ipip = self.ipip.wrapping();
        if self.node_routes.ipip != ipip {
            let by_ipip =
                |(place, route): (&Cidr, &NodeRoute)| matches!(route, NodeRoute::Ipip { .. }).then_some(*place);
            places.extend(desired.routes.iter().filter_map(by_ipip));
            self.node_routes.ipip = ipip;
        }
        self.route(places, desired, &pass.seen, &links(&pass.seen));
    }

    /// Puts back what others changed, and follows the links.
    pub(super) fn look_at_node_routes(&mut self, seen: &Seen, desired: Latest<'_>, looked: &mut Looked) {
        if self.node_routes.heard.is_none() {
            return;
        }
        let now = (Arc::clone(&seen.node_routes), (links(seen), self.ways_of_ipip(seen)));
        let is_same = |(routes, ways): &(Arc<BTreeSet<Route>>, Ways)| Arc::ptr_eq(routes, &now.0) && *ways == now.1;
        let is_known = self.node_routes.looked.as_ref().is_some_and(is_same);
        let places = if is_known { self.node_routes.open.clone() } else { places(desired, seen) };
        let round = self.route(places, desired, seen, &now.1.0);
        // One that only has to follow the ways, nobody else has changed.
        let follow = self.node_routes.looked.as_ref().is_some_and(|(_, ways)| *ways != now.1);
        let is_told = |place: &Cidr| !follow || to(&seen.node_routes, *place).next().is_none();
        for place in round.mended.into_iter().filter(is_told) {
            looked.repaired(DriftKind::Route, format!("the route to {place} was gone or changed"));
        }
        looked.failed.extend(round.failed);
        self.node_routes.looked = Some(now);
    }

    /// Makes the routes to these networks what is wanted.
    fn route(&mut self, places: BTreeSet<Cidr>, desired: Latest<'_>, seen: &Seen, links: &Links) -> Round {
        let mut round = Round::default();
        for place in places {
            let wanted = match desired.routes.get(&place) {
                Some(NodeRoute::Ipip { remote }) => self.by_ipip(seen, place, *remote).map(Some).map_err(failed),
                route => wanted(route, place, links),
            };
            let was_open = self.node_routes.open.contains(&place);
            match self.route_one(place, wanted, seen) {
                Ok(is_changed) => {
                    self.node_routes.open.remove(&place);
                    // What waited until now nobody else has changed.
                    round.mended.extend((is_changed && !was_open).then_some(place));
                }
                Err(error) => {
                    self.node_routes.open.insert(place);
                    round.failed.push((format!("the route to {place}"), error));
                }
            }
        }
        round
    }

    /// Whether anything had to be done. First what is wanted, then what is not: there is one at every moment. One of ours that leads
    /// elsewhere does not stay beside another's.
    fn route_one(
        &mut self,
        place: Cidr,
        wanted: Result<Option<Route>, ApplyError>,
        seen: &Seen,
    ) -> Result<bool, ApplyError> {
        let mut stale: Vec<&Route> = to(&seen.node_routes, place).collect();
        let mut is_changed = false;
        let mut outcome = Ok(());
        match wanted {
            Ok(None) => {}
            Ok(Some(wanted)) if seen.node_routes.contains(&wanted) => stale.retain(|old| **old != wanted),
            Ok(Some(wanted)) => match others(seen, place) {
                Some(protocol) => {
                    outcome = Err(failed(format!("there is one of another's (protocol {protocol}); it stays")));
                }
                None => {
                    self.network.replace_route(&wanted).map_err(|error| failed(in_full(&error)))?;
                    is_changed = true;
                    // It has taken the place of this one.
                    stale.retain(|old| (old.table, old.metric) != (wanted.table, wanted.metric));
                }
            },
            Err(error) => outcome = Err(error),
        }
        for old in stale {
            let failed = |error| ApplyError { step: "delete it".to_owned(), reason: in_full(&error) };
            is_changed |= self.network.delete_route(old).map_err(failed)?;
        }
        outcome.map(|()| is_changed)
    }
}
