//! Host endpoints of this node: which of them governs which interface, and what is asked there.
//! In: [`World`]. Out: the host endpoint of each interface, its rule sets by layer, what holds for the node as a whole.
//! Invariant: of several that mean one interface the smaller name governs it, and one for all interfaces governs only those that
//! no other means (felix/dataplane/linux/endpoint_mgr.go, resolveHostEndpoints).
//! Never: an interface of a workload; a host endpoint of another node.

use crate::{HostEndpointSpec, Judges, Neighbour, NodeSpec, World, masquerade, tunnel};
use model::{
    DenyAction, Direction, EffectiveLabels, EndpointToHost, FelixConfiguration, HostEndpoint, HostInterface, IfaceName,
    LogLevel, NamespaceName, Truth,
};
use policy::{EndpointProfile, Failsafes, HostLayer, HostSubject, RuleSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

/// Between two times that a node says which addresses of pods it answers for.
const ANNOUNCED_EVERY: Duration = Duration::from_secs(120);

/// What a host endpoint asks, by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    pub(crate) untracked: Judges,
    pub(crate) pre_dnat: Judges,
    pub(crate) forward: Judges,
    pub(crate) local: Judges,
}

impl Layers {
    /// Builds them one by one.
    pub(crate) fn of(host: &HostEndpoint, mut build: impl FnMut(HostLayer, Direction) -> Option<Arc<RuleSet>>) -> Self {
        let mut both =
            |layer| Judges { ingress: build(layer, Direction::Ingress), egress: build(layer, Direction::Egress) };
        // Calico leaves untracked policies out at a host endpoint of all interfaces.
        let untracked = if is_of_all(host) { Judges::default() } else { both(HostLayer::Untracked) };
        let (pre_dnat, forward) = (both(HostLayer::PreDnat), both(HostLayer::Forward));
        Self { untracked, pre_dnat, forward, local: both(HostLayer::Local) }
    }

    pub(crate) fn spec(self, host: &HostEndpoint, interface: &IfaceName, keep_established: bool) -> HostEndpointSpec {
        let Self { untracked, pre_dnat, forward, local } = self;
        let (name, interface) = (host.name.clone(), interface.clone());
        HostEndpointSpec { name, interface, untracked, pre_dnat, forward, local, keep_established }
    }
}

pub(crate) fn is_of_all(host: &HostEndpoint) -> bool {
    host.interface == Some(HostInterface::Any)
}

/// Which of this node's host endpoints governs which interface.
pub(crate) fn governed<'a>(world: &'a World, own: &[&'a HostEndpoint]) -> BTreeMap<&'a IfaceName, &'a HostEndpoint> {
    let of_all = of_all_interfaces(own);
    let governor = |name: &IfaceName, addresses: &BTreeSet<IpAddr>| {
        own.iter().copied().find(|host| means(host, name, addresses)).or(of_all)
    };
    world.interfaces.iter().filter_map(|(name, addresses)| Some((name, governor(name, addresses)?))).collect()
}

/// The host endpoint of all interfaces, which is asked of what pods send and receive too.
pub(crate) fn of_all_interfaces<'a>(own: &[&'a HostEndpoint]) -> Option<&'a HostEndpoint> {
    own.iter().copied().find(|host| is_of_all(host))
}

/// This node's, by name.
pub(crate) fn own(world: &World) -> Vec<&HostEndpoint> {
    world.host_endpoints.values().filter(|host| host.node == world.node).collect()
}

/// One that names an interface means no other, whatever addresses it expects.
pub(crate) fn means(host: &HostEndpoint, name: &IfaceName, addresses: &BTreeSet<IpAddr>) -> bool {
    match &host.interface {
        Some(HostInterface::Named(wanted)) => wanted == name,
        Some(HostInterface::Any) => false,
        None => host.expected_ips.iter().any(|wanted| addresses.contains(wanted)),
    }
}

