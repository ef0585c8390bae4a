//! Peers: everybody that a rule may find by labels, and which active selectors find whom.
//! In: pods, network sets, host endpoints and nodes as they change; selectors as rules begin and cease to ask them.
//! Out: what finds an address; and which addresses and networks a change concerns.
//! Invariant: equal to asking every active selector about every peer.
//! Never: holds labels; they are lent by the World.

use super::{lent::Lent, numbers::Numbers};
use crate::{
    World, host,
    index::{Change, LabelIndex},
    surroundings::{host_facts, node_facts, set_facts, set_labels},
};
use model::{Cidr, EffectiveLabels, NetworkSetId, Node, NodeName, PodId, PortName, Selector, Truth};
use policy::{Class, Surroundings};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Who can be found by labels that endpoints and network sets have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Pod(PodId),
    Set(NetworkSetId),
    Host(String),
}

/// Whose class of networks it is to be worked out again.
#[derive(Clone, Debug, Default)]
pub(super) struct Concerned {
    pub(super) pods: BTreeSet<PodId>,
    pub(super) nets: BTreeSet<Cidr>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    numbers: Numbers<Peer>,
    selectors: Numbers<Arc<Selector>>,
    found: LabelIndex<u32, u32>,
    /// Selectors of nodes that rules ask.
    of_nodes: BTreeSet<Arc<Selector>>,
    sets: BTreeMap<NetworkSetId, Vec<Cidr>>,
    hosts: BTreeMap<String, Vec<Cidr>>,
    nodes: BTreeMap<NodeName, Vec<Cidr>>,
    /// Who lies on a network.
    sets_on: BTreeMap<Cidr, BTreeSet<NetworkSetId>>,
    hosts_on: BTreeMap<Cidr, BTreeSet<String>>,
    nodes_on: BTreeMap<Cidr, BTreeSet<NodeName>>,
    /// Host endpoints by the names of their ports.
    names: BTreeMap<String, Vec<PortName>>,
    hosts_named: BTreeMap<PortName, BTreeSet<String>>,
}

impl Peers {
    /// Takes in a pod; `None`: it is no workload.
    pub(super) fn put_pod(&mut self, id: &PodId, labels: Option<&EffectiveLabels<'_>>) {
        self.put(&Peer::Pod(id.clone()), labels);
    }

    fn put(&mut self, peer: &Peer, labels: Option<&EffectiveLabels<'_>>) {
        if let Some(labels) = labels {
            let number = self.numbers.number(peer);
            self.found.put_item(&number, labels);
        } else if let Some(number) = self.numbers.forget(peer) {
            self.found.remove_item(&number);
        }
    }

    /// Takes in a network set, or that there is none of this name. Gives the networks it concerns.
    pub(super) fn put_set(&mut self, world: &World, id: &NetworkSetId) -> BTreeSet<Cidr> {
        let set = world.network_sets.get(id);
        let nets = set.map(|set| set.nets.clone()).unwrap_or_default();
        let labels = set.map(|set| set_labels(world, set));
        self.put(&Peer::Set(id.clone()), labels.as_ref());
        place(&mut self.sets, &mut self.sets_on, id, nets)
    }

    /// The same for a host endpoint.
    pub(super) fn put_host(&mut self, world: &World, name: &String) -> BTreeSet<Cidr> {
        let host = world.host_endpoints.get(name);
        self.put(&Peer::Host(name.clone()), host.map(host::labels).as_ref());
        let names = host.map(|host| host.ports.iter().map(|port| port.name.clone()).collect()).unwrap_or_default();
        place(&mut self.names, &mut self.hosts_named, name, names);
        let expected = host.map(|host| &*host.expected_ips).unwrap_or_default();
        let expected = expected.iter().copied().map(Cidr::host).collect();
        place(&mut self.hosts, &mut self.hosts_on, name, expected)
    }

    /// Where host endpoints are that have a port of this name.
    pub(super) fn named(&self, name: &PortName) -> impl Iterator<Item = &Cidr> {
        self.hosts_named.get(name).into_iter().flatten().filter_map(|host| self.hosts.get(host)).flatten()
    }

    /// The same for a node.
    pub(super) fn put_node(&mut self, world: &World, name: &NodeName) -> BTreeSet<Cidr> {
        let addresses = world.nodes.get(name).map(|node| &*node.addresses).unwrap_or_default();
        let nets = addresses.iter().copied().map(Cidr::host).collect();
        place(&mut self.nodes, &mut self.nodes_on, name, nets)
    }

