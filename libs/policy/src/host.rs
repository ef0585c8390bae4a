//! Host endpoints: which rules are asked at an interface of a node's own, and where on a packet's way.
//! In: the policies that apply to a host endpoint, its profiles, failsafe ports. Out: a [`RuleSet`] for each layer and direction.
//! Invariant: failsafe ports come before every policy that could close them; a layer that no policy speaks of asks nothing, but
//! for the one of the node's own flows, which then denies.
//! Never: answers for the own address: what passes an interface has any.

use crate::{
    Applying, OwnAddresses, PacketTest, PeerTest, PodFacts, ProfileRules, Profiles, RuleSet, Selectors, SetAction,
    SetPort, SetRule, Subject, Surroundings, TierRules, build::Builder,
};
use model::{
    Cidr, Direction, EffectiveLabels, Failsafe, Layer, Policy, PortRange, Profile, Protocol, Rule, TierEnd, Truth,
};

/// The profile that Calico makes by itself, for host endpoints that are to stay open where no policy decides (HEP-13;
/// libcalico-go/lib/resources/static.go).
pub const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// A place at a host endpoint where policies are asked, in the order of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostLayer {
    /// Before connection tracking, packet by packet (HEP-8).
    Untracked,
    /// Before a service's address is translated; of what comes in alone (HEP-9).
    PreDnat,
    /// Of what the node forwards (HEP-5).
    Forward,
    /// Of the node's own flows.
    Local,
}

impl HostLayer {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Untracked, Self::PreDnat, Self::Forward, Self::Local];

    /// Those that are asked, in order, of a packet that belongs to this one. Before translation nobody knows yet where it goes; what a
    /// service leads on is asked about further where that is known.
    pub fn up_to(last: Self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |layer| *layer <= Self::PreDnat || *layer == last)
    }

    /// What it asks of a policy: where it was written for.
    fn asks(self) -> fn(&Policy) -> bool {
        match self {
            Self::Untracked => |policy| policy.layer == Layer::Untracked,
            Self::PreDnat => |policy| policy.layer == Layer::PreDnat,
            Self::Forward => |policy| policy.layer == Layer::Ordinary { on_forward: true },
            Self::Local => |policy| matches!(policy.layer, Layer::Ordinary { .. }),
        }
    }
}

/// Ports that no policy of a host endpoint closes, so that an operator cannot lock himself out (HEP-7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafes {
    /// Towards the node.
    pub inbound: Vec<Failsafe>,
    /// From the node.
    pub outbound: Vec<Failsafe>,
}

/// SSH, BGP, etcd, Typha and the API server, in both directions but for SSH; DHCP and DNS.
impl Default for Failsafes {
    fn default() -> Self {
        let open = |protocol: Protocol| move |port: u16| Failsafe { protocol, port, net: None };
        let (tcp, udp) = (open(Protocol::TCP), open(Protocol::UDP));
        let cluster = [179, 2379, 2380, 5473, 6443, 6666, 6667];
        Self {
            inbound: [tcp(22), udp(68)].into_iter().chain(cluster.map(tcp)).collect(),
            outbound: [udp(53), udp(67)].into_iter().chain(cluster.map(tcp)).collect(),
        }
    }
}

