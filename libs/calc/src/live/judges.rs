//! Judges: the rule sets of local endpoints, and what they ask of peers all together.
//! In: a local pod whose rules may be others. Out: its rule sets; what is asked for the first time, or no more.
//! Invariant: a question is active as long as some rule set in use asks it; equal rule sets are one.
//! Never: answers what it asks.

use super::{counted::Counted, lent::Lent, numbers::Numbers};
use crate::{World, host::Layers, index::LabelIndex, resolve::subject, workload::Workload};
use model::{
    Cidr, Direction, Family, HostEndpoint, PodId, Policy, PolicyId, PortName, Selector, ServiceId, Stage, Truth,
};
use policy::{HostSubject, RuleSet, Rulebook, Selectors, Surroundings, is_common};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What rules ask of peers that was not asked before, or what they ask no more.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    pub(super) selectors: BTreeSet<Arc<Selector>>,
    pub(super) nodes: BTreeSet<Arc<Selector>>,
    pub(super) services: BTreeSet<Arc<ServiceId>>,
    pub(super) nets: BTreeSet<Cidr>,
    pub(super) names: BTreeSet<PortName>,
}

/// A rule set for what comes, and one for what is sent.
pub(super) type Both = [Arc<RuleSet>; 2];

/// What the sets of a pod follow from, where no rule asks anything of its own end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    /// The policies that select it.
    selecting: Vec<(u32, Truth)>,
    /// Its profiles, where the first is not implied.
    profiles: Option<Vec<String>>,
    families: BTreeSet<Family>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Judges {
    /// Which policies select which local pods.
    subjects: LabelIndex<PodId, u32>,
    policies: Numbers<PolicyId>,
    /// What staged policies speak of, by the name that is or would be enforced.
    staged: BTreeSet<PolicyId>,
    /// All that a pod's packets are asked by.
    of: BTreeMap<PodId, Vec<Arc<RuleSet>>>,
    /// Sets built in this refresh, of pods of which rules say the same.
    alike: BTreeMap<Likeness, Both>,
    of_hosts: Vec<Arc<RuleSet>>,
    sets: Counted<Arc<RuleSet>>,
    interned: Selectors,
    selectors: Counted<Arc<Selector>>,
    nodes: Counted<Arc<Selector>>,
    services: Counted<Arc<ServiceId>>,
    nets: Counted<Cidr>,
    names: Counted<PortName>,
}

impl Judges {
    /// Takes in a local pod's labels; `None`: it is not a local one any more.
    pub(super) fn put_subject(&mut self, id: &PodId, workload: Option<&Workload<'_>>) {
        match workload {
            Some(workload) => drop(self.subjects.put_item(id, &workload.facts().labels)),
            None => drop(self.subjects.remove_item(id)),
        }
    }

    /// Takes in a policy, or that there is none of this name. Gives the pods that it selected, or does now; of a staged one
    /// those too that the policy selects which it speaks of.
    pub(super) fn put_policy(&mut self, world: &World, id: &PolicyId) -> BTreeSet<PodId> {
        let mut concerned = self.put_staged(world, id);
        let number = self.policies.number(id);
        concerned.extend(self.subjects.matched_by(&number).cloned());
        if let Some(policy) = world.policies.get(id).filter(|policy| policy.stage != Some(Stage::Delete)) {
            drop(self.subjects.put_selector(&number, &policy.subject, |pod| Lent::pod(world, pod)));
            concerned.extend(self.subjects.matched_by(&number).cloned());
        } else {
            drop(self.subjects.remove_selector(&number));
            self.policies.forget(id);
        }
        concerned
    }

    fn put_staged(&mut self, world: &World, id: &PolicyId) -> BTreeSet<PodId> {
        if !id.kind.is_staged() {
            return BTreeSet::new();
        }
        let enforced = id.enforced();
        let selected = self.policies.get(&enforced).map(|number| self.subjects.matched_by(&number).cloned());
        let concerned = selected.into_iter().flatten().collect();
        if world.policies.contains_key(id) {
            self.staged.insert(enforced);
        } else {
            self.staged.remove(&enforced);
        }
        concerned
    }

    pub(super) fn is_local(&self, id: &PodId) -> bool {
        self.of.contains_key(id)
    }

    pub(super) fn locals(&self) -> impl Iterator<Item = &PodId> {
        self.of.keys()
    }

    /// Whether any active rule asks for ports by name.
    pub(super) fn asks_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether an active rule asks for a port of this name.
    pub(super) fn asks_name(&self, name: &PortName) -> bool {
        self.names.contains(name)
    }