    /// The first of the nodes that have an address.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&NodeName> {
        self.nodes_on.get(&Cidr::host(address))?.first()
    }

    /// A rule asks this selector of endpoints and network sets for the first time.
    pub(super) fn ask(&mut self, world: &World, selector: &Arc<Selector>) -> Concerned {
        let id = self.selectors.number(selector);
        let numbers = &self.numbers;
        let lend = |number: &u32| match numbers.value(*number) {
            Some(Peer::Pod(id)) => Lent::pod(world, id),
            Some(Peer::Set(id)) => Lent::set(world, id),
            Some(Peer::Host(name)) => Lent::host(world, name),
            None => Lent::nothing(),
        };
        let changes = self.found.put_selector(&id, selector, lend);
        self.concerned(changes)
    }

    /// No rule asks it any more.
    pub(super) fn ask_no_more(&mut self, selector: &Arc<Selector>) -> Concerned {
        let Some(id) = self.selectors.forget(selector) else { return Concerned::default() };
        let changes = self.found.remove_selector(&id);
        self.concerned(changes)
    }

    /// A rule asks this selector of nodes for the first time, or no rule does any more.
    pub(super) fn ask_nodes(&mut self, world: &World, selector: &Arc<Selector>, asks: bool) -> BTreeSet<Cidr> {
        if asks {
            self.of_nodes.insert(Arc::clone(selector));
        } else {
            self.of_nodes.remove(selector);
        }
        let finds = |node: &&Node| selector.matches(&node.labels).possibly();
        let found = world.nodes.values().filter(finds);
        found.flat_map(|node| node.addresses.iter().copied().map(Cidr::host)).collect()
    }

    /// What finds a pod.
    pub(super) fn find_pod<'a>(&'a self, id: &PodId) -> impl Iterator<Item = (&'a Arc<Selector>, Truth)> + use<'a> {
        self.find(&Peer::Pod(id.clone()))
    }

    /// What network sets, host endpoints and nodes say of a network. `asks`: whether a rule asks for ports of a name.
    pub(super) fn on(&self, world: &World, net: &Cidr, asks: impl Fn(&PortName) -> bool) -> Class {
        let mut class = Class::default();
        for set in self.sets_on.get(net).into_iter().flatten() {
            for (selector, truth) in self.find(&Peer::Set(set.clone())) {
                class.note(selector, truth);
            }
        }
        for name in self.hosts_on.get(net).into_iter().flatten() {
            self.find(&Peer::Host(name.clone())).for_each(|(selector, truth)| class.note(selector, truth));
            let ports = world.host_endpoints.get(name).into_iter().flat_map(|host| &host.ports);
            class.ports.extend(ports.filter(|port| asks(&port.name)).cloned());
        }
        for node in self.nodes_on.get(net).into_iter().flatten().filter_map(|name| world.nodes.get(name)) {
            let finds = |selector: &&Arc<Selector>| selector.matches(&node.labels).surely();
            class.nodes.extend(self.of_nodes.iter().filter(finds).cloned());
        }
        class
    }

    /// The network sets, host endpoints and nodes that lie on any of these addresses: what an endpoint's own end of a rule is asked of.
    pub(super) fn around<'a>(&self, world: &'a World, addresses: &[IpAddr]) -> Surroundings<'a> {
        let over: BTreeSet<Cidr> = addresses.iter().flat_map(|address| Cidr::host(*address).supernets()).collect();
        let sets: BTreeSet<_> = over.iter().filter_map(|net| self.sets_on.get(net)).flatten().collect();
        let hosts: BTreeSet<_> = over.iter().filter_map(|net| self.hosts_on.get(net)).flatten().collect();
        let nodes: BTreeSet<_> = over.iter().filter_map(|net| self.nodes_on.get(net)).flatten().collect();
        Surroundings {
            sets: sets
                .into_iter()
                .filter_map(|id| world.network_sets.get(id))
                .map(|set| set_facts(world, set))
                .collect(),
            hosts: hosts.into_iter().filter_map(|name| world.host_endpoints.get(name)).map(host_facts).collect(),
            nodes: nodes.into_iter().filter_map(|name| world.nodes.get(name)).map(node_facts).collect(),
            slices: Vec::new(),
        }
    }

    fn find<'a>(&'a self, peer: &Peer) -> impl Iterator<Item = (&'a Arc<Selector>, Truth)> + use<'a> {
        let number = self.numbers.get(peer);
        let found = number.map(|number| {
            let named = |(id, truth): (&u32, Truth)| Some((self.selectors.value(*id)?, truth));
            self.found.matches_of(&number).filter_map(named)
        });
        found.into_iter().flatten()
    }

    fn concerned(&self, changes: Vec<Change<u32, u32>>) -> Concerned {
        let mut concerned = Concerned::default();
        for change in changes {
            match self.numbers.value(change.item) {
                Some(Peer::Pod(id)) => {
                    concerned.pods.insert(id.clone());
                }
                Some(Peer::Set(id)) => concerned.nets.extend(self.sets.get(id).into_iter().flatten()),
                Some(Peer::Host(name)) => concerned.nets.extend(self.hosts.get(name).into_iter().flatten()),
                None => {}
            }
        }
        concerned
    }
}

/// Puts somebody where he belongs, on networks most often, and takes him away from where he was. Gives both.
pub(super) fn place<K: Ord + Clone, P: Ord + Clone>(
    by_name: &mut BTreeMap<K, Vec<P>>,
    by_place: &mut BTreeMap<P, BTreeSet<K>>,
    name: &K,
    places: Vec<P>,
) -> BTreeSet<P> {
    let before = by_name.remove(name).unwrap_or_default();
    for place in &before {
        if let Some(there) = by_place.get_mut(place) {
            there.remove(name);
            if there.is_empty() {
                by_place.remove(place);
            }
        }
    }
    for place in &places {
        by_place.entry(place.clone()).or_default().insert(name.clone());
    }
    let concerned = before.into_iter().chain(places.iter().cloned()).collect();
    if !places.is_empty() {
        by_name.insert(name.clone(), places);
    }
    concerned
}
