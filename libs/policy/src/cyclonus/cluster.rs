//! A cluster that cases happen in: three namespaces with three pods each, all serving ports 80 and 81 of three protocols.
//! In: changes. Out: what is there, as the evaluator sees it, and every flow between any two pods.
//! Invariant: a pod's address follows from its name, so that one that comes again has the one it had.
//! Never: says what policies mean.

use super::{ClusterNetworkPolicy, Name, NetworkPolicy};
use crate::{Endpoint, Flow, View};
use model::{NamedPort, PodId, Policy, Protocol};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The protocols that pods serve.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
/// The ports they serve of each, as `serve-PORT-PROTOCOL`.
pub const PORTS: [u16; 2] = [80, 81];
/// The label that every namespace has.
pub const NAMESPACE_NAME: Name = "kubernetes.io/metadata.name";
const NAMESPACES: [Name; 5] = ["x", "y", "z", "y-2", "w"];
const PODS: [Name; 4] = ["a", "b", "c", "d"];

/// Labels as cases give them.
pub type Given = BTreeMap<Name, Name>;

/// What happens.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy is there, or is this one now.
    Policy(NetworkPolicy),
    /// No policy of this namespace and name.
    NoPolicy(Name, Name),
    /// A policy is there.
    ClusterPolicy(ClusterNetworkPolicy),
    /// A namespace is there, or has these labels now.
    Namespace(Name, Vec<(Name, Name)>),
    /// No such namespace, nor what was in it.
    NoNamespace(Name),
    /// A pod of this namespace and name is there, or has these labels now.
    Pod(Name, Name, Vec<(Name, Name)>),
    /// No such pod.
    NoPod(Name, Name),
}

/// What is there.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) namespaces: BTreeMap<Name, Given>,
    pub(super) pods: BTreeMap<(Name, Name), Given>,
    pub(super) policies: BTreeMap<(Name, Name), NetworkPolicy>,
    pub(super) cluster_policies: Vec<ClusterNetworkPolicy>,
}

impl Default for Cluster {
    fn default() -> Self {
        let (namespaces, pods) = (&NAMESPACES[..3], &PODS[..3]);
        let all = namespaces.iter().flat_map(|namespace| pods.iter().map(move |pod| (*namespace, *pod)));
        let mut cluster = Self {
            namespaces: BTreeMap::new(),
            pods: all.map(|(namespace, pod)| ((namespace, pod), Given::from([("pod", pod)]))).collect(),
            policies: BTreeMap::new(),
            cluster_policies: Vec::new(),
        };
        namespaces.iter().for_each(|name| cluster.apply(&Change::Namespace(name, vec![("ns", name)])));
        cluster
    }
}

impl Cluster {
    /// Takes in a change.
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Policy(policy) => drop(self.policies.insert((policy.namespace, policy.name), policy)),
            Change::NoPolicy(namespace, name) => drop(self.policies.remove(&(namespace, name))),
            Change::ClusterPolicy(policy) => self.cluster_policies.push(policy),
            Change::Namespace(name, labels) => {
                let own = [(NAMESPACE_NAME, name)];
                self.namespaces.insert(name, labels.into_iter().chain(own).collect());
            }
            Change::NoNamespace(name) => {
                self.namespaces.remove(name);
                self.pods.retain(|(namespace, _), _| *namespace != name);
                self.policies.retain(|(namespace, _), _| *namespace != name);
            }
            Change::Pod(namespace, name, labels) => {
                self.pods.insert((namespace, name), labels.into_iter().collect());
            }
            Change::NoPod(namespace, name) => drop(self.pods.remove(&(namespace, name))),
        }
    }

    /// Its policies, to be read.
    #[must_use]
    pub fn manifests(&self) -> Vec<String> {
        let of_clusters = self.cluster_policies.iter().map(ClusterNetworkPolicy::manifest);
        self.policies.values().map(NetworkPolicy::manifest).chain(of_clusters).collect()
    }

    /// What the evaluator sees, with these policies.
    #[must_use]
    pub fn view(&self, policies: Vec<Policy>) -> View {
        let owned =
            |labels: &Given| labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let endpoint = |((namespace, name), labels): (&(Name, Name), &Given)| Endpoint {
            id: PodId::new(namespace, name),
            labels: owned(labels),
            service_account: Some("default".to_owned()),
            addresses: [true, false].map(|v4| address(namespace, name, v4)).to_vec(),
            ports: Some(ports().collect()),
            profiles: None,
        };
        View {
            namespaces: self.namespaces.iter().map(|(name, labels)| ((*name).into(), owned(labels))).collect(),
            endpoints: self.pods.iter().map(endpoint).collect(),
            policies,
            ..View::default()
        }
    }

    /// From each pod to each, itself included, at these ports of all protocols.
    pub fn flows(&self, v4: bool, ports: &[u16]) -> impl Iterator<Item = Flow> {
        let at = |(namespace, name): &(Name, Name)| address(namespace, name, v4);
        let pods: Vec<IpAddr> = self.pods.keys().map(at).collect();
        let what: Vec<_> = PROTOCOLS.into_iter().flat_map(|one| ports.iter().map(move |port| (one, *port))).collect();
        let pairs: Vec<_> = pods.iter().flat_map(|from| pods.iter().map(|to| (*from, *to))).collect();
        pairs.into_iter().flat_map(move |(source, destination)| {
            let flow = move |(protocol, detail)| Flow { source, destination, protocol, detail, source_port: 40_000 };
            what.clone().into_iter().map(flow)
        })
    }
}

/// The ports that a pod names.
pub(super) fn ports() -> impl Iterator<Item = NamedPort> {
    PROTOCOLS.into_iter().flat_map(|protocol| {
        PORTS.map(|port| {
            let name = format!("serve-{port}-{}", protocol.to_string().to_lowercase());
            NamedPort { name: name.as_str().into(), protocol, port }
        })
    })
}

/// Pods of one namespace lie in one /24, two of them in each /28.
#[must_use]
pub fn address(namespace: Name, pod: Name, v4: bool) -> IpAddr {
    let place =
        |names: &[Name], name| names.iter().position(|known| *known == name).expect("because cases name these") as u8;
    let (third, fourth) = (1 + place(&NAMESPACES, namespace), 5 + 8 * place(&PODS, pod));
    if v4 {
        Ipv4Addr::new(10, 65, third, fourth).into()
    } else {
        Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, 0, u16::from_be_bytes([third, fourth])).into()
    }
}
