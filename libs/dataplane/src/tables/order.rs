//! The order of writes that leads from one image to the next: TABLES.md's six steps.
//! In: two images. Out: the writes up to the generation's store, and those that sweep afterwards.
//! Invariant: after any prefix of the first list every packet is judged by the old image, after the last by the new.
//! Never: writes where the image in force looks.

use super::{
    diff::{added, changed, changes, gone},
    image::{Entry, Image},
    write::Write,
};
use abi::{
    ClassEntry, Endpoint, Layers, Word,
    endpoint::{ENDPOINT_HOST, SLOT_NONE},
    rules::{SET_DENY, SET_OPEN},
};

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
    let cleared = gone(&old.endpoints, &new.endpoints).map(|(slot, was)| match is_hosts(was) {
        true => Write::Endpoint(*slot, left(was, new)),
        false => vacated(*slot, was, new),
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

/// What is due after one more grace: a packet may have found a host endpoint's slot before its name was taken away, and is open
/// there until it is gone.
#[must_use]
pub fn clear(old: &Image, new: &Image) -> Vec<Write> {
    let left = gone(&old.endpoints, &new.endpoints).filter(|(_, was)| is_hosts(was));
    left.map(|(slot, was)| vacated(*slot, was, new)).collect()
}

fn is_hosts(entry: &Endpoint) -> bool {
    entry.flags & ENDPOINT_HOST != 0
}

fn vacated(slot: u32, was: &Endpoint, new: &Image) -> Write {
    let rev = super::affected::revision(new.generation).max(was.rev);
    Write::Endpoint(slot, Endpoint { rev, ..Endpoint::default() })
}

/// The set that answers where there is no endpoint: nothing passes to or from a pod, and everything an interface of the node.
fn without(entry: &Endpoint) -> Word {
    Word::settled(if is_hosts(entry) { SET_OPEN } else { SET_DENY })
}

/// What one that goes is until it is cleared. What this node says of itself by a word, it then no longer says.
fn left(was: &Endpoint, new: &Image) -> Endpoint {
    let rev = super::affected::revision(new.generation);
    Endpoint { egress: without(was), ingress: without(was), rev, ..*was }
}

/// A layer that goes is named until its packets are through; one that comes is open until the generation.
fn both_layers(was: Layers, is: Layers) -> Layers {
    let named = |was: u32, is: u32| if is == 0 { was } else { is };
    Layers {
        untracked: named(was.untracked, is.untracked),
        pre_dnat: named(was.pre_dnat, is.pre_dnat),
        forward: named(was.forward, is.forward),
    }
}

/// Class words of exact addresses. A new key answers what it resolved to before; one that goes, what will cover it.
fn addresses<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let fresh = added(&old.addresses, &new.addresses).flat_map(|(key, entry)| {
        let was = Entry { slot: entry.slot, class: old.class_of(*key), owner: SLOT_NONE };
        [class(&was, entry, new.generation), Write::Address(*key, entry.slot)]
    });
    let changed = changed(&old.addresses, &new.addresses).map(|(_, was, is)| class(was, is, new.generation));
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
    let changed = changed(&old.nets, &new.nets).map(|(_, was, is)| class(was, is, new.generation));
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

/// Those that name others last.
fn endpoints(old: &Image, new: &Image) -> impl Iterator<Item = Write> {
    let mut slots: Vec<(u32, Endpoint)> = changing(old, new).collect();
    slots.sort_by_key(|(_, entry)| entry.layers != Layers::default());
    slots.into_iter().map(|(slot, entry)| Write::Endpoint(slot, entry))
}

fn changing<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = (u32, Endpoint)> + 'a {
    let generation = new.generation;
    let change = move |was: &Endpoint, is: &Endpoint| Endpoint {
        egress: Word::changing(was.egress.new(), is.egress.new(), generation),
        ingress: Word::changing(was.ingress.new(), is.ingress.new(), generation),
        layers: both_layers(was.layers, is.layers),
        ..*is
    };
    let nobody = |of: &Endpoint| Endpoint { egress: without(of), ingress: without(of), ..Endpoint::default() };
    let fresh = added(&old.endpoints, &new.endpoints).map(move |(slot, is)| (*slot, change(&nobody(is), is)));
    let changed = changed(&old.endpoints, &new.endpoints).map(move |(slot, was, is)| (*slot, change(was, is)));
    let leaving = gone(&old.endpoints, &new.endpoints).map(move |(slot, was)| (*slot, change(was, &left(was, new))));
    fresh.chain(changed).chain(leaving)
}

/// Every word that the commit changed and that stays, settled.
fn settled<'a>(old: &'a Image, new: &'a Image) -> impl Iterator<Item = Write> + 'a {
    let entry = |is: &Entry| {
        let words = ClassEntry { class: Word::settled(is.class), endpoint: Word::settled(is.owner) };
        Write::Class(is.slot, words)
    };
    let addresses = changes(&old.addresses, &new.addresses).filter_map(|(key, _, is)| Some((key, is?)));
    let nets = changes(&old.nets, &new.nets).filter_map(|(key, _, is)| Some((key, is?)));
    let endpoints = changes(&old.endpoints, &new.endpoints).filter_map(|(slot, _, is)| Some((slot, is?)));
    addresses
        .map(move |(_, is)| entry(is))
        .chain(nets.map(move |(_, is)| entry(is)))
        .chain(endpoints.map(|(slot, is)| Write::Endpoint(*slot, *is)))
}
