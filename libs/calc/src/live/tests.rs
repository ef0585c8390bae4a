//! Live against Desired worked out from the beginning, over histories; and what a change costs, as counts.
//! In: objects of several random worlds under the same names, told in any order and taken back. Out: equal Desired.
//! Invariant: compared after every step, so that a difference names the step that made it.
//! Never: measures time.

use super::*;
use crate::{AddressSpec, NodeRoute};
use model::{
    Action, BlockClaim, Cidr, DenyAction, EndpointToHost, Failsafe, Family, FelixConfiguration, HostEndpoint,
    HostInterface, IfaceName, IpPool, Labels, Layer, Mac, Namespace, Node, NodeAddresses, NodeVteps, Order, Pod,
    PolicyKind, PolicyTypes, Prefixed, Protocol, Resource, Rule, Selector, ServiceAccount, Stage, TierName,
    ToldAddresses, Vtep, Vteps, WorkloadAddress, Wrapper, Wrapping,
};
use policy::generate::{Case, Dice, INTERFACES};
use service::{Balance, Frontend};
use std::{fmt::Write as _, sync::Arc};

mod services;

const HERE: &str = "here";

/// Everything that one of these worlds holds.
pub(crate) fn resources(case: &Case) -> Vec<Resource> {
    let view = &case.view;
    let namespaces = view.namespaces.iter().map(|(name, labels)| {
        Resource::Namespace(Namespace { name: name.clone(), labels: labels.clone(), asks: None })
    });
    let accounts = view.accounts.iter().map(|((namespace, name), labels)| {
        let (namespace, name, labels) = (namespace.clone(), name.clone(), labels.clone());
        Resource::ServiceAccount(ServiceAccount { namespace, name, labels })
    });
    let pods = view.endpoints.iter().map(|endpoint| {
        let pod = Pod {
            labels: endpoint.labels.clone(),
            addresses: endpoint.addresses.as_slice().into(),
            ports: endpoint.ports.as_deref().unwrap_or_default().into(),
            service_account: endpoint.service_account.as_deref().map(Into::into),
            profiles: endpoint.profiles.as_ref().map(|named| named.iter().map(|name| name.as_str().into()).collect()),
            ..Pod::bare(endpoint.id.clone(), None)
        };
        Resource::Pod(pod.into())
    });
    let others = view.nodes.iter().cloned().map(Resource::Node);
    let others = others.chain(view.network_sets.iter().map(|set| Resource::NetworkSet(set.clone().into())));
    let others = others.chain(view.host_endpoints.iter().cloned().map(Resource::HostEndpoint));
    let others = others.chain(view.slices.iter().map(|slice| Resource::EndpointSlice(slice.clone().into())));
    let others = others.chain(view.tiers.iter().cloned().map(Resource::Tier));
    let others = others.chain(view.profiles.iter().cloned().map(Resource::Profile));
    let policies = view.policies.iter().map(|policy| Resource::Policy(policy.clone().into()));
    namespaces.chain(accounts).chain(pods).chain(others).chain(policies).collect()
}

pub(crate) fn attachment(pod: &Pod, container: usize, committed: bool) -> Attachment {
    Attachment {
        id: AttachmentId { network: "net".into(), container: format!("c{container}"), interface: "eth0".into() },
        pod: pod.id.clone(),
        host_interface: IfaceName(format!("cali{container}")),
        mac: Mac([2, 0, 0, 0, 0, container as u8]),
        addresses: pod.addresses.to_vec(),
        mtu: 1500,
        labels: pod.labels.clone(),
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: !container.is_multiple_of(3),
        named: false,
        committed,
    }
}

/// Some of this node's interfaces, with addresses that host endpoints may expect.
fn interfaces(pod: &Pod, dice: &mut Dice) -> BTreeMap<IfaceName, BTreeSet<IpAddr>> {
    let own: IpAddr = [192, 168, 7, 1].into();
    let addresses: Vec<_> = pod.addresses.iter().copied().chain([own]).collect();
    let some = INTERFACES.iter().take(dice.below(3)).map(|name| IfaceName((*name).to_owned()));
    let some = some.collect::<Vec<_>>().into_iter();
    some.map(|name| (name, (0..dice.below(3)).map(|_| dice.pick(&addresses)).collect())).collect()
}

