//! Random policies of every kind.
//! In: dice. Out: tiers' worth of policies: half as Kubernetes writes them, half as Calico may.
//! Invariant: most tests of a rule are absent, so that rules match often; each kind of test comes up often all the same.
//! Never: a rule that no converter could make.

use super::{Dice, ESP, IGMP, LABEL_VALUES, NAMESPACES, PORT_NAMES, PORTS, TIERS, pod_v4, pod_v6, strangers};
use model::{
    Action, Cidr, EntityMatch, Family, IcmpMatch, Labels, Layer, NamespaceName, Order, Policy, PolicyId, PolicyKind,
    PolicyTypes, PortMatch, PortRange, Protocol, Rule, Selector, ServiceId, Stage, TierName,
};
use std::{collections::BTreeMap, sync::Arc};

impl Dice {
    pub(super) fn policy(&mut self, number: usize) -> Policy {
        // Few names, so that ties are broken by namespace and kind as well.
        let name = self.pick(&["a", "a-b", "b"]);
        let name = if self.once_in(2) { name.to_owned() } else { format!("policy-{number}") };
        let (ingress, egress) = self.pick(&[(true, false), (false, true), (true, true)]);
        let types = PolicyTypes { ingress, egress };
        if self.once_in(2) { self.of_kubernetes(name, types) } else { self.of_calico(name, types) }
    }

    /// Every other world stages something: what somebody wrote anew, or what is to become of one that is there.
    pub(super) fn staged(&mut self, policies: &[Policy]) -> Vec<Policy> {
        if self.once_in(2) {
            return Vec::new();
        }
        let mut staged = BTreeMap::new();
        for number in 0..1 + self.below(3) {
            let fresh = self.policy(number);
            let known = policies.get(self.below(1 + policies.len())).map(|policy| policy.id.clone());
            let id = known.filter(|_| !self.once_in(3)).unwrap_or_else(|| fresh.id.clone());
            let Some(kind) = id.kind.staged() else { continue };
            let id = PolicyId { kind, ..id };
            let set = Policy { id: id.clone(), stage: Some(Stage::Set), ..fresh };
            let gone = |set: Policy| {
                let (ingress, egress) = ([].into(), [].into());
                Policy { stage: Some(Stage::Delete), subject: Selector::All.into(), ingress, egress, ..set }
            };
            staged.insert(id, if self.once_in(3) { gone(set) } else { set });
        }
        staged.into_values().collect()
    }

    fn of_kubernetes(&mut self, name: String, types: PolicyTypes) -> Policy {
        let namespace: NamespaceName = self.pick(&NAMESPACES).into();
        let own = Selector::in_namespace(&namespace);
        Policy {
            id: PolicyId { name: name.into(), namespace: namespace.clone(), kind: PolicyKind::KubernetesNetworkPolicy },
            tier: TierName::DEFAULT.into(),
            order: Order::KUBERNETES,
            subject: Selector::all_of(vec![Selector::pods(), own, self.requirements()]).into(),
            layer: Layer::Ordinary { on_forward: false },
            stage: None,
            types,
            ingress: self.kubernetes_rules(&namespace, true).into(),
            egress: self.kubernetes_rules(&namespace, false).into(),
        }
    }

    fn kubernetes_rules(&mut self, namespace: &NamespaceName, ingress: bool) -> Vec<Rule> {
        (0..self.below(5)).map(|place| self.kubernetes_rule(place as u16, namespace, ingress)).collect()
    }

    fn kubernetes_rule(&mut self, place: u16, namespace: &NamespaceName, ingress: bool) -> Rule {
        let mut rule = Rule::new(place, Action::Allow);
        let mut peer = match self.below(8) {
            0 => EntityMatch::default(),
            1..5 => EntityMatch { selector: Some(self.pods_of(namespace).into()), ..EntityMatch::default() },
            _ => self.ip_block(),
        };
        let ports = match self.below(8) {
            0 | 1 => None,
            2 | 3 => {
                rule.protocol = Some(self.pick(&Protocol::WITH_PORTS));
                None
            }
            _ => {
                rule.protocol = Some(self.pick(&Protocol::WITH_PORTS));
                Some(self.several(3, Self::port).into())
            }
        };
        if ingress {
            rule.source = peer;
            rule.destination.ports = ports;
        } else {
            peer.ports = ports;
            rule.destination = peer;
        }
        rule.unreadable = self.unreadable();
        rule
    }

