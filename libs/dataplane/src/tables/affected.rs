//! Which endpoints' flows must be judged again after a commit.
//! In: a step. Out: the revision stamped on exactly the endpoints whose verdicts can differ.
//! Invariant: an endpoint that is not stamped answers every flow it could have as before.
//! Never: stamps an endpoint for a class that its rule sets answer with the same row.

use super::{
    image::Image,
    nested,
    step::{Change, Step},
};
use abi::{
    Endpoint, Layers,
    endpoint::{SLOT_HOST, SLOT_NONE},
};
use std::collections::{BTreeMap, BTreeSet};

/// What changed between two images, apart from the endpoints themselves.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    /// Class before and after, for every address and network where they differ.
    classes: BTreeSet<(u32, u32)>,
    /// Owner before and after, for every address where they differ.
    owners: BTreeSet<(u32, u32)>,
}

/// The revision of a generation.
#[must_use]
pub fn revision(generation: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the contract is the low 32 bits")]
    let low = generation as u32;
    low
}

/// Stamps the next image's endpoints.
pub fn stamp(old: &Image, change: &mut Change) {
    let step = Step { old, change };
    let asked = Asked { step, changes: changes(step), met: BTreeMap::new() };
    let mut stamped = asked.affected();
    move_together(step, &mut stamped);
    let revision = revision(step.generation());
    let entries: Vec<_> = stamped.into_iter().filter_map(|slot| Some((slot, *step.endpoint(slot)?))).collect();
    for (slot, entry) in entries {
        change.endpoints.set(&old.endpoints, slot, Some(Endpoint { rev: revision, ..entry }));
    }
}

/// A flow at a gate is asked by several layers, and its entry names one: they move on together. What pods send and receive is
/// asked by the node's own slots too, and, where it comes through a service, by what the uplink's forwards.
fn move_together(step: Step<'_>, stamped: &mut BTreeSet<u32>) {
    let Step { old, change } = step;
    let leads_on = leads_on(step, stamped);
    for (slot, entry) in change.endpoints.whole(&old.endpoints).filter(|(slot, _)| **slot != SLOT_HOST) {
        let Layers { untracked, pre_dnat, forward, .. } = entry.layers;
        let parts = || [*slot, untracked, pre_dnat, forward].into_iter().filter(|part| *part != SLOT_NONE);
        if parts().any(|part| stamped.contains(&part)) {
            stamped.extend(parts());
        }
    }
    let node = |entry: &Endpoint| (entry.egress, entry.ingress, entry.layers);
    let (was, is) = (old.endpoints.get(&SLOT_HOST).map(node), step.endpoint(SLOT_HOST).map(node));
    let asked = is.map(|(.., layers)| [layers.pre_dnat, layers.forward]);
    if leads_on || was != is || asked.is_some_and(|slots| slots.iter().any(|slot| stamped.contains(slot))) {
        stamped.extend(change.endpoints.whole(&old.endpoints).map(|(slot, _)| *slot));
    }
}

/// Whether the uplink's layer of what is forwarded is another, or says something else.
fn leads_on(step: Step<'_>, stamped: &BTreeSet<u32>) -> bool {
    fn forward<'a>(endpoint: impl Fn(u32) -> Option<&'a Endpoint>) -> Option<u32> {
        Some(endpoint(endpoint(SLOT_HOST)?.layers.uplink)?.layers.forward).filter(|slot| *slot != SLOT_NONE)
    }
    let (was, is) = (forward(|slot| step.old.endpoints.get(&slot)), forward(|slot| step.endpoint(slot)));
    was != is || is.is_some_and(|slot| stamped.contains(&slot))
}

fn changes(step: Step<'_>) -> Changes {
    let Step { old, change } = step;
    // A key that stays as it is answers as it did. What covered one that came or went is a network, or its own key differs.
    let addresses = || change.addresses.all(&old.addresses).map(|(key, ..)| *key);
    let of_addresses = addresses().map(|key| (old.class_of(key), step.class_of(key)));
    let of_nets = change.nets.all(&old.nets).map(|(key, ..)| (old.class_over(key), step.class_over(key)));
    let owners = addresses().map(|key| (old.owner_of(key), step.owner_of(key)));
    Changes {
        classes: of_addresses.chain(of_nets).filter(|(before, after)| before != after).collect(),
        owners: owners.filter(|(before, after)| before != after).collect(),
    }
}

