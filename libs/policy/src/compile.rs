//! Compiles a rule set, as seen by one peer class, into a row of spans.
//! In: a [`RuleSet`] and a [`Class`]. Out: a [`Row`]: who decides, for every `x` of protocol and port.
//! Invariant: spans are sorted, the first starts at 0, neighbours differ.
//! Never: looks at an address or at another rule set.

use crate::{
    Class, Decider, Flow, Judgement, PacketTest, PeerTest, Preview, Profiles, RuleSet, SetAction, SetPort, SetRule,
    TierRules, Verdict, near::Near, xset::XSet,
};
use abi::rules::{X_END, x_of};
use model::{Cidr, IcmpMatch, Protocol, TierEnd, Truth};
use std::{collections::BTreeMap, ops::Range};

const EVERY_X: Range<u32> = 0..X_END;

/// From `start` (see `abi::rules::x_of`) to the next span's start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowSpan {
    /// First `x`.
    pub start: u32,
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
    /// What would happen if every staged policy were enforced, where that is something else, or for another reason.
    pub preview: Option<Preview>,
}

/// The whole answer of a rule set to one class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub Vec<RowSpan>);

impl Row {
    /// The span that `x` lies in, found as a kernel program finds it. `None` only in a row without spans, which denies.
    #[must_use]
    pub fn at(&self, x: u32) -> Option<&RowSpan> {
        let after = self.0.partition_point(|span| span.start <= x);
        self.0.get(after.checked_sub(1)?)
    }

    /// What it says of the first packet of a flow.
    #[must_use]
    pub fn judge(&self, flow: &Flow) -> Judgement {
        let span = self.at(x_of(flow.protocol.0, flow.detail)).expect("because a row's first span starts at 0");
        Judgement { verdict: span.verdict, decider: span.decider.clone() }
    }
}

/// Compiles the rows of one rule set, for one class after another.
#[derive(Debug)]
pub struct Rows<'a> {
    set: &'a RuleSet,
    near: Near<'a>,
    preview: Option<Box<Rows<'a>>>,
}

/// The row of `set` for peers of `class`. The set's default row is the one for `Class::default()`.
#[must_use]
pub fn row(set: &RuleSet, class: &Class) -> Row {
    Rows::of(set).row(class)
}

impl<'a> Rows<'a> {
    /// Those of `set`.
    #[must_use]
    pub fn of(set: &'a RuleSet) -> Self {
        let preview = set.preview.as_deref().map(|preview| Box::new(Self::of(preview)));
        Self { set, near: Near::of(set), preview }
    }

    /// The row for peers of `class`. What it costs grows with the rules that the class can meet.
    #[must_use]
    pub fn row(&self, class: &Class) -> Row {
        let own = self.own(class);
        match &self.preview {
            Some(preview) => own.beside(preview.own(class)),
            None => own,
        }
    }

    fn own(&self, class: &Class) -> Row {
        let (set, near) = (self.set, self.near.to(class));
        let mut canvas = Canvas::new();
        paint_failsafes(&mut canvas, set, class);
        for (tier, rules) in set.tiers.iter().enumerate() {
            paint_tier(&mut canvas, (tier, rules.end), self.near.within(&near, tier), class);
            if canvas.is_full() {
                break;
            }
        }
        paint_profiles(&mut canvas, self.near.within(&near, set.tiers.len()), class);
        let spans = canvas.strokes().into_iter().map(|(start, paint)| {
            let (verdict, decider) = paint.meaning(set);
            RowSpan { start, verdict, decider, preview: None }
        });
        Row(spans.collect())
    }
}

/// Where no profile is asked, what a failsafe matches is left to whatever comes after the set.
fn paint_failsafes(canvas: &mut Canvas, set: &RuleSet, class: &Class) {
    let verdict = if set.profiles == Profiles::Unasked { Verdict::Next } else { Verdict::Allow };
    for (failsafe, rule) in set.failsafes.iter().enumerate() {
        for (_, xs) in strokes_of(rule, class) {
            for xs in xs.ranges() {
                canvas.paint(xs, Paint::Failsafe { failsafe, verdict });
            }
        }
    }
}

