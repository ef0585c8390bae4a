//! Host endpoints in a trial: what their layers say of a flow, and of whom they would say something else.
//! In: a Desired; or two, with the groups that their rule sets tell apart. Out: judgements; differences layer by layer.
//! Invariant: a layer that is not there lets everything pass; one that leaves it to the next does not refuse.
//! Never: says what all layers of a packet's way come to, but of a flow.

use super::{
    Trial,
    compare::{Group, Known, Pairs, Side},
};
use crate::{Desired, HostEndpointSpec, Judges};
use model::{Cidr, Direction, IfaceName};
use policy::{Decider, Flow, HostLayer, Judgement, Row, RuleSet, Verdict, stretch};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

/// What a layer of a host endpoint would decide otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDifference {
    /// Of which interface.
    pub interface: IfaceName,
    /// Which layer.
    pub layer: HostLayer,
    /// Which way.
    pub direction: Direction,
    /// Who is at the far end.
    pub peers: Vec<Cidr>,
    /// Who is at the near one; empty: whoever is.
    pub own: Vec<Cidr>,
    /// Protocols and ports ([`stretch::said`]).
    pub what: Vec<Range<u32>>,
    /// Whether it would be let pass; else it would be refused.
    pub lets_in: bool,
    /// By what, or, where nothing is asked any more, by what it was refused.
    pub by: Decider,
}

impl HostEndpointSpec {
    fn judges(&self, layer: HostLayer) -> &Judges {
        match layer {
            HostLayer::Untracked => &self.untracked,
            HostLayer::PreDnat => &self.pre_dnat,
            HostLayer::Forward => &self.forward,
            HostLayer::Local => &self.local,
        }
    }

    fn set(&self, layer: HostLayer, direction: Direction) -> Option<&Arc<RuleSet>> {
        self.judges(layer).of(direction)
    }
}

impl Judges {
    fn of(&self, direction: Direction) -> Option<&Arc<RuleSet>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

impl Trial<'_> {
    /// What the host endpoint of an interface says of what opens a flow there, up to this layer: the one that decides. `None`: nobody
    /// is asked.
    pub fn at_gate(
        &mut self,
        interface: &IfaceName,
        direction: Direction,
        last: HostLayer,
        flow: &Flow,
    ) -> Option<Judgement> {
        let spec = self.desired.host_endpoints.get(interface)?;
        for layer in HostLayer::up_to(last) {
            let Some(set) = spec.set(layer, direction) else { continue };
            let judged = self.judge_at_host(set, direction, flow);
            let goes_on =
                judged.verdict == Verdict::Next || (layer == HostLayer::PreDnat && judged.verdict == Verdict::Allow);
            if !goes_on {
                return Some(judged);
            }
        }
        None
    }

    /// What the uplink's own host endpoint says of a client outside and the backend that a service leads it to, if it refuses it.
    pub fn refused_behind(&mut self, uplink: &IfaceName, flow: &Flow) -> Option<Judgement> {
        let layer = if self.is_host(flow.destination) { HostLayer::Local } else { HostLayer::Forward };
        let set = self.desired.host_endpoints.get(uplink)?.set(layer, Direction::Ingress)?;
        Some(self.judge_at_host(set, Direction::Ingress, flow)).filter(|judged| judged.verdict == Verdict::Deny)
    }

    /// The host endpoint of all interfaces, where it refuses a flow that a pod of this node sends or receives (HEP-5, HEP-6, E2H-6).
    pub fn refused_at_pods(&mut self, flow: &Flow) -> Option<Judgement> {
        let (sends, receives) = (self.local.contains_key(&flow.source), self.local.contains_key(&flow.destination));
        let node = &self.desired.node;
        let asked = [
            (sends, &node.pre_dnat, Direction::Ingress),
            (sends && !self.is_host(flow.destination), &node.forward, Direction::Ingress),
            (receives && !self.is_host(flow.source), &node.forward, Direction::Egress),
        ];
        for (_, judges, direction) in asked.into_iter().filter(|(is_asked, ..)| *is_asked) {
            let judged = judges.of(direction).map(|set| self.judge_at_host(set, direction, flow));
            if judged.as_ref().is_some_and(|judged| judged.verdict == Verdict::Deny) {
                return judged;
            }
        }
        None
    }

