//! The order of writes that leads from one image to the next: TABLES.md's six steps.
//! In: two images. Out: the writes up to the generation's store, and those that sweep afterwards.
//! Invariant: after any prefix of the first list every packet is judged by the old image, after the last by the new.
//! Never: writes where the image in force looks.

use super::image::{Entry, Image};
use super::write::Write;
use abi::{ClassEntry, Endpoint, Word, endpoint::SLOT_NONE, rules::SET_DENY};
use std::collections::BTreeMap;

/// Everything up to, and with, the one store that puts `new` in force. The counters of `fresh_hits` start at zero.
#[must_use]
pub fn put_in_force(old: &Image, new: &Image, fresh_hits: &[u32]) -> Vec<Write> {
    if old == new {
        return Vec::new();
    }
    let spans = added(&old.spans, &new.spans).map(|(place, spans)| Write::Spans(place.offset, spans.clone()));
    let hits = fresh_hits.iter().map(|hit| Write::ClearHit(*hit));
    let sets = added(&old.sets, &new.sets).map(|(id, entry)| Write::Set(*id, *entry));
    let rows = added(&old.rows, &new.rows).map(|(key, row)| Write::Row(*key, *row));
    let interfaces = added(&old.interfaces, &new.interfaces).map(|(index, slot)| Write::Interface(*index, *slot));
    spans
        .chain(hits)
        .chain(sets)
        .chain(rows)
        .chain(addresses(old, new))
        .chain(nets(old, new))
        .chain(endpoints(old, new))
        .chain(interfaces)
        .chain([Write::Generation(new.generation)])
        .collect()
}

/// What is due once `new` is in force and a grace has passed: settle the words, take away what only `old` used. After one more
/// grace flows of the slots that are gone are flushed, and all their numbers are free.
#[must_use]
pub fn sweep(old: &Image, new: &Image) -> Vec<Write> {
    if old == new {
        return Vec::new();
    }
    let cleared = gone(&old.endpoints, &new.endpoints).map(|(slot, entry)| {
        Write::Endpoint(
            *slot,
            Endpoint { rev: super::affected::revision(new.generation).max(entry.rev), ..Endpoint::default() },
        )
    });
    settled(old, new)
        .chain(gone(&old.interfaces, &new.interfaces).map(|(index, _)| Write::DeleteInterface(*index)))
        .chain(cleared)
        .chain(gone(&old.addresses, &new.addresses).map(|(key, _)| Write::DeleteAddress(*key)))
        .chain(gone(&old.nets, &new.nets).map(|(key, _)| Write::DeleteNet(*key)))
        .chain(gone(&old.rows, &new.rows).map(|(key, _)| Write::DeleteRow(*key)))
        .chain(gone(&old.sets, &new.sets).map(|(id, _)| Write::Set(*id, abi::SetEntry::default())))
        .collect()
}

/// Class words of exact addresses. A new key answers what it resolved to before; one that goes, what will cover it.
fn addresses<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let fresh = added(&old.addresses, &new.addresses).flat_map(|(key, entry)| {
        let was = Entry { slot: entry.slot, class: old.class_of(*key), owner: SLOT_NONE };
        [class(&was, entry, new.generation), Write::Address(*key, entry.slot)]
    });
    let changed = both(&old.addresses, &new.addresses)
        .filter(|(_, was, is)| was != is)
        .map(|(_, was, is)| class(was, is, new.generation));
    let leaving = gone(&old.addresses, &new.addresses).map(|(key, was)| {
        let is = Entry { slot: was.slot, class: new.class_of(*key), owner: SLOT_NONE };
        class(was, &is, new.generation)
    });
    fresh.chain(changed).chain(leaving)
}

/// Class words of networks, in the same way.
fn nets<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let fresh = added(&old.nets, &new.nets).flat_map(|(key, entry)| {
        let was = Entry { class: old.class_over(key), ..*entry };
        [class(&was, entry, new.generation), Write::Net(*key, entry.slot)]
    });
    let changed =
        both(&old.nets, &new.nets).filter(|(_, was, is)| was != is).map(|(_, was, is)| class(was, is, new.generation));
    let leaving = gone(&old.nets, &new.nets).map(|(key, was)| {
        let is = Entry { class: new.class_over(key), ..*was };
        class(was, &is, new.generation)
    });
    fresh.chain(changed).chain(leaving)
}

fn class(was: &Entry, is: &Entry, generation: u64) -> Write {
    let entry = ClassEntry {
        class: Word::changing(was.class, is.class, generation),
        endpoint: Word::changing(was.owner, is.owner, generation),
    };
    Write::Class(is.slot, entry)
}

fn endpoints<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let generation = new.generation;
    let change = move |was: &Endpoint, is: &Endpoint| Endpoint {
        egress: Word::changing(was.egress.new(), is.egress.new(), generation),
        ingress: Word::changing(was.ingress.new(), is.ingress.new(), generation),
        ..*is
    };
    let fresh = added(&old.endpoints, &new.endpoints)
        .map(move |(slot, is)| Write::Endpoint(*slot, change(&Endpoint::default(), is)));
    let changed = both(&old.endpoints, &new.endpoints)
        .filter(|(_, was, is)| was != is)
        .map(move |(slot, was, is)| Write::Endpoint(*slot, change(was, is)));
    let leaving = gone(&old.endpoints, &new.endpoints).map(move |(slot, was)| {
        let denied = Endpoint {
            egress: Word::settled(SET_DENY),
            ingress: Word::settled(SET_DENY),
            rev: super::affected::revision(generation),
            ..*was
        };
        Write::Endpoint(*slot, change(was, &denied))
    });
    fresh.chain(changed).chain(leaving)
}

/// Every word that the commit changed and that stays, settled.
fn settled<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let entry = |is: &Entry| {
        let words = ClassEntry { class: Word::settled(is.class), endpoint: Word::settled(is.owner) };
        Write::Class(is.slot, words)
    };
    let addresses = new.addresses.iter().filter(|(key, is)| old.addresses.get(key) != Some(is));
    let nets = new.nets.iter().filter(|(key, is)| old.nets.get(key) != Some(is));
    let endpoints = new.endpoints.iter().filter(|(slot, is)| old.endpoints.get(slot) != Some(is));
    addresses
        .map(move |(_, is)| entry(is))
        .chain(nets.map(move |(_, is)| entry(is)))
        .chain(endpoints.map(|(slot, is)| Write::Endpoint(*slot, *is)))
}

fn added<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
    new.iter().filter(|(key, _)| !old.contains_key(key))
}

fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> + Clone {
    added(new, old)
}

fn both<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V, &'a V)> {
    new.iter().filter_map(|(key, is)| old.get(key).map(|was| (key, was, is)))
}
