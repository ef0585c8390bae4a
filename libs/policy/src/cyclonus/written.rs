//! NetworkPolicies and ClusterNetworkPolicies as people write them, as far as the cases need them.
//! In: values. Out: manifests.
//! Invariant: every way to say a thing that the API knows apart (left out, empty, given) is another value.
//! Never: what it means; that is `meaning`.

use model::{Cidr, Protocol};
use std::fmt;

/// A name, a label's key or its value.
pub type Name = &'static str;

/// A label selector; all that it asks for must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `matchLabels`.
    pub labels: Vec<(Name, Name)>,
    /// `matchExpressions`: a key, whether its value is one of these or none of them.
    pub expressions: Vec<(Name, bool, Vec<Name>)>,
}

impl Wanted {
    /// One label.
    #[must_use]
    pub fn label(key: Name, value: Name) -> Self {
        Self { labels: vec![(key, value)], ..Self::default() }
    }

    /// `In`, or `NotIn`.
    #[must_use]
    pub fn among(key: Name, is_in: bool, values: &[Name]) -> Self {
        Self { expressions: vec![(key, is_in, values.to_vec())], ..Self::default() }
    }
}

/// Whom a rule asks for.
#[derive(Clone, Debug)]
pub enum Peer {
    /// By labels; one of the two is given.
    Pods {
        /// `podSelector`.
        pods: Option<Wanted>,
        /// `namespaceSelector`.
        namespaces: Option<Wanted>,
    },
    /// `ipBlock`.
    Block {
        /// `cidr`.
        net: Cidr,
        /// `except`.
        except: Vec<Cidr>,
    },
}

/// A port's number or name.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// From the first to the last.
    Range(u16, u16),
    /// As the pod calls it.
    Named(Name),
}

/// What of a peer a rule asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port {
    /// `protocol`.
    pub protocol: Option<Protocol>,
    /// `port`, and `endPort` where it is another.
    pub number: Option<Number>,
}

/// A rule of a NetworkPolicy.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    /// `from` or `to`.
    pub peers: Vec<Peer>,
    /// `ports`.
    pub ports: Vec<Port>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// `podSelector`.
    pub pods: Wanted,
    /// Its rules, where it is asked in this direction.
    pub ingress: Option<Vec<Allow>>,
    /// Its rules, where it is asked in this direction.
    pub egress: Option<Vec<Allow>>,
}

/// What a rule of a ClusterNetworkPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets in.
    Accept,
    /// Refuses.
    Deny,
    /// Asks no further rule of the tier.
    Pass,
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug)]
pub struct Decide {
    /// What it does.
    pub action: Action,
    /// `from` or `to`; blocks in `to` alone.
    pub peers: Vec<Peer>,
    /// `protocols`; each has a number, and all but names a protocol.
    pub ports: Vec<Port>,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Name,
    /// Tier `Admin`; else `Baseline`.
    pub is_admin: bool,
    /// `priority`.
    pub priority: u16,
    /// `subject`: pods of namespaces.
    pub subject: (Wanted, Wanted),
    /// Its rules.
    pub ingress: Vec<Decide>,
    /// Its rules.
    pub egress: Vec<Decide>,
}

impl NetworkPolicy {
    /// As it is applied.
    #[must_use]
    pub fn manifest(&self) -> String {
        let Self { namespace, name, pods, ingress, egress } = self;
        let section = |rules: &Option<Vec<Allow>>, kind: &str, field: &str, peers: &str| {
            let said =
                |rule: &Allow| format!("{{{peers}: [{}], ports: [{}]}}", joined(&rule.peers), joined(&rule.ports));
            let rules = rules.as_ref().map(|rules| listed(rules.iter().map(said)));
            rules.map_or_else(Default::default, |rules| (Some(kind.to_owned()), format!(", {field}: [{rules}]")))
        };
        let (into, ingress) = section(ingress, "Ingress", "ingress", "from");
        let (out, egress) = section(egress, "Egress", "egress", "to");
        let types = listed(into.into_iter().chain(out));
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name:?}, namespace: {namespace:?}}}, \
             spec: {{podSelector: {pods}, policyTypes: [{types}]{ingress}{egress}}}}}"
        )
    }
}

