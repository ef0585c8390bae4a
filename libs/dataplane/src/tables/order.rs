//! The order of writes that leads from one image to the next: TABLES.md's six steps.
//! In: a step. Out: the writes up to the generation's store, and those that sweep afterwards.
//! Invariant: after any prefix of the first list every packet is judged by the old image, after the last by the new.
//! Never: writes where the image in force looks.

use super::{image::Entry, step::Step, write::Write};
use abi::{
    ClassEntry, Endpoint, Layers, Word,
    endpoint::{ENDPOINT_HOST, SLOT_HOST, SLOT_NONE},
    rules::{SET_DENY, SET_OPEN},
};

/// Everything up to, and with, the one store that puts the next image in force. The counters of `fresh_hits` start at zero.
#[must_use]
pub fn put_in_force(step: Step<'_>, fresh_hits: &[u32]) -> Vec<Write> {
    let Step { old, change } = step;
    if change.is_empty() {
        return Vec::new();
    }
    let spans = change.spans.added(&old.spans).map(|(place, spans)| Write::Spans(place.offset, spans.clone()));
    let hits = fresh_hits.iter().map(|hit| Write::ClearHit(*hit));
    let sets = change.sets.added(&old.sets).map(|(id, entry)| Write::Set(*id, *entry));
    let rows = change.rows.added(&old.rows).map(|(key, row)| Write::Row(*key, *row));
    let interfaces = change.interfaces.added(&old.interfaces);
    spans
        .chain(hits)
        .chain(sets)
        .chain(rows)
        .chain(addresses(step))
        .chain(nets(step))
        .chain(endpoints(step))
        .chain(interfaces.map(|(index, slot)| Write::Interface(*index, *slot)))
        .chain([Write::Generation(step.generation())])
        .collect()
}

/// What is due once the next image is in force and a grace has passed: settle the words, take away what only the old one used.
/// After one more grace flows of the slots that are gone are flushed, and all their numbers are free.
#[must_use]
pub fn sweep(step: Step<'_>) -> Vec<Write> {
    let Step { old, change } = step;
    let cleared = change.endpoints.gone(&old.endpoints).map(|(slot, was)| match is_hosts(was) {
        true => Write::Endpoint(*slot, left(was, step)),
        false => vacated(*slot, was, step),
    });
    settled(step)
        .chain(change.interfaces.gone(&old.interfaces).map(|(index, _)| Write::DeleteInterface(*index)))
        .chain(cleared)
        .chain(change.addresses.gone(&old.addresses).map(|(key, _)| Write::DeleteAddress(*key)))
        .chain(change.nets.gone(&old.nets).map(|(key, _)| Write::DeleteNet(*key)))
        .chain(change.rows.gone(&old.rows).map(|(key, _)| Write::DeleteRow(*key)))
        .chain(change.sets.gone(&old.sets).map(|(id, _)| Write::Set(*id, abi::SetEntry::default())))
        .collect()
}

/// What is due after one more grace: a packet may have found a host endpoint's slot before its name was taken away, and is open
/// there until it is gone.
#[must_use]
pub fn clear(step: Step<'_>) -> Vec<Write> {
    let left = step.change.endpoints.gone(&step.old.endpoints).filter(|(_, was)| is_hosts(was));
    left.map(|(slot, was)| vacated(*slot, was, step)).collect()
}

fn is_hosts(entry: &Endpoint) -> bool {
    entry.flags & ENDPOINT_HOST != 0
}

fn vacated(slot: u32, was: &Endpoint, step: Step<'_>) -> Write {
    let rev = super::affected::revision(step.generation()).max(was.rev);
    Write::Endpoint(slot, Endpoint { rev, ..Endpoint::default() })
}

/// The set that answers where there is no endpoint: nothing passes to or from a pod, and everything an interface of the node.
fn without(entry: &Endpoint) -> Word {
    Word::settled(if is_hosts(entry) { SET_OPEN } else { SET_DENY })
}

/// What one that goes is until it is cleared. What this node says of itself by a word, it then no longer says.
fn left(was: &Endpoint, step: Step<'_>) -> Endpoint {
    let rev = super::affected::revision(step.generation());
    let sources = Word::settled(SET_DENY);
    Endpoint { egress: without(was), ingress: without(was), sources, rev, ..*was }
}

