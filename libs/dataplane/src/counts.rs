//! What was counted of a service port: flows opened at each of its frontends and to each of its backends.
//! In: the tables in force. Out: numbers by address, as the kernel has them.
//! Invariant: a frontend or backend that is made anew counts from nothing; what outlives an agent goes on.
//! Never: counts a packet of a flow that is there.

use crate::tables::{KernelStore, Tables};
use model::ServicePortId;
use service::{Backend, Frontend};
use std::collections::BTreeMap;

/// What was counted of a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// At each frontend: flows that were opened, and packets that found no backend.
    pub frontends: BTreeMap<Frontend, (u64, u64)>,
    /// Flows that were opened to each backend, those included that only keep their flows.
    pub backends: BTreeMap<Backend, u64>,
}

pub(crate) fn of(tables: &Tables<KernelStore>, port: &ServicePortId) -> ServiceCounts {
    let (slots, maps) = (tables.slots_of(port), tables.store().services());
    let at = |slot| maps.counted_at(slot).map(|counted| (counted.opened, counted.refused));
    ServiceCounts {
        frontends: slots.frontends.into_iter().filter_map(|(frontend, slot)| Some((frontend, at(slot)?))).collect(),
        backends: slots.backends.into_iter().filter_map(|(to, slot)| Some((to, maps.opened_to(slot)?))).collect(),
    }
}
