//! Resolves a World into what this node's kernel should hold.
//! In: [`InSync`]. Out: [`Desired`].
//! Invariant: a rule set holds everything the endpoint itself resolves; a class everything a peer is asked.
//! Never: an address without a class, an endpoint without a rule set.

use crate::{
    AddressSpec, Desired, EndpointSpec, HostEndpointSpec, InSync, NodeSpec, Owner, World, floating, host, ipip,
    masquerade,
    node_routes::node_routes,
    serve, sources,
    surroundings::surroundings,
    tunnel,
    workload::{Workload, workloads},
};
use model::{Attachment, AttachmentId, Cidr, Direction, HostEndpoint, IfaceName, PodId};
use policy::{
    Active, Applying, Class, OwnAddresses, RuleSet, Rulebook, Selectors, Shared, Subject, Surroundings,
    staged::spoken_of,
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What this node's kernel should hold.
#[must_use]
pub fn desired(world: InSync<'_>) -> Desired {
    let InSync(world) = world;
    let workloads = workloads(world);
    let around = surroundings(world);
    let book = Rulebook::of(world.tiers.values(), world.policies());
    let mut sets = RuleSets { around: &around, sets: Shared::default(), selectors: Selectors::default() };
    let replaced = spoken_of(world.policies());
    let staged = Rulebook::if_enforced(world.tiers.values(), world.policies(), |id| replaced.contains(id));
    let staged = if world.tries_staged { &staged } else { &book };
    let endpoints = endpoints(world, &workloads, [&book, staged], &mut sets);
    let (host_endpoints, node) = host_endpoints(world, [&book, staged], &mut sets);
    let services = serve::services(world);
    let floating = floating::fresh(world, &services);
    let mut desired = Desired { endpoints, host_endpoints, node, services, ..Desired::default() };
    desired.services.extend(floating.frontends);
    for (id, addresses) in floating.of {
        if let Some(endpoint) = desired.endpoints.get_mut(&id) {
            endpoint.floating = addresses;
        }
    }
    let active = Active::of(desired.rule_sets().map(|set| &**set), &around);
    let mut classes = Shared::default();
    desired.addresses = addresses(world, &workloads, &active, &mut classes);
    desired.routes = node_routes(world, elsewhere(world, &workloads));
    desired.tunnel = tunnel::spec(world).map(Arc::new);
    desired.ipip = ipip::spec(world).map(Arc::new);
    desired.nets = active.networks().map(|net| (*net, classes.share(Class::of(&active, net)))).collect();
    desired
}

/// Addresses of pods elsewhere.
fn elsewhere<'a>(world: &World, workloads: &[Workload<'a>]) -> impl Iterator<Item = (IpAddr, &'a PodId)> {
    let of = |workload: &Workload<'a>| {
        let (id, addresses) = (workload.id, &workload.addresses);
        addresses
            .iter()
            .filter(|(_, local)| local.is_none())
            .map(move |(address, _)| (*address, id))
            .collect::<Vec<_>>()
    };
    workloads.iter().flat_map(of).filter(|(address, _)| !world.host.contains(address)).collect::<Vec<_>>().into_iter()
}

fn endpoints(
    world: &World,
    workloads: &[Workload<'_>],
    [book, staged]: [&Rulebook<'_>; 2],
    sets: &mut RuleSets<'_>,
) -> BTreeMap<AttachmentId, EndpointSpec> {
    let mut endpoints = BTreeMap::new();
    for workload in workloads.iter().filter(|workload| !workload.attachments.is_empty()) {
        let subject = subject(world, workload, workload.addresses.keys().copied().collect());
        let applying = book.applying(&subject.pod.labels);
        let previewed = staged.applying(&subject.pod.labels);
        let ingress = sets.of(&applying, &previewed, Direction::Ingress, &subject);
        let egress = sets.of(&applying, &previewed, Direction::Egress, &subject);
        let sources = sources::of(world, workload.id).map(|set| sets.sets.share(set));
        for attachment in &workload.attachments {
            let judges = [Arc::clone(&ingress), Arc::clone(&egress)];
            let own = |address: &IpAddr| workload.addresses.get(address) == Some(&Some(&attachment.id));
            let mut endpoint = endpoint(world, attachment, own, judges);
            endpoint.sources.clone_from(&sources);
            endpoints.insert(attachment.id.clone(), endpoint);
        }
    }
    endpoints
}

fn host_endpoints(
    world: &World,
    [book, staged]: [&Rulebook<'_>; 2],
    sets: &mut RuleSets<'_>,
) -> (BTreeMap<IfaceName, HostEndpointSpec>, NodeSpec) {
    let (own, failsafes) = (host::own(world), host::failsafes(world));
    let mut layers = |host: &HostEndpoint| {
        let subject = host::subject(world, host, &failsafes);
        let (applying, previewed) = (book.applying(&subject.labels), staged.applying(&subject.labels));
        host::Layers::of(host, |layer, direction| {
            let previewed = Some(&previewed[..]);
            let set = RuleSet::at_host(layer, direction, &applying, previewed, &subject, &mut sets.selectors)?;
            Some(sets.sets.share(set))
        })
    };
    let spec = |(name, host): (&IfaceName, &HostEndpoint)| {
        (name.clone(), layers(host).spec(host, name, world.keep_established))
    };
    let host_endpoints = host::governed(world, &own).into_iter().map(spec).collect();
    let of_all = host::of_all_interfaces(&own).map(layers);
    let inside = masquerade::inside(world).map(|set| sets.sets.share(set));
    (host_endpoints, host::node(world, of_all, inside))
}

/// The endpoint that `workload` is for its rule sets, with the addresses that are its own.
pub(crate) fn subject<'a>(world: &'a World, workload: &Workload<'a>, addresses: Vec<IpAddr>) -> Subject<'a> {
    let of = (&workload.id.namespace, workload.account);
    let named = workload.named.map(|named| named.iter().map(|name| &**name));
    let given = |name: &str| world.profiles.get(name);
    let profiles = Subject::profiles_of(of, named, given, |name| host::profile(world, name));
    Subject { pod: workload.facts(), addresses: OwnAddresses::Known(addresses), profiles }
}

/// `own` says whether an address is the attachment's.
pub(crate) fn endpoint(
    world: &World,
    attachment: &Attachment,
    own: impl Fn(&IpAddr) -> bool,
    [ingress, egress]: [Arc<RuleSet>; 2],
) -> EndpointSpec {
    let addresses: Vec<_> = attachment.addresses.iter().filter(|address| own(address)).copied().collect();
    EndpointSpec {
        masqueraded: masquerade::of_addresses(world, &addresses),
        pod: attachment.pod.clone(),
        interface: attachment.host_interface.clone(),
        mac: attachment.mac,
        mtu: attachment.mtu,
        addresses,
        floating: Vec::new(),
        ingress,
        egress,
        sources: None,
        keep_established: world.keep_established,
    }
}

struct RuleSets<'a> {
    around: &'a Surroundings<'a>,
    sets: Shared<RuleSet>,
    selectors: Selectors,
}

impl RuleSets<'_> {
    fn of(
        &mut self,
        applying: &[Applying<'_>],
        previewed: &[Applying<'_>],
        direction: Direction,
        subject: &Subject<'_>,
    ) -> Arc<RuleSet> {
        let mut build = |applying| RuleSet::build(applying, direction, subject, self.around, &mut self.selectors);
        let set = build(applying).previewing(build(previewed));
        self.sets.share(set)
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