/// Networks in which a neighbour may have a pod's address.
fn networks(pod: &Pod, dice: &mut Dice) -> BTreeMap<IfaceName, BTreeSet<Cidr>> {
    let some = INTERFACES.iter().take(dice.below(3)).map(|name| IfaceName((*name).to_owned()));
    let nets: Vec<_> = pod.addresses.iter().map(|address| around(*address, dice)).collect();
    some.map(|name| (name, nets.iter().copied().collect())).collect()
}

/// A network with this address in it.
fn around(address: IpAddr, dice: &mut Dice) -> Cidr {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    Cidr::new(address, longest - u8::try_from(dice.below(5)).unwrap_or_default()).expect("a network")
}

fn pool(pod: &Pod, dice: &mut Dice) -> IpPool {
    let address = pod.addresses.first().copied().unwrap_or([10, 0, 0, 1].into());
    let cidr = Cidr::new(address, if address.is_ipv4() { 16 } else { 64 }).expect("a network");
    let wrapping = dice.pick(&[Wrapping::Never, Wrapping::CrossSubnet, Wrapping::Always]);
    // By what was thrown already: other histories stay what they were.
    let wrapper = if address.is_ipv4() == (wrapping == Wrapping::Always) { Wrapper::Vxlan } else { Wrapper::Ipip };
    let nat_outgoing = wrapping != Wrapping::Always;
    IpPool { wrapping, wrapper, nat_outgoing, ..IpPool::of_pods(dice.pick(&["a", "b"]), cidr, 28) }
}

/// Blocks, pools, nodes' addresses and this node's networks change.
fn nodes_step(live: &mut Live, pod: &Pod, dice: &mut Dice) -> String {
    let node: NodeName = dice.pick(&[HERE, "there", "beyond"]).into();
    let address = pod.addresses.first().copied().unwrap_or([10, 0, 0, 1].into());
    let name = dice.pick(&["b0", "b1", "b2"]);
    let update = match dice.below(7) {
        0 if name == "b1" => Update::Gone(ResourceKey::NodeAddresses(node)),
        0 => Update::Gone(ResourceKey::BlockClaim(name.into())),
        1 => {
            let (addresses, pod_cidrs, labels) = (pod.addresses.to_vec(), Vec::new(), Labels::default());
            let ends = addresses.iter().map(|address| Vtep { address: *address, mac: Mac([2, 0, 0, 0, 0, 1]) });
            let ends: Vec<_> = ends.filter(|end| !end.address.to_string().ends_with('3')).collect();
            let of = |is_v4: bool| ends.iter().find(|end| end.address.is_ipv4() == is_v4).copied();
            let vteps = Vteps { v4: of(true), v6: of(false), ipip: None };
            let mut told = ToldAddresses::default();
            for address in addresses.iter().rev() {
                *told.of_mut(Family::of(*address)) = Prefixed::new(*address, 24);
            }
            match name {
                "b2" => Update::Set(Resource::NodeVteps(NodeVteps { node, vteps })),
                "b1" => Update::Set(Resource::NodeAddresses(NodeAddresses { node, told })),
                _ => {
                    let told = ToldAddresses::default();
                    Update::Set(Resource::Node(Node {
                        name: node,
                        addresses,
                        pod_cidrs,
                        labels,
                        vteps,
                        told,
                        bgp: Default::default(),
                    }))
                }
            }
        }
        2 => {
            let networks = networks(pod, dice);
            let text = format!("this node is in {networks:?}");
            live.set_host_networks(networks);
            return text;
        }
        3 => Update::Set(Resource::IpPool(pool(pod, dice))),
        _ => Update::Set(Resource::BlockClaim(BlockClaim { name: name.into(), cidr: around(address, dice), node })),
    };
    let text = format!("{update:?}");
    live.apply(update);
    text
}

