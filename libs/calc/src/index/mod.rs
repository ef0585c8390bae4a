//! The label index: which of many selectors match which of many labelled items, kept so as either changes.
//! In: one item or one selector that came, changed or went. Out: only the matches that changed with it.
//! Invariant: what it says is what every selector would say of every item; a change costs what it could concern.
//! Never: owns labels beyond the index of them; whoever asks lends the view of an item.

mod anchor;
mod tags;

use anchor::Anchor;
use model::{LabelView, Selector, Truth, label::is_inherited};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tags::{Tag, TagId, Tags};

/// The labels of an item: what a selector may see, and all of it that is known, to be indexed.
pub trait Labelled: LabelView {
    /// Calls `each` with every known label.
    fn each_label(&self, each: &mut dyn FnMut(&str, &str));
    /// Whether no label may exist that is not known.
    fn is_complete(&self) -> bool;
}

/// A match that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change<I, S> {
    /// The item.
    pub item: I,
    /// The selector.
    pub selector: S,
    /// What it says now.
    pub truth: Truth,
}

/// Items by `I`, selectors by `S`.
#[derive(Clone, Debug)]
pub struct LabelIndex<I, S> {
    items: BTreeMap<I, Item<S>>,
    selectors: BTreeMap<S, Sought<I>>,
    tags: Tags<I, S>,
    /// Selectors that may match an item whatever it carries.
    unanchored: BTreeSet<S>,
    /// Selectors anchored at labels that an item may have though nobody has told them.
    doubtful: BTreeSet<S>,
    /// Items of which not every label is known: doubtful selectors are in doubt about them.
    incomplete: BTreeSet<I>,
    /// Whether a label of this key may be one that nobody has told.
    may_be_untold: fn(&str) -> bool,
    #[cfg(test)]
    asked: u64,
}

/// An item: its tags in order, and the selectors that do not say "no" of it.
#[derive(Clone, Debug)]
struct Item<S> {
    tags: Box<[TagId]>,
    matches: BTreeMap<S, Truth>,
}

/// A selector: where it is anchored (`None`: nowhere), and the items of which it does not say "no".
#[derive(Clone, Debug)]
struct Sought<I> {
    selector: Arc<Selector>,
    anchor: Option<Box<[TagId]>>,
    matches: BTreeSet<I>,
}

impl<I, S> Default for LabelIndex<I, S> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            selectors: BTreeMap::new(),
            tags: Tags::default(),
            unanchored: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            may_be_untold: is_inherited,
            #[cfg(test)]
            asked: 0,
        }
    }
}

impl<I: Ord + Clone, S: Ord + Clone> LabelIndex<I, S> {
    /// Takes in an item that is new or has other labels than before.
    pub fn put_item(&mut self, id: &I, view: &impl Labelled) -> Vec<Change<I, S>> {
        let before = self.items.remove(id).unwrap_or(Item { tags: [].into(), matches: BTreeMap::new() });
        let tags = self.carry(id, view, &before.tags);
        let mut changes = Vec::new();
        let mut matches = BTreeMap::new();
        for selector in self.worth_asking(&tags, &before.matches, view.is_complete()) {
            let truth = self.ask(&selector, view);
            if truth.possibly() {
                matches.insert(selector.clone(), truth);
            }
            if truth != before.matches.get(&selector).copied().unwrap_or(Truth::No) {
                self.note(id, &selector, truth);
                changes.push(Change { item: id.clone(), selector, truth });
            }
        }
        self.items.insert(id.clone(), Item { tags, matches });
        changes
    }

    /// Forgets an item; nothing matches it any more.
    pub fn remove_item(&mut self, id: &I) -> Vec<Change<I, S>> {
        let Some(item) = self.items.remove(id) else { return Vec::new() };
        self.incomplete.remove(id);
        for tag in item.tags {
            self.tags.let_go(tag, id);
        }
        let gone = |selector: S| {
            self.note(id, &selector, Truth::No);
            Change { item: id.clone(), selector, truth: Truth::No }
        };
        item.matches.into_keys().map(gone).collect()
    }

    /// Takes in a selector, or another one under the same name. `view` lends the labels of an item that is there.
    pub fn put_selector<V: Labelled>(
        &mut self,
        id: &S,
        selector: &Arc<Selector>,
        view: impl Fn(&I) -> V,
    ) -> Vec<Change<I, S>> {
        if self.selectors.get(id).is_some_and(|known| known.selector == *selector) {
            return Vec::new();
        }
        let before = self.forget(id).map(|sought| sought.matches).unwrap_or_default();
        let anchor = self.anchor(id, selector);
        let mut asked = self.worth_being_asked_about(id, anchor.as_deref());
        asked.extend(before);
        self.selectors.insert(id.clone(), Sought { selector: Arc::clone(selector), anchor, matches: BTreeSet::new() });
        asked.into_iter().filter_map(|item| self.compare(item, id, &view)).collect()
    }

