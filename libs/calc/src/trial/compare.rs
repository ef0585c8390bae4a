//! Compares two Desired: which pods' rule sets are others, and between whom verdicts would be.
//! In: what is desired now, and what would be. Out: groups of senders and receivers with the protocols and ports that differ; host
//! endpoints layer by layer.
//! Invariant: addresses that no rule set tells apart, before or after, are one group; a verdict is that of both ends.
//! Never: goes on without a bound; what was left out is counted.

use super::{class_of, hosts, hosts::HostDifference};
use crate::{Desired, EndpointSpec, Owner};
use model::{Cidr, Family, PodId};
use policy::{Class, Decider, Hit, Row, Rows, RuleSet, Verdict, stretch};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

/// Pairs of groups whose rows are compared.
pub(super) const PAIRS_MAX: usize = 20_000;
/// Differences that are listed.
const LISTED_MAX: usize = 256;

/// What would be otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Local pods whose rules would be others; what is only staged is none.
    pub pods: BTreeSet<PodId>,
    /// Between whom, with what.
    pub differences: Vec<Difference>,
    /// What layers of host endpoints would decide otherwise.
    pub at_hosts: Vec<HostDifference>,
    /// Differences that are not listed.
    pub unlisted: usize,
    /// Pairs of groups that were not compared.
    pub unlooked: usize,
}

/// A verdict that would be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Who sends.
    pub from: Vec<Cidr>,
    /// Who receives.
    pub to: Vec<Cidr>,
    /// Protocols and ports, as stretches of `x` ([`stretch::said`]).
    pub what: Vec<Range<u32>>,
    /// Whether it would be let in; else it would be refused.
    pub lets_in: bool,
    /// By what.
    pub by: Decider,
}

/// Compares.
#[must_use]
pub fn compare(before: &Desired, after: &Desired) -> Comparison {
    let mut known = Known::default();
    let pods = changed_pods(before, after);
    let groups = groups(before, after, &mut known);
    let layers = hosts::changed(before, after, &mut known);
    let rows = known.sets.contents.iter().map(|set| Rows::of(set)).collect();
    let asking = known.sets.contents.iter().map(|set| set.asks_own()).collect();
    let mut pairs = Pairs { known: &known, rows, asking, made: BTreeMap::new() };
    let mut found = Comparison { pods, ..Comparison::default() };
    for layer in &layers {
        match hosts::differences(layer, &groups, &mut pairs) {
            Some(differences) => found.at_hosts.extend(differences),
            None => found.unlooked += 1,
        }
    }
    found.unlisted = found.at_hosts.len().saturating_sub(LISTED_MAX);
    found.at_hosts.truncate(LISTED_MAX);
    let mut looked = 0;
    for (source, from) in &groups {
        for (destination, to) in &groups {
            if !pairs.may_differ(source, destination) {
                continue;
            }
            looked += 1;
            if looked > PAIRS_MAX {
                found.unlooked += 1;
                continue;
            }
            for ((lets_in, by), what) in pairs.differences(source, destination) {
                if found.differences.len() == LISTED_MAX {
                    found.unlisted += 1;
                } else {
                    found.differences.push(Difference { from: from.clone(), to: to.clone(), what, lets_in, by });
                }
            }
        }
    }
    found
}

/// Those that are on this node before and after. Equal content is often the same.
fn changed_pods(before: &Desired, after: &Desired) -> BTreeSet<PodId> {
    let same = |one: &Arc<RuleSet>, other: &Arc<RuleSet>| Arc::ptr_eq(one, other) || enforced(one) == enforced(other);
    let changed = after.endpoints.iter().filter(|(id, spec)| {
        let was = before.endpoints.get(id);
        was.is_none_or(|was| !same(&was.ingress, &spec.ingress) || !same(&was.egress, &spec.egress))
    });
    changed.map(|(_, spec)| spec.pod.clone()).collect()
}

/// What is staged decides nothing.
fn enforced(set: &RuleSet) -> RuleSet {
    RuleSet { preview: None, ..set.clone() }
}

/// Contents by number.
#[derive(Debug)]
struct Numbered<T> {
    contents: Vec<Arc<T>>,
    numbers: BTreeMap<Arc<T>, usize>,
    /// By where a content lies, as long as both Desired do.
    met: BTreeMap<usize, usize>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { contents: Vec::new(), numbers: BTreeMap::new(), met: BTreeMap::new() }
    }
}