fn felix(dice: &mut Dice) -> FelixConfiguration {
    let failsafe = Failsafe { protocol: Protocol::TCP, port: 80, net: Some(Cidr::all(Family::V4)) };
    let felix = FelixConfiguration {
        name: dice.pick(&["default", "node.here", "node.there", "some"]).into(),
        selector: dice.pick(&[None, Some("has(rack)")]).and_then(|text| text.parse().ok()),
        deny_action: dice.pick(&[None, Some(DenyAction::Drop), Some(DenyAction::Reject)]),
        endpoint_to_host: dice.pick(&[None, Some(EndpointToHost::Drop), Some(EndpointToHost::Accept)]),
        failsafe_inbound: dice.pick(&[None, Some(failsafe)]).map(|failsafe| vec![failsafe]),
        failsafe_outbound: dice.pick(&[None, Some(failsafe)]).map(|failsafe| vec![failsafe]),
        floating_ips: dice.pick(&[None, Some(true), Some(true), Some(false)]),
        ..FelixConfiguration::default()
    };
    // By what was thrown already: other histories stay what they were.
    let source_spoofing = Some(felix.deny_action.is_none());
    let nat_excludes_nodes = felix.endpoint_to_host.map(|does| does == EndpointToHost::Drop);
    let nat_ports = felix.floating_ips.filter(|on| *on).map(|_| (1, 2));
    let (vxlan_mtu, ipip_mtu) = (nat_ports.map(|_| 1400), source_spoofing.map(|_| 1300));
    let (vxlan_vni, vxlan_port) = (nat_ports.map(|_| 7), nat_excludes_nodes.map(|_| 4790));
    let (vxlan_enabled, ipip_enabled) = (felix.floating_ips, nat_excludes_nodes);
    let external_nodes = felix.deny_action.map(|_| [Cidr::all(Family::V4)].into());
    let felix = FelixConfiguration { external_nodes, ..felix };
    let tunnels =
        FelixConfiguration { vxlan_mtu, ipip_mtu, vxlan_vni, vxlan_port, vxlan_enabled, ipip_enabled, ..felix };
    FelixConfiguration { source_spoofing, nat_excludes_nodes, nat_ports, ..tunnels }
}

/// Tells `live` something. Gives what it was, for people.
fn step(live: &mut Live, all: &[Resource], dice: &mut Dice) -> String {
    let resource = all[dice.below(all.len())].clone();
    let mut pods = all.iter().filter_map(|resource| match resource {
        Resource::Pod(pod) => Some(pod),
        _ => None,
    });
    let count = pods.clone().count();
    let Some(pod) = pods.nth(dice.below(count)) else { panic!("every world has pods") };
    match dice.below(21) {
        0..8 => {
            let text = format!("{} is told", resource.key());
            live.apply(Update::Set(resource));
            text
        }
        8..10 => {
            let text = format!("{} is gone", resource.key());
            live.apply(Update::Gone(resource.key()));
            text
        }
        10..12 => {
            let attachment = attachment(pod, dice.below(3), dice.below(4) > 0);
            let text = format!("{} attaches {}", attachment.pod, attachment.id);
            live.attach(attachment);
            text
        }
        12 => {
            let id = attachment(pod, dice.below(3), true).id;
            live.detach(&id);
            format!("{id} is detached")
        }
        13 => {
            let addresses: BTreeSet<IpAddr> = pod.addresses.iter().copied().take(dice.below(3)).collect();
            let text = format!("the host has {addresses:?}");
            live.set_host_addresses(addresses);
            text
        }
        14 => {
            let node = dice.pick(&[HERE, "there"]).into();
            let (addresses, labels) = (pod.addresses.to_vec(), pod.labels.clone());
            live.apply(Update::Set(Resource::WorkloadAddress(WorkloadAddress {
                pod: pod.id.clone(),
                node,
                addresses,
                labels,
            })));
            format!("{} is published", pod.id)
        }
        15 => {
            let interfaces = interfaces(pod, dice);
            let text = format!("this node's interfaces are {interfaces:?}");
            live.set_host_interfaces(interfaces);
            text
        }
        16 => {
            let felix = felix(dice);
            let text = format!("told {felix:?}");
            live.apply(Update::Set(Resource::FelixConfiguration(felix)));
            text
        }
        17..20 => nodes_step(live, pod, dice),
        _ => {
            let container = dice.pick(&[None, Some("c0"), Some("c1"), Some("c9")]).map(Into::into);
            let (host_network, finished) = (dice.below(2) == 0, dice.below(2) == 0);
            let pod = Pod { host_network, finished, container, ..Pod::clone(pod) };
            let text = format!("{} is of the host, finished, or another container: {pod:?}", pod.id);
            live.apply(Update::Set(Resource::Pod(pod.into())));
            text
        }
    }
}

