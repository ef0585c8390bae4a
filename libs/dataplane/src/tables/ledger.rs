//! What is kept beside an image so that a plan looks at what differs and at nothing else.
//! In: each revision's change, once it is in force. Out: counts, free numbers, where spans lie, who asks whom.
//! Invariant: equal to what an image and its names say, worked out from the beginning; tests hold the two together.
//! Never: is written while a revision is only planned.

use super::{
    askers::Numbered,
    image::Image,
    names::{Names, NamesChange},
    numbers::Numbers,
    step::Change,
    uses::{Uses, UsesChange},
};
use abi::{RowRef, Span};
use policy::{Class, Hit, RuleSet};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The books.
#[derive(Debug, Default)]
pub struct Ledger {
    pub uses: Uses,
    pub numbers: Numbers,
    /// Where spans lie that are in use.
    pub places: HashMap<Arc<[Span]>, RowRef>,
    pub sets: Numbered<RuleSet>,
    pub classes: Numbered<Class>,
    pub hits: BTreeMap<u32, Arc<Hit>>,
    /// Rule sets of endpoints by where they lie, held here so that nothing else comes to lie there: nearly always the same
    /// one is met again.
    pub met: BTreeMap<usize, (Arc<RuleSet>, u32)>,
}

/// What becomes of them, beside what follows from the change itself.
#[derive(Debug)]
pub struct Entries {
    pub uses: UsesChange,
    pub numbers: Numbers,
    pub met: Vec<(Arc<RuleSet>, u32)>,
}

impl Ledger {
    /// From the beginning.
    #[must_use]
    pub fn of(image: &Image, names: &Names) -> Self {
        let (uses, numbers) = (Uses::of(image), Numbers::of(image));
        let places = image.spans.iter().map(|(place, spans)| (Arc::clone(spans), *place)).collect();
        let mut ledger = Self { uses, numbers, places, ..Self::default() };
        names.sets.iter().for_each(|(set, id)| ledger.sets.add(*id, set));
        names.classes.iter().for_each(|(class, id)| ledger.classes.add(*id, class));
        ledger.hits = names.hits.iter().map(|(hit, id)| (*id, Arc::clone(hit))).collect();
        ledger
    }

    /// A change of `image` and `names` is in force, and about to be made to them.
    pub fn follow(&mut self, image: &Image, change: &Change, names: &Names, meanings: &NamesChange, entries: Entries) {
        let Entries { uses, numbers, met } = entries;
        uses.apply(&mut self.uses);
        self.numbers = numbers;
        for (place, spans) in change.spans.gone(&image.spans) {
            if self.places.get(spans) == Some(place) {
                self.places.remove(spans);
            }
        }
        self.places.extend(change.spans.added(&image.spans).map(|(place, spans)| (Arc::clone(spans), *place)));
        meanings.classes.gone(&names.classes).for_each(|(_, id)| self.classes.remove(*id));
        meanings.classes.added(&names.classes).for_each(|(class, id)| self.classes.add(*id, class));
        meanings.hits.gone(&names.hits).for_each(|(_, id)| drop(self.hits.remove(id)));
        self.hits.extend(meanings.hits.added(&names.hits).map(|(hit, id)| (*id, Arc::clone(hit))));
        self.met.extend(met.into_iter().map(|(set, id)| (place_of(&set), (set, id))));
        let mut is_fewer = false;
        for (_, id) in meanings.sets.gone(&names.sets) {
            self.sets.remove(*id);
            is_fewer = true;
        }
        meanings.sets.added(&names.sets).for_each(|(set, id)| self.sets.add(*id, set));
        if is_fewer {
            self.met.retain(|_, (_, id)| self.sets.get(*id).is_some());
        }
    }
}

/// Where a rule set lies.
#[must_use]
pub fn place_of(set: &Arc<RuleSet>) -> usize {
    Arc::as_ptr(set).addr()
}