/// What endpoints are asked; of sets that several of them have, once.
struct Asked<'a> {
    step: Step<'a>,
    changes: Changes,
    met: BTreeMap<u32, bool>,
}

impl Asked<'_> {
    fn affected(mut self) -> BTreeSet<u32> {
        let Step { old, change } = self.step;
        let mut affected = BTreeSet::new();
        for (slot, after) in change.endpoints.whole(&old.endpoints) {
            if old.endpoints.get(slot).is_none_or(|before| self.is_affected(*slot, before, after)) {
                affected.insert(*slot);
            }
        }
        affected
    }

    fn is_affected(&mut self, slot: u32, before: &Endpoint, after: &Endpoint) -> bool {
        let sets = after.sets();
        let set_changed = before.sets() != sets || (before.flags, before.layers) != (after.flags, after.layers);
        // A flow towards an address that had no endpoint here can belong to any endpoint, and holds no verdict of the new one.
        let mut owners = self.changes.owners.iter();
        let owner_changed = owners.any(|(was, is)| [SLOT_NONE, SLOT_HOST].contains(was) || *was == slot || *is == slot);
        set_changed || owner_changed || self.meets_others(sets)
    }

    /// Whether one of these sets answers a peer otherwise, whose class is another. Equal rows share their spans, so equal
    /// references are equal answers. The class of an own address is asked of the sets that rows name.
    fn meets_others(&mut self, sets: [u32; 3]) -> bool {
        if self.changes.classes.is_empty() {
            return false;
        }
        let asked = nested::with_named(self.step, sets);
        asked.into_iter().any(|set| {
            let Self { step, changes, met } = self;
            let differs = |(was, is): &(u32, u32)| step.old.row(set, *was) != step.row(set, *is);
            *met.entry(set).or_insert_with(|| changes.classes.iter().any(differs))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{image::Entry, prefix};
    use super::*;

    /// The specification: every address and network of either image, asked of both.
    fn whole(old: &Image, new: &Image) -> Changes {
        let addresses: BTreeSet<_> = old.addresses.keys().chain(new.addresses.keys()).copied().collect();
        let nets: BTreeSet<_> = old.nets.keys().chain(new.nets.keys()).copied().collect();
        let of_addresses = addresses.iter().map(|key| (old.class_of(*key), new.class_of(*key)));
        let of_nets = nets.iter().map(|key| (old.class_over(key), new.class_over(key)));
        let owners = addresses.iter().map(|key| (old.owner_of(*key), new.owner_of(*key)));
        let classes = of_addresses.chain(of_nets).filter(|(before, after)| before != after).collect();
        Changes { classes, owners: owners.filter(|(before, after)| before != after).collect() }
    }

    #[test]
    fn what_differs_is_what_a_comparison_of_everything_finds() {
        let mut state = 7u64;
        let mut below = move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((state >> 33) % bound).expect("a small number")
        };
        let mut image = |before: &Image| {
            let mut image = before.clone();
            for _ in 0..below(3) {
                let entry = Entry { slot: below(9), class: below(4), owner: below(3) };
                let address = format!("10.{}.0.{}", below(2), below(4)).parse().expect("an address");
                let net = format!("10.{}.0.0/{}", below(2), 8 + 8 * below(3)).parse().expect("a network");
                let (key, net) = (prefix::address_key(address).expect("a key"), prefix::net_key(&net).expect("a key"));
                match below(4) {
                    0 => drop(image.addresses.remove(&key)),
                    1 => drop(image.nets.remove(&net)),
                    2 => drop(image.nets.insert(net, Entry { owner: SLOT_NONE, ..entry })),
                    _ => drop(image.addresses.insert(key, entry)),
                }
            }
            image
        };
        let mut old = Image::default();
        for _ in 0..2000 {
            let new = image(&old);
            let mut change = Change::default();
            for key in old.addresses.keys().chain(new.addresses.keys()) {
                change.addresses.set(&old.addresses, *key, new.addresses.get(key).copied());
            }
            for key in old.nets.keys().chain(new.nets.keys()) {
                change.nets.set(&old.nets, *key, new.nets.get(key).copied());
            }
            let found = changes(Step { old: &old, change: &change });
            assert_eq!(found, whole(&old, &new), "{old:?} {new:?}");
            old = new;
        }
    }
}
