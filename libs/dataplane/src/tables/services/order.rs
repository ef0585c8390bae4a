//! The order of writes that leads from one revision of the services to the next.
//! In: a step and its generation. Out: the writes that go before the generation's store, and those that settle it afterwards.
//! Invariant: after any prefix of the first list every packet is sent where the revision in force says.
//! Never: writes where that revision looks.

use super::{image::Held, step::Step, write::ServiceWrite};
use abi::{Frontend, Word, service::FRONTEND_NONE};

/// Everything that goes before the store of the generation.
pub fn before(step: &Step, generation: u64) -> Vec<ServiceWrite> {
    let mut writes = Vec::new();
    for (id, list) in step.lists.iter().filter_map(|(id, (_, is))| Some((id, is.as_ref()?))) {
        if !list.members.is_empty() {
            writes.push(ServiceWrite::Members(list.entry.offset, list.members.clone()));
        }
        writes.push(ServiceWrite::Balancer(*id, list.entry));
    }
    for (slot, (was, is)) in &step.backends {
        let (Some(stand), from, to) =
            (is.as_ref().or(was.as_ref()), was.map_or(0, |was| was.standing), is.map_or(0, |is| is.standing))
        else {
            continue;
        };
        if was.is_none() {
            writes.push(ServiceWrite::FreshBackend(*slot));
        }
        writes.push(ServiceWrite::Backend(*slot, stand.entry(Word::changing(from, to, generation))));
    }
    for (key, (was, is)) in &step.frontends {
        let Some(slot) = is.as_ref().or(was.as_ref()).map(|held| held.slot) else { continue };
        let word =
            |of: fn(&Held) -> u32| Word::changing(was.as_ref().map_or(0, of), is.as_ref().map_or(0, of), generation);
        let words = Frontend { inside: word(|held| held.inside), outside: word(|held| held.outside) };
        if was.is_none() {
            writes.push(ServiceWrite::FreshFrontend(slot));
        }
        writes.push(ServiceWrite::Frontend(slot, words));
        if was.is_none() {
            writes.push(ServiceWrite::Key(*key, slot));
        }
    }
    if step.any.0 != step.any.1 {
        writes.push(ServiceWrite::Frontend(FRONTEND_NONE, step.any.0.changing(step.any.1, generation)));
    }
    writes
}

/// What is due once it is in force and a grace has passed.
pub fn after(step: &Step) -> Vec<ServiceWrite> {
    let mut writes = Vec::new();
    for (slot, (was, is)) in &step.backends {
        if let Some(stand) = is.as_ref().or(was.as_ref()) {
            let standing = is.map_or(0, |is| is.standing);
            writes.push(ServiceWrite::Backend(*slot, stand.entry(Word::settled(standing))));
        }
    }
    for (key, (was, is)) in &step.frontends {
        match (was, is) {
            (_, Some(is)) => writes.push(ServiceWrite::Frontend(is.slot, is.settled())),
            (Some(was), None) => {
                writes.push(ServiceWrite::DeleteKey(*key));
                writes.push(ServiceWrite::Frontend(was.slot, Frontend::default()));
            }
            (None, None) => {}
        }
    }
    if step.any.0 != step.any.1 {
        writes.push(ServiceWrite::Frontend(FRONTEND_NONE, step.any.1.settled()));
    }
    writes
}
