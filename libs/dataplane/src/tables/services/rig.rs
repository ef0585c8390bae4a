//! Services in the strict stand-in for the kernel's tables: what a packet finds, and what no careful agent writes.
//! In: writes. Out: where a packet of some generation would be sent.
//! Invariant: what a packet in flight may still look at cannot be taken away, nor what is in use be edited.
//! Never: more forgiving than the kernel.

use super::{
    image::is_floating,
    kernel::{same_backend, same_frontend},
    write::{ServiceSnapshot, ServiceWrite},
};
use crate::tables::{sizes::Sizes, write::Key};
use abi::{
    Address, ServiceKey, maps,
    service::{FRONTEND_NONE, FRONTENDS_FLOATING, FRONTENDS_PORTS},
};
use model::Direction;
use std::collections::{BTreeMap, BTreeSet};

/// The maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rig {
    pub held: ServiceSnapshot,
    pub members: BTreeMap<u32, u32>,
    /// Flows that programs counted, by slots of frontends and of backends.
    pub counts: [BTreeMap<u32, u64>; 2],
}

/// Where a packet goes: the service port's number, its affinity, the backends it may be sent to, and the words of the source ranges'
/// bounds; `None`: nobody's address.
pub type Route = Option<(u64, u32, BTreeSet<(Address, [u8; 2])>, Vec<u32>)>;

impl Rig {
    /// Where a packet is sent that a pod (egress) or somebody outside (ingress) sends there, by a generation.
    pub fn route(&self, generation: u64, direction: Direction, key: &ServiceKey) -> Route {
        let word = |slot: u32| {
            let words = self.held.frontends.get(&slot).copied().unwrap_or_default();
            if direction == Direction::Egress { words.inside.at(generation) } else { words.outside.at(generation) }
        };
        let kind = if is_floating(key) { FRONTENDS_FLOATING } else { FRONTENDS_PORTS };
        if word(FRONTEND_NONE) & kind == 0 {
            return None;
        }
        let id = word(*self.held.keys.get(key)?);
        if id == 0 {
            return None;
        }
        let balancer = self.held.balancers.get(&id).copied().unwrap_or_default();
        let member = |index: u32| {
            let slot = self.members.get(&index).copied().expect("a member");
            let backend = self.held.backends.get(&slot).copied().expect("a backend");
            assert_ne!(backend.standing.at(generation), 0, "{key:?}: backend {slot} is not there at {generation}");
            assert_eq!(backend.of, balancer.of, "{key:?}: another service's backend");
            (backend.address, backend.port)
        };
        let members = (balancer.offset..balancer.offset + balancer.len).map(member).collect();
        let bounds = (balancer.offset + balancer.len..balancer.offset + balancer.entries())
            .map(|index| self.members.get(&index).copied().expect("a word of a bound"));
        Some((balancer.of, balancer.affinity_s, members, bounds.collect()))
    }

    /// Whether a flow that was sent to this slot by a generation still goes there.
    pub fn stands(&self, slot: u32, stamp: u32, generation: u64) -> bool {
        let backend = self.held.backends.get(&slot).copied().unwrap_or_default();
        backend.standing.at(generation) != 0 && backend.was_there(stamp)
    }

