//! Random worlds for differential tests: small enough that rules, pods and flows meet often.
//! In: a seed. Out: a [`Case`], the same one for the same seed.
//! Invariant: every value is one that converters can make, and each shape of rule comes up often.
//! Never: judges, or knows how rules are compiled.

mod dice;
mod flows;
mod hosts;
mod policies;

pub use dice::Dice;
pub use hosts::INTERFACES;

use crate::{Endpoint, Flow, View};
use model::{
    Cidr, EndpointSlice, EndpointSliceId, Labels, NamedPort, NamespaceName, NetworkSet, NetworkSetId, Node, Order,
    PodId, Profile, Protocol, SliceEndpoint, SlicePort, Tier, TierEnd, TierName,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const ACCOUNTS: [&str; 2] = ["robot", "clerk"];
const LABEL_KEYS: [&str; 2] = ["app", "tier"];
const LABEL_VALUES: [&str; 3] = ["a", "b", "c"];
/// The last one is made by nobody.
const TIERS: [&str; 6] =
    [TierName::DEFAULT, TierName::KUBE_ADMIN, TierName::KUBE_BASELINE, "platform", "security", "nowhere"];
const PORT_NAMES: [&str; 3] = ["web", "db", "dns"];
const PORTS: [u16; 8] = [0, 53, 79, 80, 81, 84, 85, u16::MAX];
const UDPLITE: Protocol = Protocol(136);
const ESP: Protocol = Protocol(50);
const IGMP: Protocol = Protocol(2);
const FLOWS: usize = 40;

/// A world and flows through it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The world.
    pub view: View,
    /// First packets, each of one family; pods, this node and strangers on either end.
    pub flows: Vec<Flow>,
}

impl Case {
    /// The case of this seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let endpoints: Vec<_> = (0..2 + dice.below(5)).map(|number| dice.endpoint(number as u8)).collect();
        let policies = (0..dice.below(9)).map(|number| dice.policy(number)).map(|policy| (policy.id.clone(), policy));
        let mut policies: Vec<_> = policies.collect::<BTreeMap<_, _>>().into_values().collect();
        // Thrown apart, so that a seed's world is the same without them.
        policies.extend(Dice(seed ^ 0x57a6ed).staged(&policies));
        let view = View {
            namespaces: dice.namespaces(),
            accounts: dice.accounts(),
            nodes: dice.nodes(),
            endpoints,
            network_sets: (0..dice.below(4)).map(|number| dice.network_set(number)).collect(),
            slices: (0..dice.below(5)).map(|number| dice.slice(number)).collect(),
            host_endpoints: Dice(seed ^ 0x0e9d).host_endpoints(),
            failsafes: Dice(seed ^ 0xfa15).failsafes(),
            tiers: dice.tiers(),
            policies,
            profiles: dice.profiles(),
            host: vec![Cidr::host(HOST_V4.into()), Cidr::host(HOST_V6.into())],
        };
        let flows = (0..FLOWS).map(|_| dice.flow(&view)).collect();
        Self { view, flows }
    }
}

const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);

fn pod_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 65, 0, 2 + number).into()
}

fn pod_v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, 2 + u16::from(number)).into()
}

/// Addresses of no pod: one inside the pods' networks, two outside.
fn strangers(v4: bool) -> [IpAddr; 3] {
    if v4 {
        [[10, 65, 0, 14], [10, 65, 1, 9], [203, 0, 113, 7]].map(|bytes| Ipv4Addr::from(bytes).into())
    } else {
        let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into();
        [pod_v6(12), Ipv6Addr::new(0xfd65, 1, 0, 0, 0, 0, 0, 9).into(), far]
    }
}

/// The cluster.
impl Dice {
    /// One of them is now and then not known yet.
    fn namespaces(&mut self) -> BTreeMap<NamespaceName, Labels> {
        let unknown = self.below(4 * NAMESPACES.len());
        let known = NAMESPACES.iter().enumerate().filter(|(number, _)| *number != unknown);
        known.map(|(_, name)| (NamespaceName::from(*name), self.namespace_labels(name))).collect()
    }

    fn namespace_labels(&mut self, name: &str) -> Labels {
        self.labels().with([("kubernetes.io/metadata.name", name)])
    }

    fn labels(&mut self) -> Labels {
        let mut labels = BTreeMap::new();
        for key in LABEL_KEYS {
            if !self.once_in(3) {
                labels.insert(key, self.pick(&LABEL_VALUES));
            }
        }
        labels.into_iter().collect()
    }

    /// One account is now and then not known yet.
    fn accounts(&mut self) -> BTreeMap<(NamespaceName, String), Labels> {
        let mut accounts = BTreeMap::new();
        for (namespace, account) in NAMESPACES.iter().flat_map(|namespace| ACCOUNTS.map(|name| (*namespace, name))) {
            if !self.once_in(6) {
                accounts.insert((namespace.into(), account.into()), self.labels());
            }
        }
        accounts
    }