/// What a tier passes is blank again for the next one. Rules come with their policy's place in the tier.
fn paint_tier<'a>(
    canvas: &mut Canvas,
    (tier, end): (usize, TierEnd),
    rules: impl Iterator<Item = (usize, &'a SetRule)>,
    class: &Class,
) {
    for (policy, rule) in rules {
        for (action, xs) in strokes_of(rule, class) {
            let paint = |verdict| Paint::Rule { tier, policy, place: rule.place, verdict };
            for xs in xs.ranges() {
                match action {
                    SetAction::Pass => canvas.pass(xs),
                    SetAction::Allow => canvas.paint(xs, paint(Verdict::Allow)),
                    SetAction::Deny => canvas.paint(xs, paint(Verdict::Deny)),
                }
            }
        }
        if canvas.is_full() {
            break;
        }
    }
    if end == TierEnd::Deny {
        canvas.paint(EVERY_X, Paint::EndOfTier { tier });
    }
    canvas.wipe_passed();
}

/// Rules come with their profile's place.
fn paint_profiles<'a>(canvas: &mut Canvas, rules: impl Iterator<Item = (usize, &'a SetRule)>, class: &Class) {
    for (profile, rule) in rules {
        for (action, xs) in strokes_of(rule, class) {
            let verdict = match action {
                SetAction::Allow => Verdict::Allow,
                // There is no further tier to pass it to (felix/bpf/polprog, writeProfile).
                SetAction::Deny | SetAction::Pass => Verdict::Deny,
            };
            for xs in xs.ranges() {
                canvas.paint(xs, Paint::Profile { profile, place: rule.place, verdict });
            }
        }
    }
    canvas.paint(EVERY_X, Paint::Rest);
}

/// What the class says of a rule's other end. The family is that of its addresses: all of them lie in one of two networks.
fn peer_matches(peer: &PeerTest, class: &Class) -> Truth {
    let among = |nets: &[Cidr]| nets.iter().any(|net| class.nets.contains(net));
    let of_family = peer.family.is_none_or(|family| class.nets.contains(&Cidr::all(family)));
    if !of_family || !peer.nets.as_deref().is_none_or(among) || among(&peer.not_nets) {
        return Truth::No;
    }
    let found = |selector| class.found_by(selector);
    let selected = peer.selector.as_ref().map_or(Truth::Yes, found);
    let not_selected = peer.not_selector.as_ref().map_or(Truth::Yes, |selector| found(selector).negated());
    let serves: Truth = peer.service.as_ref().is_none_or(|service| class.services.contains_key(service)).into();
    let node: Truth = peer.nodes.as_ref().is_none_or(|selector| class.nodes.contains(selector)).into();
    selected.min(not_selected).min(node).min(serves)
}

/// What a rule does with which `x` for this class: first where it certainly matches, then, where it asks for a port name
/// that nobody knows, what is left of it where it may.
fn strokes_of(rule: &SetRule, class: &Class) -> impl Iterator<Item = (SetAction, XSet)> {
    // Spans that ask for the own address are not built yet: what it would answer is not known.
    let own = if rule.own == PeerTest::default() { Truth::Yes } else { Truth::Unknown };
    let peer = peer_matches(&rule.peer, class).min(own);
    let stroke = move |ports: Truth| Some((rule.action.given(peer.min(ports))?, xs_of(&rule.packet, class, ports)));
    let PacketTest { ports, not_ports, .. } = &rule.packet;
    let in_doubt = ports.iter().flatten().chain(not_ports).any(|port| is_unknown(port, class));
    let doubtful = if in_doubt { stroke(Truth::Unknown) } else { None };
    stroke(Truth::Yes).into_iter().chain(doubtful)
}

