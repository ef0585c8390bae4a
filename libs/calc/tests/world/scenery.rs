//! Pods, policies and nodes of the tests, and worlds that hold them.
//! In: short descriptions. Out: facts that can be told to a World and taken back.
//! Invariant: a fact has one key; telling another with the same key replaces it.
//! Never: a default that a test could depend on without saying so.

use calc::World;
use model::{
    Action, Attachment, AttachmentId, Cidr, Created, EndpointSlice, EndpointSliceId, EntityMatch, HostEndpoint,
    HostInterface, IfaceName, Labels, Layer, Mac, NamedPort, Namespace, NetworkSet, NetworkSetId, Node, Order, Pod,
    PodId, Policy, PolicyId, PolicyKind, PolicyTypes, PortMatch, Profile, Protocol, Resource, Rule, Selector, Service,
    ServiceAccount, ServiceId, ServiceKind, ServicePort, SliceEndpoint, SlicePort, Tier, TierEnd, TierName,
    TrafficPolicy, Update, WorkloadAddress,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// The node that worlds are seen from.
pub const HERE: &str = "n1";
/// Another node.
pub const THERE: &str = "n2";

/// Something a World can be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    Object(Resource),
    Attached(Attachment),
    Host(BTreeSet<IpAddr>),
    Interfaces(BTreeMap<IfaceName, BTreeSet<IpAddr>>),
}

impl Fact {
    pub fn key(&self) -> String {
        match self {
            Self::Object(resource) => resource.key().to_string(),
            Self::Attached(attachment) => format!("attachment {}", attachment.id),
            Self::Host(_) => "host".to_owned(),
            Self::Interfaces(_) => "interfaces".to_owned(),
        }
    }

    /// `false`: the World calls it no news.
    pub fn tell(self, world: &mut World) -> bool {
        match self {
            Self::Object(resource) => return world.apply(Update::Set(resource)),
            Self::Attached(attachment) => world.attach(attachment),
            Self::Host(addresses) => world.set_host_addresses(addresses),
            Self::Interfaces(interfaces) => world.set_host_interfaces(interfaces),
        }
        true
    }

    pub fn take_back(self, world: &mut World) -> bool {
        match self {
            Self::Object(resource) => return world.apply(Update::Gone(resource.key())),
            Self::Attached(attachment) => drop(world.detach(&attachment.id)),
            Self::Host(_) => world.set_host_addresses(BTreeSet::new()),
            Self::Interfaces(_) => world.set_host_interfaces(BTreeMap::new()),
        }
        true
    }
}

/// A whole state of the world.
#[derive(Clone, Debug, Default)]
pub struct State(pub BTreeMap<String, Fact>);

impl State {
    pub fn of(facts: impl IntoIterator<Item = Fact>) -> Self {
        Self::default().plus(facts)
    }

    pub fn plus(&self, facts: impl IntoIterator<Item = Fact>) -> Self {
        let mut state = self.clone();
        state.0.extend(facts.into_iter().map(|fact| (fact.key(), fact)));
        state
    }

    pub fn without(&self, key: &str) -> Self {
        let mut state = self.clone();
        state.0.remove(key).expect("only what is there is taken away");
        state
    }

    pub fn world(&self) -> World {
        let mut world = empty_world();
        for fact in self.0.values() {
            fact.clone().tell(&mut world);
        }
        world
    }
}

/// In sync, and nothing in it.
pub fn empty_world() -> World {
    let mut world = World::new(HERE.into(), false);
    world.apply(Update::InSync);
    world
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("the test's address is one")
}

pub fn net(text: &str) -> Cidr {
    text.parse().expect("the test's network is one")
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A pod's manifest, `namespace/name`, with the label `app`.
pub fn manifest(pod: &str, app: &str, addresses: &[&str]) -> Pod {
    Pod {
        labels: labels(&[("app", app)]),
        service_account: Some("default".into()),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        ..Pod::bare(pod_id(pod), None)
    }
}

pub fn pod(pod: Pod) -> Fact {
    Fact::Object(Resource::Pod(pod.into()))
}

pub fn pod_id(text: &str) -> PodId {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PodId::new(namespace, name)
}

pub fn port(name: &str, number: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol: Protocol::TCP, port: number }
}

pub fn namespace(name: &str, pairs: &[(&str, &str)]) -> Fact {
    let labels = labels(pairs).with([("kubernetes.io/metadata.name", name)]);
    Fact::Object(Resource::Namespace(Namespace { name: name.into(), labels, asks: None }))
}

