//! One revision of the tables, as kernel numbers: what a commit starts from and what it leads to.
//! In: a snapshot read back, or a plan. Out: values that two revisions can be compared by.
//! Invariant: words are settled; what an image names is in use and is not given out again.
//! Never: knows policies; [`super::names`] does.

use super::{ids::Ids, prefix, write::Snapshot, write::Write};
use abi::{
    Address, ClassEntry, Endpoint, Layers, NetKey, RowKey, RowRef, SetEntry, Span, Word,
    endpoint::{SLOT_FIRST, SLOT_HOST, SLOT_NONE},
    rules::{CLASS_NONE, SET_DENY, SET_OPEN},
};
use std::{collections::BTreeMap, sync::Arc};

/// What an address or network resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its class slot.
    pub slot: u32,
    /// Class id.
    pub class: u32,
    /// Endpoint slot of the owner.
    pub owner: u32,
}

/// One revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its generation.
    pub generation: u64,
    /// Endpoint slots in use; [`SLOT_HOST`] is among them while it says something.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Interface index to slot.
    pub interfaces: BTreeMap<u32, u32>,
    /// Exact addresses.
    pub addresses: BTreeMap<Address, Entry>,
    /// Networks.
    pub nets: BTreeMap<NetKey, Entry>,
    /// Rule sets.
    pub sets: BTreeMap<u32, SetEntry>,
    /// Rows that differ from their set's default.
    pub rows: BTreeMap<RowKey, RowRef>,
    /// What rows refer to.
    pub spans: BTreeMap<RowRef, Arc<[Span]>>,
}

impl Image {
    /// The class an exact address resolves to.
    #[must_use]
    pub fn class_of(&self, address: Address) -> u32 {
        self.addresses.get(&address).map_or_else(|| self.class_over(&prefix::host(address)), |entry| entry.class)
    }

    /// The class a network resolves to, by itself or by the longest one over it.
    #[must_use]
    pub fn class_over(&self, net: &NetKey) -> u32 {
        prefix::longest(net, |key| self.nets.get(key)).map_or(CLASS_NONE, |entry| entry.class)
    }

    /// The owner of an address.
    #[must_use]
    pub fn owner_of(&self, address: Address) -> u32 {
        self.addresses.get(&address).map_or(SLOT_NONE, |entry| entry.owner)
    }

    /// The row by which a set answers a class.
    #[must_use]
    pub fn row(&self, set: u32, class: u32) -> RowRef {
        let default = || self.sets.get(&set).map(|entry| entry.row).unwrap_or_default();
        self.rows.get(&RowKey { set, class }).copied().unwrap_or_else(default)
    }

    /// Rule set ids in use.
    #[must_use]
    pub fn set_ids(&self) -> Ids {
        let judged = self.endpoints.iter().filter(|(slot, _)| **slot != SLOT_HOST);
        let numbered = judged.flat_map(|(_, entry)| entry.sets());
        let numbered = numbered.filter(|id| ![SET_DENY, SET_OPEN].contains(id));
        self.sets.keys().copied().chain(self.rows.keys().map(|key| key.set)).chain(numbered).collect()
    }

    /// Class ids in use.
    #[must_use]
    pub fn class_ids(&self) -> Ids {
        let of_peers = self.entries().map(|entry| entry.class).filter(|class| *class != CLASS_NONE);
        self.rows.keys().map(|key| key.class).chain(of_peers).collect()
    }

    /// Class slots in use.
    #[must_use]
    pub fn class_slots(&self) -> Ids {
        self.entries().map(|entry| entry.slot).collect()
    }

    /// Hit ids in use.
    #[must_use]
    pub fn hits(&self) -> Ids {
        let deciding = self.spans.values().flat_map(|spans| spans.iter().filter(|span| span.kind().decides()));
        deciding.map(|span| span.hit).collect()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.addresses.values().chain(self.nets.values())
    }
}

/// Reads an image out of what a previous agent, or a commit that broke off, left behind; and the writes that make the
/// tables say exactly that: words that never came into force go back, and flows of nobody's slots go.
#[must_use]
pub fn adopt(snapshot: Snapshot, endpoint_slots: u32) -> (Image, Vec<Write>) {
    let generation = snapshot.generation;
    let settle = |word: Word| Word::settled(word.at(generation));
    let entry = |slot: u32| {
        let words = snapshot.classes.get(&slot).copied().unwrap_or_default();
        Entry { slot, class: words.class.at(generation), owner: words.endpoint.at(generation) }
    };
    let endpoints: BTreeMap<_, _> = snapshot
        .endpoints
        .iter()
        .filter(|(_, found)| !is_vacant(found))
        .map(|(slot, found)| {
            let (egress, ingress, sources) = (settle(found.egress), settle(found.ingress), settle(found.sources));
            (*slot, Endpoint { egress, ingress, sources, ..*found })
        })
        .collect();
    let image = Image {
        generation,
        addresses: snapshot.addresses.iter().map(|(key, slot)| (*key, entry(*slot))).collect(),
        nets: snapshot.nets.iter().map(|(key, slot)| (*key, entry(*slot))).collect(),
        interfaces: snapshot
            .interfaces
            .iter()
            .filter(|(index, slot)| endpoints.get(slot).is_some_and(|found: &Endpoint| found.ifindex == **index))
            .map(|(index, slot)| (*index, *slot))
            .collect(),
        endpoints,
        sets: snapshot.sets.clone(),
        rows: snapshot.rows.clone(),
        spans: snapshot.spans.clone(),
    };
    let repairs = repairs(&snapshot, &image, endpoint_slots);
    (image, repairs)
}

/// Whether a slot is nobody's, whatever revision it had last, and whenever its words came to say nothing.
#[must_use]
pub fn is_vacant(entry: &Endpoint) -> bool {
    let says = |word: Word| (word.new(), word.old()) != (0, 0);
    entry.ifindex == 0
        && entry.flags == 0
        && entry.layers == Layers::default()
        && !says(entry.egress)
        && !says(entry.ingress)
        && !says(entry.sources)
}

fn repairs(snapshot: &Snapshot, image: &Image, endpoint_slots: u32) -> Vec<Write> {
    let class = image.entries().filter_map(|entry| {
        let settled = ClassEntry { class: Word::settled(entry.class), endpoint: Word::settled(entry.owner) };
        let found = snapshot.classes.get(&entry.slot).copied().unwrap_or_default();
        let answers = found.class.is_settled() && found.endpoint.is_settled();
        (!answers).then_some(Write::Class(entry.slot, settled))
    });
    let endpoint = image.endpoints.iter().filter_map(|(slot, settled)| {
        let found = snapshot.endpoints.get(slot).copied().unwrap_or_default();
        let answers = found.is_settled();
        (!answers).then_some(Write::Endpoint(*slot, *settled))
    });
    let nobodys = snapshot.interfaces.keys().filter(|index| !image.interfaces.contains_key(index));
    let nobodys: Vec<_> = nobodys.map(|index| Write::DeleteInterface(*index)).collect();
    // What was deleted a packet may look at, and the next key would be given its element.
    let grace = (!nobodys.is_empty()).then_some(Write::Grace);
    let empty = (SLOT_FIRST..endpoint_slots).filter(|slot| !image.endpoints.contains_key(slot)).collect();
    let words = class.chain(endpoint);
    [Write::Grace].into_iter().chain(words).chain(nobodys).chain([Write::FlushFlows(empty)]).chain(grace).collect()
}
