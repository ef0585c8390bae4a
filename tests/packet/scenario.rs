//! A scenario: a node, its pods and its policies, as a table's rows find them.
//! In: actors with labels and ports, manifests of policies in the model's nouns. Out: a World, and a text for failures.
//! Invariant: what the rows say is compiled and committed by the code that serves real nodes.
//! Never: writes a map.

use crate::{
    cast::{Actor, NODE},
    kernel::UPLINK,
};
use calc::World;
use model::{
    Action, Attachment, AttachmentId, Cidr, Created, Direction, EntityMatch, FelixConfiguration, FloatingIps,
    IfaceName, Labels, Layer, NamedPort, Order, Pod, PodAsks, PodId, Policy, PolicyId, PolicyKind, PolicyTypes,
    PortMatch, PortRange, Protocol, Resource, Rule, Selector, TierName, Update,
};
use std::{fmt::Write as _, net::IpAddr, sync::Arc};

/// The namespace everybody is in.
const NAMESPACE: &str = "default";

/// A pod and what is known of it.
#[derive(Clone, Debug)]
pub struct Cast {
    pub actor: Actor,
    pub labels: Labels,
    pub ports: Vec<NamedPort>,
    pub local: bool,
    /// Addresses that float to it.
    pub floating: Vec<IpAddr>,
    /// Networks by which it may send beside its own addresses.
    pub sources: Vec<Cidr>,
}

/// Pods and policies.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub cast: Vec<Cast>,
    pub policies: Vec<Policy>,
    /// What else the datastore says.
    pub others: Vec<Resource>,
    pub keep_established: bool,
}

impl Scenario {
    pub fn pod(mut self, actor: Actor, app: &str) -> Self {
        let labels = [("app".to_owned(), app.to_owned())].into();
        self.cast.push(Cast {
            actor,
            labels,
            ports: Vec::new(),
            local: true,
            floating: Vec::new(),
            sources: Vec::new(),
        });
        self
    }

    pub fn remote_pod(mut self, actor: Actor, app: &str) -> Self {
        self = self.pod(actor, app);
        self.cast.last_mut().expect("a pod was just added").local = false;
        self
    }

    /// Both addresses of `address` float to a pod.
    pub fn floating(mut self, to: Actor, address: Actor) -> Self {
        let own = self.cast.iter_mut().find(|cast| cast.actor == to).expect("the pod is of the cast");
        own.floating = address.addresses();
        let name = FelixConfiguration::DEFAULT.into();
        let felix = FelixConfiguration { name, floating_ips: Some(true), ..FelixConfiguration::default() };
        self.with(Resource::FelixConfiguration(felix))
    }

    /// A pod asks to send from these networks; `may`: FelixConfiguration allows it.
    pub fn sending_from(mut self, pod: Actor, nets: &[&str], may: bool) -> Self {
        let own = self.cast.iter_mut().find(|cast| cast.actor == pod).expect("the pod is of the cast");
        own.sources = nets.iter().map(|net| net.parse().expect("a test's network is valid")).collect();
        let name = FelixConfiguration::DEFAULT.into();
        let felix = FelixConfiguration { name, source_spoofing: Some(may), ..FelixConfiguration::default() };
        self.with(Resource::FelixConfiguration(felix))
    }

    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.retain(|old| old.id != policy.id);
        self.policies.push(policy);
        self
    }

    pub fn with(mut self, other: Resource) -> Self {
        self.others.push(other);
        self
    }

    pub fn keeping_established(mut self) -> Self {
        self.keep_established = true;
        self
    }

    pub fn local(&self) -> impl Iterator<Item = &Cast> {
        self.cast.iter().filter(|cast| cast.local)
    }

    /// What an agent on this node would know.
    pub fn world(&self) -> World {
        let mut world = World::new("node".into(), self.keep_established);
        for cast in &self.cast {
            world.apply(Update::Set(Resource::Pod(cast.pod().into())));
        }
        for policy in &self.policies {
            world.apply(Update::Set(Resource::Policy(policy.clone().into())));
        }
        for other in &self.others {
            world.apply(Update::Set(other.clone()));
        }
        for cast in self.local() {
            world.attach(cast.attachment());
        }
        world.set_host_addresses(NODE.addresses().into_iter().collect());
        world.set_host_interfaces([(IfaceName(UPLINK.into()), NODE.addresses().into_iter().collect())].into());
        world.apply(Update::InSync);
        world
    }

    /// As a failing table prints it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for cast in &self.cast {
            let place = if cast.local { "here" } else { "elsewhere" };
            let _ = writeln!(text, "  {} {:?} {:?} {place}", cast.actor.name, cast.actor.addresses(), cast.labels);
        }
        for policy in &self.policies {
            let _ = writeln!(text, "  {} to {:?}: {:?} {:?}", policy.id, policy.subject, policy.ingress, policy.egress);
        }
        text
    }
}