impl ClusterNetworkPolicy {
    /// As it is applied.
    #[must_use]
    pub fn manifest(&self) -> String {
        let Self { name, is_admin, priority, subject: (namespaces, pods), ingress, egress } = self;
        let section = |rules: &[Decide], field: &str, peers: &str| {
            let said = |rule: &Decide| {
                let whom = listed(rule.peers.iter().map(in_cluster));
                let what = listed(rule.ports.iter().map(protocol));
                let what = if what.is_empty() { what } else { format!(", protocols: [{what}]") };
                format!("{{action: {:?}, {peers}: [{whom}]{what}}}", rule.action)
            };
            if rules.is_empty() { String::new() } else { format!(", {field}: [{}]", listed(rules.iter().map(said))) }
        };
        let (ingress, egress) = (section(ingress, "ingress", "from"), section(egress, "egress", "to"));
        let tier = if *is_admin { "Admin" } else { "Baseline" };
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name:?}}}, \
             spec: {{tier: {tier}, priority: {priority}, \
             subject: {{pods: {{namespaceSelector: {namespaces}, podSelector: {pods}}}}}{ingress}{egress}}}}}"
        )
    }
}

fn in_cluster(peer: &Peer) -> String {
    match peer {
        Peer::Pods { pods: None, namespaces } => format!("{{namespaces: {}}}", given(namespaces)),
        Peer::Pods { pods: Some(pods), namespaces } => {
            format!("{{pods: {{namespaceSelector: {}, podSelector: {pods}}}}}", given(namespaces))
        }
        Peer::Block { net, .. } => format!("{{networks: [\"{net}\"]}}"),
    }
}

fn given(wanted: &Option<Wanted>) -> Wanted {
    wanted.clone().unwrap_or_default()
}

fn protocol(port: &Port) -> String {
    let protocol = port.protocol.map(|protocol| protocol.to_string().to_lowercase());
    match (protocol, port.number) {
        (_, Some(Number::Named(name))) => format!("{{destinationNamedPort: {name:?}}}"),
        (Some(protocol), Some(Number::Range(first, last))) if first == last => {
            format!("{{{protocol}: {{destinationPort: {{number: {first}}}}}}}")
        }
        (Some(protocol), number) => {
            let (first, last) =
                if let Some(Number::Range(first, last)) = number { (first, last) } else { (1, u16::MAX) };
            format!("{{{protocol}: {{destinationPort: {{range: {{start: {first}, end: {last}}}}}}}}}")
        }
        (None, _) => unreachable!("the cases give a protocol with each number"),
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = listed(self.labels.iter().map(|(key, value)| format!("{key:?}: {value:?}")));
        let operator = |is_in: bool| if is_in { "In" } else { "NotIn" };
        let expressions = listed(self.expressions.iter().map(|(key, is_in, values)| {
            format!("{{key: {key:?}, operator: {}, values: {values:?}}}", operator(*is_in))
        }));
        let labels =
            Some(labels).filter(|labels| !labels.is_empty()).map(|labels| format!("matchLabels: {{{labels}}}"));
        let expressions =
            Some(expressions).filter(|all| !all.is_empty()).map(|all| format!("matchExpressions: [{all}]"));
        write!(f, "{{{}}}", listed(labels.into_iter().chain(expressions)))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { pods, namespaces } => {
                let pods = pods.as_ref().map(|wanted| format!("podSelector: {wanted}"));
                let namespaces = namespaces.as_ref().map(|wanted| format!("namespaceSelector: {wanted}"));
                write!(f, "{{{}}}", listed(pods.into_iter().chain(namespaces)))
            }
            Self::Block { net, except } => {
                let except = listed(except.iter().map(|net| format!("\"{net}\"")));
                write!(f, "{{ipBlock: {{cidr: \"{net}\", except: [{except}]}}}}")
            }
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.map(|protocol| format!("protocol: {protocol}"));
        let number = self.number.map(|number| match number {
            Number::Named(name) => format!("port: {name:?}"),
            Number::Range(first, last) if first == last => format!("port: {first}"),
            Number::Range(first, last) => format!("port: {first}, endPort: {last}"),
        });
        write!(f, "{{{}}}", listed(protocol.into_iter().chain(number)))
    }
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    listed(items.iter().map(ToString::to_string))
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