/// The `x` that a rule covers for this class: `Yes`, certainly; else wherever it may, as a name that nobody knows may be
/// any port.
fn xs_of(test: &PacketTest, class: &Class, ports_known: Truth) -> XSet {
    let any = |ports: &[SetPort], unknown_is_any: bool| {
        if unknown_is_any && ports.iter().any(|port| is_unknown(port, class)) {
            every_port(test.protocol)
        } else {
            ports_of(ports, test.protocol, class)
        }
    };
    let mut xs = match test.protocol {
        Some(protocol) => XSet::of([every_detail(protocol)]),
        None => XSet::everything(),
    };
    if let Some(protocol) = test.not_protocol {
        xs = xs.without(&XSet::of([every_detail(protocol)]));
    }
    if let Some(icmp) = test.icmp {
        xs = xs.within(&messages(icmp));
    }
    if let Some(icmp) = test.not_icmp {
        xs = xs.without(&messages(icmp));
    }
    if let Some(ports) = &test.ports {
        xs = xs.within(&any(ports, !ports_known.surely()));
    }
    if let Some(service) = &test.service {
        let ports = class.services.get(service).into_iter().flatten();
        xs = xs.within(&XSet::of(ports.map(|(protocol, port)| details(*protocol, *port, *port))));
    }
    if !test.not_ports.is_empty() {
        xs = xs.without(&any(&test.not_ports, ports_known.surely()));
    }
    xs
}

/// A port name of a pod that nobody has described.
fn is_unknown(port: &SetPort, class: &Class) -> bool {
    match port {
        SetPort::Unknown | SetPort::OwnNamed(_) => true,
        SetPort::PeerNamed(_) => class.unknown_ports,
        SetPort::Range(_) | SetPort::Own(..) => false,
    }
}

fn every_detail(protocol: Protocol) -> Range<u32> {
    details(protocol, 0, u16::MAX)
}

fn details(protocol: Protocol, first: u16, last: u16) -> Range<u32> {
    x_of(protocol.0, first)..x_of(protocol.0, last) + 1
}

/// Of both versions of ICMP: a packet has that of its family.
fn messages(icmp: IcmpMatch) -> XSet {
    let kind = u16::from(icmp.kind) << 8;
    let (first, last) = icmp.code.map_or((0, u16::from(u8::MAX)), |code| (code.into(), code.into()));
    XSet::of([Protocol::ICMP, Protocol::ICMPV6].map(|protocol| details(protocol, kind | first, kind | last)))
}

/// Protocols with ports: the one that the rule names, or all; others need not be looked at.
fn with_ports(wanted: Option<Protocol>) -> impl Iterator<Item = Protocol> {
    Protocol::WITH_PORTS.into_iter().filter(move |has| wanted.is_none_or(|wanted| wanted == *has))
}

fn every_port(protocol: Option<Protocol>) -> XSet {
    XSet::of(with_ports(protocol).map(every_detail))
}

/// Those of which the numbers are known.
fn ports_of(ports: &[SetPort], protocol: Option<Protocol>, class: &Class) -> XSet {
    let protocols = with_ports(protocol);
    let single = |protocol, port| details(protocol, port, port);
    XSet::of(protocols.flat_map(|protocol| {
        ports.iter().flat_map(move |port| -> Vec<Range<u32>> {
            match port {
                SetPort::Range(range) => vec![details(protocol, range.first(), range.last())],
                SetPort::Own(of, port) if *of == protocol => vec![single(protocol, *port)],
                SetPort::Own(..) | SetPort::OwnNamed(_) | SetPort::Unknown => Vec::new(),
                SetPort::PeerNamed(name) => {
                    let named = class.ports.iter().filter(|port| port.name == *name && port.protocol == protocol);
                    named.map(|port| single(protocol, port.port)).collect()
                }
            }
        })
    }))
}

/// What a stretch of `x` is painted with. Compared instead of deciders, which are made once per span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    /// The failsafe at this place.
    Failsafe { failsafe: usize, verdict: Verdict },
    /// A rule of the policy at these places of the set.
    Rule { tier: usize, policy: usize, place: u16, verdict: Verdict },
    /// The tier at this place ends in deny.
    EndOfTier { tier: usize },
    /// A rule of the profile at this place.
    Profile { profile: usize, place: u16, verdict: Verdict },
    /// Nothing matched.
    Rest,
}

