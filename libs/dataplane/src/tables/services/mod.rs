//! The tables of services: what is in force, and the way to the next revision, beside that of policy and in the same commit.
//! In: `Desired.services`, one after another. Out: writes that go before the generation's store, and those that are due later.
//! Invariant: a service that did not change costs a look at where its balance lies; numbers are nobody's for two graces.
//! Never: stores the generation; asks for a grace.

mod audit;
mod bounds;
mod ended;
mod image;
pub mod kernel;
mod left;
mod numbers;
mod order;
mod plan;
#[cfg(test)]
pub(crate) mod rig;
mod step;
#[cfg(test)]
mod tests;
mod write;

pub use audit::text;
pub use ended::Ended;
pub use write::{ServiceSnapshot, ServiceWrite};

use super::{
    capacity::{Full, Need},
    prefix,
    sizes::Sizes,
    write::{Store, StoreError, Write},
};
use abi::ServiceKey;
use image::Image;
use left::Lefts;
use model::{Protocol, ServicePortId};
use numbers::Numbers;
use service::{Backend, Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
pub use step::Step;

/// The services in force.
#[derive(Debug, Default)]
pub struct Services {
    image: Image,
    /// What it was made of; of what another agent left, nothing.
    wanted: BTreeMap<Frontend, Arc<Balance>>,
    /// Its frontends by the number of their service port.
    ports: BTreeMap<u64, BTreeSet<Frontend>>,
    numbers: Numbers,
    lefts: Lefts,
    ended: Ended,
    /// Nobody has said yet which of it is wanted.
    is_adopted: bool,
    walk: audit::Walk,
}

/// Where a service port is in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Of its frontends.
    pub frontends: Vec<(Frontend, u32)>,
    /// Of its backends, those included that only keep their flows.
    pub backends: Vec<(Backend, u32)>,
}

impl Services {
    /// Takes over what the tables hold at a generation; and the writes that make them say exactly that, after a grace.
    pub fn adopt(found: &ServiceSnapshot, generation: u64) -> (Self, Vec<Write>) {
        let (image, repairs) = image::adopt(found, generation);
        let numbers = Numbers::of(&image);
        let services = Self { image, numbers, is_adopted: true, ended: Ended::Any, ..Self::default() };
        let mut writes: Vec<Write> = repairs.into_iter().map(Write::Services).collect();
        if writes.iter().any(|write| matches!(write, Write::Services(ServiceWrite::DeleteKey(_)))) {
            // What was deleted a packet may look at, and the next key would be given its element.
            writes.push(Write::Grace);
        }
        (services, writes)
    }

    /// What leads to the services of `desired` by `generation`. Beside it, what may differ from the last one; `None`: anything.
    ///
    /// # Errors
    /// A table is too small.
    pub fn plan(&self, desired: plan::Wanted<'_>, generation: u64, sizes: &Sizes) -> Result<Step, Full> {
        let mut step = plan::plan(self, desired, generation);
        step.says_all = true;
        step.keys = self.image.frontends.len() + self.lefts.keys() + step.fresh_keys().count();
        if !step.is_empty() {
            step.fits(sizes)?;
        }
        Ok(step)
    }

    /// The step that changes nothing.
    pub fn still(&self) -> Step {
        Step { numbers: self.numbers.clone(), keys: self.image.frontends.len(), ..Step::default() }
    }

    /// Whether a step touches what a packet under way may still read.
    pub fn forbid(&self, step: &Step) -> bool {
        self.lefts.forbid(step)
    }

    /// The step was written, and its generation after it: it is in force.
    pub fn put_in_force(&mut self, step: Step, grace: u64) {
        self.is_adopted &= !step.says_all;
        if step.is_empty() {
            return;
        }
        self.lefts.add(&step, grace);
        step.apply(&mut self.image, &mut self.wanted, &mut self.ports);
        self.numbers = step.numbers;
    }

    /// The next writes that are due when the graces up to `over` are; the place of what then waits for one more.
    pub fn due(&mut self, over: u64) -> Option<(Vec<Write>, Option<usize>)> {
        let (writes, next, free) = self.lefts.due(over)?;
        self.ended.extend(free.ended.iter().copied());
        free.give_back(&mut self.numbers);
        Some((writes.into_iter().map(Write::Services).collect(), next))
    }

    /// Backends that went since this was last asked, and that nothing is sent to any more.
    pub fn take_ended(&mut self) -> Ended {
        std::mem::take(&mut self.ended)
    }

    /// The second grace of what is left at this place.
    pub fn wait(&mut self, at: usize, grace: u64) {
        self.lefts.wait(at, grace);
    }

    /// Whether nothing is left of former commits.
    pub fn is_settled(&self) -> bool {
        self.lefts.is_empty()
    }

    /// The last grace that something waits for.
    pub fn last(&self) -> Option<u64> {
        self.lefts.last()
    }

    /// A part of the tables held against what is in force: what would have to be written.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn look<S: Store>(&mut self, store: &S) -> Result<Vec<Write>, StoreError> {
        self.walk.look(&self.image, store)
    }

    /// The slots of a service port.
    pub fn slots(&self, of: &ServicePortId) -> Slots {
        let Some(own) = self.image.ports.get(&plan::number(of)) else { return Slots::default() };
        let frontend = |key: &ServiceKey| {
            let (address, port) = (prefix::address_of(key.address), u16::from_be_bytes(key.port));
            let frontend = Frontend { address, protocol: Protocol(key.protocol), port };
            Some((frontend, self.image.frontends.get(key)?.slot))
        };
        let backend = |slot: &u32| {
            let (address, port) = self.image.backends.get(slot)?.at;
            Some((Backend { address: prefix::address_of(address), port: u16::from_be_bytes(port) }, *slot))
        };
        Slots {
            frontends: own.frontends.iter().filter_map(frontend).collect(),
            backends: own.backends.iter().filter_map(backend).collect(),
        }
    }

    /// Whether the tables lead a frontend where the revision in force has it lead, at its generation.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn leads(&self, frontend: &Frontend, maps: &kernel::ServiceMaps, generation: u64) -> Result<bool, StoreError> {
        let known = plan::key_of(frontend).and_then(|key| Some((key, self.image.frontends.get(&key)?)));
        known.map_or(Ok(false), |(key, held)| maps.leads(&key, held, generation))
    }

    /// Entries that what is in force takes of each map.
    pub fn needs(&self) -> Vec<Need> {
        step::needs(&self.numbers, self.image.frontends.len())
    }
}