    /// Forgets a selector; it matches nothing any more.
    pub fn remove_selector(&mut self, id: &S) -> Vec<Change<I, S>> {
        let Some(sought) = self.forget(id) else { return Vec::new() };
        let gone = |item: I| {
            if let Some(known) = self.items.get_mut(&item) {
                known.matches.remove(id);
            }
            Change { item, selector: id.clone(), truth: Truth::No }
        };
        sought.matches.into_iter().map(gone).collect()
    }

    /// Selectors that match an item, or may.
    pub fn matches_of<'a>(&'a self, item: &I) -> impl Iterator<Item = (&'a S, Truth)> + use<'a, I, S> {
        self.items.get(item).into_iter().flat_map(|item| item.matches.iter().map(|(id, truth)| (id, *truth)))
    }

    /// Items that a selector matches, or may.
    pub fn matched_by<'a>(&'a self, selector: &S) -> impl Iterator<Item = &'a I> + use<'a, I, S> {
        self.selectors.get(selector).into_iter().flat_map(|sought| &sought.matches)
    }

    /// How often a selector was asked about an item since the beginning: what the changes cost.
    #[cfg(test)]
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Enters an item's labels in place of those that it had.
    fn carry(&mut self, id: &I, view: &impl Labelled, before: &[TagId]) -> Box<[TagId]> {
        let mut tags = Vec::new();
        view.each_label(&mut |key, value| {
            let key: Arc<str> = key.into();
            tags.push(self.tags.id(Tag::Label(Arc::clone(&key), value.into())));
            tags.push(self.tags.id(Tag::Key(key)));
        });
        tags.sort_unstable();
        tags.dedup();
        for tag in &tags {
            self.tags.carry(*tag, id);
        }
        for gone in before.iter().filter(|tag| tags.binary_search(tag).is_err()) {
            self.tags.let_go(*gone, id);
        }
        if view.is_complete() {
            self.incomplete.remove(id);
        } else {
            self.incomplete.insert(id.clone());
        }
        tags.into()
    }

    /// Selectors that may say something else of an item than "no", or did.
    fn worth_asking(&self, tags: &[TagId], before: &BTreeMap<S, Truth>, complete: bool) -> BTreeSet<S> {
        let doubtful = if complete { None } else { Some(&self.doubtful) };
        let seeking = tags.iter().flat_map(|tag| self.tags.seekers(*tag));
        seeking.chain(&self.unanchored).chain(before.keys()).chain(doubtful.into_iter().flatten()).cloned().collect()
    }

    /// Items of which a selector with this anchor may say something else than "no".
    fn worth_being_asked_about(&self, id: &S, anchor: Option<&[TagId]>) -> BTreeSet<I> {
        let Some(tags) = anchor else { return self.items.keys().cloned().collect() };
        let incomplete = self.doubtful.contains(id).then_some(&self.incomplete);
        let carriers = tags.iter().flat_map(|tag| self.tags.carriers(*tag));
        carriers.chain(incomplete.into_iter().flatten()).cloned().collect()
    }

    /// Chooses where a selector is anchored, and enters it there.
    fn anchor(&mut self, id: &S, selector: &Selector) -> Option<Box<[TagId]>> {
        let Anchor::At(tags) = Anchor::of(selector, &|tag| self.tags.weight(tag)) else {
            self.unanchored.insert(id.clone());
            return None;
        };
        if tags.iter().any(|tag| (self.may_be_untold)(tag.key())) {
            self.doubtful.insert(id.clone());
        }
        let enter = |tag| {
            let tag = self.tags.id(tag);
            self.tags.seek(tag, id);
            tag
        };
        Some(tags.into_iter().map(enter).collect())
    }

    fn forget(&mut self, id: &S) -> Option<Sought<I>> {
        let sought = self.selectors.remove(id)?;
        self.unanchored.remove(id);
        self.doubtful.remove(id);
        for tag in sought.anchor.iter().flatten() {
            self.tags.stop_seeking(*tag, id);
        }
        Some(sought)
    }

    /// Asks a fresh selector about an item.
    fn compare<V: Labelled>(&mut self, item: I, id: &S, view: &impl Fn(&I) -> V) -> Option<Change<I, S>> {
        let truth = self.ask(id, &view(&item));
        self.note(&item, id, truth);
        let matches = &mut self.items.get_mut(&item)?.matches;
        let was = if truth.possibly() { matches.insert(id.clone(), truth) } else { matches.remove(id) };
        let changed = was.unwrap_or(Truth::No) != truth;
        changed.then(|| Change { item, selector: id.clone(), truth })
    }

    fn ask(&mut self, selector: &S, view: &impl LabelView) -> Truth {
        #[cfg(test)]
        {
            self.asked += 1;
        }
        self.selectors.get(selector).map_or(Truth::No, |sought| sought.selector.matches(view))
    }

    /// Keeps the selector's own list of what it matches.
    fn note(&mut self, item: &I, selector: &S, truth: Truth) {
        let Some(sought) = self.selectors.get_mut(selector) else { return };
        if truth.possibly() {
            sought.matches.insert(item.clone());
        } else {
            sought.matches.remove(item);
        }
    }
}

#[cfg(test)]
mod tests;
