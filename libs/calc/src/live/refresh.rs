//! Brings Desired up to date: from what was told, through who is concerned, to what is written anew.
//! In: [`Dirty`]. Out: all that is new in Desired: endpoints of pods and of the host, addresses, networks, services, routes.
//! Invariant: each stage only adds to what the later ones look at; nothing is looked at twice in a stage.
//! Never: looks at what no change concerns.

use super::{Live, dirty::Dirty, judges::Questions, peers::Concerned};
use crate::{
    AddressSpec, Owner, host, ipip, masquerade,
    resolve::endpoint,
    sources, tunnel,
    workload::{described, workload},
};
use model::{Cidr, IfaceName, PodId};
use policy::Class;
use std::{collections::BTreeSet, mem, net::IpAddr, sync::Arc};

/// What is still to be looked at.
#[derive(Debug, Default)]
struct Todo {
    /// Local pods whose rule sets or addresses may be others.
    subjects: BTreeSet<PodId>,
    /// Networks of which sets, nodes and services may say something else.
    placed: BTreeSet<Cidr>,
    /// Networks whose own class may be another, and with it that of all they contain.
    nets: BTreeSet<Cidr>,
    /// Addresses whose class or holder may be another.
    addresses: BTreeSet<IpAddr>,
}

impl Live {
    pub(super) fn refresh(&mut self) {
        let (dirty, mut todo) = (mem::take(&mut self.dirty), Todo::default());
        for id in &dirty.pods {
            self.pod(id, &mut todo);
            self.floats.hear(&self.world, id);
        }
        let routes = self.ways(&dirty);
        self.outside_changed(&dirty, &mut todo);
        for id in &dirty.sets {
            let nets = self.peers.put_set(&self.world, id);
            self.around_changed(nets, &mut todo);
        }
        for name in &dirty.nodes {
            let nets = self.peers.put_node(&self.world, name);
            self.floats.touch(nets.iter().map(Cidr::network));
            self.around_changed(nets, &mut todo);
        }
        let has_other_host_ports = !dirty.addresses.is_empty() || self.services.host_any(&self.world, &dirty.pods);
        let mut services = dirty.services;
        for id in &dirty.slices {
            services.extend(self.backends.service_of(id).cloned());
            todo.placed.extend(self.backends.put(&self.world, id));
            services.extend(self.backends.service_of(id).cloned());
        }
        if dirty.place || !dirty.addresses.is_empty() || dirty.nodes.contains(&self.world.node) {
            services.extend(self.services.moved(&self.world));
        }
        for address in dirty.addresses {
            self.address_changed(address, &mut todo);
        }
        for id in &services {
            let slices = self.backends.slices_of(&self.world, id);
            self.services.put(&self.world, id, &slices, &mut self.desired);
        }
        if has_other_host_ports {
            self.services.put_host_ports(&self.world, &mut self.desired);
        }
        for name in &dirty.hosts {
            self.hosts.put(&self.world, name);
            let nets = self.peers.put_host(&self.world, name);
            self.around_changed(nets, &mut todo);
        }
        for id in &dirty.policies {
            todo.subjects.extend(self.judges.put_policy(&self.world, id));
            self.hosts.put_policy(&self.world, id);
        }
        if dirty.every_rule_set {
            todo.subjects.extend(self.judges.locals().cloned());
        }
        if dirty.every_rule_set || dirty.every_host {
            self.hosts.forget_all();
        }
        if dirty.every_host {
            let asking = self.judges.locals().filter(|id| sources::are_asked(&self.world, id));
            todo.subjects.extend(asking.cloned());
        }
        self.floats.rewrite(&todo.subjects, dirty.every_host);
        for id in mem::take(&mut todo.subjects) {
            self.subject(&id, &mut todo);
        }
        self.judges.forget_likenesses();
        if self.hosts.take_stale() {
            self.host_endpoints(&mut todo);
        }
        self.placed(&mut todo);
        self.nets(&mut todo);
        self.addresses(&todo, routes);
        self.floats.touch(todo.addresses.iter().copied());
        self.floats.settle(&self.world, (&self.claims, &self.peers), &mut self.desired);
    }

    /// Blocks and addresses to which the way may be another. Who may send by tunnels looks at all nodes, and the ways by them all
    /// depend on this node's own end.
    fn ways(&mut self, dirty: &Dirty) -> (BTreeSet<Cidr>, BTreeSet<IpAddr>) {
        let (mut blocks, mut addresses) = self.routes.concerned(&self.world, &self.claims, dirty);
        if dirty.pools || dirty.networks || dirty.every_host || !dirty.nodes.is_empty() {
            let (spec, before) = (tunnel::spec(&self.world), self.desired.own().tunnel);
            if before.as_deref() != spec.as_ref() {
                *before = spec.map(Arc::new);
            }
            let (spec, before) = (ipip::spec(&self.world), self.desired.own().ipip);
            if before.as_deref() != spec.as_ref() {
                *before = spec.map(Arc::new);
            }
        }
        let is_switched = dirty.every_host && self.routes.take_switched(&self.world);
        if is_switched || dirty.nodes.contains(&self.world.node) {
            blocks.extend(self.world.blocks.all());
            addresses.extend(self.routes.strays());
        }
        (blocks, addresses)
    }

