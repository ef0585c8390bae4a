//! The compiled answer without a kernel: a view's rule sets and classes, and a flow judged by their rows.
//! In: a [`View`] and flows. Out: the same [`Outcome`] that the evaluator gives, read from rows.
//! Invariant: walks as a program does: pod by address, class by address, span by `x`.
//! Never: reads a policy when it judges; only what is left of it in a rule set.

use crate::{
    Active, Class, Endpoint, EndpointProfile, Flow, Hit, HostFacts, HostLayer, HostSubject, Judgement, NodeFacts,
    Outcome, OwnAddresses, PodFacts, Preview, RuleSet, Rulebook, Selectors, SetFacts, Subject, Surroundings, Verdict,
    View, row, staged::spoken_of,
};
use model::{Cidr, Direction, EffectiveLabels, HostEndpoint, HostInterface, Parent, Profile};
use std::{collections::BTreeMap, net::IpAddr};

/// What a node that had all pods of the view would hold.
#[derive(Debug)]
pub struct Compiled<'a> {
    view: &'a View,
    /// Ingress and egress rule sets, by place in `view.endpoints`.
    pub sets: Vec<(RuleSet, RuleSet)>,
    /// What is asked at host endpoints, by place in `view.host_endpoints`.
    pub at_hosts: Vec<BTreeMap<(HostLayer, Direction), RuleSet>>,
    /// What the rule sets ask of addresses.
    pub active: Active,
}

impl<'a> Compiled<'a> {
    /// Builds every rule set of the view.
    #[must_use]
    pub fn of(view: &'a View) -> Self {
        let book = Rulebook::of(&view.tiers, &view.policies);
        let replaced = spoken_of(&view.policies);
        let staged = Rulebook::if_enforced(&view.tiers, &view.policies, |id| replaced.contains(id));
        let around = around(view);
        let mut selectors = Selectors::default();
        let both = |endpoint: &Endpoint| {
            let subject = subject(view, endpoint);
            let applying = book.applying(&subject.pod.labels);
            let previewed = staged.applying(&subject.pod.labels);
            let mut build =
                |applying, direction| RuleSet::build(applying, direction, &subject, &around, &mut selectors);
            let mut set = |direction| build(&applying, direction).previewing(build(&previewed, direction));
            (set(Direction::Ingress), set(Direction::Egress))
        };
        let sets: Vec<_> = view.endpoints.iter().map(both).collect();
        let at_hosts: Vec<_> =
            view.host_endpoints.iter().map(|host| at_host(view, host, [&book, &staged], &mut selectors)).collect();
        let of_hosts = at_hosts.iter().flat_map(BTreeMap::values);
        let active = Active::of(sets.iter().flat_map(|(ingress, egress)| [ingress, egress]).chain(of_hosts), &around);
        Self { view, sets, at_hosts, active }
    }

    /// The class of an address.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> Class {
        let bare = Class::of(&self.active, &Cidr::host(address));
        match self.endpoint(address) {
            Some(at) => bare.with_pod(&self.active, &facts(self.view, &self.view.endpoints[at])),
            None => bare,
        }
    }

    /// Judges a flow by rows.
    #[must_use]
    pub fn outcome(&self, flow: &Flow) -> Outcome {
        self.read(flow, |Hit { verdict, decider, logs, .. }| Judgement { verdict, decider, logs })
    }

    /// What a layer of the host endpoint at this place says of a flow. `None`: it asks nothing.
    #[must_use]
    pub fn at_host(&self, host: usize, layer: HostLayer, direction: Direction, flow: &Flow) -> Option<Judgement> {
        let Hit { verdict, decider, logs, .. } = self.hit_at_host(host, layer, direction, flow)?;
        Some(Judgement { verdict, decider, logs })
    }

    /// The same, of what the layer would say if every staged policy were enforced.
    #[must_use]
    pub fn previewed_at_host(
        &self,
        host: usize,
        layer: HostLayer,
        direction: Direction,
        flow: &Flow,
    ) -> Option<Preview> {
        let hit = self.hit_at_host(host, layer, direction, flow)?;
        Some(hit.preview.unwrap_or(Preview { verdict: hit.verdict, decider: hit.decider }))
    }

    fn hit_at_host(&self, host: usize, layer: HostLayer, direction: Direction, flow: &Flow) -> Option<Hit> {
        let (peer, own) = match direction {
            Direction::Ingress => (flow.source, flow.destination),
            Direction::Egress => (flow.destination, flow.source),
        };
        let set = self.at_hosts[host].get(&(layer, direction))?;
        Some(row(set, &self.class(peer)).hit(flow, &self.class(own)))
    }

    /// Judges a flow by what rows say of it if every staged policy were enforced, but for what would be logged.
    #[must_use]
    pub fn previewed(&self, flow: &Flow) -> Outcome {
        self.read(flow, |hit| {
            let Preview { verdict, decider } =
                hit.preview.unwrap_or(Preview { verdict: hit.verdict, decider: hit.decider });
            Judgement { verdict, decider, logs: Vec::new() }
        })
    }

    fn read(&self, flow: &Flow, judgement: impl Fn(Hit) -> Judgement) -> Outcome {
        let (from, to) = (flow.source, flow.destination);
        let judge = |set, peer, own| judgement(row(set, &self.class(peer)).hit(flow, &self.class(own)));
        let egress = self.endpoint(from).map(|at| judge(&self.sets[at].1, to, from));
        let refused = egress.as_ref().is_some_and(|egress| egress.verdict == Verdict::Deny);
        let let_in = self.view.host.iter().any(|net| net.contains(from));
        let receiver = self.endpoint(to).filter(|_| !refused && !let_in);
        let ingress = receiver.map(|at| judge(&self.sets[at].0, from, to));
        Outcome { egress, ingress }
    }

    fn endpoint(&self, address: IpAddr) -> Option<usize> {
        self.view.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address))
    }
}

