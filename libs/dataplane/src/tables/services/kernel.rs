//! The tables of services in the kernel, opened by their pins.
//! In: writes of a commit. Out: arrays stored in place, keys by bpf(2).
//! Invariant: a word is stored after what goes with it.
//! Never: updates a key in place.

use super::{
    image::Held,
    write::{ServiceSnapshot, ServiceWrite},
};
use crate::{
    bpf::NEW_ONLY,
    tables::{
        kernel::{absent_is_fine, failed, found, mapped, outside, read_hash, typed},
        mapped::MappedArray,
        sizes::Sizes,
        write::StoreError,
    },
};
use abi::{
    Backend, Balancer, Frontend, FrontendCounts, Member, ServiceKey, SocketKey, SocketPeer, Word, maps,
    service::{BALANCER_NONE, FRONTEND_NONE},
};
use aya::maps::{HashMap, MapData};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// The maps.
pub struct ServiceMaps {
    keys: HashMap<MapData, ServiceKey, u32>,
    frontends: MappedArray<Frontend>,
    balancers: MappedArray<Balancer>,
    members: MappedArray<Member>,
    backends: MappedArray<Backend>,
    sockets: HashMap<MapData, SocketKey, SocketPeer>,
    frontend_counts: MappedArray<FrontendCounts>,
    backend_counts: MappedArray<u64>,
}

impl ServiceMaps {
    /// Opens those pinned in a directory.
    pub fn open(dir: &Path, sizes: &Sizes) -> Result<Self, StoreError> {
        Ok(Self {
            keys: typed(dir, &maps::SERVICES)?,
            frontends: mapped(dir, &maps::FRONTENDS, sizes)?,
            balancers: mapped(dir, &maps::BALANCERS, sizes)?,
            members: mapped(dir, &maps::MEMBERS, sizes)?,
            backends: mapped(dir, &maps::BACKENDS, sizes)?,
            sockets: typed(dir, &maps::SOCKETS)?,
            frontend_counts: mapped(dir, &maps::FRONTEND_COUNTS, sizes)?,
            backend_counts: mapped(dir, &maps::BACKEND_COUNTS, sizes)?,
        })
    }

    /// What is there. Where there is no service, the large arrays are not looked at: that alone would take memory.
    pub fn read(&self) -> Result<ServiceSnapshot, StoreError> {
        let keys = read_hash(&self.keys, &maps::SERVICES)?;
        let flag = self.frontends.get(FRONTEND_NONE).unwrap_or_default();
        if keys.is_empty() && flag == Frontend::default() {
            return Ok(ServiceSnapshot::default());
        }
        let slots: BTreeSet<u32> = keys.values().copied().chain([FRONTEND_NONE]).collect();
        let frontends = slots.into_iter().filter_map(|slot| Some((slot, self.frontends.get(slot)?)));
        let mut snapshot = ServiceSnapshot { keys, frontends: frontends.collect(), ..ServiceSnapshot::default() };
        let ids = |word: Word| [word.old(), word.new()];
        let named = snapshot.frontends.iter().filter(|(slot, _)| **slot != FRONTEND_NONE);
        let named: BTreeSet<u32> =
            named.flat_map(|(_, words)| [ids(words.inside), ids(words.outside)].concat()).collect();
        for id in named.into_iter().filter(|id| *id != BALANCER_NONE) {
            let Some(balancer) = self.balancers.get(id) else { continue };
            snapshot.balancers.insert(id, balancer);
            snapshot.members.insert(id, self.list(&balancer));
        }
        let backends = (0..self.backends.len()).filter_map(|slot| Some((slot, self.backends.get(slot)?)));
        snapshot.backends = backends.filter(|(_, backend)| *backend != Backend::default()).collect();
        Ok(snapshot)
    }

    fn list(&self, balancer: &Balancer) -> Arc<[u32]> {
        let end = balancer.offset.saturating_add(balancer.entries()).min(self.members.len());
        (balancer.offset..end).filter_map(|index| self.members.get(index)).map(|member| member.backend).collect()
    }

    /// Whether programs sent this socket to this end, as a backend that is gone at this generation.
    pub fn is_of_gone_backend(&self, key: &SocketKey, generation: u64) -> Result<bool, StoreError> {
        let Some(peer) = found(self.sockets.get(key, 0), &maps::SOCKETS)? else { return Ok(false) };
        Ok(is_gone(&self.backends.get(peer.backend).unwrap_or_default(), &peer, generation))
    }

    /// Does one write.
    pub fn write(&mut self, write: &ServiceWrite) -> Result<(), StoreError> {
        match write {
            ServiceWrite::Members(offset, list) => (*offset..).zip(list.iter()).try_for_each(|(index, backend)| {
                let member = Member { backend: *backend, pad: 0 };
                self.members.set(index, &member).ok_or_else(|| outside(&maps::MEMBERS, index))
            }),
            ServiceWrite::Balancer(id, balancer) => {
                self.balancers.set(*id, balancer).ok_or_else(|| outside(&maps::BALANCERS, *id))
            }
            ServiceWrite::Backend(slot, backend) => {
                self.backends.set(*slot, backend).ok_or_else(|| outside(&maps::BACKENDS, *slot))
            }
            ServiceWrite::Frontend(slot, frontend) => {
                self.frontends.set(*slot, frontend).ok_or_else(|| outside(&maps::FRONTENDS, *slot))
            }
            ServiceWrite::Key(key, slot) => {
                self.keys.insert(key, slot, NEW_ONLY).map_err(|error| failed(&maps::SERVICES, error))
            }
            ServiceWrite::DeleteKey(key) => absent_is_fine(self.keys.remove(key), &maps::SERVICES),
            ServiceWrite::FreshFrontend(slot) => self.retire(*slot),
            ServiceWrite::FreshBackend(slot) => {
                self.backend_counts.set(*slot, &0).ok_or_else(|| outside(&maps::BACKEND_COUNTS, *slot))
            }
        }
    }

