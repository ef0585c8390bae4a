//! Peer classes: the answers of one peer address to everything that rules of this node can ask.
//! In: what is active, an address or network, and the pod behind it, if there is one. Out: its [`Class`].
//! Invariant: two peers with equal answers have equal classes; a fact that no rule asks for is in none.
//! Never: decides; a class holds facts, a rule set judges them.

use crate::{PodFacts, RuleSet, Surroundings};
use model::{Cidr, NamedPort, PortName, Protocol, Selector, ServiceId, Truth};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Everything about a peer address that any rule of this node can ask. Two addresses with equal facts are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Active selectors that find it: as a pod, or in a network set.
    pub selectors: BTreeSet<Arc<Selector>>,
    /// Active selectors that may find it, once more is known.
    pub unsure: BTreeSet<Arc<Selector>>,
    /// Active selectors of nodes that find it.
    pub nodes: BTreeSet<Arc<Selector>>,
    /// Active networks that contain it.
    pub nets: BTreeSet<Cidr>,
    /// Active services of which it is an endpoint, and the ports at which it serves each.
    pub services: BTreeMap<Arc<ServiceId>, BTreeSet<(Protocol, u16)>>,
    /// Its named ports, of those names that an active rule asks for.
    pub ports: BTreeSet<NamedPort>,
    /// Active egress rules use names, and nobody has described the pod: any of them may be any of its ports.
    pub unknown_ports: bool,
}

impl Class {
    /// The class of `net` (of an address: [`Cidr::host`]) as far as networks and what is placed on them say.
    #[must_use]
    pub fn of(active: &Active, net: &Cidr) -> Self {
        let mut class = Self::default();
        for wider in net.supernets() {
            if active.nets.contains(&wider) {
                class.nets.insert(wider);
            }
            if let Some(found) = active.placed.get(&wider) {
                class.join(found);
            }
        }
        class.settled()
    }

    /// Takes in what somebody else says of the same address.
    fn join(&mut self, other: &Self) {
        self.selectors.extend(other.selectors.iter().cloned());
        self.unsure.extend(other.unsure.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
        self.ports.extend(other.ports.iter().cloned());
        for (service, ports) in &other.services {
            self.serve(service, ports.iter().copied());
        }
    }

    /// The same address, with what is known of the pod that has it.
    #[must_use]
    pub fn with_pod(&self, active: &Active, pod: &PodFacts<'_>) -> Self {
        let found = active.selectors.iter().map(|selector| (selector, selector.matches(&pod.labels)));
        let names = &active.peer_port_names;
        // Where no name is asked for, none is missed.
        let ports = pod.ports.or(names.is_empty().then_some(&[]));
        self.with_found(found, ports.map(|ports| ports.iter().filter(|port| names.contains(&port.name))))
    }

    /// The same, where somebody else has asked the selectors: what they say of the pod, and its ports of active names
    /// (`None`: they are asked for and not known).
    #[must_use]
    pub fn with_found<'a>(
        &self,
        found: impl Iterator<Item = (&'a Arc<Selector>, Truth)>,
        ports: Option<impl Iterator<Item = &'a NamedPort>>,
    ) -> Self {
        let mut class = self.clone();
        found.for_each(|(selector, found)| class.note(selector, found));
        class.unknown_ports = ports.is_none();
        class.ports.extend(ports.into_iter().flatten().cloned());
        class.settled()
    }

    /// Whether a selector finds it.
    pub(crate) fn found_by(&self, selector: &Arc<Selector>) -> Truth {
        if self.selectors.contains(selector) {
            Truth::Yes
        } else if self.unsure.contains(selector) {
            Truth::Unknown
        } else {
            Truth::No
        }
    }

    /// Takes in what a selector says of it.
    pub fn note(&mut self, selector: &Arc<Selector>, found: Truth) {
        match found {
            Truth::Yes => self.selectors.insert(Arc::clone(selector)),
            Truth::Unknown => self.unsure.insert(Arc::clone(selector)),
            Truth::No => false,
        };
    }

    /// Takes in that it serves a service at these ports, and at those that it has taken in before.
    pub fn serve(&mut self, service: &Arc<ServiceId>, ports: impl IntoIterator<Item = (Protocol, u16)>) {
        self.services.entry(Arc::clone(service)).or_default().extend(ports);
    }

    /// What is sure for one reason is not in doubt for another.
    fn settled(mut self) -> Self {
        self.unsure.retain(|selector| !self.selectors.contains(selector));
        self
    }
}

/// All that the rule sets in force ask of peers. Classes are made of nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// Selectors of endpoints and network sets.
    pub selectors: BTreeSet<Arc<Selector>>,
    /// Selectors of nodes.
    pub nodes: BTreeSet<Arc<Selector>>,
    /// Services.
    pub services: BTreeSet<Arc<ServiceId>>,
    /// Networks, those of exceptions included.
    pub nets: BTreeSet<Cidr>,
    /// Port names that the peer resolves.
    pub peer_port_names: BTreeSet<PortName>,
    /// What network sets, host endpoints, nodes and services say of networks, where any of these selectors and names finds them.
    pub placed: BTreeMap<Cidr, Class>,
}

impl Active {
    /// What these rule sets ask, and where it is found around the pods.
    #[must_use]
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a RuleSet>, around: &Surroundings<'_>) -> Self {
        let mut active = Self::default();
        for set in sets {
            active.selectors.extend(set.selectors().cloned());
            active.nodes.extend(set.nodes().cloned());
            active.services.extend(set.services().cloned());
            active.nets.extend(set.nets());
            active.peer_port_names.extend(set.peer_port_names().cloned());
        }
        active.place(around);
        active
    }

    /// Networks that have a class of their own: those that rules name, and those of sets, nodes and services that rules find.
    pub fn networks(&self) -> impl Iterator<Item = &Cidr> {
        self.nets.iter().chain(self.placed.keys()).collect::<BTreeSet<_>>().into_iter()
    }

    fn place(&mut self, around: &Surroundings<'_>) {
        let mut placed: BTreeMap<Cidr, Class> = BTreeMap::new();
        for set in &around.sets {
            for selector in &self.selectors {
                let found = selector.matches(&set.labels);
                for net in set.nets.iter().filter(|_| found.possibly()) {
                    placed.entry(*net).or_default().note(selector, found);
                }
            }
        }
        for host in &around.hosts {
            let mut class = Class::default();
            self.selectors.iter().for_each(|selector| class.note(selector, selector.matches(&host.labels)));
            class.ports.extend(host.ports.iter().filter(|port| self.peer_port_names.contains(&port.name)).cloned());
            for address in host.addresses.iter().filter(|_| class != Class::default()) {
                placed.entry(Cidr::host(*address)).or_default().join(&class);
            }
        }
        for node in &around.nodes {
            for selector in self.nodes.iter().filter(|selector| selector.matches(node.labels).surely()) {
                for address in node.addresses {
                    placed.entry(Cidr::host(*address)).or_default().nodes.insert(Arc::clone(selector));
                }
            }
        }
        for slice in &around.slices {
            let Some(service) = slice.service.as_ref().and_then(|service| self.services.get(service)) else { continue };
            for address in slice.addresses() {
                placed.entry(Cidr::host(address)).or_default().serve(service, slice.numbers());
            }
        }
        self.placed = placed;
    }
}
