//! Compiles a rule set, as seen by one peer class, into a row of spans.
//! In: a [`RuleSet`] and a [`Class`]. Out: a [`Row`]: who decides, for every `x` of protocol and port, and by what more.
//! Invariant: spans are sorted, the first starts at 0, neighbours differ.
//! Never: looks at an address or at another rule set.

use crate::{
    Class, Decider, Flow, Hit, Judgement, PacketTest, PeerTest, Profiles, RuleSet, SetAction, SetPort, SetRule,
    TierRules, Verdict,
    canvas::{Act, Canvas, Marks, Stroke},
    cell,
    near::Near,
    xset::XSet,
};
use abi::rules::{X_END, x_of};
use model::{Cidr, IcmpMatch, PolicyId, Protocol, TierEnd, Truth};
use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

const EVERY_X: Range<u32> = 0..X_END;

/// What a span says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// The same for every packet.
    Decided(Hit),
    /// By source port.
    Ports(Vec<PortSpan>),
    /// By the class of the endpoint's own address, as a peer of this set, which asks nothing of anybody else. It is
    /// searched by `x` once more.
    Cell(Arc<RuleSet>),
}

impl Answer {
    /// What is decided from this source port; `None`: the own class decides.
    #[must_use]
    pub fn from_port(&self, port: u32) -> Option<&Hit> {
        match self {
            Self::Decided(hit) => Some(hit),
            Self::Ports(ports) => ports.iter().rfind(|span| span.start <= port).map(|span| &span.hit),
            Self::Cell(_) => None,
        }
    }

    /// The source ports from which something else may be decided.
    pub fn ports(&self) -> impl Iterator<Item = u32> + '_ {
        let listed = if let Self::Ports(ports) = self { &ports[..] } else { &[] };
        listed.iter().map(|span| span.start)
    }
}

/// From `start` to the next span's start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    /// First source port.
    pub start: u32,
    /// What is decided.
    pub hit: Hit,
}

/// From `start` (see `abi::rules::x_of`) to the next span's start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowSpan {
    /// First `x`.
    pub start: u32,
    /// What it says.
    pub answer: Answer,
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

    /// What it says of the first packet of a flow, where the address at this end is of the class `own`.
    #[must_use]
    pub fn judge(&self, flow: &Flow, own: &Class) -> Judgement {
        let Hit { verdict, decider, logs, .. } = self.hit(flow, own);
        Judgement { verdict, decider, logs }
    }

    /// The same, with all that it stands for.
    pub(crate) fn hit(&self, flow: &Flow, own: &Class) -> Hit {
        let x = x_of(flow.protocol.0, flow.detail);
        let span = self.at(x).expect("because a row's first span starts at 0");
        match &span.answer {
            Answer::Cell(rest) => row(rest, own).hit(flow, own),
            plain => plain.from_port(flow.source_port.into()).expect("because a list's first span starts at 0").clone(),
        }
    }

    /// The same row, with everything answered that it leaves to the own class.
    #[must_use]
    pub fn of_own(&self, own: &Class) -> Self {
        let mut spans: Vec<RowSpan> = Vec::with_capacity(self.0.len());
        let ends = self.0.iter().skip(1).map(|span| span.start).chain([X_END]);
        for (span, end) in self.0.iter().zip(ends) {
            let Answer::Cell(rest) = &span.answer else {
                spans.push(span.clone());
                continue;
            };
            let row = row(rest, own);
            spans.extend(row.at(span.start).map(|within| RowSpan { start: span.start, ..within.clone() }));
            spans.extend(row.0.into_iter().filter(|within| (span.start + 1..end).contains(&within.start)));
        }
        spans.dedup_by(|next, last| next.answer == last.answer);
        Self(spans)
    }
}