impl<T: Ord> Numbered<T> {
    fn number(&mut self, content: &Arc<T>, as_is: impl FnOnce(&Arc<T>) -> Arc<T>) -> usize {
        let at = Arc::as_ptr(content).addr();
        if let Some(number) = self.met.get(&at) {
            return *number;
        }
        let number = self.number_anew(as_is(content));
        self.met.insert(at, number);
        number
    }

    fn number_anew(&mut self, content: Arc<T>) -> usize {
        let next = self.contents.len();
        let number = *self.numbers.entry(Arc::clone(&content)).or_insert(next);
        if number == next {
            self.contents.push(content);
        }
        number
    }
}

#[derive(Debug, Default)]
pub(super) struct Known {
    sets: Numbered<RuleSet>,
    classes: Numbered<Class>,
}

/// How an address is seen, and what judges it, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Side {
    pub(super) class: usize,
    ingress: Option<usize>,
    egress: Option<usize>,
    /// Traffic from this node is let in.
    is_host: bool,
}

/// Addresses of one group are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) family: Family,
    pub(super) before: Side,
    pub(super) after: Side,
}

/// Every address and network that any rule tells apart, by what it is. Networks stand for what is in them and named apart
/// nowhere; those of all addresses for everybody else.
fn groups(before: &Desired, after: &Desired, known: &mut Known) -> BTreeMap<Group, Vec<Cidr>> {
    let mut places: BTreeSet<Cidr> = [Family::V4, Family::V6].map(Cidr::all).into();
    for desired in [before, after] {
        places.extend(desired.addresses.keys().copied().map(Cidr::host));
        places.extend(desired.endpoints.values().flat_map(|spec| &spec.addresses).copied().map(Cidr::host));
        places.extend(desired.nets.keys());
    }
    let (local_before, local_after) = (local(before), local(after));
    let mut groups: BTreeMap<Group, Vec<Cidr>> = BTreeMap::new();
    for place in places {
        let mut side = |desired, local: &BTreeMap<IpAddr, &EndpointSpec>| known.side(desired, local, &place);
        let (before, after) = (side(before, &local_before), side(after, &local_after));
        groups.entry(Group { family: place.family(), before, after }).or_default().push(place);
    }
    groups
}

fn local(desired: &Desired) -> BTreeMap<IpAddr, &EndpointSpec> {
    desired.endpoints.values().flat_map(|spec| spec.addresses.iter().map(move |address| (*address, spec))).collect()
}

impl Known {
    /// The number of a rule set; what is staged in it decides nothing.
    pub(super) fn set(&mut self, set: &Arc<RuleSet>) -> usize {
        self.sets.number(set, |set| Arc::new(enforced(set)))
    }

    fn side(&mut self, desired: &Desired, local: &BTreeMap<IpAddr, &EndpointSpec>, place: &Cidr) -> Side {
        let address = Some(place.network()).filter(|address| *place == Cidr::host(*address));
        let spec = address.and_then(|address| local.get(&address));
        let mut set = |set: &Arc<RuleSet>| self.set(set);
        let held = address.and_then(|address| desired.addresses.get(&address));
        let (ingress, egress) = (spec.map(|spec| set(&spec.ingress)), spec.map(|spec| set(&spec.egress)));
        let class = match class_of(desired, place) {
            Some(class) => self.classes.number(class, Arc::clone),
            None => self.classes.number_anew(Arc::default()),
        };
        Side { class, ingress, egress, is_host: held.is_some_and(|spec| spec.owner == Owner::Host) }
    }
}

/// Which set a side is judged by, as what it sees the other, and as what its own address is seen, if that matters.
type Asked = Option<(usize, usize, Option<usize>)>;

pub(super) struct Pairs<'a> {
    known: &'a Known,
    rows: Vec<Rows<'a>>,
    /// Sets that ask of the own address.
    asking: Vec<bool>,
    made: BTreeMap<(usize, usize, Option<usize>), Arc<Row>>,
}