fn facts<'a>(view: &'a View, endpoint: &'a Endpoint) -> PodFacts<'a> {
    let namespace = &endpoint.id.namespace;
    let account = match &endpoint.service_account {
        Some(name) => Parent::Named { name, labels: view.accounts.get(&(namespace.clone(), name.clone())) },
        None => Parent::Unknown,
    };
    let labels = EffectiveLabels::pod(&endpoint.labels, namespace, view.namespaces.get(namespace), account);
    let own = [
        Some(Profile::of_namespace(namespace)),
        endpoint.service_account.as_deref().map(|name| Profile::of_account(namespace, name)),
    ];
    let names = endpoint.profiles.clone().unwrap_or_else(|| own.into_iter().flatten().collect());
    let labels = labels.with_applied(names.iter().filter_map(|name| Some(&given(view, name)?.labels)));
    PodFacts { labels, ports: endpoint.ports.as_deref() }
}

fn given<'a>(view: &'a View, name: &str) -> Option<&'a Profile> {
    view.profiles.iter().find(|profile| profile.name == name)
}

fn profile<'a>(view: &'a View, name: &'a str) -> Option<EndpointProfile<'a>> {
    let has_namespace = |name: &str| view.namespaces.contains_key(&name.into());
    let has_account = |namespace: &str, account: &str| view.accounts.contains_key(&(namespace.into(), account.into()));
    EndpointProfile::find(name, |name| given(view, name), has_namespace, has_account)
}

fn at_host(
    view: &View,
    host: &HostEndpoint,
    [book, staged]: [&Rulebook<'_>; 2],
    selectors: &mut Selectors,
) -> BTreeMap<(HostLayer, Direction), RuleSet> {
    let subject = HostSubject {
        labels: EffectiveLabels::host_endpoint(&host.labels),
        profiles: host.profiles.iter().map_while(|name| profile(view, name)).collect(),
        failsafes: &view.failsafes,
    };
    let (applying, previewed) = (book.applying(&subject.labels), staged.applying(&subject.labels));
    let is_of_all = host.interface == Some(HostInterface::Any);
    let layers = HostLayer::ALL.into_iter().filter(|layer| !is_of_all || *layer != HostLayer::Untracked);
    let all = layers.flat_map(|layer| [(layer, Direction::Ingress), (layer, Direction::Egress)]);
    let set = |(layer, direction)| {
        let set = RuleSet::at_host(layer, direction, &applying, Some(&previewed), &subject, selectors)?;
        Some(((layer, direction), set))
    };
    all.filter_map(set).collect()
}

fn subject<'a>(view: &'a View, endpoint: &'a Endpoint) -> Subject<'a> {
    let account = endpoint.service_account.as_deref();
    let named = endpoint.profiles.as_ref().map(|named| named.iter().map(String::as_str));
    let of = (&endpoint.id.namespace, account);
    Subject {
        pod: facts(view, endpoint),
        addresses: OwnAddresses::Known(endpoint.addresses.clone()),
        profiles: Subject::profiles_of(of, named, |name| given(view, name), |name| profile(view, name)),
    }
}

fn around(view: &View) -> Surroundings<'_> {
    let sets = view.network_sets.iter().map(|set| {
        let labels = match &set.id.namespace {
            Some(name) => EffectiveLabels::network_set(&set.labels, name, view.namespaces.get(name)),
            None => EffectiveLabels::global_network_set(&set.labels),
        };
        SetFacts { labels, nets: &set.nets }
    });
    let nodes = view.nodes.iter().map(|node| NodeFacts { labels: &node.labels, addresses: &node.addresses });
    let hosts = view.host_endpoints.iter().map(|host| HostFacts {
        labels: EffectiveLabels::host_endpoint(&host.labels),
        addresses: &host.expected_ips,
        ports: &host.ports,
    });
    Surroundings {
        sets: sets.collect(),
        hosts: hosts.collect(),
        nodes: nodes.collect(),
        slices: view.slices.iter().collect(),
    }
}
