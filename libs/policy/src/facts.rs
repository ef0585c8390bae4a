//! Facts about addresses: what rules can find behind them.
//! In: pods, network sets, nodes and endpoints of services, borrowed from where they are kept. Out: whether a selector finds
//! an address.
//! Invariant: what is not known stays unknown; who asks says which way that counts.
//! Never: a copy of anybody's labels.

use model::{Cidr, EffectiveLabels, EndpointSlice, Labels, NamedPort, Selector, Truth};
use std::net::IpAddr;

/// What rules may ask of a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// Its labels, inherited ones included.
    pub labels: EffectiveLabels<'a>,
    /// Its named ports. `None`: nobody has described it.
    pub ports: Option<&'a [NamedPort]>,
}

/// A network set.
#[derive(Clone, Copy, Debug)]
pub struct SetFacts<'a> {
    /// Its labels, inherited ones included.
    pub labels: EffectiveLabels<'a>,
    /// Its members.
    pub nets: &'a [Cidr],
}

/// A host endpoint, of any node. Rules find it at its expected addresses and nowhere else (HEP-11;
/// api/pkg/apis/projectcalico/v3/hostendpoint.go).
#[derive(Clone, Copy, Debug)]
pub struct HostFacts<'a> {
    /// Its labels.
    pub labels: EffectiveLabels<'a>,
    /// Its expected addresses.
    pub addresses: &'a [IpAddr],
    /// Its named ports (CAL-25).
    pub ports: &'a [NamedPort],
}

/// A node.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Its addresses.
    pub addresses: &'a [IpAddr],
}

/// What is not a pod and can be found all the same.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    /// Network sets.
    pub sets: Vec<SetFacts<'a>>,
    /// Host endpoints.
    pub hosts: Vec<HostFacts<'a>>,
    /// Nodes.
    pub nodes: Vec<NodeFacts<'a>>,
    /// Endpoints of services.
    pub slices: Vec<&'a EndpointSlice>,
}

impl Surroundings<'_> {
    /// Whether a set that matches contains the address, or a host endpoint that matches expects it.
    pub(crate) fn in_set(&self, selector: &Selector, address: IpAddr) -> Truth {
        let around = self.sets.iter().filter(|set| set.nets.iter().any(|net| net.contains(address)));
        let at = self.hosts.iter().filter(|host| host.addresses.contains(&address));
        Truth::any(
            around.map(|set| &set.labels).chain(at.map(|host| &host.labels)).map(|labels| selector.matches(labels)),
        )
    }

    /// Whether a node that matches has the address.
    pub(crate) fn is_node(&self, selector: &Selector, address: IpAddr) -> Truth {
        let there = self.nodes.iter().filter(|node| node.addresses.contains(&address));
        Truth::any(there.map(|node| selector.matches(node.labels)))
    }
}