/// Somebody who looks at nothing but what is said to be new.
#[derive(Default)]
struct Follower {
    number: Option<u64>,
    addresses: BTreeMap<IpAddr, AddressSpec>,
    nets: BTreeMap<Cidr, Arc<Class>>,
    services: BTreeMap<Frontend, Arc<Balance>>,
    routes: BTreeMap<Cidr, NodeRoute>,
}

impl Follower {
    fn hear(&mut self, latest: Latest<'_>, history: &str) {
        let touched = latest.since(self.number);
        follow(&mut self.addresses, &latest.addresses, touched.map(|touched| &touched.addresses));
        follow(&mut self.nets, &latest.nets, touched.map(|touched| &touched.nets));
        follow(&mut self.services, &latest.services, touched.map(|touched| &touched.services));
        follow(&mut self.routes, &latest.routes, touched.map(|touched| &touched.routes));
        self.number = latest.number();
        let found = (&self.addresses, &self.nets, &self.services, &self.routes);
        assert!(
            found == (&latest.addresses, &latest.nets, &latest.services, &latest.routes),
            "followed, after:\n{history}"
        );
    }
}

fn follow<K: Ord + Clone, V: Clone>(own: &mut BTreeMap<K, V>, latest: &BTreeMap<K, V>, new: Option<&BTreeSet<K>>) {
    let is_new = |key: &K| new.is_none_or(|new| new.contains(key));
    own.retain(|key, _| !is_new(key));
    own.extend(latest.iter().filter(|(key, _)| is_new(key)).map(|(key, value)| (key.clone(), value.clone())));
}

#[test]
fn whatever_the_history_it_is_what_the_world_says_now() {
    for seed in 1..=300 {
        let mut dice = Dice(seed);
        let mut all: Vec<_> = (0..4).flat_map(|other| resources(&Case::from_seed(4 * seed + other))).collect();
        all.extend(services::resources(&mut dice));
        let mut live = Live::new(HERE.into(), false);
        live.set_profiles_told(seed % 3 == 0);
        let mut history = String::new();
        let (mut always, mut sometimes) = (Follower::default(), Follower::default());
        // Some worlds are told before the first full list is complete, some after.
        let silent = dice.below(40);
        for number in 0..80 {
            if number == silent {
                live.apply(Update::InSync);
            }
            let _ = writeln!(history, "{}", step(&mut live, &all, &mut dice));
            assert!(live.remarks().eq(&World::remarks(&live)), "seed {seed}, after:\n{history}");
            let pods = live.pods().count().max(1);
            if let Some(pod) = live.pods().nth(number % pods) {
                let (asked, wanted) = (live.addresses_of(&pod.id), World::addresses_of(&live, &pod.id));
                assert_eq!(asked, wanted, "seed {seed}: {} after:\n{history}", pod.id);
                for address in &pod.addresses {
                    let (asked, wanted) = (live.pod_at(*address), World::pod_at(&live, *address));
                    assert_eq!(asked, wanted, "seed {seed}: {address} after:\n{history}");
                }
            }
            let wanted = live.in_sync().map(crate::desired);
            let found = live.desired().cloned();
            if let Some(latest) = live.latest().filter(|_| dice.below(4) > 0) {
                always.hear(latest, &history);
                if dice.below(3) > 0 {
                    sometimes.hear(latest, &history);
                }
            }
            if found != wanted {
                panic!(
                    "seed {seed}, after:\n{history}\n{}",
                    difference(&found.unwrap_or_default(), &wanted.unwrap_or_default())
                );
            }
        }
    }
}

#[test]
fn what_is_only_supposed_is_what_the_world_would_say_and_leaves_no_trace() {
    for seed in 1..=60 {
        let mut dice = Dice(seed);
        let mut all: Vec<_> = (0..4).flat_map(|other| resources(&Case::from_seed(4 * seed + other))).collect();
        all.extend(services::resources(&mut dice));
        let mut live = Live::new(HERE.into(), false);
        live.apply(Update::InSync);
        for _ in 0..30 {
            step(&mut live, &all, &mut dice);
            let supposed: Vec<_> = (0..1 + dice.below(4))
                .map(|_| (all[dice.below(all.len())].clone(), dice.below(3) == 0))
                .map(|(each, gone)| if gone { Update::Gone(each.key()) } else { Update::Set(each) })
                .collect();
            let before = live.desired().cloned().expect("in sync");
            let mut other = (*live).clone();
            for update in &supposed {
                other.apply(update.clone());
            }
            let wanted = other.in_sync().map(crate::desired).expect("in sync");
            let found = live.supposing(supposed, |now, then| (now.clone(), then.clone()));
            assert_eq!(found, Some((before.clone(), wanted)), "seed {seed}");
            assert_eq!(live.desired(), Some(&before), "seed {seed}: afterwards");
            assert_eq!(live.in_sync().map(crate::desired).as_ref(), Some(&before), "seed {seed}: the world afterwards");
        }
    }
}

