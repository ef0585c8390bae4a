//! What a revision needs of each map, beside the one in force.
//! In: the step from the one to the other, and what its numbers mean. Out: entries needed, or the map that is too small and who asks for most.
//! Invariant: every map that a commit writes has its line in [`needs`].
//! Never: looks for who asks while everything fits.

use super::{
    edits::Edits,
    names::{Names, NamesChange},
    numbers::Numbers,
    sizes::Sizes,
    step::Step,
    sweep::Retired,
};
use abi::{
    RowRef,
    endpoint::{SLOT_FIRST, SLOT_HOST},
    maps::{self, MapSpec},
    word::ID_MAX,
};
use model::{PolicyId, Selector};
use policy::{PacketTest, PeerTest, PolicyRules, RuleSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A revision does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the map {map} has {size} entries and {needed}{} are needed{}; the previous revision stays in force, whole: \
     {remedy}, or ask for less",
    if *all_counted { "" } else { " or more" },
    demand.as_ref().map_or_else(String::new, |demand| format!(", {} by {}", demand.entries, demand.policy))
)]
pub struct Full {
    /// The map.
    pub map: &'static str,
    /// Entries needed, the revision in force included.
    pub needed: u64,
    /// More are not needed. Else it was far too many to go on counting.
    pub all_counted: bool,
    /// Entries it has.
    pub size: u32,
    /// Who asks for most of what is new.
    pub demand: Option<Demand>,
    /// What to do.
    pub remedy: String,
}

/// The policy that asks for most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which.
    pub policy: PolicyId,
    /// Entries that are for it, or for what it names.
    pub entries: usize,
}

/// Entries needed of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The map.
    pub map: &'static MapSpec,
    /// Entries, those of the revision in force included.
    pub entries: u64,
}

/// What to do about a map that is too small.
#[must_use]
pub fn remedy(map: &str, needed: u64) -> String {
    format!("set mapEntries {map} to {needed} or more and start the agent again")
}

/// What a step asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// From the revision in force to the one that is wanted.
    pub step: Step<'a>,
    /// Of neither, and not free yet.
    pub retired: &'a Retired,
    /// What numbers mean now, and what becomes of that.
    pub known: &'a Names,
    pub names: &'a NamesChange,
    /// Given out: to either, or not free yet.
    pub numbers: &'a Numbers,
}