/// Compiles the rows of one rule set, for one class after another.
#[derive(Debug)]
pub struct Rows<'a> {
    set: &'a RuleSet,
    near: Near<'a>,
    preview: Option<Box<Rows<'a>>>,
    /// The policies that each tier's end names, once one does: every row of a set may.
    ends: Vec<OnceLock<Arc<[PolicyId]>>>,
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
        let ends = set.tiers.iter().map(|_| OnceLock::new()).collect();
        Self { set, near: Near::of(set), preview, ends }
    }

    /// The row for peers of `class`. What it costs grows with the rules that the class can meet.
    #[must_use]
    pub fn row(&self, class: &Class) -> Row {
        let mut rest = None;
        let mut rest = || Arc::clone(rest.get_or_insert_with(|| Arc::new(self.remainder(class))));
        let row = self.painted(class, &mut rest);
        match &self.preview {
            Some(preview) => row.beside(preview.painted(class, &mut rest), &mut rest),
            None => row,
        }
    }

    /// What is left of the set for this class: a question of the own address.
    fn remainder(&self, class: &Class) -> RuleSet {
        let near = self.near.to(class);
        let left = cell::remainder(self.set, class, |tier| self.near.within(&near, tier));
        match &self.preview {
            Some(preview) => left.previewing(preview.remainder(class)),
            None => left,
        }
    }

    fn painted(&self, class: &Class, rest: &mut impl FnMut() -> Arc<RuleSet>) -> Row {
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
        let mut answer = |stroke| match stroke {
            Stroke::Plain(Paint::Cell, _) => Answer::Cell(rest()),
            Stroke::Plain(paint, marks) => Answer::Decided(paint.hit(self, &marks)),
            Stroke::Ports(ports) => {
                let span = |(start, paint, marks): (u32, Paint, Marks<Paint>)| PortSpan {
                    start,
                    hit: paint.hit(self, &marks),
                };
                Answer::Ports(ports.into_iter().map(span).collect())
            }
        };
        Row(canvas.strokes().into_iter().map(|(start, stroke)| RowSpan { start, answer: answer(stroke) }).collect())
    }
}

/// Where no profile is asked, what a failsafe matches is left to whatever comes after the set.
fn paint_failsafes(canvas: &mut Canvas<Paint>, set: &RuleSet, class: &Class) {
    let verdict = if set.profiles == Profiles::Unasked { Verdict::Next } else { Verdict::Allow };
    for (failsafe, rule) in set.failsafes.iter().enumerate() {
        paint_rule(canvas, rule, class, |_| Act::Paint(Paint::Failsafe { failsafe, verdict }));
    }
}

/// What a tier passes is blank again for the next one. Rules come with their policy's place in the tier.
fn paint_tier<'a>(
    canvas: &mut Canvas<Paint>,
    (tier, end): (usize, TierEnd),
    rules: impl Iterator<Item = (usize, &'a SetRule)>,
    class: &Class,
) {
    for (policy, rule) in rules {
        let paint = |verdict| Paint::Rule { tier, policy, place: rule.place, verdict };
        let act = |action| match action {
            SetAction::Pass => Act::Pass,
            SetAction::Allow => Act::Paint(paint(Verdict::Allow)),
            SetAction::Deny => Act::Paint(paint(Verdict::Deny)),
            SetAction::Log => Act::Mark(paint(Verdict::Next)),
        };
        paint_rule(canvas, rule, class, act);
        if canvas.is_full() {
            break;
        }
    }
    if end == TierEnd::Deny {
        canvas.apply(&EVERY_X, None, Act::Paint(Paint::EndOfTier { tier }));
    }
    canvas.wipe_passed();
}

/// Rules come with their profile's place.
fn paint_profiles<'a>(canvas: &mut Canvas<Paint>, rules: impl Iterator<Item = (usize, &'a SetRule)>, class: &Class) {
    for (profile, rule) in rules {
        let paint = |verdict| Paint::Profile { profile, place: rule.place, verdict };
        let act = |action| match action {
            SetAction::Allow => Act::Paint(paint(Verdict::Allow)),
            // There is no further tier to pass it to (felix/bpf/polprog, writeProfile).
            SetAction::Deny | SetAction::Pass => Act::Paint(paint(Verdict::Deny)),
            SetAction::Log => Act::Mark(paint(Verdict::Next)),
        };
        paint_rule(canvas, rule, class, act);
    }
    canvas.apply(&EVERY_X, None, Act::Paint(Paint::Rest));
}

