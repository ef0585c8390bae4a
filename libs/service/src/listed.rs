//! Endpoints of one port of a service, gathered from its slices.
//! In: slices in any order. Out: what each endpoint is ready for and whom it is meant for.
//! Invariant: in order, each backend once; of several that speak of one, the one that says it is here counts, then the one that
//! says more in its favour (pkg/proxy/endpointslicecache.go, where the rest is chance).
//! Never: an endpoint of the other family; more than an endpoint's first address.

use crate::{Backend, Here};
use model::{EndpointSlice, Family, Hints, ServicePort, SliceEndpoint};
use std::collections::BTreeMap;

/// An endpoint, as the rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) backend: Backend,
    /// It runs on this node.
    pub(crate) is_here: bool,
    endpoint: &'a SliceEndpoint,
}

impl<'a> Listed<'a> {
    pub(crate) fn is_ready(&self) -> bool {
        self.endpoint.ready
    }

    /// About to go, and still answering.
    pub(crate) fn is_going(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }

    pub(crate) fn hints(&self) -> Option<&'a Hints> {
        self.endpoint.hints.as_deref()
    }

    fn weight(&self) -> (bool, bool, bool) {
        (self.is_here, self.is_ready(), self.is_going())
    }
}

/// Who stands behind `port`, by its name and protocol.
pub(crate) fn listed<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    family: Family,
    here: &Here<'_>,
) -> Vec<Listed<'a>> {
    let mut found: BTreeMap<Backend, Listed<'a>> = BTreeMap::new();
    for slice in slices {
        let same = slice.ports.iter().filter(|own| *own.name == *port.name && own.protocol == port.protocol);
        for (number, endpoint) in same.flat_map(|own| slice.endpoints.iter().map(|endpoint| (own.port, endpoint))) {
            if Family::of(endpoint.address) != family {
                continue;
            }
            let backend = Backend { address: endpoint.address, port: number };
            let fresh = Listed { backend, is_here: endpoint.node.as_ref() == Some(here.node), endpoint };
            let known = found.entry(backend).or_insert(fresh);
            if fresh.weight() > known.weight() {
                *known = fresh;
            }
        }
    }
    found.into_values().collect()
}