/// The endpoint that `host` is for its rule sets.
pub(crate) fn subject<'a>(world: &'a World, host: &'a HostEndpoint, failsafes: &'a Failsafes) -> HostSubject<'a> {
    let profiles = host.profiles.iter().map_while(|name| profile(world, name)).collect();
    HostSubject { labels: labels(host), profiles, failsafes }
}

/// What selectors see of it.
pub(crate) fn labels(host: &HostEndpoint) -> EffectiveLabels<'_> {
    EffectiveLabels::host_endpoint(&host.labels)
}

/// `None`: there is none of this name.
pub(crate) fn profile<'a>(world: &'a World, name: &'a str) -> Option<EndpointProfile<'a>> {
    let has_namespace = |name: &str| world.namespaces.contains_key(&NamespaceName::from(name));
    let has_account = |namespace: &str, account: &str| world.account(&namespace.into(), account).is_some();
    EndpointProfile::find(name, |name| world.profiles.get(name), has_namespace, has_account)
}

/// Ports that stay open on this node.
pub(crate) fn failsafes(world: &World) -> Failsafes {
    let default = Failsafes::default();
    Failsafes {
        inbound: chosen(world, |felix| felix.failsafe_inbound.clone()).unwrap_or(default.inbound),
        outbound: chosen(world, |felix| felix.failsafe_outbound.clone()).unwrap_or(default.outbound),
    }
}

/// What holds for this node, where `layers` are those of the host endpoint of all interfaces, if there is one. What pods send
/// comes in by interfaces that have no host endpoint of their own, so that it is asked as by any other.
pub(crate) fn node(world: &World, layers: Option<Layers>, inside: Option<Arc<RuleSet>>) -> NodeSpec {
    let Layers { pre_dnat, forward, .. } = layers.unwrap_or_default();
    NodeSpec {
        pre_dnat,
        forward,
        rejects: chosen(world, |felix| felix.deny_action) == Some(DenyAction::Reject),
        // The host's own rules are asked after us in any case, so that Return is Accept.
        refuses_workloads: chosen(world, |felix| felix.endpoint_to_host) == Some(EndpointToHost::Drop),
        translates: world.proxy == Neighbour::Serves,
        beside: world.proxy != Neighbour::None,
        masquerading: masquerade::of_node(world, inside),
        vxlan_port: tunnel::port(world),
    }
}

impl World {
    /// Whether this node answers at its uplink for addresses of its pods, and how often it says so unasked: Calico's defaults.
    #[must_use]
    pub fn answers_for_pods(&self) -> Option<Duration> {
        let is_on = chosen(self, |felix| felix.answers_for_pods).unwrap_or(false);
        is_on.then(|| chosen(self, |felix| felix.announces_every).unwrap_or(ANNOUNCED_EVERY))
    }
}

/// The first of a node's objects that chooses.
pub(crate) fn chosen<T>(world: &World, choice: impl Fn(&FelixConfiguration) -> Option<T>) -> Option<T> {
    world.felix_of_node().find_map(choice)
}

impl World {
    /// The objects for this node, those whose choices go first first: its own, one that selects it, the default.
    pub fn felix_of_node(&self) -> impl Iterator<Item = &FelixConfiguration> {
        let named = |name: &str| self.felix.get(name);
        let labels = self.nodes.get(&self.node).map(|node| &node.labels);
        let selects = |felix: &&FelixConfiguration| {
            felix.selector.as_ref().zip(labels).is_some_and(|(selector, labels)| selector.matches(labels) == Truth::Yes)
        };
        let selected = self.felix.values().filter(selects).min_by_key(|felix| (felix.created, &felix.name));
        let own = named(&FelixConfiguration::of_node(&self.node));
        [own, selected, named(FelixConfiguration::DEFAULT)].into_iter().flatten()
    }

    /// What is logged, where the agent's own settings do not say.
    #[must_use]
    pub fn log_level(&self) -> Option<LogLevel> {
        chosen(self, |felix| felix.log)
    }
}