#[test]
fn cal_13_what_is_staged_is_tried_at_host_endpoints_whomever_the_staged_policy_selects_itself() {
    let (eth0, kind) = (IfaceName("eth0".into()), PolicyKind::GlobalNetworkPolicy);
    let policy = |kind, subject: Selector, stage| Policy {
        id: PolicyId { name: "p".into(), namespace: "".into(), kind },
        tier: TierName::DEFAULT.into(),
        order: Order::Unset,
        subject: subject.into(),
        layer: Layer::Ordinary { on_forward: false },
        stage,
        types: PolicyTypes { ingress: true, egress: false },
        ingress: [Rule::new(0, Action::Allow)].into(),
        egress: [].into(),
    };
    let mut live = Live::new(HERE.into(), false);
    live.set_host_interfaces([(eth0.clone(), BTreeSet::new())].into());
    live.apply(Update::Set(Resource::HostEndpoint(HostEndpoint {
        name: "h".into(),
        node: HERE.into(),
        interface: Some(HostInterface::Named(eth0.clone())),
        expected_ips: vec![],
        labels: model::Labels::new(),
        profiles: vec![],
        ports: vec![],
    })));
    live.apply(Update::Set(Resource::Policy(policy(kind, Selector::All, None).into())));
    live.apply(Update::InSync);
    let tried = |live: &mut Live| {
        let wanted = live.in_sync().map(crate::desired).expect("in sync");
        let found = live.desired().expect("in sync");
        assert_eq!(*found, wanted);
        let set = found.host_endpoints[&eth0].local.ingress.clone().expect("the node's own flows are asked about");
        set.preview.as_ref().map(|then| then.tiers.len())
    };
    assert_eq!(tried(&mut live), None);
    let staged = kind.staged().expect("it may be staged");
    let end = Resource::Policy(policy(staged, Selector::Has("nobody".into()), Some(Stage::Delete)).into());
    live.apply(Update::Set(end.clone()));
    assert_eq!(tried(&mut live), Some(0), "nothing is asked once it has ended");
    live.try_staged(false);
    assert_eq!(tried(&mut live), None, "where there is no room");
    live.try_staged(true);
    live.apply(Update::Gone(end.key()));
    assert_eq!(tried(&mut live), None);
    live.apply(Update::Set(Resource::Policy(policy(staged, Selector::All, Some(Stage::Set)).into())));
    assert_eq!(tried(&mut live), Some(1));
}

fn difference(found: &Desired, wanted: &Desired) -> String {
    let mut text = String::new();
    // Each by its name, so that none is added and left out here.
    let Desired { endpoints, addresses, nets, host_endpoints, node, services, routes, tunnel, ipip } = found;
    differ(&mut text, endpoints, &wanted.endpoints);
    differ(&mut text, addresses, &wanted.addresses);
    differ(&mut text, nets, &wanted.nets);
    differ(&mut text, host_endpoints, &wanted.host_endpoints);
    differ(&mut text, &BTreeMap::from([("node", node)]), &BTreeMap::from([("node", &wanted.node)]));
    differ(&mut text, services, &wanted.services);
    differ(&mut text, routes, &wanted.routes);
    differ(&mut text, &BTreeMap::from([("tunnel", tunnel)]), &BTreeMap::from([("tunnel", &wanted.tunnel)]));
    differ(&mut text, &BTreeMap::from([("ipip", ipip)]), &BTreeMap::from([("ipip", &wanted.ipip)]));
    text
}

fn differ<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    text: &mut String,
    found: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) {
    for key in found.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
        let (found, wanted) = (found.get(key), wanted.get(key));
        if found != wanted {
            let _ = writeln!(text, "{key:?}\n  found  {found:?}\n  wanted {wanted:?}");
        }
    }
}