    fn judge_at_host(&mut self, set: &Arc<RuleSet>, direction: Direction, flow: &Flow) -> Judgement {
        let ends = match direction {
            Direction::Ingress => (flow.source, flow.destination),
            Direction::Egress => (flow.destination, flow.source),
        };
        self.judge(set, ends, flow)
    }
}

/// A layer that would be another: its rule sets, before and after, by number.
pub(super) struct Changed {
    interface: IfaceName,
    layer: HostLayer,
    direction: Direction,
    sets: [Option<usize>; 2],
}

/// The layers of both that are not alike.
pub(super) fn changed(before: &Desired, after: &Desired, known: &mut Known) -> Vec<Changed> {
    let interfaces: BTreeSet<&IfaceName> = before.host_endpoints.keys().chain(after.host_endpoints.keys()).collect();
    let layers = HostLayer::ALL.into_iter().flat_map(|layer| [(layer, Direction::Ingress), (layer, Direction::Egress)]);
    let places = interfaces.into_iter().flat_map(|interface| layers.clone().map(move |layer| (interface, layer)));
    let mut all = Vec::new();
    for (interface, (layer, direction)) in places {
        let mut number = |desired: &Desired| {
            let set = desired.host_endpoints.get(interface)?.set(layer, direction)?;
            Some(known.set(set))
        };
        let sets = [number(before), number(after)];
        if sets[0] != sets[1] {
            all.push(Changed { interface: interface.clone(), layer, direction, sets });
        }
    }
    all
}

/// Of whom a layer would say something else. `None`: so many groups cannot be looked at.
pub(super) fn differences(
    changed: &Changed,
    groups: &BTreeMap<Group, Vec<Cidr>>,
    pairs: &mut Pairs<'_>,
) -> Option<Vec<HostDifference>> {
    let asks_own = changed.sets.iter().flatten().any(|set| pairs.asks_own(*set));
    let mut looked = 0;
    let mut found = Vec::new();
    for (peer, peers) in groups {
        let own = groups.iter().filter(|(own, _)| asks_own && own.family == peer.family);
        let own = own.map(|(group, own)| (Some(group), own.clone()));
        for (near, own) in own.chain((!asks_own).then(|| (None, Vec::new()))) {
            looked += 1;
            if looked > super::compare::PAIRS_MAX {
                return None;
            }
            let mut row = |set: Option<usize>, side: fn(&Group) -> &Side| {
                let set = set?;
                let near = near.filter(|_| pairs.asks_own(set)).map(|near| side(near).class);
                pairs.row(Some((set, side(peer).class, near)))
            };
            let rows = [row(changed.sets[0], |group| &group.before), row(changed.sets[1], |group| &group.after)];
            for ((lets_in, by), what) in between(&rows) {
                let Changed { interface, layer, direction, .. } = changed;
                let (interface, layer, direction) = (interface.clone(), *layer, *direction);
                let (peers, own) = (peers.clone(), own.clone());
                found.push(HostDifference { interface, layer, direction, peers, own, what, lets_in, by });
            }
        }
    }
    Some(found)
}

fn between(rows: &[Option<Arc<Row>>; 2]) -> BTreeMap<(bool, Decider), Vec<Range<u32>>> {
    let spans = || rows.iter().flatten().flat_map(|row| row.0.iter());
    let starts: BTreeSet<u32> = spans().map(|span| span.start).chain([0]).collect();
    let next = starts.iter().skip(1).copied().chain([stretch::EVERYTHING.end]);
    let mut found: BTreeMap<(bool, Decider), Vec<Range<u32>>> = BTreeMap::new();
    for (start, end) in starts.iter().copied().zip(next) {
        let at = |row: &Option<Arc<Row>>, port| row.as_ref()?.at(start)?.answer.from_port(port).cloned();
        let ports = rows.iter().flatten().filter_map(|row| row.at(start)).flat_map(|span| span.answer.ports());
        let of_port = |port| {
            let [was, is] = [at(&rows[0], port), at(&rows[1], port)];
            let refuses = |hit: &Option<policy::Hit>| hit.as_ref().is_some_and(|hit| hit.verdict == Verdict::Deny);
            let differs = refuses(&was) != refuses(&is);
            let said = if differs { is.or(was.clone()) } else { None };
            said.map(|said| (refuses(&was), said.decider))
        };
        for difference in ports.chain([0]).filter_map(of_port).collect::<BTreeSet<_>>() {
            let ranges = found.entry(difference).or_default();
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
    }
    found
}