/// One of an endpoint's profiles.
#[derive(Clone, Copy, Debug)]
pub enum EndpointProfile<'a> {
    /// That of an object.
    Given(&'a Profile),
    /// One that is there by itself and lets everything through.
    AllowsAll(&'a str),
    /// One that is there by itself and has no rules.
    Empty(&'a str),
}

impl<'a> EndpointProfile<'a> {
    /// The one of this name. Calico makes one for everybody, one for each namespace, and one without rules for each service
    /// account; an object goes before. `None`: there is none.
    pub fn find(
        name: &'a str,
        given: impl Fn(&str) -> Option<&'a Profile>,
        has_namespace: impl Fn(&str) -> bool,
        has_account: impl Fn(&str, &str) -> bool,
    ) -> Option<Self> {
        if let Some(profile) = given(name) {
            return Some(Self::Given(profile));
        }
        if name == DEFAULT_ALLOW || name.strip_prefix("kns.").is_some_and(has_namespace) {
            return Some(Self::AllowsAll(name));
        }
        let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?;
        has_account(namespace, account).then_some(Self::Empty(name))
    }
}

/// A host endpoint that rule sets judge.
#[derive(Clone, Debug)]
pub struct HostSubject<'a> {
    /// Its labels.
    pub labels: EffectiveLabels<'a>,
    /// Its profiles, in order, up to the first that is not there: that one denies what comes to it.
    pub profiles: Vec<EndpointProfile<'a>>,
    /// Ports that stay open.
    pub failsafes: &'a Failsafes,
}

impl RuleSet {
    /// What of `applying` is asked in a layer and direction of a host endpoint. `None`: nothing is. `previewed`: what would
    /// apply if every staged policy were enforced. A layer that staged policies alone speak of stays open, and says nothing of
    /// them: flows that pass it are not even tracked.
    #[must_use]
    pub fn at_host(
        layer: HostLayer,
        direction: Direction,
        applying: &[Applying<'_>],
        previewed: Option<&[Applying<'_>]>,
        host: &HostSubject<'_>,
        selectors: &mut Selectors,
    ) -> Option<Self> {
        let mut of = |applying| Self::of_layer(layer, direction, applying, host, selectors);
        let (set, is_asked) = of(applying);
        let is_asked = is_asked && !(layer == HostLayer::PreDnat && direction == Direction::Egress);
        is_asked.then(|| match previewed {
            Some(previewed) => set.previewing(of(previewed).0),
            None => set,
        })
    }

    /// And whether it is asked at all.
    fn of_layer(
        layer: HostLayer,
        direction: Direction,
        applying: &[Applying<'_>],
        host: &HostSubject<'_>,
        selectors: &mut Selectors,
    ) -> (Self, bool) {
        let facts = PodFacts { labels: host.labels, ports: None };
        let subject = Subject { pod: facts, addresses: OwnAddresses::Any, profiles: None };
        let around = Surroundings::default();
        let mut builder = Builder { direction, subject: &subject, around: &around, selectors, asks: layer.asks() };
        let tiers = applying.iter().map(|applying| builder.tier(applying));
        let mut tiers: Vec<_> = tiers.filter(|tier| !tier.policies.is_empty()).collect();
        let is_asked = match layer {
            HostLayer::Local => true,
            HostLayer::PreDnat | HostLayer::Forward => !tiers.is_empty(),
            // An untracked layer that is there speaks in both directions: one that asked nothing would let everything
            // pass by all that comes after it.
            HostLayer::Untracked => {
                let mut policies = applying.iter().flat_map(|applying| &applying.policies);
                policies.any(|(policy, _)| layer.asks()(policy))
            }
        };
        if matches!(layer, HostLayer::Untracked | HostLayer::PreDnat) {
            tiers.iter_mut().for_each(TierRules::pass_at_end);
        }
        let profiles = match layer {
            HostLayer::Untracked | HostLayer::PreDnat => Profiles::Unasked,
            HostLayer::Forward => Profiles::Open,
            HostLayer::Local => {
                Profiles::Given(host.profiles.iter().map(|profile| profile.rules_in(&mut builder)).collect())
            }
        };
        let failsafes = host.failsafes.rules(layer, direction);
        (Self { failsafes, tiers, profiles, ..Self::new(direction) }, is_asked)
    }
}

impl TierRules {
    /// Other layers are asked after these: no tier ends anything (felix/calc/event_sequencer.go).
    fn pass_at_end(&mut self) {
        self.end = TierEnd::Pass;
    }
}

impl EndpointProfile<'_> {
    /// The rules that an object gives it.
    pub fn given(&self, direction: Direction) -> &[Rule] {
        match self {
            Self::Given(profile) => profile.rules(direction),
            Self::AllowsAll(_) | Self::Empty(_) => &[],
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Given(profile) => &profile.name,
            Self::AllowsAll(name) | Self::Empty(name) => name,
        }
    }

    pub(crate) fn rules_in(self, builder: &mut Builder<'_>) -> ProfileRules {
        match self {
            Self::Given(profile) => {
                let rules = builder.rules(profile.rules(builder.direction), Truth::Yes);
                ProfileRules { name: profile.name.clone(), rules }
            }
            Self::AllowsAll(name) => {
                ProfileRules { name: name.to_owned(), rules: vec![SetRule::new(0, SetAction::Allow)] }
            }
            Self::Empty(name) => ProfileRules { name: name.to_owned(), rules: Vec::new() },
        }
    }
}

impl Failsafes {
    /// Those of a direction.
    #[must_use]
    pub fn of(&self, direction: Direction) -> &[Failsafe] {
        match direction {
            Direction::Ingress => &self.inbound,
            Direction::Egress => &self.outbound,
        }
    }

    /// What is forwarded has none (HEP-7). Without tracking nobody knows what answers, so that answers from the ports of the
    /// other direction pass too (felix/rules/static.go).
    fn rules(&self, layer: HostLayer, direction: Direction) -> Vec<SetRule> {
        let (there, back) = match direction {
            Direction::Ingress => (Direction::Ingress, Direction::Egress),
            Direction::Egress => (Direction::Egress, Direction::Ingress),
        };
        let to = self.of(there).iter().map(|failsafe| rule(failsafe, true));
        match layer {
            HostLayer::Forward => Vec::new(),
            HostLayer::PreDnat | HostLayer::Local => to.collect(),
            HostLayer::Untracked => to.chain(self.of(back).iter().map(|failsafe| rule(failsafe, false))).collect(),
        }
    }
}

/// `to`: the port is the destination's; else the source's.
fn rule(failsafe: &Failsafe, to: bool) -> SetRule {
    let Failsafe { protocol, port, net } = *failsafe;
    let wanted = Some(vec![SetPort::Range(PortRange::single(port))]);
    let (ports, source_ports) = if to { (wanted, None) } else { (None, wanted) };
    let packet = PacketTest { protocol: Some(protocol), ports, source_ports, ..PacketTest::default() };
    let peer = PeerTest { nets: net.map(|net: Cidr| vec![net]), ..PeerTest::default() };
    SetRule { packet, peer, ..SetRule::new(0, SetAction::Allow) }
}