    /// This node's interfaces, what is outside of all pools, or which pods are this node there may be something else.
    fn outside_changed(&mut self, dirty: &Dirty, todo: &mut Todo) {
        if dirty.interfaces || dirty.pools || (!dirty.nodes.is_empty() && masquerade::excludes_nodes(&self.world)) {
            self.hosts.interfaces_changed();
        }
        if dirty.pools {
            todo.subjects.extend(self.judges.locals().cloned());
        }
    }

    fn pod(&mut self, id: &PodId, todo: &mut Todo) {
        let world = &self.world;
        let workload = workload(world, id);
        let addresses = workload.iter().flat_map(|workload| &workload.addresses);
        let touched = self.claims.put(id, addresses.map(|(at, endpoint)| (*at, endpoint.cloned())).collect());
        self.peers.put_pod(id, workload.as_ref().map(|workload| workload.facts().labels).as_ref());
        let local = workload.as_ref().filter(|workload| !workload.attachments.is_empty());
        if local.is_some() || self.judges.is_local(id) {
            self.judges.put_subject(id, local);
            todo.subjects.insert(id.clone());
        }
        let names =
            workload.iter().filter_map(|workload| workload.ports).flatten().map(|port| port.name.clone()).collect();
        if workload.as_ref().is_some_and(|workload| workload.ports.is_none()) {
            self.portless.insert(id.clone());
        } else {
            self.portless.remove(id);
        }
        for gone in self.ports.insert(id.clone(), names).into_iter().flatten() {
            if let Some(pods) = self.named.get_mut(&gone) {
                pods.remove(id);
                if pods.is_empty() {
                    self.named.remove(&gone);
                }
            }
        }
        match self.ports.get(id) {
            Some(names) if !names.is_empty() => {
                for name in names {
                    self.named.entry(name.clone()).or_default().insert(id.clone());
                }
            }
            _ => drop(self.ports.remove(id)),
        }
        todo.addresses.extend(self.claims.of(id));
        for address in touched {
            self.address_changed(address, todo);
        }
    }

    /// Somebody else may have this address now.
    fn address_changed(&self, address: IpAddr, todo: &mut Todo) {
        let claimants = self.claims.claimants(address);
        todo.subjects.extend(claimants.filter(|id| self.judges.is_local(id)).cloned());
        todo.addresses.insert(address);
    }

    /// A network set or node is not what it was: a local pod on its networks may meet its own rules otherwise.
    fn around_changed(&self, nets: BTreeSet<Cidr>, todo: &mut Todo) {
        let on_them = |address: IpAddr| Cidr::host(address).supernets().any(|net| nets.contains(&net));
        let holders = self.judges.locals().filter(|id| self.claims.of(id).any(on_them));
        todo.subjects.extend(holders.cloned());
        todo.placed.extend(nets);
    }

    fn subject(&mut self, id: &PodId, todo: &mut Todo) {
        let Self { world, claims, peers, judges, endpoints, desired, .. } = &mut *self;
        let desired = desired.own();
        let held = |address: &IpAddr| {
            !world.host.contains(address) && claims.holder(*address).is_some_and(|(pod, _)| pod == id)
        };
        for gone in endpoints.remove(id).into_iter().flatten() {
            // It may be another pod's by now.
            if desired.endpoints.get(&gone).is_some_and(|spec| spec.pod == *id) {
                desired.endpoints.remove(&gone);
            }
        }
        let workload = workload(world, id).filter(|workload| !workload.attachments.is_empty());
        let both = workload.as_ref().map(|workload| {
            let addresses: Vec<_> = workload.addresses.keys().copied().filter(held).collect();
            judges.build(world, &peers.around(world, &addresses), workload, addresses)
        });
        let sources = both.as_ref().and_then(|_| sources::of(world, id)).map(|set| judges.shared(set));
        for attachment in workload.iter().flat_map(|workload| &workload.attachments) {
            let own = |address: &IpAddr| {
                held(address) && claims.holder(*address).is_some_and(|(_, endpoint)| endpoint == Some(&attachment.id))
            };
            if let Some(both) = both.clone() {
                endpoints.entry(id.clone()).or_default().push(attachment.id.clone());
                let mut endpoint = endpoint(world, attachment, own, both);
                endpoint.sources.clone_from(&sources);
                desired.endpoints.insert(attachment.id.clone(), endpoint);
            }
        }
        let (fresh, over) = judges.appoint(id, both.map(|both| both.into_iter().chain(sources).collect()));
        self.asked(fresh, true, todo);
        self.asked(over, false, todo);
    }