/// A layer that goes is named until its packets are through; one that comes is open until the generation.
fn both_layers(was: Layers, is: Layers) -> Layers {
    let named = |was: u32, is: u32| if is == 0 { was } else { is };
    Layers {
        untracked: named(was.untracked, is.untracked),
        pre_dnat: named(was.pre_dnat, is.pre_dnat),
        forward: named(was.forward, is.forward),
        uplink: named(was.uplink, is.uplink),
    }
}

/// Class words of exact addresses. A new key answers what it resolved to before; one that goes, what will cover it.
fn addresses(step: Step<'_>) -> impl Iterator<Item = Write> + '_ {
    let (old, edits) = (step.old, &step.change.addresses);
    let fresh = edits.added(&old.addresses).flat_map(move |(key, entry)| {
        let was = Entry { slot: entry.slot, class: old.class_of(*key), owner: SLOT_NONE };
        [class(&was, entry, step), Write::Address(*key, entry.slot)]
    });
    let changed = edits.changed(&old.addresses).map(move |(_, was, is)| class(was, is, step));
    let leaving = edits.gone(&old.addresses).map(move |(key, was)| {
        let is = Entry { slot: was.slot, class: step.class_of(*key), owner: SLOT_NONE };
        class(was, &is, step)
    });
    fresh.chain(changed).chain(leaving)
}

/// Class words of networks, in the same way.
fn nets(step: Step<'_>) -> impl Iterator<Item = Write> + '_ {
    let (old, edits) = (step.old, &step.change.nets);
    let fresh = edits.added(&old.nets).flat_map(move |(key, entry)| {
        let was = Entry { class: old.class_over(key), ..*entry };
        [class(&was, entry, step), Write::Net(*key, entry.slot)]
    });
    let changed = edits.changed(&old.nets).map(move |(_, was, is)| class(was, is, step));
    let leaving = edits.gone(&old.nets).map(move |(key, was)| {
        let is = Entry { class: step.class_over(key), ..*was };
        class(was, &is, step)
    });
    fresh.chain(changed).chain(leaving)
}

fn class(was: &Entry, is: &Entry, step: Step<'_>) -> Write {
    let entry = ClassEntry {
        class: Word::changing(was.class, is.class, step.generation()),
        endpoint: Word::changing(was.owner, is.owner, step.generation()),
    };
    Write::Class(is.slot, entry)
}

/// Those that name others last, and the node, which names one of these, after them.
fn endpoints(step: Step<'_>) -> impl Iterator<Item = Write> {
    let mut slots: Vec<(u32, Endpoint)> = changing(step).collect();
    slots.sort_by_key(|(slot, entry)| (entry.layers != Layers::default(), *slot == SLOT_HOST));
    slots.into_iter().map(|(slot, entry)| Write::Endpoint(slot, entry))
}

fn changing(step: Step<'_>) -> impl Iterator<Item = (u32, Endpoint)> + '_ {
    let (old, edits, generation) = (step.old, &step.change.endpoints, step.generation());
    let change = move |was: &Endpoint, is: &Endpoint| Endpoint {
        egress: Word::changing(was.egress.new(), is.egress.new(), generation),
        ingress: Word::changing(was.ingress.new(), is.ingress.new(), generation),
        sources: Word::changing(was.sources.new(), is.sources.new(), generation),
        layers: both_layers(was.layers, is.layers),
        ..*is
    };
    let nobody = |of: &Endpoint| Endpoint { egress: without(of), ingress: without(of), ..Endpoint::default() };
    let fresh = edits.added(&old.endpoints).map(move |(slot, is)| (*slot, change(&nobody(is), is)));
    let changed = edits.changed(&old.endpoints).map(move |(slot, was, is)| (*slot, change(was, is)));
    let leaving = edits.gone(&old.endpoints).map(move |(slot, was)| (*slot, change(was, &left(was, step))));
    fresh.chain(changed).chain(leaving)
}

/// Every word that the commit changed and that stays, settled.
fn settled(step: Step<'_>) -> impl Iterator<Item = Write> + '_ {
    let entry = |is: &Entry| {
        let words = ClassEntry { class: Word::settled(is.class), endpoint: Word::settled(is.owner) };
        Write::Class(is.slot, words)
    };
    let Step { old, change } = step;
    let addresses = change.addresses.all(&old.addresses).filter_map(|(_, _, is)| is);
    let nets = change.nets.all(&old.nets).filter_map(|(_, _, is)| is);
    let endpoints = change.endpoints.all(&old.endpoints).filter_map(|(slot, _, is)| Some((slot, is?)));
    addresses.chain(nets).map(entry).chain(endpoints.map(|(slot, is)| Write::Endpoint(*slot, *is)))
}
