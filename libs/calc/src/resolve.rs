//! Resolves a World into what this node's kernel should hold.
//! In: [`InSync`]. Out: [`Desired`].
//! Invariant: a rule set holds everything the endpoint itself resolves; a class everything a peer is asked.
//! Never: an address without a class, an endpoint without a rule set.

use crate::{
    AddressSpec, Desired, EndpointSpec, InSync, Owner, World,
    workload::{Workload, workloads},
};
use model::{Attachment, AttachmentId, Cidr, Direction, Policy};
use policy::{Active, Class, RuleSet, Selectors};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What this node's kernel should hold.
#[must_use]
pub fn desired(world: InSync<'_>) -> Desired {
    let InSync(world) = world;
    let workloads = workloads(world);
    let endpoints = endpoints(world, &workloads);
    let active = Active::of(endpoints.values().flat_map(|endpoint| [&*endpoint.ingress, &*endpoint.egress]));
    let mut classes = Shared::default();
    let addresses = addresses(world, &workloads, &active, &mut classes);
    let nets = active.nets.iter().map(|net| (*net, classes.share(Class::of(&active, net, None)))).collect();
    Desired { endpoints, addresses, nets }
}

/// One allocation for equal values.
struct Shared<T>(BTreeSet<Arc<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord> Shared<T> {
    fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.get(&value) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(value);
        self.0.insert(Arc::clone(&fresh));
        fresh
    }
}

fn endpoints(world: &World, workloads: &[Workload<'_>]) -> BTreeMap<AttachmentId, EndpointSpec> {
    let policies = ordered(world);
    let mut sets = RuleSets { sets: Shared::default(), selectors: Selectors::default() };
    let mut endpoints = BTreeMap::new();
    for workload in workloads.iter().filter(|workload| !workload.attachments.is_empty()) {
        let selected: Vec<&Policy> = policies.iter().copied().filter(|policy| selects(policy, workload)).collect();
        let ingress = sets.of(&selected, Direction::Ingress, workload);
        let egress = sets.of(&selected, Direction::Egress, workload);
        for attachment in &workload.attachments {
            let judges = [Arc::clone(&ingress), Arc::clone(&egress)];
            endpoints.insert(attachment.id.clone(), endpoint(world, workload, attachment, judges));
        }
    }
    endpoints
}

fn endpoint(
    world: &World,
    workload: &Workload<'_>,
    attachment: &Attachment,
    [ingress, egress]: [Arc<RuleSet>; 2],
) -> EndpointSpec {
    let own = |address: &&IpAddr| workload.addresses.get(address) == Some(&Some(&attachment.id));
    EndpointSpec {
        pod: workload.id.clone(),
        interface: attachment.host_interface.clone(),
        mac: attachment.mac,
        mtu: attachment.mtu,
        addresses: attachment.addresses.iter().filter(own).copied().collect(),
        ingress,
        egress,
        keep_established: world.keep_established,
    }
}

/// In order of evaluation.
fn ordered(world: &World) -> Vec<&Policy> {
    let mut policies: Vec<&Policy> = world.policies.values().collect();
    policies.sort_by(|a, b| (a.order, &a.id).cmp(&(b.order, &b.id)));
    policies
}

fn selects(policy: &Policy, workload: &Workload<'_>) -> bool {
    policy.subject.matches(&workload.id.namespace, workload.namespace_labels, workload.labels)
}

struct RuleSets {
    sets: Shared<RuleSet>,
    selectors: Selectors,
}

impl RuleSets {
    fn of(&mut self, selected: &[&Policy], direction: Direction, workload: &Workload<'_>) -> Arc<RuleSet> {
        let applying: Vec<&Policy> = selected.iter().copied().filter(|policy| policy.applies(direction)).collect();
        self.sets.share(RuleSet::build(&applying, direction, workload.ports, &mut self.selectors))
    }
}

fn addresses(
    world: &World,
    workloads: &[Workload<'_>],
    active: &Active,
    classes: &mut Shared<Class>,
) -> BTreeMap<IpAddr, AddressSpec> {
    let mut addresses = BTreeMap::new();
    for workload in workloads {
        for (address, local) in &workload.addresses {
            let class = Class::of(active, &Cidr::host(*address), Some(&workload.facts()));
            let owner = local.map_or(Owner::Elsewhere, |id| Owner::Endpoint(id.clone()));
            if matters(&class, &owner) {
                addresses.insert(*address, AddressSpec { class: classes.share(class), owner });
            }
        }
    }
    for address in &world.host {
        let class = classes.share(Class::of(active, &Cidr::host(*address), None));
        addresses.insert(*address, AddressSpec { class, owner: Owner::Host });
    }
    addresses
}

/// A pod elsewhere that only networks match has the class of its narrowest network, which the trie answers.
fn matters(class: &Class, owner: &Owner) -> bool {
    *owner != Owner::Elsewhere || !class.selectors.is_empty() || !class.ports.is_empty()
}