impl Cast {
    fn pod(&self) -> Pod {
        let node = if self.local { "node" } else { "elsewhere" };
        Pod {
            labels: self.labels.clone(),
            service_account: Some("default".into()),
            addresses: self.actor.addresses().into(),
            ports: self.ports.as_slice().into(),
            floating: (!self.floating.is_empty()).then(|| {
                let addresses = self.floating.clone();
                Box::new(FloatingIps { addresses, unread: None, created: Created::UNKNOWN })
            }),
            asks: (!self.sources.is_empty())
                .then(|| Box::new(PodAsks { sources: self.sources.clone(), ..PodAsks::default() })),
            ..Pod::bare(PodId::new(NAMESPACE, self.actor.name), Some(node.into()))
        }
    }

    pub fn attachment(&self) -> Attachment {
        Attachment {
            id: attachment_id(self.actor),
            pod: PodId::new(NAMESPACE, self.actor.name),
            host_interface: interface(self.actor),
            mac: self.actor.mac,
            addresses: self.actor.addresses(),
            mtu: 1500,
            labels: Labels::new(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: true,
            named: false,
            committed: true,
        }
    }
}

/// The identity of an actor's attachment.
pub fn attachment_id(actor: Actor) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: actor.name.into(), interface: "eth0".into() }
}

/// Host side of an actor's veth pair.
pub fn interface(actor: Actor) -> IfaceName {
    IfaceName(format!("cali{}", actor.name))
}

fn pods(app: Option<&str>) -> Arc<Selector> {
    let labels = app.map(|app| Selector::Equals("app".into(), app.into()));
    let all = [Selector::pods(), Selector::in_namespace(&NAMESPACE.into())];
    Selector::all_of(all.into_iter().chain(labels).collect()).into()
}

/// A policy for the pods of `app` (`None`: all) that isolates `directions`.
pub fn policy(name: &str, app: Option<&str>, directions: &[Direction]) -> Policy {
    Policy {
        id: PolicyId { name: name.into(), namespace: NAMESPACE.into(), kind: PolicyKind::KubernetesNetworkPolicy },
        tier: TierName::DEFAULT.into(),
        order: Order::KUBERNETES,
        subject: pods(app),
        layer: Layer::Ordinary { on_forward: false },
        stage: None,
        types: PolicyTypes {
            ingress: directions.contains(&Direction::Ingress),
            egress: directions.contains(&Direction::Egress),
        },
        ingress: [].into(),
        egress: [].into(),
    }
}

/// An allow, which `ingress` and `egress` of a policy make a rule.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    pub peer: EntityMatch,
    protocol: Option<Protocol>,
    ports: Vec<PortMatch>,
}

/// An allow for everything.
pub fn allow() -> Allow {
    Allow::default()
}

/// The parts of an allow, said after `allow()`.
pub trait Narrow {
    fn pods(self, app: &str) -> Self;
    fn net(self, cidr: &str) -> Self;
    fn port(self, protocol: Protocol, port: u16) -> Self;
    fn protocol(self, protocol: Protocol) -> Self;
}

impl Narrow for Allow {
    fn pods(mut self, app: &str) -> Self {
        self.peer.selector = Some(pods(Some(app)));
        self
    }

    fn net(mut self, cidr: &str) -> Self {
        let net = cidr.parse::<Cidr>().expect("a test's network is valid");
        self.peer.nets = Some(self.peer.nets.into_iter().flatten().chain([net]).collect());
        self
    }

    fn port(mut self, protocol: Protocol, port: u16) -> Self {
        self.protocol = Some(protocol);
        self.ports.push(PortMatch::Range(PortRange::single(port)));
        self
    }

    fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl Allow {
    fn rule(self, ends: impl Fn(EntityMatch, EntityMatch) -> (EntityMatch, EntityMatch)) -> Rule {
        let ports = (!self.ports.is_empty()).then(|| self.ports.into());
        let (source, mut destination) = ends(self.peer, EntityMatch::default());
        destination.ports = ports;
        Rule { protocol: self.protocol, source, destination, ..Rule::new(0, Action::Allow) }
    }
}

/// Rules of a policy, said after `policy()`.
pub trait Rules {
    fn ingress(self, allow: Allow) -> Self;
    fn egress(self, allow: Allow) -> Self;
}

impl Rules for Policy {
    fn ingress(mut self, allow: Allow) -> Self {
        self.ingress = self.ingress.into_iter().chain([allow.rule(|peer, own| (peer, own))]).collect();
        self
    }

    fn egress(mut self, allow: Allow) -> Self {
        self.egress = self.egress.into_iter().chain([allow.rule(|peer, own| (own, peer))]).collect();
        self
    }
}