pub fn attachment_id(pod: &str) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: pod.replace('/', "-"), interface: "eth0".into() }
}

/// A committed attachment whose runtime labels are `app=args`.
pub fn attachment(pod: &str, addresses: &[&str]) -> Attachment {
    Attachment {
        id: attachment_id(pod),
        pod: pod_id(pod),
        host_interface: IfaceName(format!("cali{}", pod.replace('/', ""))),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        mtu: 1450,
        labels: labels(&[("app", "args")]),
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: true,
        named: false,
        committed: true,
    }
}

pub fn attached(pod: &str, addresses: &[&str]) -> Fact {
    Fact::Attached(attachment(pod, addresses))
}

pub fn published(pod: &str, node: &str, app: &str, addresses: &[&str]) -> Fact {
    Fact::Object(Resource::WorkloadAddress(WorkloadAddress {
        pod: pod_id(pod),
        node: node.into(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        labels: labels(&[("app", app)]),
    }))
}

pub fn host(addresses: &[&str]) -> Fact {
    Fact::Host(addresses.iter().map(|text| address(text)).collect())
}

pub fn app(value: &str) -> Selector {
    Selector::Equals("app".into(), value.into())
}

/// Pods of one namespace.
pub fn pods_in(namespace: &str, pods: Selector) -> EntityMatch {
    selected(Selector::in_namespace(&namespace.into()), pods)
}

/// Pods of namespaces with these labels.
pub fn pods_of(namespaces: Selector, pods: Selector) -> EntityMatch {
    selected(namespaces.of_namespaces(), pods)
}

fn selected(namespaces: Selector, pods: Selector) -> EntityMatch {
    EntityMatch { selector: Some(kubernetes(namespaces, pods)), ..EntityMatch::default() }
}

fn kubernetes(namespaces: Selector, pods: Selector) -> Arc<Selector> {
    Selector::all_of(vec![Selector::pods(), namespaces, pods]).into()
}

pub fn nets(nets: &[&str], not_nets: &[&str]) -> EntityMatch {
    let all = |texts: &[&str]| texts.iter().map(|text| net(text)).collect();
    EntityMatch { nets: Some(all(nets)), not_nets: all(not_nets), ..EntityMatch::default() }
}

/// Lets this source in.
pub fn allow(source: EntityMatch) -> Rule {
    Rule { source, ..Rule::new(0, Action::Allow) }
}

/// Lets this port be reached.
pub fn allow_named_port(name: &str) -> Rule {
    let ports = Some([PortMatch::Named(name.into())].into());
    let destination = EntityMatch { ports, ..EntityMatch::default() };
    Rule { protocol: Some(Protocol::TCP), destination, ..Rule::new(0, Action::Allow) }
}

/// `namespace/name` for the pods with this `app`, isolating both directions.
pub fn policy(id: &str, subject: Selector, ingress: Vec<Rule>, egress: Vec<Rule>) -> Policy {
    let PodId { namespace, name } = pod_id(id);
    Policy {
        subject: kubernetes(Selector::in_namespace(&namespace), subject),
        id: PolicyId { name, namespace, kind: PolicyKind::KubernetesNetworkPolicy },
        tier: TierName::DEFAULT.into(),
        order: Order::KUBERNETES,
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types: PolicyTypes { ingress: true, egress: true },
        ingress: ingress.into(),
        egress: egress.into(),
    }
}

pub fn enforced(policy: Policy) -> Fact {
    Fact::Object(Resource::Policy(policy.into()))
}

/// A policy of Calico's for every pod, in a tier, isolating both directions.
pub fn global(tier: &str, name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Policy {
    Policy {
        id: PolicyId { name: name.into(), namespace: "".into(), kind: PolicyKind::GlobalNetworkPolicy },
        tier: tier.into(),
        order: Order::Unset,
        subject: Selector::pods().into(),
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types: PolicyTypes { ingress: true, egress: true },
        ingress: ingress.into(),
        egress: egress.into(),
    }
}

/// A host endpoint of this node, with the label `role`: of an interface, `*`, or where there is none, of what has this address.
pub fn host_endpoint(name: &str, interface: Option<&str>, expected: &[&str], role: &str) -> HostEndpoint {
    let interface = interface.map(|interface| match interface {
        "*" => HostInterface::Any,
        name => HostInterface::Named(IfaceName(name.into())),
    });
    HostEndpoint {
        name: name.into(),
        node: HERE.into(),
        interface,
        expected_ips: expected.iter().map(|text| address(text)).collect(),
        labels: labels(&[("role", role)]),
        profiles: Vec::new(),
        ports: Vec::new(),
    }
}

pub fn hosted(host: HostEndpoint) -> Fact {
    Fact::Object(Resource::HostEndpoint(host))
}

/// This node's own interfaces, each with its addresses.
pub fn interfaces(all: &[(&str, &[&str])]) -> Fact {
    let addresses = |texts: &[&str]| texts.iter().map(|text| address(text)).collect();
    Fact::Interfaces(all.iter().map(|(name, texts)| (IfaceName((*name).into()), addresses(texts))).collect())
}

pub fn tier(name: &str, order: f64, end: TierEnd) -> Fact {
    Fact::Object(Resource::Tier(Tier { name: name.into(), order: Order::At(order), end }))
}

/// A set with the label `role`.
pub fn network_set(namespace: Option<&str>, name: &str, role: &str, nets: &[&str]) -> Fact {
    let id = NetworkSetId { namespace: namespace.map(Into::into), name: name.into() };
    let nets = nets.iter().map(|text| net(text)).collect();
    Fact::Object(Resource::NetworkSet(NetworkSet { id, labels: labels(&[("role", role)]), nets }.into()))
}

/// A node with the label `rack`.
pub fn node(name: &str, rack: &str, addresses: &[&str]) -> Fact {
    let addresses = addresses.iter().map(|text| address(text)).collect();
    Fact::Object(Resource::Node(Node {
        name: name.into(),
        addresses,
        labels: labels(&[("rack", rack)]),
        pod_cidrs: vec![],
        bgp: Default::default(),
        vteps: Default::default(),
        told: Default::default(),
    }))
}

/// A service of shop with port 80 at these addresses, and at node port 30080.
pub fn service(name: &str, cluster_ips: &[&str], external_ips: &[&str], created: &str) -> Fact {
    let addresses = |texts: &[&str]| texts.iter().map(|text| address(text)).collect();
    let port = ServicePort { name: String::new(), protocol: Protocol::TCP, port: 80, node_port: Some(30080) };
    let service = Service {
        created: Created::read(created),
        cluster_ips: addresses(cluster_ips),
        external_ips: addresses(external_ips),
        ports: [port].into(),
        external: TrafficPolicy::Local,
        ..Service::bare(ServiceId { namespace: "shop".into(), name: name.into() }, ServiceKind::NodePort)
    };
    Fact::Object(Resource::Service(service.into()))
}

/// A slice of a service of shop: endpoints on this node, at port 8080.
pub fn slice(name: &str, service: &str, endpoints: &[&str]) -> Fact {
    let endpoint = |text: &&str| SliceEndpoint { node: Some(HERE.into()), ..SliceEndpoint::ready_at(address(text)) };
    let slice = EndpointSlice {
        id: EndpointSliceId { namespace: "shop".into(), name: name.into() },
        service: Some(ServiceId { namespace: "shop".into(), name: service.into() }),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: [SlicePort { name: "".into(), protocol: Protocol::TCP, port: 8080 }].into(),
        unproxied: false,
    };
    Fact::Object(Resource::EndpointSlice(slice.into()))
}

pub fn account(namespace: &str, name: &str, pairs: &[(&str, &str)]) -> Fact {
    let labels = labels(pairs);
    Fact::Object(Resource::ServiceAccount(ServiceAccount { namespace: namespace.into(), name: name.into(), labels }))
}

pub fn profile(name: &str, ingress: Vec<Rule>) -> Fact {
    Fact::Object(Resource::Profile(Profile { name: name.into(), labels: Labels::new(), ingress, egress: Vec::new() }))
}

/// Calico's grammar.
pub fn written(selector: &str) -> Arc<Selector> {
    Arc::new(selector.parse().expect("the test's selector is one"))
}

/// One end of a rule: what this selector, in Calico's grammar, finds.
pub fn found_by(selector: &str) -> EntityMatch {
    EntityMatch { selector: Some(written(selector)), ..EntityMatch::default() }
}

/// One end of a rule: nodes.
pub fn nodes_by(selector: &str) -> EntityMatch {
    EntityMatch { nodes: Some(written(selector)), ..EntityMatch::default() }
}
