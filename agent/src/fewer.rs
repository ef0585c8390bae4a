//! Fewer services: where they do not all fit, those that do are served, and the others are put off.
//! In: services that no revision in force has; what the kernel has room for. Out: those that wait, the youngest.
//! Invariant: default/kubernetes comes first, then the older; nothing is written before it is known what fits.
//! Never: puts off what is served, an earlier agent's services among them; takes anything from policies.

use crate::{kernel::Kernel, owner::Agent, setback::Back};
use model::{Created, ServiceId};
use std::collections::BTreeSet;

impl<K: Kernel> Agent<K> {
    /// Puts services off until there is room for the rest. None, if there is no room without any of them either.
    pub(crate) fn serve_fewer(&mut self, reason: &str) -> Vec<Back> {
        let order = self.unserved();
        if !self.fit(&order, 0) {
            self.serve_first(&order, order.len());
            return Vec::new();
        }
        let (mut fitting, mut beyond) = (0, order.len());
        while beyond - fitting > 1 {
            let middle = fitting.midpoint(beyond);
            if self.fit(&order, middle) {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        self.serve_first(&order, fitting);
        let late = &order[fitting..];
        self.setbacks.put_off(&self.world, late, reason);
        late.iter().cloned().map(Back::Unserved).collect()
    }

    /// Services that want room and have none yet, in the order in which they get it.
    fn unserved(&mut self) -> Vec<ServiceId> {
        let wanted = self.world.desired().into_iter().flat_map(|desired| desired.services.values());
        let wanted = wanted.filter(|balance| !balance.kind.is_pods());
        let ports: BTreeSet<_> = wanted.map(|balance| balance.of.clone()).collect();
        let held: BTreeSet<_> =
            ports.iter().filter(|port| self.kernel.serves(port)).map(|port| &port.service).collect();
        let waiting: BTreeSet<_> =
            ports.iter().map(|port| &port.service).filter(|service| !held.contains(service)).collect();
        let rank = |id: &ServiceId| {
            let is_api_server = id.name == "kubernetes" && *id.namespace.0 == *"default";
            (!is_api_server, self.world.service(id).map_or(Created::UNKNOWN, |service| service.created), id.clone())
        };
        let mut order: Vec<_> = waiting.into_iter().map(rank).collect();
        order.sort();
        order.into_iter().map(|(_, _, id)| id).collect()
    }

    fn fit(&mut self, order: &[ServiceId], count: usize) -> bool {
        self.serve_first(order, count);
        self.world.latest().is_some_and(|desired| self.kernel.has_room_for_services(desired))
    }

    fn serve_first(&mut self, order: &[ServiceId], count: usize) {
        for (place, id) in order.iter().enumerate() {
            self.world.set_served(id, place < count);
        }
    }
}