/// What a rule may match by one own address and not by another is left to the own class, whatever comes after it.
fn paint_rule(canvas: &mut Canvas<Paint>, rule: &SetRule, class: &Class, act: impl Fn(SetAction) -> Act<Paint>) {
    if rule.asks_own() {
        let possible = end_matches(&rule.peer, class).possibly().then(|| xs_of(&rule.packet, class, Truth::Unknown));
        possible.iter().flat_map(XSet::ranges).for_each(|xs| canvas.cover(&xs, Paint::Cell));
        return;
    }
    for Reach { action, xs, sources } in strokes_of(rule, class) {
        xs.ranges().for_each(|xs| canvas.apply(&xs, sources.as_ref(), act(action)));
    }
}

/// What the class says of one end that a rule asks for. The family is that of its addresses: all of them lie in one of two
/// networks.
pub(crate) fn end_matches(end: &PeerTest, class: &Class) -> Truth {
    let among = |nets: &[Cidr]| nets.iter().any(|net| class.nets.contains(net));
    let of_family = end.family.is_none_or(|family| class.nets.contains(&Cidr::all(family)));
    if !of_family || !end.nets.as_deref().is_none_or(among) || among(&end.not_nets) {
        return Truth::No;
    }
    let found = |selector| class.found_by(selector);
    let selected = end.selector.as_ref().map_or(Truth::Yes, found);
    let not_selected = end.not_selector.as_ref().map_or(Truth::Yes, |selector| found(selector).negated());
    let serves: Truth = end.service.as_ref().is_none_or(|service| class.services.contains_key(service)).into();
    let node: Truth = end.nodes.as_ref().is_none_or(|selector| class.nodes.contains(selector)).into();
    selected.min(not_selected).min(node).min(serves)
}

/// What a rule does, with which `x`, from which source ports; `None`: from all.
struct Reach {
    action: SetAction,
    xs: XSet,
    sources: Option<XSet>,
}

/// What a rule does for this class: first where it certainly matches, then, where it asks for a port name that nobody knows,
/// what is left of it where it may.
fn strokes_of(rule: &SetRule, class: &Class) -> Vec<Reach> {
    let peer = end_matches(&rule.peer, class);
    let mut strokes = Vec::new();
    let mut stroke = |known: Truth| {
        let Some(action) = rule.action.given(peer.min(known)) else { return };
        let test = &rule.packet;
        let xs = xs_of(test, class, known);
        if test.source_ports.is_none() && test.not_source_ports.is_empty() {
            strokes.push(Reach { action, xs, sources: None });
            return;
        }
        for protocol in with_ports(test.protocol) {
            let xs = xs.within(&XSet::of([every_detail(protocol)]));
            strokes.push(Reach { action, xs, sources: Some(sources_of(test, protocol, class, known)) });
        }
        // What has no ports is not among any, nor among those that are left out.
        if test.source_ports.is_none() {
            strokes.push(Reach { action, xs: xs.without(&every_port(None)), sources: None });
        }
    };
    stroke(Truth::Yes);
    if rule.packet.all_ports().any(|port| is_unknown(port, class)) {
        stroke(Truth::Unknown);
    }
    strokes
}