impl Paint {
    fn meaning(self, set: &RuleSet) -> (Verdict, Decider) {
        let direction = set.direction;
        match self {
            Self::Failsafe { failsafe, verdict } => {
                let (protocol, port) = set.failsafes[failsafe].failsafe_port();
                (verdict, Decider::Failsafe { direction, protocol, port })
            }
            Self::Rule { tier, policy, place, verdict } => {
                let tier = &set.tiers[tier];
                let (name, policy) = (tier.name.clone(), tier.policies[policy].id.clone());
                (verdict, Decider::Rule { tier: name, policy, direction, place })
            }
            Self::EndOfTier { tier } => {
                let TierRules { name, policies, .. } = &set.tiers[tier];
                let policies = policies.iter().map(|policy| policy.id.clone()).collect();
                (Verdict::Deny, Decider::EndOfTier { tier: name.clone(), direction, policies })
            }
            Self::Profile { profile, place, verdict } => {
                let name = match &set.profiles {
                    Profiles::Given(profiles) => profiles[profile].name.clone(),
                    Profiles::Implied | Profiles::Open | Profiles::Unasked => String::new(),
                };
                (verdict, Decider::Profile { profile: name, direction, place })
            }
            Self::Rest => match &set.profiles {
                Profiles::Given(_) => (Verdict::Deny, Decider::NoProfile(direction)),
                Profiles::Implied if set.tiers.is_empty() => (Verdict::Allow, Decider::NoPolicy(direction)),
                Profiles::Implied => (Verdict::Allow, Decider::AllPassed(direction)),
                Profiles::Open => (Verdict::Allow, Decider::Forwarded(direction)),
                Profiles::Unasked => (Verdict::Next, Decider::NoRule(direction)),
            },
        }
    }
}

/// All `x`, each painted at most once. What is painted is never looked at again, so that n strokes cost n log n however
/// much they overlap; what a tier passes is looked at once more by the next.
struct Canvas {
    /// Unpainted stretches: start to end.
    blank: BTreeMap<u32, u32>,
    /// Stretches that the present tier has passed on.
    passed: Vec<Range<u32>>,
    /// Painted stretches: start to paint. Each reaches to the next one's start, or to one that is not painted.
    painted: BTreeMap<u32, Paint>,
}

impl Canvas {
    fn new() -> Self {
        Self { blank: BTreeMap::from([(0, X_END)]), passed: Vec::new(), painted: BTreeMap::new() }
    }

    fn is_full(&self) -> bool {
        self.blank.is_empty()
    }

    /// Paints what is still blank of `xs`.
    fn paint(&mut self, xs: Range<u32>, paint: Paint) {
        while let Some(stretch) = self.take(&xs) {
            self.painted.insert(stretch.start, paint);
        }
    }

    /// Keeps what is still blank of `xs` from this tier.
    fn pass(&mut self, xs: Range<u32>) {
        while let Some(stretch) = self.take(&xs) {
            self.passed.push(stretch);
        }
    }

    /// Makes blank again what the tier has passed on.
    fn wipe_passed(&mut self) {
        self.blank.extend(self.passed.drain(..).map(|stretch| (stretch.start, stretch.end)));
    }

    /// The last blank stretch within `xs`, no longer blank.
    fn take(&mut self, xs: &Range<u32>) -> Option<Range<u32>> {
        let (start, end) = self.blank.range(..xs.end).next_back().map(|(start, end)| (*start, *end))?;
        if end <= xs.start {
            return None;
        }
        self.blank.remove(&start);
        if end > xs.end {
            self.blank.insert(xs.end, end);
        }
        if start < xs.start {
            self.blank.insert(start, xs.start);
        }
        Some(start.max(xs.start)..end.min(xs.end))
    }

    /// The painted stretches in order, neighbours of one paint made one. The canvas is full by then.
    fn strokes(self) -> Vec<(u32, Paint)> {
        let mut strokes: Vec<_> = self.painted.into_iter().collect();
        strokes.dedup_by_key(|(_, paint)| *paint);
        strokes
    }
}