    /// Some pods have no IPv6, and some have two addresses of one family.
    fn endpoint(&mut self, number: u8) -> Endpoint {
        let addresses = match self.below(8) {
            0 | 1 => vec![pod_v4(number)],
            2 => vec![pod_v4(number), Ipv4Addr::new(10, 65, 2, 2 + number).into(), pod_v6(number)],
            _ => vec![pod_v4(number), pod_v6(number)],
        };
        let ports = Some((0..self.below(4)).map(|_| self.named_port()).collect());
        let id = PodId::new(self.pick(&NAMESPACES), &format!("p{number}"));
        let service_account = if self.once_in(8) { None } else { Some(self.pick(&ACCOUNTS).to_owned()) };
        // Now and then one that nobody has described.
        let (service_account, ports) = if self.once_in(6) { (None, None) } else { (service_account, ports) };
        // Described by an endpoint of Calico's, some name profiles, each once, and some of these are not there.
        let names = ports.is_some() && self.once_in(6);
        let profiles = names.then(|| {
            let mut named = BTreeSet::new();
            let all: Vec<_> = (0..self.below(4)).map(|_| self.endpoint_profile()).collect();
            all.into_iter().filter(|name| named.insert(name.clone())).collect()
        });
        Endpoint { id, labels: self.labels(), service_account, addresses, ports, profiles }
    }

    /// This node, and one whose address is a stranger's.
    fn nodes(&mut self) -> Vec<Node> {
        let mut node = |name: &str, addresses| Node {
            name: name.into(),
            addresses,
            labels: self.labels(),
            pod_cidrs: Vec::new(),
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        vec![
            node("here", vec![HOST_V4.into(), HOST_V6.into()]),
            node("there", vec![strangers(true)[2], strangers(false)[2]]),
        ]
    }

    fn network_set(&mut self, number: usize) -> NetworkSet {
        let namespace = if self.once_in(2) { None } else { Some(self.pick(&NAMESPACES).into()) };
        let id = NetworkSetId { namespace, name: format!("set-{number}").into() };
        NetworkSet { id, labels: self.labels(), nets: self.several(3, Self::net) }
    }

    /// Of pods, and now and then of somebody outside; several may be of one service and share addresses.
    fn slice(&mut self, number: usize) -> EndpointSlice {
        let id = EndpointSliceId { namespace: self.pick(&NAMESPACES).into(), name: format!("slice-{number}") };
        let service = if self.once_in(8) { None } else { Some(self.service()) };
        let v4 = !self.once_in(3);
        let addresses = self.several(3, |dice| match dice.below(4) {
            0 => dice.pick(&strangers(v4)),
            _ if v4 => pod_v4(dice.below(6) as u8),
            _ => pod_v6(dice.below(6) as u8),
        });
        let ports = (0..self.below(3)).map(|_| SlicePort {
            name: "".into(),
            protocol: self.pick(&Protocol::WITH_PORTS[..3]),
            port: self.pick(&PORTS[1..]),
        });
        let ports = ports.collect();
        let endpoints = addresses.into_iter().map(SliceEndpoint::ready_at).collect();
        EndpointSlice { id, service, endpoints, ports, unproxied: false }
    }

    fn tiers(&mut self) -> Vec<Tier> {
        let orders = [Order::At(-3.0), Order::At(1000.0), Order::At(1e6), Order::At(1e6 + 0.5), Order::Unset];
        let mut tier = |name: &str| Tier {
            name: name.into(),
            order: self.pick(&orders),
            end: self.pick(&[TierEnd::Deny, TierEnd::Pass]),
        };
        let mut tiers = vec![tier("platform"), tier("security")];
        if self.once_in(4) {
            // An object of a built-in tier's name says what is said without it; converters take no other.
            tiers.push(Tier::built_in()[self.below(3)].clone());
        }
        tiers
    }

    /// Mostly the ones that are implied.
    fn profiles(&mut self) -> Vec<Profile> {
        let mut profiles = Vec::new();
        for namespace in NAMESPACES.map(NamespaceName::from) {
            let names = [Profile::of_namespace(&namespace), Profile::of_account(&namespace, ACCOUNTS[0])];
            for name in names {
                if self.once_in(6) {
                    let labels = self.applied_labels();
                    profiles.push(Profile { name, labels, ingress: self.calico_rules(), egress: self.calico_rules() });
                }
            }
        }
        profiles
    }

    /// Of those that pods, namespaces and accounts have.
    fn applied_labels(&mut self) -> Labels {
        let keys = ["app", "tier", "pcns.app", "pcns.tier", "pcsa.app", "projectcalico.org/namespace"];
        (0..self.below(4)).map(|_| (self.pick(&keys).to_owned(), self.pick(&LABEL_VALUES).to_owned())).collect()
    }

    fn named_port(&mut self) -> NamedPort {
        let name = self.pick(&PORT_NAMES).into();
        NamedPort { name, protocol: self.pick(&Protocol::WITH_PORTS), port: self.pick(&PORTS) }
    }
}
