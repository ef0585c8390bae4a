//! The step from one revision of the services to the next.
//! In: what a plan found. Out: the next image; how much it needs.
//! Invariant: what a step does not name stays as it is.
//! Never: holds a second image.

use super::{
    image::{Any, Count, Held, Image, List, OfPort, Stand},
    numbers::Numbers,
    order,
};
use crate::tables::{
    capacity::{Full, Need, remedy},
    sizes::Sizes,
    write::Write,
};
use abi::{ServiceKey, maps};
use service::{Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a key was and will be; `None`: not there.
pub type Changes<K, V> = BTreeMap<K, (Option<V>, Option<V>)>;

/// The step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub frontends: Changes<ServiceKey, Held>,
    pub lists: Changes<u32, List>,
    pub backends: Changes<u32, Stand>,
    /// What was wanted of a frontend, and is now.
    pub wanted: Changes<Frontend, Arc<Balance>>,
    /// Whether there are frontends before and after.
    pub any: (Any, Any),
    /// Numbers as they are given out then.
    pub numbers: Numbers,
    /// It is what is wanted, and not only what is there.
    pub says_all: bool,
    /// Keys that the table holds then, with those that go.
    pub keys: usize,
}

impl Step {
    /// No packet sees a difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.lists.is_empty() && self.backends.is_empty() && self.wanted.is_empty()
    }

    /// Whether packets see a difference, so that it takes a generation.
    #[must_use]
    pub fn takes_generation(&self) -> bool {
        !(self.frontends.is_empty() && self.lists.is_empty() && self.backends.is_empty())
    }

    /// The writes before the generation's store.
    #[must_use]
    pub fn writes(&self, generation: u64) -> Vec<Write> {
        order::before(self, generation).into_iter().map(Write::Services).collect()
    }

    /// Entries needed of each map, those of what is in force included.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        needs(&self.numbers, self.keys)
    }

    /// Keys that come.
    pub fn fresh_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.frontends.iter().filter_map(|(key, (was, _))| was.is_none().then_some(key))
    }

    /// How many frontends there will be, where there are so many.
    pub(super) fn count(&self, now: Count) -> Count {
        let was = Count::of(self.frontends.iter().filter_map(|(key, (was, _))| Some((key, was.as_ref()?))));
        let is = Count::of(self.frontends.iter().filter_map(|(key, (_, is))| Some((key, is.as_ref()?))));
        let moved = |now: usize, was: usize, is: usize| (now + is).saturating_sub(was);
        Count {
            all: moved(now.all, was.all, is.all),
            outside: moved(now.outside, was.outside, is.outside),
            floating: moved(now.floating, was.floating, is.floating),
        }
    }

    pub(super) fn fits(&self, sizes: &Sizes) -> Result<(), Full> {
        let needs = self.needs();
        match needs.iter().find(|need| need.entries > u64::from(sizes.of(need.map))) {
            None => Ok(()),
            Some(Need { map, entries }) => Err(Full {
                map: map.name,
                needed: *entries,
                all_counted: true,
                size: sizes.of(map),
                demand: None,
                remedy: remedy(map.name, *entries),
            }),
        }
    }

    pub(super) fn apply(
        &self,
        image: &mut Image,
        wanted: &mut BTreeMap<Frontend, Arc<Balance>>,
        ports: &mut BTreeMap<u64, BTreeSet<Frontend>>,
    ) {
        self.index(image, false);
        image.count = self.count(image.count);
        apply(&self.frontends, &mut image.frontends);
        apply(&self.lists, &mut image.lists);
        apply(&self.backends, &mut image.backends);
        self.index(image, true);
        for (frontend, (was, is)) in &self.wanted {
            if let Some(was) = was {
                let of = super::plan::number(&was.of);
                let is_empty =
                    ports.get_mut(&of).is_some_and(|frontends| frontends.remove(frontend) && frontends.is_empty());
                if is_empty {
                    ports.remove(&of);
                }
            }
            if let Some(is) = is {
                ports.entry(super::plan::number(&is.of)).or_default().insert(*frontend);
            }
        }
        apply(&self.wanted, wanted);
    }

    /// Takes what the step names out of the index by service port, or puts it in as it is now.
    fn index(&self, image: &mut Image, puts: bool) {
        let frontends = self.frontends.keys().filter_map(|key| Some((*key, image.of(image.frontends.get(key)?)?)));
        let lists = self.lists.keys().filter_map(|id| Some((*id, image.lists.get(id)?.entry.of)));
        let backends = self.backends.keys().filter_map(|slot| Some((*slot, image.backends.get(slot)?.of)));
        let (frontends, lists): (Vec<_>, Vec<_>) = (frontends.collect(), lists.collect());
        let backends: Vec<_> = backends.collect();
        let mut touched = BTreeSet::new();
        for (key, of) in frontends {
            touched.insert(of);
            put(&mut image.ports.entry(of).or_default().frontends, key, puts);
        }
        for (id, of) in lists {
            touched.insert(of);
            put(&mut image.ports.entry(of).or_default().lists, id, puts);
        }
        for (slot, of) in backends {
            touched.insert(of);
            put(&mut image.ports.entry(of).or_default().backends, slot, puts);
        }
        for of in touched {
            if image.ports.get(&of).is_some_and(OfPort::is_empty) {
                image.ports.remove(&of);
            }
        }
    }
}

/// Puts something into a set, or takes it out.
fn put<T: Ord>(set: &mut BTreeSet<T>, what: T, puts: bool) {
    if puts {
        set.insert(what);
    } else {
        set.remove(&what);
    }
}

fn apply<K: Ord + Clone, V: Clone>(changes: &Changes<K, V>, base: &mut BTreeMap<K, V>) {
    for (key, (_, is)) in changes {
        match is {
            Some(value) => drop(base.insert(key.clone(), value.clone())),
            None => drop(base.remove(key)),
        }
    }
}

/// Entries needed of each map, with so many keys of frontends.
pub fn needs(numbers: &Numbers, keys: usize) -> Vec<Need> {
    [
        (&maps::SERVICES, u64::try_from(keys).unwrap_or(u64::MAX)),
        (&maps::FRONTENDS, numbers.frontends.end().into()),
        (&maps::BALANCERS, numbers.lists.end().into()),
        (&maps::MEMBERS, numbers.members.end().into()),
        (&maps::BACKENDS, numbers.backends.end().into()),
    ]
    .map(|(map, entries)| Need { map, entries })
    .into()
}
