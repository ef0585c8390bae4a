//! Holds the tables of services against what is in force.
//! In: the image, and the store read back piece by piece. Out: the writes that make the tables say the image again.
//! Invariant: every look takes in a bounded slice of each table, so all in turn.
//! Never: takes what programs write (which client keeps to whom) for damage.

use super::{image::Image, write::ServiceWrite};
use crate::tables::{
    audit::slice,
    prefix,
    write::{Key, Keyed, Store, StoreError, Write},
};
use abi::{ServiceKey, Word, service::FRONTEND_NONE};

/// Entries of each table that one look compares, and keys that it asks for.
const SLICE: usize = 1024;
/// Repairs of one look: each waits for a grace. What is left is found by the next.
const MENDS: usize = 16;

/// How far the walks have come.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    frontends: Option<ServiceKey>,
    lists: Option<u32>,
    backends: Option<u32>,
    keys: Option<Key>,
}

impl Walk {
    /// The next look.
    pub fn look<S: Store>(&mut self, image: &Image, store: &S) -> Result<Vec<Write>, StoreError> {
        let mut wrong = Vec::new();
        for write in self.slices(image).into_iter().map(Write::Services) {
            if wrong.len() < MENDS && !store.holds(&write)? {
                wrong.push(write);
            }
        }
        let keys = store.keys(Keyed::Services, self.keys.as_ref(), SLICE)?;
        self.keys = keys.last().filter(|_| keys.len() == SLICE).copied();
        let foreign = keys.iter().filter_map(|key| match key {
            Key::Service(key) if !image.frontends.contains_key(key) => Some(ServiceWrite::DeleteKey(*key)),
            _ => None,
        });
        wrong.extend(foreign.take(MENDS).map(Write::Services));
        Ok(wrong)
    }

    fn slices(&mut self, image: &Image) -> Vec<ServiceWrite> {
        let mut writes = vec![ServiceWrite::Frontend(FRONTEND_NONE, image.any().settled())];
        for (slot, stand) in slice(&image.backends, &mut self.backends, SLICE) {
            writes.push(ServiceWrite::Backend(*slot, stand.entry(Word::settled(stand.standing))));
        }
        for (id, list) in slice(&image.lists, &mut self.lists, SLICE) {
            writes.push(ServiceWrite::Members(list.entry.offset, list.members.clone()));
            writes.push(ServiceWrite::Balancer(*id, list.entry));
        }
        for (key, held) in slice(&image.frontends, &mut self.frontends, SLICE) {
            writes.push(ServiceWrite::Frontend(held.slot, held.settled()));
            writes.push(ServiceWrite::Key(*key, held.slot));
        }
        writes
    }
}

/// What a repair is about, for people.
#[must_use]
pub fn text(repair: &ServiceWrite) -> String {
    let of = |key: &ServiceKey| {
        let (address, port) = (prefix::address_of(key.address), u16::from_be_bytes(key.port));
        service::Frontend { address, protocol: model::Protocol(key.protocol), port }.to_string()
    };
    match repair {
        ServiceWrite::Members(offset, _) => format!("MEMBERS from {offset} on"),
        ServiceWrite::Balancer(id, _) => format!("BALANCERS entry {id}"),
        ServiceWrite::Backend(slot, _) => format!("BACKENDS slot {slot}"),
        ServiceWrite::Frontend(slot, _) => format!("FRONTENDS slot {slot}"),
        ServiceWrite::Key(key, _) => format!("SERVICES entry {}", of(key)),
        ServiceWrite::FreshFrontend(slot) => format!("FRONTEND_COUNTS slot {slot}"),
        ServiceWrite::FreshBackend(slot) => format!("BACKEND_COUNTS slot {slot}"),
        ServiceWrite::DeleteKey(key) => format!("SERVICES had a foreign entry {}", of(key)),
    }
}
