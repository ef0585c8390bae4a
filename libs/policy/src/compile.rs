//! Compiles a rule set, as seen by one peer class, into a row of spans.
//! In: a [`RuleSet`] and a [`Class`]. Out: a [`Row`]: who decides, for every `x` of protocol and port.
//! Invariant: spans are sorted, the first starts at 0, neighbours differ.
//! Never: looks at an address or at another rule set.

use crate::{Class, Decider, PeerTest, RuleSet, SetPort, SetRule, Verdict};
use abi::rules::{X_END, x_of};
use model::{Action, Protocol};
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
}

/// The row of `set` for peers of `class`. The set's default row is the one for `Class::default()`.
#[must_use]
pub fn row(set: &RuleSet, class: &Class) -> Row {
    let mut canvas = Canvas::new();
    'painted: for (policy, rules) in set.policies.iter().enumerate() {
        for rule in rules.rules.iter().filter(|rule| peer_matches(rule, class)) {
            let paint = Paint::Rule { policy, place: rule.place, action: rule.action };
            for xs in xs_of(rule, class) {
                canvas.paint(xs, paint);
            }
            if canvas.is_full() {
                break 'painted;
            }
        }
    }
    canvas.paint(EVERY_X, Paint::Rest);
    let rest = unmatched(set);
    Row(canvas.strokes().into_iter().map(|(start, paint)| paint.span(start, set, &rest)).collect())
}

/// What happens where no rule matches.
fn unmatched(set: &RuleSet) -> (Verdict, Decider) {
    let direction = set.direction;
    if set.policies.is_empty() {
        return (Verdict::Allow, Decider::NoPolicy(direction));
    }
    let policies = set.policies.iter().map(|policy| policy.id.clone()).collect();
    (Verdict::Deny, Decider::Isolated { direction, policies })
}

/// Whether the rule speaks of this class at all. What could not be read refuses everybody, and lets in nobody.
fn peer_matches(rule: &SetRule, class: &Class) -> bool {
    if rule.unreadable {
        return rule.action == Action::Deny;
    }
    let PeerTest { selector, nets, not_nets } = &rule.peer;
    selector.as_ref().is_none_or(|selector| class.selectors.contains(selector))
        && (nets.is_empty() || nets.iter().any(|net| class.nets.contains(net)))
        && !not_nets.iter().any(|net| class.nets.contains(net))
}

/// The `x` that a rule covers for this class.
fn xs_of(rule: &SetRule, class: &Class) -> Vec<Range<u32>> {
    match (rule.protocol, &rule.ports) {
        _ if rule.unreadable => vec![EVERY_X],
        (None, None) => vec![EVERY_X],
        (Some(protocol), None) => vec![detail_range(protocol, 0, u16::MAX)],
        (Some(protocol), Some(ports)) if protocol.has_ports() => port_ranges(protocol, ports, class),
        (Some(_), Some(_)) => Vec::new(),
        (None, Some(ports)) => {
            Protocol::WITH_PORTS.into_iter().flat_map(|protocol| port_ranges(protocol, ports, class)).collect()
        }
    }
}

fn port_ranges(protocol: Protocol, ports: &[SetPort], class: &Class) -> Vec<Range<u32>> {
    let mut ranges = Vec::with_capacity(ports.len());
    for port in ports {
        match port {
            SetPort::Range(range) => ranges.push(detail_range(protocol, range.first(), range.last())),
            SetPort::PeerNamed(name) => {
                let named = class.ports.iter().filter(|port| port.name == *name && port.protocol == protocol);
                ranges.extend(named.map(|port| detail_range(protocol, port.port, port.port)));
            }
        }
    }
    ranges
}

fn detail_range(protocol: Protocol, first: u16, last: u16) -> Range<u32> {
    x_of(protocol.0, first)..x_of(protocol.0, last) + 1
}

/// What a stretch of `x` is painted with. Compared instead of deciders, which are made once per span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    /// A rule of the policy at this index of the set.
    Rule { policy: usize, place: u16, action: Action },
    /// No rule matched.
    Rest,
}

impl Paint {
    fn span(self, start: u32, set: &RuleSet, rest: &(Verdict, Decider)) -> RowSpan {
        let (verdict, decider) = match self {
            Self::Rule { policy, place, action } => {
                let policy = set.policies[policy].id.clone();
                (action.into(), Decider::Rule { policy, direction: set.direction, place })
            }
            Self::Rest => rest.clone(),
        };
        RowSpan { start, verdict, decider }
    }
}

/// All `x`, each painted at most once. What is painted is never looked at again, so that n strokes cost n log n however
/// much they overlap.
struct Canvas {
    /// Unpainted stretches: start to end.
    blank: BTreeMap<u32, u32>,
    /// Painted stretches: start to paint. Each reaches to the next one's start, or to a blank.
    painted: BTreeMap<u32, Paint>,
}

impl Canvas {
    fn new() -> Self {
        Self { blank: BTreeMap::from([(0, X_END)]), painted: BTreeMap::new() }
    }

    fn is_full(&self) -> bool {
        self.blank.is_empty()
    }

    /// Paints what is still blank of `xs`.
    fn paint(&mut self, xs: Range<u32>, paint: Paint) {
        while let Some((start, end)) = self.last_blank_before(xs.end).filter(|(_, end)| *end > xs.start) {
            self.blank.remove(&start);
            if end > xs.end {
                self.blank.insert(xs.end, end);
            }
            if start < xs.start {
                self.blank.insert(start, xs.start);
            }
            self.painted.insert(start.max(xs.start), paint);
        }
    }

    fn last_blank_before(&self, x: u32) -> Option<(u32, u32)> {
        self.blank.range(..x).next_back().map(|(start, end)| (*start, *end))
    }

    /// The painted stretches in order, neighbours of one paint made one. The canvas is full by then.
    fn strokes(self) -> Vec<(u32, Paint)> {
        let mut strokes: Vec<_> = self.painted.into_iter().collect();
        strokes.dedup_by_key(|(_, paint)| *paint);
        strokes
    }
}