/// The `x` that a rule covers for this class: `Yes`, certainly; else wherever it may, as a name that nobody knows may be
/// any port.
fn xs_of(test: &PacketTest, class: &Class, known: Truth) -> XSet {
    let among = |ports: &[SetPort], any: bool| match any && ports.iter().any(|port| is_unknown(port, class)) {
        true => every_port(test.protocol),
        false => ports_of(ports, test.protocol, class),
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
        xs = xs.within(&among(ports, !known.surely()));
    }
    if let Some(service) = &test.service {
        let ports = class.services.get(service).into_iter().flatten();
        xs = xs.within(&XSet::of(ports.map(|(protocol, port)| details(*protocol, *port, *port))));
    }
    if !test.not_ports.is_empty() {
        xs = xs.without(&among(&test.not_ports, known.surely()));
    }
    xs
}

/// The source ports that a rule covers in one protocol, read likewise.
fn sources_of(test: &PacketTest, protocol: Protocol, class: &Class, known: Truth) -> XSet {
    let all = || XSet::of([PORTS]);
    let among = |ports: &[SetPort], any: bool| match any && ports.iter().any(|port| is_unknown(port, class)) {
        true => all(),
        false => XSet::of(ports.iter().flat_map(|port| numbers(port, protocol, class))),
    };
    let mut sources = test.source_ports.as_deref().map_or_else(all, |ports| among(ports, !known.surely()));
    if !test.not_source_ports.is_empty() {
        sources = sources.without(&among(&test.not_source_ports, known.surely()));
    }
    sources
}

/// A port name of a pod that nobody has described.
fn is_unknown(port: &SetPort, class: &Class) -> bool {
    match port {
        SetPort::Unknown | SetPort::OwnNamed(_) => true,
        SetPort::PeerNamed(_) => class.unknown_ports,
        SetPort::Range(_) | SetPort::Resolved(..) => false,
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
    XSet::of(with_ports(protocol).flat_map(|protocol| {
        let first = every_detail(protocol).start;
        let numbers = ports.iter().flat_map(move |port| numbers(port, protocol, class));
        numbers.map(move |numbers| first + numbers.start..first + numbers.end)
    }))
}

/// All ports.
const PORTS: Range<u32> = 0..1 << 16;

/// What a port is in a protocol, as far as it is known.
pub(crate) fn numbers(port: &SetPort, protocol: Protocol, class: &Class) -> Vec<Range<u32>> {
    let numbers = |first: u16, last: u16| u32::from(first)..u32::from(last) + 1;
    match port {
        SetPort::Range(range) => vec![numbers(range.first(), range.last())],
        SetPort::Resolved(of, port) if *of == protocol => vec![numbers(*port, *port)],
        SetPort::Resolved(..) | SetPort::OwnNamed(_) | SetPort::Unknown => Vec::new(),
        SetPort::PeerNamed(name) => {
            let named = class.ports.iter().filter(|port| port.name == *name && port.protocol == protocol);
            named.map(|port| numbers(port.port, port.port)).collect()
        }
    }
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
    /// The own class decides.
    Cell,
    /// Nothing matched.
    Rest,
}

impl Paint {
    fn hit(self, rows: &Rows<'_>, marks: &Marks<Self>) -> Hit {
        let (verdict, decider) = self.meaning(rows);
        let logs = marks.iter().flat_map(|marks| marks.iter().map(|log| log.meaning(rows).1)).collect();
        Hit { logs, ..Hit::new(verdict, decider) }
    }

    fn meaning(self, rows: &Rows<'_>) -> (Verdict, Decider) {
        let set = rows.set;
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
                let policies =
                    rows.ends[tier].get_or_init(|| policies.iter().map(|policy| policy.id.clone()).collect());
                (Verdict::Deny, Decider::EndOfTier { tier: name.clone(), direction, policies: Arc::clone(policies) })
            }
            Self::Profile { profile, place, verdict } => {
                let name = match &set.profiles {
                    Profiles::Given(profiles) => profiles[profile].name.clone(),
                    Profiles::Implied | Profiles::Open | Profiles::Unasked => String::new(),
                };
                (verdict, Decider::Profile { profile: name, direction, place })
            }
            // What is asked of the own class is answered there.
            Self::Cell => (Verdict::Deny, Decider::NoRule(direction)),
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