    /// Does a write; which hash lost a key, or got one.
    pub fn put(&mut self, write: &ServiceWrite, sizes: &Sizes) {
        let below = |map: &maps::MapSpec, index: u32| assert!(index < sizes.of(map), "{} ends at {index}", map.name);
        match write {
            ServiceWrite::Members(offset, list) => {
                let ranges = self.held.balancers.iter().filter(|(id, _)| self.is_named(**id)).map(|(_, found)| found);
                let end = offset + u32::try_from(list.len()).expect("few");
                for found in ranges.filter(|found| found.entries() > 0) {
                    assert!(end <= found.offset || found.offset + found.entries() <= *offset, "members in use");
                }
                below(&maps::MEMBERS, end - 1);
                self.members.extend((*offset..).zip(list.iter().copied()));
            }
            ServiceWrite::Balancer(id, balancer) => {
                assert!(!self.is_named(*id), "balancer {id} is in use");
                below(&maps::BALANCERS, *id);
                self.held.balancers.insert(*id, *balancer);
            }
            ServiceWrite::Backend(slot, backend) => {
                below(&maps::BACKENDS, *slot);
                self.held.backends.insert(*slot, *backend);
            }
            ServiceWrite::Frontend(slot, frontend) => {
                below(&maps::FRONTENDS, *slot);
                self.held.frontends.insert(*slot, *frontend);
            }
            ServiceWrite::Key(key, slot) => {
                assert!(u64::try_from(self.held.keys.len()).expect("few") < sizes.of(&maps::SERVICES).into(), "full");
                assert!(self.held.keys.insert(*key, *slot).is_none(), "a key in use is updated in place");
            }
            ServiceWrite::DeleteKey(key) => drop(self.held.keys.remove(key).expect("a key that is there")),
            ServiceWrite::FreshFrontend(slot) => {
                assert!(!self.held.keys.values().any(|own| own == slot), "frontend {slot} is in use");
                self.counts[0].remove(slot);
            }
            ServiceWrite::FreshBackend(slot) => {
                let held = self.held.backends.get(slot).copied().unwrap_or_default();
                assert_eq!([held.standing.old(), held.standing.new()], [0, 0], "backend {slot} is in use");
                self.counts[1].remove(slot);
            }
        }
    }

    /// A word names it, of a frontend that a packet may find: what a crash left in other slots nobody looks at.
    fn is_named(&self, id: u32) -> bool {
        let found = self.held.keys.values().filter_map(|slot| self.held.frontends.get(slot));
        let mut words = found.flat_map(|words| [words.inside, words.outside]);
        words.any(|word| word.old() == id || word.new() == id)
    }

    /// What can be read back.
    pub fn read(&self) -> ServiceSnapshot {
        let mut held = self.held.clone();
        held.balancers.retain(|id, _| self.is_named(*id));
        let list = |offset: u32, len: u32| (offset..offset + len).filter_map(|index| self.members.get(&index).copied());
        held.members =
            held.balancers.iter().map(|(id, found)| (*id, list(found.offset, found.entries()).collect())).collect();
        held
    }

    /// Whether it holds what a write puts there.
    pub fn holds(&self, write: &ServiceWrite) -> bool {
        let held = &self.held;
        match write {
            ServiceWrite::Members(offset, list) => {
                (*offset..).zip(list.iter()).all(|(index, slot)| self.members.get(&index) == Some(slot))
            }
            ServiceWrite::Balancer(id, wanted) => held.balancers.get(id) == Some(wanted),
            ServiceWrite::Backend(slot, wanted) => {
                held.backends.get(slot).is_some_and(|found| same_backend(found, wanted))
            }
            ServiceWrite::Frontend(slot, wanted) => {
                same_frontend(&held.frontends.get(slot).copied().unwrap_or_default(), wanted)
            }
            ServiceWrite::Key(key, slot) => held.keys.get(key) == Some(slot),
            ServiceWrite::DeleteKey(key) => !held.keys.contains_key(key),
            ServiceWrite::FreshFrontend(_) | ServiceWrite::FreshBackend(_) => true,
        }
    }

    /// Puts it there over whatever is there.
    pub fn mend(&mut self, write: &ServiceWrite) {
        match write {
            ServiceWrite::Members(offset, list) => self.members.extend((*offset..).zip(list.iter().copied())),
            ServiceWrite::Balancer(id, entry) => drop(self.held.balancers.insert(*id, *entry)),
            ServiceWrite::Backend(slot, entry) => drop(self.held.backends.insert(*slot, *entry)),
            ServiceWrite::Frontend(slot, entry) => drop(self.held.frontends.insert(*slot, *entry)),
            ServiceWrite::Key(key, slot) => drop(self.held.keys.insert(*key, *slot)),
            ServiceWrite::DeleteKey(key) => drop(self.held.keys.remove(key)),
            ServiceWrite::FreshFrontend(slot) => drop(self.counts[0].remove(slot)),
            ServiceWrite::FreshBackend(slot) => drop(self.counts[1].remove(slot)),
        }
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.held.keys.keys().copied().map(Key::Service)
    }
}