impl Pairs<'_> {
    pub(super) fn asks_own(&self, set: usize) -> bool {
        self.asking[set]
    }

    pub(super) fn row(&mut self, asked: Asked) -> Option<Arc<Row>> {
        let (set, class, own) = asked?;
        let Self { known, rows, made, .. } = self;
        let make = || {
            let row = rows[set].row(&known.classes.contents[class]);
            Arc::new(own.map(|own| row.of_own(&known.classes.contents[own])).unwrap_or(row))
        };
        Some(Arc::clone(made.entry((set, class, own)).or_insert_with(make)))
    }

    fn asked(&self, source: &Side, destination: &Side) -> [Asked; 2] {
        let own = |set: usize, side: &Side| self.asking[set].then_some(side.class);
        let egress = source.egress.map(|set| (set, destination.class, own(set, source)));
        let ingress = destination.ingress.filter(|_| !source.is_host);
        [egress, ingress.map(|set| (set, source.class, own(set, destination)))]
    }

    /// Whether anything that judges between them is another.
    fn may_differ(&self, source: &Group, destination: &Group) -> bool {
        source.family == destination.family
            && self.asked(&source.before, &destination.before) != self.asked(&source.after, &destination.after)
    }

    /// Whether it would be let in, and by what; with which protocols and ports.
    fn differences(&mut self, source: &Group, destination: &Group) -> BTreeMap<(bool, Decider), Vec<Range<u32>>> {
        let mut ends = |source: &Side, destination: &Side| {
            let [egress, ingress] = self.asked(source, destination);
            Ends { egress: self.row(egress), ingress: self.row(ingress) }
        };
        let before = ends(&source.before, &destination.before);
        let after = ends(&source.after, &destination.after);
        let mut found: BTreeMap<(bool, Decider), Vec<Range<u32>>> = BTreeMap::new();
        let starts: BTreeSet<u32> = before.starts().chain(after.starts()).collect();
        let next = starts.iter().skip(1).copied().chain([stretch::EVERYTHING.end]);
        for (start, end) in starts.iter().copied().zip(next) {
            // A difference from some source ports is one.
            let ports: BTreeSet<u32> = before.ports(start).chain(after.ports(start)).collect();
            let differences = ports.into_iter().filter_map(|port| difference(&before, &after, (start, port)));
            for difference in differences.collect::<BTreeSet<_>>() {
                let ranges = found.entry(difference).or_default();
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => ranges.push(start..end),
                }
            }
        }
        found
    }
}

/// The rows by which a flow is judged; `None`: that end is not asked.
struct Ends {
    egress: Option<Arc<Row>>,
    ingress: Option<Arc<Row>>,
}

impl Ends {
    fn starts(&self) -> impl Iterator<Item = u32> {
        let rows = [&self.egress, &self.ingress].into_iter().flatten();
        rows.flat_map(|row| row.0.iter().map(|span| span.start)).chain([0])
    }

    /// The source ports that rows tell apart at an `x`.
    fn ports(&self, x: u32) -> impl Iterator<Item = u32> {
        let spans = [&self.egress, &self.ingress].into_iter().flatten().filter_map(move |row| row.at(x));
        spans.flat_map(|span| span.answer.ports()).chain([0])
    }

    fn refuses(&self, x: (u32, u32)) -> bool {
        [&self.egress, &self.ingress]
            .into_iter()
            .any(|end| at(end, x).is_some_and(|said| said.verdict == Verdict::Deny))
    }
}

fn at(row: &Option<Arc<Row>>, (x, port): (u32, u32)) -> Option<&Hit> {
    row.as_ref()?.at(x)?.answer.from_port(port)
}

/// Who refuses; or who lets in at the end that refused.
fn difference(before: &Ends, after: &Ends, x: (u32, u32)) -> Option<(bool, Decider)> {
    let (was, is) = (before.refuses(x), after.refuses(x));
    if was == is {
        return None;
    }
    let refusing = if is { after } else { before };
    let at_sender = at(&refusing.egress, x).is_some_and(|said| said.verdict == Verdict::Deny);
    let end = if at_sender { &after.egress } else { &after.ingress };
    // The end that refused may not be asked any more: then the other one's word is all there is.
    let said = at(end, x).or_else(|| at(&after.egress, x)).or_else(|| at(&after.ingress, x))?;
    Some((was, said.decider.clone()))
}
