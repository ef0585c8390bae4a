//! Resolves a World into what this node's kernel should hold.
//! In: [`InSync`]. Out: [`Desired`].
//! Invariant: a rule set holds everything the endpoint itself resolves; a class everything a peer is asked.
//! Never: an address without a class, an endpoint without a rule set.

use crate::{
    AddressSpec, Desired, EndpointSpec, InSync, Owner, World,
    surroundings::surroundings,
    workload::{Workload, workloads},
};
use model::{Attachment, AttachmentId, Cidr, Direction};
use policy::{Active, Applying, Class, RuleSet, Rulebook, Selectors, Subject, Surroundings};
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
    let around = surroundings(world);
    let endpoints = endpoints(world, &workloads, &around);
    let sets = endpoints.values().flat_map(|endpoint| [&*endpoint.ingress, &*endpoint.egress]);
    let active = Active::of(sets, &around);
    let mut classes = Shared::default();
    let addresses = addresses(world, &workloads, &active, &mut classes);
    let nets = active.networks().map(|net| (*net, classes.share(Class::of(&active, net)))).collect();
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

fn endpoints(
    world: &World,
    workloads: &[Workload<'_>],
    around: &Surroundings<'_>,
) -> BTreeMap<AttachmentId, EndpointSpec> {
    let book = Rulebook::of(world.tiers.values(), world.policies.values());
    let mut sets = RuleSets { around, sets: Shared::default(), selectors: Selectors::default() };
    let mut endpoints = BTreeMap::new();
    for workload in workloads.iter().filter(|workload| !workload.attachments.is_empty()) {
        let subject = subject(world, workload);
        let applying = book.applying(&subject.pod.labels);
        let ingress = sets.of(&applying, Direction::Ingress, &subject);
        let egress = sets.of(&applying, Direction::Egress, &subject);
        for attachment in &workload.attachments {
            let judges = [Arc::clone(&ingress), Arc::clone(&egress)];
            endpoints.insert(attachment.id.clone(), endpoint(world, workload, attachment, judges));
        }
    }
    endpoints
}

fn subject<'a>(world: &'a World, workload: &Workload<'a>) -> Subject<'a> {
    let given = |name: &str| world.profiles.get(name);
    Subject {
        pod: workload.facts(),
        addresses: workload.addresses.keys().copied().collect(),
        profiles: Subject::profiles_of(&workload.id.namespace, workload.account, given),
    }
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

struct RuleSets<'a> {
    around: &'a Surroundings<'a>,
    sets: Shared<RuleSet>,
    selectors: Selectors,
}

impl RuleSets<'_> {
    fn of(&mut self, applying: &[Applying<'_>], direction: Direction, subject: &Subject<'_>) -> Arc<RuleSet> {
        self.sets.share(RuleSet::build(applying, direction, subject, self.around, &mut self.selectors))
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
            let bare = Class::of(active, &Cidr::host(*address));
            let class = bare.with_pod(active, &workload.facts());
            let owner = local.map_or(Owner::Elsewhere, |id| Owner::Endpoint(id.clone()));
            // A pod elsewhere that no rule knows by its labels has the class of its narrowest network, and the trie
            // answers that.
            if owner != Owner::Elsewhere || class != bare {
                addresses.insert(*address, AddressSpec { class: classes.share(class), owner });
            }
        }
    }
    for address in &world.host {
        let class = classes.share(Class::of(active, &Cidr::host(*address)));
        addresses.insert(*address, AddressSpec { class, owner: Owner::Host });
    }
    addresses
}
