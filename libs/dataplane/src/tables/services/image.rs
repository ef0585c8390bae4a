//! One revision of the services, as kernel numbers.
//! In: a snapshot read back, or steps. Out: values that a plan starts from.
//! Invariant: everything is of one service port, and found by its number.
//! Never: words that are not settled.

use super::write::{ServiceSnapshot, ServiceWrite};
use abi::{
    Address, Backend, Balancer, Frontend, ServiceKey, Word,
    service::{BALANCER_NONE, FRONTEND_NONE, FRONTENDS_FLOATING, FRONTENDS_PORTS},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a frontend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Slot.
    pub slot: u32,
    /// Balancer for pods; 0: none.
    pub inside: u32,
    /// Balancer for what comes from outside; 0: none.
    pub outside: u32,
}

/// A balancer and its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// As the kernel has it.
    pub entry: Balancer,
    /// Slots of backends; then the words of the source ranges' bounds.
    pub members: Arc<[u32]>,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Number of the service port.
    pub of: u64,
    /// Where it is.
    pub at: (Address, [u8; 2]),
    /// Low half of the generation from which the slot has meant it.
    pub born: u32,
    /// `BACKEND_*`, not 0.
    pub standing: u32,
}

/// Whether there are frontends at all: `FRONTENDS_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// For pods.
    pub inside: u32,
    /// For what comes from outside.
    pub outside: u32,
}

impl Any {
    /// What slot 0 says.
    pub fn settled(self) -> Frontend {
        Frontend { inside: Word::settled(self.inside), outside: Word::settled(self.outside) }
    }

    /// What slot 0 says while it becomes another.
    pub fn changing(self, to: Self, generation: u64) -> Frontend {
        let word = |from, to| Word::changing(from, to, generation);
        Frontend { inside: word(self.inside, to.inside), outside: word(self.outside, to.outside) }
    }
}

/// Frontends of which slot 0 speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All, floating addresses among them.
    pub all: usize,
    /// Those that are served to who is outside.
    pub outside: usize,
    /// Floating addresses, which are served to everybody.
    pub floating: usize,
}

impl Count {
    /// Of all these.
    pub fn of<'a>(frontends: impl Iterator<Item = (&'a ServiceKey, &'a Held)>) -> Self {
        let counted = frontends.map(|(key, held)| (usize::from(held.is_outside()), usize::from(is_floating(key))));
        counted.fold(Self::default(), |sum, (outside, floating)| Self {
            all: sum.all + 1,
            outside: sum.outside + outside,
            floating: sum.floating + floating,
        })
    }

    /// What it means.
    pub fn any(self) -> Any {
        let floating = if self.floating > 0 { FRONTENDS_FLOATING } else { 0 };
        let ports = |count: usize| if count > self.floating { FRONTENDS_PORTS } else { 0 };
        Any { inside: ports(self.all) | floating, outside: ports(self.outside) | floating }
    }
}

/// Whether it is an address with all that is sent to it.
pub fn is_floating(key: &ServiceKey) -> bool {
    *key == ServiceKey::floating(key.address)
}

/// What is of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfPort {
    pub frontends: BTreeSet<ServiceKey>,
    pub lists: BTreeSet<u32>,
    pub backends: BTreeSet<u32>,
}

impl OfPort {
    /// Nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.lists.is_empty() && self.backends.is_empty()
    }
}

/// One revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub frontends: BTreeMap<ServiceKey, Held>,
    pub lists: BTreeMap<u32, List>,
    pub backends: BTreeMap<u32, Stand>,
    pub ports: BTreeMap<u64, OfPort>,
    /// How many frontends there are.
    pub count: Count,
}

impl Held {
    /// Whether it is served to who is outside.
    pub fn is_outside(&self) -> bool {
        self.outside != BALANCER_NONE
    }

    /// As the kernel has it, once it is settled.
    pub fn settled(&self) -> Frontend {
        Frontend { inside: Word::settled(self.inside), outside: Word::settled(self.outside) }
    }
}

impl Stand {
    /// As the kernel has it.
    pub fn entry(&self, standing: Word) -> Backend {
        let (address, port) = self.at;
        Backend { standing, address, of: self.of, born: self.born, port, pad: [0; 2] }
    }
}

impl Image {
    /// Whether there are frontends at all.
    pub fn any(&self) -> Any {
        self.count.any()
    }

    /// The service port of a frontend.
    pub fn of(&self, held: &Held) -> Option<u64> {
        let list = |id| self.lists.get(&id).map(|list| list.entry.of);
        list(held.inside).or_else(|| list(held.outside))
    }

    fn index(&mut self) {
        let mut ports: BTreeMap<u64, OfPort> = BTreeMap::new();
        for (key, held) in &self.frontends {
            ports.entry(self.of(held).unwrap_or_default()).or_default().frontends.insert(*key);
        }
        for (id, list) in &self.lists {
            ports.entry(list.entry.of).or_default().lists.insert(*id);
        }
        for (slot, stand) in &self.backends {
            ports.entry(stand.of).or_default().backends.insert(*slot);
        }
        self.ports = ports;
        self.count = Count::of(self.frontends.iter());
    }
}

/// Reads an image out of what a former agent, or a commit that broke off, left behind; and the writes that make the tables say
/// exactly that.
pub fn adopt(found: &ServiceSnapshot, generation: u64) -> (Image, Vec<ServiceWrite>) {
    let (mut image, mut repairs) = (Image::default(), Vec::new());
    for (key, slot) in &found.keys {
        let words = found.frontends.get(slot).copied().unwrap_or_default();
        let held = Held { slot: *slot, inside: words.inside.at(generation), outside: words.outside.at(generation) };
        if [held.inside, held.outside] == [BALANCER_NONE; 2] {
            repairs.push(ServiceWrite::DeleteKey(*key));
        } else {
            image.frontends.insert(*key, held);
        }
        if !(words.inside.is_settled() && words.outside.is_settled()) {
            repairs.push(ServiceWrite::Frontend(*slot, held.settled()));
        }
    }
    let named: BTreeSet<u32> = image.frontends.values().flat_map(|held| [held.inside, held.outside]).collect();
    for (id, entry) in found.balancers.iter().filter(|(id, _)| named.contains(id)) {
        let members = found.members.get(id).cloned().unwrap_or_default();
        image.lists.insert(*id, List { entry: *entry, members });
    }
    for (slot, entry) in &found.backends {
        let standing = entry.standing.at(generation);
        let stand = Stand { of: entry.of, at: (entry.address, entry.port), born: entry.born, standing };
        if !entry.standing.is_settled() {
            repairs.push(ServiceWrite::Backend(*slot, stand.entry(Word::settled(standing))));
        }
        if standing != 0 {
            image.backends.insert(*slot, stand);
        }
    }
    image.index();
    let flag = found.frontends.get(&FRONTEND_NONE).copied().unwrap_or_default();
    let wanted = image.any().settled();
    if flag != wanted {
        repairs.push(ServiceWrite::Frontend(FRONTEND_NONE, wanted));
    }
    (image, repairs)
}
