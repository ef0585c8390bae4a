//! Policy: who may talk to whom, as written, with names not yet resolved.
//! In: converted NetworkPolicies (Calico's and cluster policies come into the same shapes).
//! Out: ordered policies of ordered rules.
//! Invariant: a rule part that could not be read stays in its place, in the restrictive reading (`Rule::unreadable`).
//! Never: holds addresses of pods; a selector names them.

use crate::{Cidr, Incomplete, Labels, NamespaceName, PolicyId, PortName, PortRange, Protocol, Selector};
use std::fmt;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let through; nothing further is asked in this direction.
    Allow,
    /// Refuse.
    Deny,
}

/// From the endpoint's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What comes to it.
    Ingress,
    /// What it sends.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Precedence within a tier: lower first, unset last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// A given order.
    At(i64),
    /// No order given: after all others.
    Unset,
}

impl Order {
    /// Where Kubernetes NetworkPolicies stand (CAL-16; libcalico-go conversion.go).
    pub const KUBERNETES: Self = Self::At(1000);
}

/// Which directions a policy isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyTypes {
    /// Ingress is isolated.
    pub ingress: bool,
    /// Egress is isolated.
    pub egress: bool,
}

/// Which namespaces a peer may be in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceMatch {
    /// Exactly this one.
    Named(NamespaceName),
    /// Those whose labels match.
    Labelled(Selector),
}

/// Pods by namespace and labels; both must match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSelector {
    /// Their namespaces.
    pub namespaces: NamespaceMatch,
    /// Their own labels.
    pub pods: Selector,
}

impl PeerSelector {
    /// Whether a pod with these labels, in this namespace, matches. `None`: a namespace of which nothing is known but its
    /// name, and the label that the API server makes of it (NP-41). Such a one matches only what it would match whatever
    /// its other labels are: `NotIn` would otherwise open to what is not yet said.
    #[must_use]
    pub fn matches(&self, namespace: &NamespaceName, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        let namespace_matches = match &self.namespaces {
            NamespaceMatch::Named(name) => name == namespace,
            NamespaceMatch::Labelled(selector) => match namespace_labels {
                Some(labels) => selector.matches(labels).surely(),
                None => selector.matches(&Incomplete(&name_label(namespace))).surely(),
            },
        };
        namespace_matches && self.pods.matches(labels).surely()
    }
}

impl fmt::Display for NamespaceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "namespace {name}"),
            Self::Labelled(Selector::All) => f.write_str("any namespace"),
            Self::Labelled(selector) => write!(f, "namespaces with {selector}"),
        }
    }
}

impl fmt::Display for PeerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pods {
            Selector::All => write!(f, "{}: all pods", self.namespaces),
            pods => write!(f, "{}: pods with {pods}", self.namespaces),
        }
    }
}

/// All that is known of a namespace nobody described.
fn name_label(namespace: &NamespaceName) -> Labels {
    [("kubernetes.io/metadata.name".to_owned(), namespace.0.clone())].into()
}

/// The other end of a rule. Every part that is given must match; nothing given matches everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerMatch {
    /// Pods that match. Host-network pods never do.
    pub selector: Option<PeerSelector>,
    /// Any of these networks; empty: any address.
    pub nets: Vec<Cidr>,
    /// None of these networks.
    pub not_nets: Vec<Cidr>,
}

/// Destination ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// By number.
    Range(PortRange),
    /// By the name of a container port of the destination, with the rule's protocol (NP-67, NP-68).
    Named(PortName),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Index of the rule in the object's own list for the direction: what users are told. Several rules may share one,
    /// since one written rule becomes one rule per peer and port entry.
    pub place: u16,
    /// What happens to what matches.
    pub action: Action,
    /// Only this protocol; `None`: any.
    pub protocol: Option<Protocol>,
    /// Any of these destination ports; empty: any. Only together with a protocol that has ports.
    pub ports: Vec<PortMatch>,
    /// The other end.
    pub peer: PeerMatch,
    /// Why the rule could not be read. An unreadable allow matches nothing, an unreadable deny everything.
    pub unreadable: Option<String>,
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// Its place.
    pub order: Order,
    /// The pods it applies to.
    pub subject: PeerSelector,
    /// The directions it isolates.
    pub types: PolicyTypes,
    /// Rules for what comes to the subject.
    pub ingress: Vec<Rule>,
    /// Rules for what the subject sends.
    pub egress: Vec<Rule>,
}

impl Policy {
    /// Whether it isolates in this direction.
    #[must_use]
    pub fn applies(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.types.ingress,
            Direction::Egress => self.types.egress,
        }
    }

    /// Its rules in this direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reads_as_its_namespaces_and_its_pods() {
        let app = || Selector::Equals("app".into(), "web".into());
        let named = PeerSelector { namespaces: NamespaceMatch::Named("shop".into()), pods: app() };
        assert_eq!(named.to_string(), "namespace shop: pods with app == \"web\"");
        let labelled = PeerSelector { namespaces: NamespaceMatch::Labelled(app()), pods: Selector::All };
        assert_eq!(labelled.to_string(), "namespaces with app == \"web\": all pods");
        let any = PeerSelector { namespaces: NamespaceMatch::Labelled(Selector::All), pods: app() };
        assert_eq!(any.to_string(), "any namespace: pods with app == \"web\"");
    }
}
