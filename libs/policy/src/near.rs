//! The rules of a set that a class can meet, found without asking each.
//! In: a rule set; then classes. Out: the numbers of the rules whose peer a class may be, in order.
//! Invariant: a rule that is left out does not match the class.
//! Never: decides a match; a rule that is found is still asked.

use crate::{Class, Profiles, RuleSet, SetRule};
use model::{Cidr, Selector, ServiceId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

/// The rules of a set, numbered in the order they are asked: tier after tier, then the profiles.
#[derive(Debug)]
pub(crate) struct Near<'a> {
    rules: Vec<Numbered<'a>>,
    /// Where each tier's rules begin, and after them the profiles'.
    begins: Vec<usize>,
    /// What asks for networks, by each of them; what asks for a selector else, or for a service; everything else.
    by_net: BTreeMap<Cidr, Vec<usize>>,
    by_selector: BTreeMap<Arc<Selector>, Vec<usize>>,
    by_service: BTreeMap<Arc<ServiceId>, Vec<usize>>,
    always: Vec<usize>,
}

/// A rule, with its policy's place in the tier, or its profile's among the profiles.
type Numbered<'a> = (usize, &'a SetRule);

impl<'a> Near<'a> {
    pub(crate) fn of(set: &'a RuleSet) -> Self {
        let mut near = Self {
            rules: Vec::new(),
            begins: Vec::new(),
            by_net: BTreeMap::new(),
            by_selector: BTreeMap::new(),
            by_service: BTreeMap::new(),
            always: Vec::new(),
        };
        for tier in &set.tiers {
            near.begin(tier.policies.iter().map(|policy| &policy.rules[..]));
        }
        match &set.profiles {
            Profiles::Given(profiles) => near.begin(profiles.iter().map(|profile| &profile.rules[..])),
            Profiles::Implied | Profiles::Open | Profiles::Unasked => near.begin(std::iter::empty()),
        }
        near
    }

    fn begin(&mut self, lists: impl Iterator<Item = &'a [SetRule]>) {
        self.begins.push(self.rules.len());
        for (list, rules) in lists.enumerate() {
            for rule in rules {
                self.place(rule);
                self.rules.push((list, rule));
            }
        }
    }

    fn place(&mut self, rule: &SetRule) {
        let number = self.rules.len();
        match (&rule.peer.nets, &rule.peer.selector, &rule.peer.service) {
            (Some(nets), ..) => {
                for net in nets {
                    self.by_net.entry(*net).or_default().push(number);
                }
            }
            (None, Some(selector), _) => self.by_selector.entry(Arc::clone(selector)).or_default().push(number),
            (None, None, Some(service)) => self.by_service.entry(Arc::clone(service)).or_default().push(number),
            (None, None, None) => self.always.push(number),
        }
    }

    /// The numbers of the rules that may match a class.
    pub(crate) fn to(&self, class: &Class) -> BTreeSet<usize> {
        let nets = class.nets.iter().filter_map(|net| self.by_net.get(net));
        let selectors = class.selectors.iter().chain(&class.unsure).filter_map(|found| self.by_selector.get(found));
        let services = class.services.keys().filter_map(|service| self.by_service.get(service));
        nets.chain(selectors).chain(services).flatten().chain(&self.always).copied().collect()
    }

    /// Those of them in the tier at this place; one past the last tier: in the profiles.
    pub(crate) fn within(&self, found: &BTreeSet<usize>, tier: usize) -> impl Iterator<Item = Numbered<'a>> {
        let begin = |tier: usize| self.begins.get(tier).copied().unwrap_or(self.rules.len());
        let numbers: Range<usize> = begin(tier)..begin(tier + 1);
        found.range(numbers).filter_map(|number| self.rules.get(*number)).copied()
    }
}