impl Asked<'_> {
    /// What both revisions need together: the old one lies in the tables until it is swept.
    ///
    /// # Errors
    /// The first map that is too small.
    pub fn fits(&self, sizes: &Sizes) -> Result<Vec<Need>, Full> {
        let ids = end(self.numbers.classes.last());
        if ids > u64::from(ID_MAX) {
            let remedy = "no setting raises the number of classes that peers fall into".to_owned();
            let demand = self.demand(&maps::CLASSES);
            return Err(Full { map: "classes of peers", needed: ids, all_counted: true, size: ID_MAX, demand, remedy });
        }
        let needs = self.needs();
        match needs.iter().find(|need| need.entries > u64::from(sizes.of(need.map))) {
            None => Ok(needs),
            Some(Need { map, entries }) => Err(Full {
                map: map.name,
                needed: *entries,
                all_counted: true,
                size: sizes.of(map),
                demand: self.demand(map),
                remedy: remedy(map.name, *entries),
            }),
        }
    }

    /// Entries needed of every map that a commit writes.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let Self { step: Step { old, change }, retired, numbers, .. } = self;
        [
            (&maps::ADDRESSES, both(&old.addresses, &change.addresses) + count(retired.addresses.len())),
            (&maps::NETS, both(&old.nets, &change.nets) + count(retired.nets)),
            (&maps::CLASSES, end(numbers.class_slots.last())),
            (&maps::SETS, end(numbers.sets.last())),
            (&maps::ROWS, both(&old.rows, &change.rows) + count(retired.rows)),
            (&maps::SPANS, u64::from(numbers.room.end())),
            (&maps::ENDPOINTS, self.slots() + count(retired.slots.len())),
            (&maps::INTERFACES, both(&old.interfaces, &change.interfaces) + count(retired.interfaces.len())),
            (&maps::HITS, count(self.names.hits.len(&self.known.hits) + 1)),
        ]
        .map(|(map, entries)| Need { map, entries })
        .into()
    }

    /// The policy that asks for most of what is new in a map.
    pub(super) fn demand(&self, map: &MapSpec) -> Option<Demand> {
        let entries = match map.name {
            "SPANS" => self.spans_by_set(),
            "ROWS" => self.rows_by_set(),
            "SETS" => self.step.change.sets.added(&self.step.old.sets).map(|(id, _)| (*id, 1)).collect(),
            _ => return self.peers_by_policy(),
        };
        let (id, entries) = entries.into_iter().max_by_key(|(_, entries)| *entries)?;
        let set = self.sets().find_map(|(set, number)| (*number == id).then_some(set))?;
        Some(Demand { policy: heaviest(set)?.id.clone(), entries })
    }

    /// Endpoint slots in use, the first ones included, which are nobody's and this node's.
    fn slots(&self) -> u64 {
        let Step { old, change } = self.step;
        let is_said = old.endpoints.contains_key(&SLOT_HOST) || self.step.endpoint(SLOT_HOST).is_some();
        u64::from(SLOT_FIRST) + both(&old.endpoints, &change.endpoints) - u64::from(is_said)
    }

    fn sets(&self) -> impl Iterator<Item = (&Arc<RuleSet>, &u32)> {
        self.names.sets.whole(&self.known.sets)
    }

    fn rows_by_set(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for (key, _) in self.step.change.rows.added(&self.step.old.rows) {
            *counts.entry(key.set).or_default() += 1;
        }
        counts
    }

    /// Spans that several sets share are counted for the first.
    fn spans_by_set(&self) -> BTreeMap<u32, usize> {
        let Step { old, change } = self.step;
        let rows = change.rows.whole(&old.rows).map(|(key, row)| (key.set, *row));
        let defaults = change.sets.whole(&old.sets).map(|(id, entry)| (*id, entry.row));
        let mut seen: BTreeSet<RowRef> = old.spans.keys().copied().collect();
        let mut counts = BTreeMap::new();
        for (set, row) in defaults.chain(rows) {
            if seen.insert(row) {
                *counts.entry(set).or_default() += usize::try_from(row.len).unwrap_or(usize::MAX);
            }
        }
        counts
    }

    /// Fresh addresses and networks, counted for each policy that names them by network or selector.
    fn peers_by_policy(&self) -> Option<Demand> {
        let Step { old, change } = self.step;
        let classes: BTreeMap<u32, _> =
            self.names.classes.whole(&self.known.classes).map(|(class, id)| (*id, class)).collect();
        let mut fresh: BTreeMap<u32, usize> = BTreeMap::new();
        let (addresses, nets) = (change.addresses.added(&old.addresses), change.nets.added(&old.nets));
        for class in addresses.map(|(_, entry)| entry.class).chain(nets.map(|(_, entry)| entry.class)) {
            *fresh.entry(class).or_default() += 1;
        }
        let mut asked: BTreeMap<&PolicyId, BTreeSet<u32>> = BTreeMap::new();
        for policy in self.sets().flat_map(|(set, _)| set.policies()) {
            let peers: Vec<_> = policy.rules.iter().map(|rule| &rule.peer).collect();
            let selectors: BTreeSet<_> = peers.iter().flat_map(|peer| selectors_of(peer)).collect();
            let nets: BTreeSet<_> =
                peers.iter().flat_map(|peer| peer.nets.iter().flatten().chain(&peer.not_nets)).collect();
            let services: BTreeSet<_> = peers.iter().filter_map(|peer| peer.service.as_ref()).collect();
            let names = |id: &&u32| {
                classes.get(id).is_some_and(|class| {
                    let found = class.selectors.iter().chain(&class.unsure).chain(&class.nodes);
                    found.into_iter().any(|own| selectors.contains(own))
                        || class.nets.iter().any(|own| nets.contains(own))
                        || class.services.keys().any(|own| services.contains(own))
                })
            };
            asked.entry(&policy.id).or_default().extend(fresh.keys().filter(names));
        }
        let counted = asked.into_iter().map(|(policy, classes)| (policy, classes.iter().map(|id| fresh[id]).sum()));
        let most = counted.max_by_key(|(_, entries)| *entries).filter(|(_, entries): &(_, usize)| *entries > 0)?;
        Some(Demand { policy: most.0.clone(), entries: most.1 })
    }
}

fn selectors_of(peer: &PeerTest) -> impl Iterator<Item = &Arc<Selector>> {
    peer.selector.iter().chain(&peer.not_selector).chain(&peer.nodes)
}

/// The policy of a set that says most.
pub(super) fn heaviest(set: &RuleSet) -> Option<&PolicyRules> {
    let weight = |policy: &&PolicyRules| -> usize {
        let of_peer = |peer: &PeerTest| peer.nets.iter().flatten().count() + peer.not_nets.len();
        let of_packet = |packet: &PacketTest| packet.ports.iter().flatten().count() + packet.not_ports.len();
        policy.rules.iter().map(|rule| 1 + of_peer(&rule.peer) + of_packet(&rule.packet)).sum()
    };
    set.policies().max_by_key(weight)
}

fn both<K: Ord + Clone, V: PartialEq + Clone>(old: &BTreeMap<K, V>, edits: &Edits<K, V>) -> u64 {
    count(old.len() + edits.added(old).count())
}

fn count(entries: usize) -> u64 {
    u64::try_from(entries).unwrap_or(u64::MAX)
}

fn end(last: Option<u32>) -> u64 {
    last.map_or(1, |last| u64::from(last) + 1)
}

#[cfg(test)]
mod tests;
