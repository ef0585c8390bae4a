//! Routes to other nodes, and to nowhere for what nobody has of our own blocks.
//! In: the routes that are desired, and those of them that changed; routes and links as they are. Out: the kernel's main table has ours.
//! Invariant: ours is a route with [`NODE_ROUTE_PROTOCOL`]; where another's leads to the same network, that one stays, and ours waits.
//! Never: looks at what did not change, unless the kernel's routes to nodes or the links have.

use super::{Pass, Reconciler};
use crate::{
    ApplyError, DriftKind,
    drift::Looked,
    host::{NODE_ROUTE_PROTOCOL, ROUTE_PROTOCOL},
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

/// What is wanted, followed from one Desired to the next.
#[derive(Debug, Default)]
pub struct NodeRoutes {
    wanted: BTreeMap<Cidr, NodeRoute>,
    number: Option<u64>,
    /// Those that are not as wanted, for now.
    open: BTreeSet<Cidr>,
    /// What the last look saw: routes, and the links that they need.
    looked: Option<(Arc<BTreeSet<Route>>, Links)>,
}

type Links = BTreeMap<IfaceName, Ifindex>;

/// What a round came to.
#[derive(Default)]
struct Round {
    /// Networks to which the kernel did not lead as it should, and does now.
    mended: Vec<Cidr>,
    failed: Vec<(String, ApplyError)>,
}

impl NodeRoutes {
    /// Networks to which the way may be another than before; `None`: any.
    fn hear(&mut self, latest: Latest<'_>) -> Option<BTreeSet<Cidr>> {
        let touched = latest.since(self.number).map(|touched| touched.routes.clone());
        self.number = latest.number();
        let Some(touched) = touched else {
            self.wanted.clone_from(&latest.routes);
            return None;
        };
        for cidr in &touched {
            match latest.routes.get(cidr) {
                Some(route) => drop(self.wanted.insert(*cidr, route.clone())),
                None => drop(self.wanted.remove(cidr)),
            }
        }
        Some(touched)
    }

    /// As it reads back; `None`: none is wanted, or there is no link for it.
    fn route(&self, to: Cidr, links: &Links) -> Option<Route> {
        match self.wanted.get(&to)? {
            NodeRoute::Blackhole => Some(blackhole(to)),
            NodeRoute::Via { gateway, interface } => Some(via(to, *gateway, *links.get(interface)?)),
            NodeRoute::None(..) => None,
        }
    }

    /// Everywhere that ours lead or should.
    fn places(&self, seen: &Seen) -> BTreeSet<Cidr> {
        let there = seen.node_routes.iter().map(|route| route.destination);
        self.wanted.keys().copied().chain(there).collect()
    }
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

/// Those that are up.
fn links(seen: &Seen) -> Links {
    seen.links.values().filter(|link| link.up).map(|link| (link.name.clone(), link.index)).collect()
}

/// Whose the route to the same network is that is not ours.
fn others(seen: &Seen, destination: Cidr) -> Option<u8> {
    let is_others = |route: &&Route| route.table == MAIN_TABLE && route.protocol != ROUTE_PROTOCOL;
    to(&seen.routes, destination).find(is_others).map(|route| route.protocol)
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Routes to other nodes are as wanted.
    pub(super) fn route_nodes(&mut self, pass: &mut Pass, desired: Latest<'_>) {
        let touched = self.node_routes.hear(desired);
        let places = match touched {
            Some(touched) => touched.union(&self.node_routes.open).copied().collect(),
            None => self.node_routes.places(&pass.seen),
        };
        let round = self.route(places, &pass.seen, &links(&pass.seen));
        pass.failed.extend(round.failed);
    }

    /// Puts back what others changed, and follows the links.
    pub(super) fn look_at_node_routes(&mut self, seen: &Seen, looked: &mut Looked) {
        if !self.has_passed {
            return;
        }
        let now = (Arc::clone(&seen.node_routes), links(seen));
        let is_same = |(routes, links): &(Arc<BTreeSet<Route>>, Links)| Arc::ptr_eq(routes, &now.0) && *links == now.1;
        let is_known = self.node_routes.looked.as_ref().is_some_and(is_same);
        let places = if is_known { self.node_routes.open.clone() } else { self.node_routes.places(seen) };
        let round = self.route(places, seen, &now.1);
        for place in round.mended {
            looked.repaired(DriftKind::Route, format!("the route to {place} was gone or changed"));
        }
        looked.failed.extend(round.failed);
        self.node_routes.looked = Some(now);
    }

    /// Makes the routes to these networks what is wanted.
    fn route(&mut self, places: BTreeSet<Cidr>, seen: &Seen, links: &Links) -> Round {
        let mut round = Round::default();
        for place in places {
            let wanted = self.node_routes.route(place, links);
            match self.route_one(place, wanted.as_ref(), seen) {
                Ok(is_changed) => {
                    self.node_routes.open.remove(&place);
                    round.mended.extend(is_changed.then_some(place));
                }
                Err(error) => {
                    self.node_routes.open.insert(place);
                    round.failed.push((format!("the route to {place}"), error));
                }
            }
        }
        round
    }

    /// Whether anything had to be done.
    fn route_one(&mut self, place: Cidr, wanted: Option<&Route>, seen: &Seen) -> Result<bool, ApplyError> {
        let mut is_changed = false;
        for old in to(&seen.node_routes, place).filter(|old| Some(*old) != wanted) {
            // One that only leads elsewhere is replaced below, so that there is always one.
            if wanted.is_none_or(|wanted| (wanted.table, wanted.metric) != (old.table, old.metric)) {
                let failed = |error| ApplyError { step: "delete it".to_owned(), reason: in_full(&error) };
                is_changed |= self.network.delete_route(old).map_err(failed)?;
            }
        }
        let Some(wanted) = wanted.filter(|wanted| !seen.node_routes.contains(wanted)) else { return Ok(is_changed) };
        if let Some(protocol) = others(seen, place) {
            let reason = format!("there is one of another's (protocol {protocol}); it stays");
            return Err(ApplyError { step: "set it".to_owned(), reason });
        }
        let failed = |error| ApplyError { step: "set it".to_owned(), reason: in_full(&error) };
        self.network.replace_route(wanted).map_err(failed)?;
        Ok(true)
    }
}