    /// Builds a local pod's rule sets anew.
    pub(super) fn build(
        &mut self,
        world: &World,
        around: &Surroundings<'_>,
        workload: &Workload<'_>,
        addresses: Vec<IpAddr>,
    ) -> Both {
        let numbers: Vec<_> =
            self.subjects.matches_of(workload.id).map(|(number, applies)| (*number, applies)).collect();
        let subject = subject(world, workload, addresses.clone());
        let likeness = Likeness {
            selecting: numbers,
            profiles: subject.profiles.as_ref().map(|own| own.iter().map(|each| each.name().to_owned()).collect()),
            families: addresses.into_iter().map(Family::of).collect(),
        };
        if let Some(both) = self.alike.get(&likeness) {
            return both.clone();
        }
        let selecting = likeness.selecting.iter().filter_map(|(number, _)| self.policies.value(*number));
        let selecting: Vec<_> = selecting.filter_map(|id| world.policy(id)).collect();
        let book = Rulebook::of(world.tiers.values(), selecting.iter().copied());
        let applying = book.applying(&subject.pod.labels);
        let preview = self.preview(world, &selecting);
        let previewed = preview.as_ref().map(|book| book.applying(&subject.pod.labels));
        let both = [Direction::Ingress, Direction::Egress].map(|direction| {
            let mut build = |applying| RuleSet::build(applying, direction, &subject, around, &mut self.interned);
            let set = build(&applying);
            let set = match &previewed {
                Some(previewed) => set.previewing(build(previewed)),
                None => set,
            };
            self.shared(set)
        });
        let profiles = || subject.profiles.iter().flatten();
        let of_profiles = |direction| profiles().flat_map(move |profile| profile.given(direction));
        let of_policies = |direction| selecting.iter().flat_map(move |policy| policy.rules(direction));
        let asks_none = |direction| is_common(of_policies(direction).chain(of_profiles(direction)), direction);
        if asks_none(Direction::Ingress) && asks_none(Direction::Egress) {
            self.alike.insert(likeness, both.clone());
        }
        both
    }

    /// All are built that the World as it is now asks for.
    pub(super) fn forget_likenesses(&mut self) {
        self.alike.clear();
    }

    /// Builds what a host endpoint asks, where these policies select it.
    pub(super) fn build_host(
        &mut self,
        world: &World,
        selecting: &[&Policy],
        host: &HostEndpoint,
        subject: &HostSubject<'_>,
    ) -> Layers {
        let book = Rulebook::of(world.tiers.values(), selecting.iter().copied());
        let preview = self.preview(world, selecting);
        let applying = book.applying(&subject.labels);
        let previewed = preview.as_ref().map(|book| book.applying(&subject.labels));
        Layers::of(host, |layer, direction| {
            let previewed = previewed.as_deref();
            let set = RuleSet::at_host(layer, direction, &applying, previewed, subject, &mut self.interned)?;
            Some(self.shared(set))
        })
    }

    /// These policies as if every staged one were enforced; `None`: nothing of them is only tried.
    fn preview<'a>(&self, world: &'a World, selecting: &[&'a Policy]) -> Option<Rulebook<'a>> {
        let is_tried = |policy: &&Policy| policy.stage.is_some() || self.staged.contains(&policy.id);
        let tried = world.tries_staged && selecting.iter().any(is_tried);
        let policies = selecting.iter().copied();
        tried.then(|| Rulebook::if_enforced(world.tiers.values(), policies, |id| self.staged.contains(id)))
    }

    pub(super) fn shared(&self, set: RuleSet) -> Arc<RuleSet> {
        self.sets.get(&set).cloned().unwrap_or_else(|| Arc::new(set))
    }

    /// Puts rule sets in the place of those that a pod had; `None`: it is judged no more. Gives what is asked for the first
    /// time, and what no more.
    pub(super) fn appoint(&mut self, id: &PodId, sets: Option<Vec<Arc<RuleSet>>>) -> (Questions, Questions) {
        let fresh = self.add(sets.iter().flatten());
        let before = match sets {
            Some(sets) => self.of.insert(id.clone(), sets),
            None => self.of.remove(id),
        };
        (fresh, self.remove(before.iter().flatten()))
    }

    /// The same for all that host endpoints ask.
    pub(super) fn appoint_hosts(&mut self, sets: Vec<Arc<RuleSet>>) -> (Questions, Questions) {
        let fresh = self.add(sets.iter());
        let before = std::mem::replace(&mut self.of_hosts, sets);
        (fresh, self.remove(before.iter()))
    }

    fn add<'a>(&mut self, sets: impl Iterator<Item = &'a Arc<RuleSet>>) -> Questions {
        let mut fresh = Questions::default();
        for set in sets {
            if self.sets.add(Arc::clone(set)) {
                self.begin(set, &mut fresh);
            }
        }
        fresh
    }

    fn remove<'a>(&mut self, sets: impl Iterator<Item = &'a Arc<RuleSet>>) -> Questions {
        let mut over = Questions::default();
        for set in sets {
            if self.sets.remove(set) {
                self.end(set, &mut over);
            }
        }
        over
    }

    fn begin(&mut self, set: &RuleSet, fresh: &mut Questions) {
        fresh.selectors.extend(set.selectors().filter(|each| self.selectors.add(Arc::clone(each))).cloned());
        fresh.nodes.extend(set.nodes().filter(|each| self.nodes.add(Arc::clone(each))).cloned());
        fresh.services.extend(set.services().filter(|each| self.services.add(Arc::clone(each))).cloned());
        fresh.nets.extend(set.nets().filter(|each| self.nets.add(*each)));
        fresh.names.extend(set.peer_port_names().filter(|each| self.names.add((*each).clone())).cloned());
    }

    fn end(&mut self, set: &RuleSet, over: &mut Questions) {
        over.selectors.extend(set.selectors().filter(|each| self.selectors.remove(each)).cloned());
        over.nodes.extend(set.nodes().filter(|each| self.nodes.remove(each)).cloned());
        over.services.extend(set.services().filter(|each| self.services.remove(each)).cloned());
        over.nets.extend(set.nets().filter(|each| self.nets.remove(each)));
        over.names.extend(set.peer_port_names().filter(|each| self.names.remove(each)).cloned());
    }
}