    fn pods_of(&mut self, namespace: &NamespaceName) -> Selector {
        let own = Selector::in_namespace(namespace);
        let namespaces = if self.once_in(2) { own } else { self.requirements().of_namespaces() };
        Selector::all_of(vec![Selector::pods(), namespaces, self.requirements()])
    }

    fn of_calico(&mut self, name: String, types: PolicyTypes) -> Policy {
        let kinds = [PolicyKind::NetworkPolicy, PolicyKind::GlobalNetworkPolicy, PolicyKind::ClusterNetworkPolicy];
        let kind = self.pick(&kinds);
        let namespace = if kind == PolicyKind::NetworkPolicy { self.pick(&NAMESPACES) } else { "" };
        let layer =
            if kind == PolicyKind::GlobalNetworkPolicy { self.layer() } else { Layer::Ordinary { on_forward: false } };
        let is_early = layer == Layer::PreDnat;
        let orders = [Order::Unset, Order::At(-0.0), Order::At(0.0), Order::At(7.5), Order::At(1000.0)];
        Policy {
            id: PolicyId { name: name.into(), namespace: namespace.into(), kind },
            tier: self.pick(&TIERS).into(),
            order: self.pick(&orders),
            subject: self.selector(2).into(),
            layer,
            stage: None,
            types: PolicyTypes { ingress: types.ingress || is_early, egress: types.egress && !is_early },
            ingress: self.calico_rules().into(),
            egress: self.calico_rules().into(),
        }
    }

    fn layer(&mut self) -> Layer {
        let (plain, forward) = (Layer::Ordinary { on_forward: false }, Layer::Ordinary { on_forward: true });
        self.pick(&[plain, forward, forward, forward, Layer::Untracked, Layer::Untracked, Layer::PreDnat])
    }

    pub(super) fn calico_rules(&mut self) -> Vec<Rule> {
        (0..self.below(5)).map(|place| self.calico_rule(place as u16)).collect()
    }