    /// What a frontend has counted goes to those that are gone: no sum over all of them ever shrinks. If we die in between it
    /// counts twice.
    fn retire(&self, slot: u32) -> Result<(), StoreError> {
        let counted = self.counted_at(slot).ok_or_else(|| outside(&maps::FRONTEND_COUNTS, slot))?;
        let gone = self.counted_at(FRONTEND_NONE).unwrap_or_default();
        let sum = FrontendCounts {
            opened: gone.opened.wrapping_add(counted.opened),
            refused: gone.refused.wrapping_add(counted.refused),
        };
        let stored = self.frontend_counts.set(FRONTEND_NONE, &sum);
        let cleared = stored.and_then(|()| self.frontend_counts.set(slot, &FrontendCounts::default()));
        cleared.ok_or_else(|| outside(&maps::FRONTEND_COUNTS, slot))
    }

    /// What was counted in a frontend's slot.
    pub fn counted_at(&self, slot: u32) -> Option<FrontendCounts> {
        self.frontend_counts.get(slot)
    }

    /// Flows that were opened to a backend's slot.
    pub fn opened_to(&self, slot: u32) -> Option<u64> {
        self.backend_counts.get(slot)
    }

    /// Whether the tables hold what this write puts there.
    pub fn holds(&self, write: &ServiceWrite) -> Result<bool, StoreError> {
        Ok(match write {
            ServiceWrite::Members(offset, list) => (*offset..)
                .zip(list.iter())
                .all(|(index, backend)| self.members.get(index).is_some_and(|found| found.backend == *backend)),
            ServiceWrite::Balancer(id, wanted) => self.balancers.get(*id) == Some(*wanted),
            ServiceWrite::Backend(slot, wanted) => {
                self.backends.get(*slot).is_some_and(|found| same_backend(&found, wanted))
            }
            ServiceWrite::Frontend(slot, wanted) => {
                self.frontends.get(*slot).is_some_and(|found| same_frontend(&found, wanted))
            }
            ServiceWrite::Key(key, slot) => found(self.keys.get(key, 0), &maps::SERVICES)? == Some(*slot),
            ServiceWrite::DeleteKey(key) => found(self.keys.get(key, 0), &maps::SERVICES)?.is_none(),
            ServiceWrite::FreshFrontend(_) | ServiceWrite::FreshBackend(_) => true,
        })
    }

    /// Whether a key leads to the balancers that it should have, for packets of a generation.
    pub fn leads(&self, key: &ServiceKey, held: &Held, generation: u64) -> Result<bool, StoreError> {
        let slot = found(self.keys.get(key, 0), &maps::SERVICES)?;
        let words = self.frontends.get(held.slot).unwrap_or_default();
        let at = (words.inside.at(generation), words.outside.at(generation));
        Ok(slot == Some(held.slot) && at == (held.inside, held.outside))
    }

    /// Puts a key there over whatever somebody else has put there.
    pub fn mend(&mut self, write: &ServiceWrite) -> Result<(), StoreError> {
        match write {
            ServiceWrite::Key(key, slot) => {
                self.keys.insert(key, slot, 0).map_err(|error| failed(&maps::SERVICES, error))
            }
            write => self.write(write),
        }
    }
}

/// Whether the backend that a socket was sent to is gone: nobody's slot now, or another's since.
fn is_gone(backend: &Backend, sent: &SocketPeer, generation: u64) -> bool {
    backend.standing.at(generation) == 0 || !backend.was_there(sent.stamp)
}

/// Whether a backend's slot says what it should, however its word came to say it.
pub fn same_backend(found: &Backend, wanted: &Backend) -> bool {
    let plain = |entry: &Backend| Backend { standing: Word::settled(entry.standing.new()), ..*entry };
    found.standing.is_settled() && plain(found) == plain(wanted)
}

/// Whether both words of a frontend say what they should.
pub fn same_frontend(found: &Frontend, wanted: &Frontend) -> bool {
    let same = |found: Word, wanted: Word| found.is_settled() && found.new() == wanted.new();
    same(found.inside, wanted.inside) && same(found.outside, wanted.outside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::service::{BACKEND_CHOSEN, BACKEND_LISTED};

    #[test]
    fn a_backend_is_gone_when_its_slot_is_nobodys_or_anothers_and_not_when_it_is_only_not_chosen() {
        let is_gone_at = |standing, born, stamp, generation| {
            let backend = Backend { standing, born, ..Backend::default() };
            is_gone(&backend, &SocketPeer { stamp, ..SocketPeer::default() }, generation)
        };
        let listed = Word::settled(BACKEND_LISTED);
        assert!(!is_gone_at(Word::settled(BACKEND_LISTED | BACKEND_CHOSEN), 3, 3, 9));
        assert!(!is_gone_at(listed, 3, 7, 9));
        assert!(is_gone_at(Word::settled(0), 3, 7, 9));
        assert!(is_gone_at(listed, 8, 7, 9), "the slot was given to another since");
        let leaves = Word::changing(BACKEND_LISTED, 0, 9);
        assert_eq!([8, 9].map(|generation| is_gone_at(leaves, 3, 7, generation)), [false, true]);
    }
}
