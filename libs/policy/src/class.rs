//! Peer classes: the answers of one peer address to everything that rules of this node can ask.
//! In: what is active, an address or network, and the pod behind it, if there is one. Out: its [`Class`].
//! Invariant: two peers with equal answers have equal classes; a fact that no rule asks for is in none.
//! Never: decides; a class holds facts, a rule set judges them.

use crate::RuleSet;
use model::{Cidr, Labels, NamedPort, NamespaceName, PeerSelector, PortName};
use std::{collections::BTreeSet, sync::Arc};

/// Everything about a peer address that any rule of this node can ask. Two addresses with equal facts are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// Active selectors that match it.
    pub selectors: BTreeSet<Arc<PeerSelector>>,
    /// Active networks that contain it.
    pub nets: BTreeSet<Cidr>,
    /// Its named ports, of those names that an active egress rule uses.
    pub ports: BTreeSet<NamedPort>,
}

impl Class {
    /// The class of `net` (of an address: [`Cidr::host`]), where `pod` is the pod that has this address.
    #[must_use]
    pub fn of(active: &Active, net: &Cidr, pod: Option<&PodFacts>) -> Self {
        let nets = supernets(net).filter(|wider| active.nets.contains(wider)).collect();
        let Some(pod) = pod else { return Self { nets, ..Self::default() } };
        let selectors = active.selectors.iter().filter(|selector| pod.matches(selector)).cloned().collect();
        let named = |port: &&NamedPort| active.peer_port_names.contains(&port.name);
        Self { selectors, nets, ports: pod.ports.iter().filter(named).cloned().collect() }
    }
}

/// What rules may ask of a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// Its namespace.
    pub namespace: &'a NamespaceName,
    /// The labels of that namespace; `None` while no such namespace is known.
    pub namespace_labels: Option<&'a Labels>,
    /// Its own labels.
    pub labels: &'a Labels,
    /// Its named ports.
    pub ports: &'a [NamedPort],
}

impl PodFacts<'_> {
    fn matches(&self, selector: &PeerSelector) -> bool {
        selector.matches(self.namespace, self.namespace_labels, self.labels)
    }
}

/// All that the rule sets in force ask of peers. Classes are made of nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// Selectors.
    pub selectors: BTreeSet<Arc<PeerSelector>>,
    /// Networks, those of exceptions included.
    pub nets: BTreeSet<Cidr>,
    /// Port names that the peer resolves.
    pub peer_port_names: BTreeSet<PortName>,
}

impl Active {
    /// What these rule sets ask.
    #[must_use]
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a RuleSet>) -> Self {
        let mut active = Self::default();
        for set in sets {
            active.selectors.extend(set.selectors().cloned());
            active.nets.extend(set.nets().copied());
            active.peer_port_names.extend(set.peer_port_names().cloned());
        }
        active
    }
}

/// One allocation for equal selectors: policies that name the same peers share it, and so do classes.
#[derive(Clone, Debug, Default)]
pub struct Selectors(BTreeSet<Arc<PeerSelector>>);

impl Selectors {
    /// The shared copy of `selector`.
    pub fn intern(&mut self, selector: &PeerSelector) -> Arc<PeerSelector> {
        if let Some(known) = self.0.get(selector) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(selector.clone());
        self.0.insert(Arc::clone(&fresh));
        fresh
    }
}

/// `net` and every network over it: at most 33 or 129, where the active networks may be many thousands.
fn supernets(net: &Cidr) -> impl Iterator<Item = Cidr> + use<> {
    let (address, longest) = (net.network(), net.prefix_len());
    (0..=longest).filter_map(move |length| Cidr::new(address, length).ok())
}