    fn calico_rule(&mut self, place: u16) -> Rule {
        let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log];
        Rule {
            place,
            action: self.pick(&actions),
            family: self.maybe(8, |dice| dice.pick(&[Family::V4, Family::V6])),
            protocol: self.maybe(3, Self::protocol_of_rule),
            not_protocol: self.maybe(8, Self::protocol_of_rule),
            icmp: self.maybe(12, Self::icmp),
            not_icmp: self.maybe(8, Self::icmp),
            source: self.entity(true),
            destination: self.entity(false),
            service: self.maybe(10, |dice| Arc::new(dice.service())),
            annotations: Labels::new(),
            unreadable: self.unreadable(),
        }
    }

    /// The last one is nobody's.
    pub(super) fn service(&mut self) -> ServiceId {
        ServiceId { namespace: self.pick(&NAMESPACES).into(), name: self.pick(&["shop", "shop", "nothing"]).to_owned() }
    }

    fn unreadable(&mut self) -> Option<Box<str>> {
        self.maybe(25, |_| "a part of another world".into())
    }

    fn protocol_of_rule(&mut self) -> Protocol {
        let with_ports = self.pick(&Protocol::WITH_PORTS);
        self.pick(&[with_ports, with_ports, Protocol::ICMP, Protocol::ICMPV6, ESP, IGMP])
    }

    fn icmp(&mut self) -> IcmpMatch {
        IcmpMatch { kind: self.pick(&[0, 3, 8, 128]), code: self.maybe(2, |dice| dice.pick(&[0, 1])) }
    }

    fn entity(&mut self, is_source: bool) -> EntityMatch {
        if self.once_in(2) {
            return EntityMatch::default();
        }
        let ports_once_in = if is_source { 6 } else { 4 };
        EntityMatch {
            selector: self.maybe(3, |dice| dice.selector(2).into()),
            not_selector: self.maybe(6, |dice| dice.selector(1).into()),
            nodes: self.maybe(16, |dice| dice.requirements().into()),
            nets: self.maybe(4, |dice| if dice.once_in(8) { [].into() } else { dice.several(3, Self::net).into() }),
            not_nets: if self.once_in(5) { self.several(2, Self::net).into() } else { [].into() },
            ports: self.maybe(ports_once_in, |dice| dice.several(3, Self::port).into()),
            not_ports: if self.once_in(2 * ports_once_in) { self.several(2, Self::port).into() } else { [].into() },
        }
    }

    fn port(&mut self) -> PortMatch {
        if self.once_in(2) {
            return PortMatch::Named(self.pick(&PORT_NAMES).into());
        }
        let (one, other) = (self.pick(&PORTS), self.pick(&PORTS));
        let range = PortRange::new(one.min(other), one.max(other)).unwrap_or(PortRange::single(one));
        PortMatch::Range(if self.once_in(2) { PortRange::single(one) } else { range })
    }

    fn selector(&mut self, depth: usize) -> Selector {
        let parts = |dice: &mut Self| dice.several(2, |dice| dice.selector(depth - 1));
        match self.below(12) {
            0 | 1 => Selector::All,
            2 => Selector::Global,
            3 if depth > 0 => Selector::all_of(parts(self)),
            4 if depth > 0 => Selector::any_of(parts(self)),
            5 if depth > 0 => self.selector(depth - 1).negated(),
            6 => Selector::pods(),
            _ => self.requirement(),
        }
    }

    /// As Kubernetes writes them: none, one or two, joined by AND.
    fn requirements(&mut self) -> Selector {
        Selector::all_of((0..self.below(3)).map(|_| self.requirement()).collect())
    }

    fn requirement(&mut self) -> Selector {
        const KEYS: [&str; 10] = [
            "app",
            "app",
            "tier",
            "pcns.app",
            "pcns.tier",
            "pcns.projectcalico.org/name",
            "projectcalico.org/namespace",
            "kubernetes.io/metadata.name",
            "projectcalico.org/serviceaccount",
            "pcsa.app",
        ];
        let key = self.pick(&KEYS).to_owned();
        let (first, second) = (self.label_value(), self.label_value());
        match self.below(9) {
            0 | 1 => Selector::Equals(key, first),
            2 => Selector::NotEquals(key, first),
            3 => Selector::In(key, [first, second].into()),
            4 => Selector::NotIn(key, [first, second].into()),
            5 => Selector::Has(key),
            6 => Selector::StartsWith(key, first),
            7 => Selector::Contains(key, second),
            _ => Selector::has_not(key),
        }
    }

    fn label_value(&mut self) -> String {
        let own = self.pick(&LABEL_VALUES);
        self.pick(&[own, own, "x", "y", "robot"]).to_owned()
    }

    /// Exceptions often hit pods.
    fn ip_block(&mut self) -> EntityMatch {
        let nets = Some(self.several(2, Self::net).into());
        let not_nets = (0..self.below(3)).map(|_| self.net()).collect();
        EntityMatch { nets, not_nets, ..EntityMatch::default() }
    }

    pub(super) fn net(&mut self) -> Cidr {
        let v4 = self.once_in(2);
        let number = self.below(6) as u8;
        let address = match self.below(3) {
            0 => self.pick(&strangers(v4)),
            _ if v4 => pod_v4(number),
            _ => pod_v6(number),
        };
        let length = if v4 { self.pick(&[0, 8, 24, 30, 32, 32]) } else { self.pick(&[0, 16, 64, 126, 128, 128]) };
        Cidr::new(address, length).unwrap_or(Cidr::host(address))
    }
}