    /// The host endpoints of this node or what they read are not what they were.
    fn host_endpoints(&mut self, todo: &mut Todo) {
        let Self { world, judges, hosts, desired, .. } = &mut *self;
        let own_part = desired.own();
        let failsafes = host::failsafes(world);
        let own = hosts.own(world);
        let (governed, of_all) = (host::governed(world, &own), host::of_all_interfaces(&own));
        hosts.retain(&governed.values().copied().chain(of_all).map(|host| &host.name).collect());
        let mut layers = |host| hosts.layers(world, host, &failsafes, judges);
        let spec = |(name, host)| (IfaceName::clone(name), layers(host).spec(host, name, world.keep_established));
        *own_part.host_endpoints = governed.into_iter().map(spec).collect();
        let of_all = of_all.map(&mut layers);
        let inside = masquerade::inside(world).map(|set| judges.shared(set));
        *own_part.node = host::node(world, of_all, inside);
        let (fresh, over) = judges.appoint_hosts(desired.host_sets().cloned().collect());
        self.asked(fresh, true, todo);
        self.asked(over, false, todo);
    }

    /// Rules begin to ask something of peers, or cease to.
    fn asked(&mut self, questions: Questions, begins: bool, todo: &mut Todo) {
        let Questions { selectors, nodes, services, nets, names } = questions;
        for selector in &selectors {
            let Concerned { pods, nets } =
                if begins { self.peers.ask(&self.world, selector) } else { self.peers.ask_no_more(selector) };
            todo.addresses.extend(pods.iter().flat_map(|pod| self.claims.of(pod)));
            todo.placed.extend(nets);
        }
        for selector in &nodes {
            todo.placed.extend(self.peers.ask_nodes(&self.world, selector, begins));
        }
        for service in &services {
            todo.placed.extend(self.backends.ask(&self.world, service, begins));
        }
        for net in &nets {
            if begins {
                self.active.nets.insert(*net);
            } else {
                self.active.nets.remove(net);
            }
        }
        todo.nets.extend(nets);
        todo.placed.extend(names.iter().flat_map(|name| self.peers.named(name)));
        let portless = if names.is_empty() { None } else { Some(&self.portless) };
        let pods = names.iter().filter_map(|name| self.named.get(name)).chain(portless).flatten();
        todo.addresses.extend(pods.flat_map(|pod| self.claims.of(pod)));
    }

    fn placed(&mut self, todo: &mut Todo) {
        for net in mem::take(&mut todo.placed) {
            let mut class = self.peers.on(&self.world, &net, |name| self.judges.asks_name(name));
            self.backends.note(&self.world, &net, &mut class);
            let before = if class == Class::default() {
                self.active.placed.remove(&net)
            } else {
                self.active.placed.insert(net, class)
            };
            if before.as_ref() != self.active.placed.get(&net) {
                todo.nets.insert(net);
            }
        }
    }

    fn nets(&mut self, todo: &mut Todo) {
        let mut stale = BTreeSet::new();
        for net in mem::take(&mut todo.nets) {
            let inside = net..=Cidr::host(net.last());
            stale.insert(net);
            stale.extend(self.active.nets.range(inside.clone()));
            stale.extend(self.active.placed.range(inside).map(|(net, _)| *net));
            todo.addresses.extend(self.claims.within(&net));
            todo.addresses.extend(self.world.host.iter().filter(|address| net.contains(**address)));
        }
        for net in stale {
            if self.active.nets.contains(&net) || self.active.placed.contains_key(&net) {
                let class = self.classes.share(Class::of(&self.active, &net));
                self.desired.put_net(net, Some(class));
            } else {
                self.desired.put_net(net, None);
            }
        }
    }

    /// Their classes, and where packets to them go; with `blocks` to whose holders the way may be another, and further addresses.
    fn addresses(&mut self, todo: &Todo, (blocks, mut further): (BTreeSet<Cidr>, BTreeSet<IpAddr>)) {
        for address in &todo.addresses {
            let spec = self.address(*address);
            self.desired.put_address(*address, spec);
        }
        further.extend(&todo.addresses);
        self.routes.put(&self.world, &self.claims, (blocks, further), &mut self.desired);
    }

    fn address(&mut self, address: IpAddr) -> Option<AddressSpec> {
        let bare = Class::of(&self.active, &Cidr::host(address));
        if self.world.host.contains(&address) {
            return Some(AddressSpec { class: self.classes.share(bare), owner: Owner::Host });
        }
        let (pod, endpoint) = self.claims.holder(address)?;
        let ports = described(&self.world, pod).map(|pod| &*pod.ports);
        let ports = ports.or(if self.judges.asks_names() { None } else { Some(&[]) });
        let asked = ports.map(|ports| ports.iter().filter(|port| self.judges.asks_name(&port.name)));
        let class = bare.with_found(self.peers.find_pod(pod), asked);
        let owner = endpoint.map_or(Owner::Elsewhere, |id| Owner::Endpoint(id.clone()));
        // See `resolve`: the trie answers for a pod elsewhere that no rule knows by its labels.
        let matters = owner != Owner::Elsewhere || class != bare;
        matters.then(|| AddressSpec { class: self.classes.share(class), owner })
    }
}
