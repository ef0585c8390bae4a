//! Rows: what each rule set says of each class, where it is not what it says of everybody.
//! In: sets and classes of which one is new to the other. Out: rows, the spans they lie in, and the hits those name.
//! Invariant: what a known set says of a known class stands in the old image; a pair that no question joins has no row.
//! Never: looks at an address.

use super::{CommitError, Draft, Way};
use crate::tables::{
    askers::Numbered,
    capacity::{Full, heaviest},
    nested,
};
use abi::{
    RowKey, RowRef, SetEntry, Span, SpanKind, maps,
    rules::{HIT_NONE, ROW_SPANS_MAX, SET_ASKS_OWN, SET_DEFAULT_ONLY},
};
use model::PolicyId;
use policy::{Answer, Class, Decider, Hit, Row, Rows, RuleSet, Verdict};
use std::{collections::BTreeMap, sync::Arc};

impl Draft<'_> {
    /// Known sets first: of what they name, whatever is new is compiled with the other new ones.
    pub(super) fn rows(&mut self) -> Result<(), CommitError> {
        let ledger = self.ledger;
        for (id, classes) in self.askers_of_fresh() {
            let Some(set) = ledger.sets.get(id) else { continue };
            self.ends.clear();
            self.rows_of((set, id), &Rows::of(set), &classes)?;
        }
        while let Some((set, id)) = self.waiting.pop() {
            self.is_bounded()?;
            self.ends.clear();
            let rows = Rows::of(&set);
            self.default_row((&set, id), &rows)?;
            let classes = self.classes_for(&set);
            self.rows_of((&set, id), &rows, &classes)?;
        }
        Ok(())
    }

    /// Known sets that ask something of classes that are new. Those too that no endpoint asks any more: a new row may name one.
    fn askers_of_fresh(&self) -> BTreeMap<u32, Vec<(Arc<Class>, u32)>> {
        let mut askers: BTreeMap<u32, Vec<(Arc<Class>, u32)>> = BTreeMap::new();
        for id in &self.fresh_class_ids {
            let Some(class) = self.fresh_classes.get(*id) else { continue };
            for set in self.ledger.sets.met(&**class) {
                askers.entry(set).or_default().push((Arc::clone(class), *id));
            }
        }
        askers
    }

    /// Classes in use of which a set asks something.
    fn classes_for(&self, set: &RuleSet) -> Vec<(Arc<Class>, u32)> {
        let contents = |classes: &Numbered<Class>, id: u32| classes.get(id).map(|class| (Arc::clone(class), id));
        let known = self.ledger.classes.met(set).into_iter().filter(|id| self.has_class(*id));
        let known = known.filter_map(|id| contents(&self.ledger.classes, id));
        let fresh = self.fresh_classes.met(set).into_iter().filter_map(|id| contents(&self.fresh_classes, id));
        known.chain(fresh).collect()
    }

    pub(super) fn has_class(&self, id: u32) -> bool {
        self.uses.of_class(&self.ledger.uses, id) > 0
    }

    /// Whether an endpoint asks a set, or a row names it.
    pub(super) fn is_used(&self, set: u32) -> bool {
        self.words.contains(set) || self.uses.of_set(&self.ledger.uses, set) > 0
    }

    fn rows_of(
        &mut self,
        (set, id): (&RuleSet, u32),
        rows: &Rows<'_>,
        classes: &[(Arc<Class>, u32)],
    ) -> Result<(), CommitError> {
        let entry = self.change.sets.get(&self.old.sets, &id).copied().unwrap_or_default();
        if entry.flags & SET_DEFAULT_ONLY != 0 {
            return Ok(());
        }
        for (class, class_id) in classes {
            let row = self.compile(set, &rows.row(class))?;
            if row != entry.row {
                self.refer(row);
                self.change.rows.set(&self.old.rows, RowKey { set: id, class: *class_id }, Some(row));
                self.is_bounded()?;
            }
        }
        Ok(())
    }

    fn default_row(&mut self, (set, id): (&RuleSet, u32), rows: &Rows<'_>) -> Result<(), CommitError> {
        let entry = SetEntry {
            row: self.compile(set, &rows.row(&Class::default()))?,
            flags: if set.asks_peer() { 0 } else { SET_DEFAULT_ONLY } | if set.asks_own() { SET_ASKS_OWN } else { 0 },
            pad: 0,
        };
        self.refer(entry.row);
        self.change.sets.set(&self.old.sets, id, Some(entry));
        Ok(())
    }

    /// A row or a set is in this range, or a row there names this list.
    fn refer(&mut self, row: RowRef) {
        if self.uses.range(&self.ledger.uses, row, Way::More) > 1 {
            return;
        }
        let held = self.contents.get(&row).or_else(|| self.old.spans.get(&row)).cloned();
        let Some(spans) = held else { return };
        self.uses.content(&self.ledger.uses, &spans, Way::More, &mut self.doubtful);
        self.lists(&spans).into_iter().for_each(|list| self.refer(list));
        self.change.spans.set(&self.old.spans, row, Some(spans));
    }

    /// The same, no more.
    pub(super) fn refer_no_more(&mut self, row: RowRef) {
        if self.uses.range(&self.ledger.uses, row, Way::Less) > 0 {
            return;
        }
        let Some(spans) = self.change.spans.get(&self.old.spans, &row).cloned() else { return };
        self.uses.content(&self.ledger.uses, &spans, Way::Less, &mut self.doubtful);
        self.lists(&spans).into_iter().for_each(|list| self.refer_no_more(list));
        self.change.spans.set(&self.old.spans, row, None);
        if !self.old.spans.contains_key(&row) {
            self.numbers.room.give_back(row);
        }
    }

    /// Where the lists lie that these spans name.
    fn lists(&self, spans: &[Span]) -> Vec<RowRef> {
        let list =
            |offset| nested::list_at(&self.contents, offset).or_else(|| nested::list_at(&self.old.spans, offset));
        nested::lists(spans).filter_map(list).map(|(place, _)| place).collect()
    }

    fn compile(&mut self, set: &RuleSet, row: &Row) -> Result<RowRef, CommitError> {
        let mut spans = Vec::with_capacity(row.0.len());
        for span in &row.0 {
            spans.push(match &span.answer {
                Answer::Decided(hit) => self.span(span.start, hit),
                Answer::Ports(ports) => {
                    let ports = ports.iter().map(|port| self.span(port.start, &port.hit)).collect();
                    Span::new(span.start, SpanKind::Ports, self.place(set, nested::list(ports))?.offset)
                }
                Answer::Cell(own) => Span::new(span.start, SpanKind::Cell, self.set(own)),
            });
        }
        self.place(set, spans.into())
    }

    /// Where these spans lie, or will.
    fn place(&mut self, set: &RuleSet, spans: Arc<[Span]>) -> Result<RowRef, CommitError> {
        if let Some(place) = self.ledger.places.get(&spans).or_else(|| self.placed.get(&spans)) {
            return Ok(*place);
        }
        let len = u32::try_from(spans.len()).ok().filter(|len| *len <= ROW_SPANS_MAX);
        let too_long = || CommitError::RowTooLong {
            spans: spans.len(),
            policy: heaviest(set).map(|policy| policy.id.to_string()).unwrap_or_default(),
        };
        let len = len.ok_or_else(too_long)?;
        let offset = self.numbers.room.take(len).ok_or_else(|| {
            let remedy = "no setting raises it further".to_owned();
            let (size, demand) = (self.sizes.of(&maps::SPANS), None);
            Full { map: maps::SPANS.name, needed: u64::from(u32::MAX), all_counted: false, size, demand, remedy }
        })?;
        let place = RowRef { offset, len };
        self.contents.insert(place, Arc::clone(&spans));
        self.placed.insert(spans, place);
        Ok(place)
    }

    fn span(&mut self, start: u32, hit: &Hit) -> Span {
        let kind = match hit.verdict {
            Verdict::Allow => SpanKind::Allow,
            Verdict::Deny => SpanKind::Deny,
            Verdict::Next => SpanKind::Next,
        };
        let span = Span::new(start, kind, self.hit(hit));
        if hit.logs.is_empty() { span } else { span.logged() }
    }

    /// Past the end of the counters what is staged is not counted apart, and then nothing: they share the hit that means "none".
    fn hit(&mut self, hit: &Hit) -> u32 {
        let end = plain_end(hit);
        if let Some(id) = end.and_then(|end| self.ends.get(&end)) {
            return *id;
        }
        let id = self.named_hit(hit);
        self.ends.extend(end.map(|end| (end, id)));
        id
    }

    fn named_hit(&mut self, hit: &Hit) -> u32 {
        if let Some(id) = self.names.hits.get(&self.known.hits, hit) {
            return *id;
        }
        let Some(id) = self.numbers.hit(self.sizes.of(&maps::HITS)) else {
            return self.names.hits.get(&self.known.hits, &hit.plain()).copied().unwrap_or(HIT_NONE);
        };
        let content = Arc::new(hit.clone());
        self.names.hits.set(&self.known.hits, Arc::clone(&content), Some(id));
        self.fresh_hits.insert(id, content);
        self.doubtful.hits.insert(id);
        id
    }
}

/// Where the policies lie that an end of a tier names: all of them, in nearly every row of a set. Equal ones of one set are
/// the same ones, and long to compare.
fn plain_end(hit: &Hit) -> Option<*const PolicyId> {
    match &hit.decider {
        Decider::EndOfTier { policies, .. } if hit.logs.is_empty() && hit.preview.is_none() => Some(policies.as_ptr()),
        _ => None,
    }
}
