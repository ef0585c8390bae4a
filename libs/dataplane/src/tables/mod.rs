//! The tables of policy: what is in force, and the way to the next revision.
//! In: `Desired` after `Desired`. Out: a generation in force, or an error with the previous one untouched.
//! Invariant: what a commit left for later is done before a next one touches it.
//! Never: sweeps before a commit said what is wanted.

mod affected;
mod askers;
mod audit;
mod capacity;
mod edits;
#[cfg(test)]
pub(crate) mod fake;
mod graces;
mod ids;
pub mod image;
mod kernel;
mod keys;
mod ledger;
pub(crate) mod mapped;
pub mod names;
mod nested;
mod numbers;
mod order;
mod plan;
pub mod prefix;
mod services;
mod sizes;
mod step;
mod sweep;
#[cfg(test)]
mod tests;
mod uses;
mod write;

pub use audit::slice;
pub use capacity::{Demand, Full, Need};
pub use kernel::KernelStore;
pub use plan::{CommitError, Guarded, Lookup, Refusal};
pub use services::Ended;
pub use sizes::{SizeError, Sizes};
pub use write::{Key, Keyed, Snapshot, Store, StoreError, Write};

use abi::{
    Endpoint,
    maps::{self, MapSpec},
    rules::HIT_NONE,
};
use audit::Walk;
use calc::Latest;
use capacity::Asked;
use image::Image;
use ledger::Ledger;
use model::{AttachmentId, IfaceName, ServicePortId};
use names::{Names, NamesChange};
use numbers::Numbers;
use plan::{Ground, Plan};
use services::{Services, Slots};
use std::collections::BTreeMap;
use step::{Change, Step};
use sweep::{Retired, Sweeps, Then};

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The generation in force.
    pub generation: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Endpoints that are not served, and why.
    pub refused: Vec<(AttachmentId, Refusal)>,
    /// Interfaces whose host endpoint is not served, and why.
    pub refused_hosts: Vec<(IfaceName, Refusal)>,
}

/// Endpoints and interfaces that are not served, and why.
type LeftOut = (Vec<(AttachmentId, Refusal)>, Vec<(IfaceName, Refusal)>);

/// The tables.
#[derive(Debug)]
pub struct Tables<S> {
    store: S,
    image: Image,
    names: Names,
    ledger: Ledger,
    /// The number of the Desired in force; `None`: it is not known what of another is new.
    holds: Option<u64>,
    /// What is left of commits that are in force.
    sweeps: Sweeps,
    services: Services,
    /// A write failed: what the tables hold must be read again.
    is_torn: bool,
    /// The most entries that were ever needed of a map, by its name.
    peaks: BTreeMap<&'static str, u64>,
    walk: Walk,
}

impl<S: Store> Tables<S> {
    /// Takes over what the store holds: it stays in force until the first commit.
    ///
    /// # Errors
    /// The store cannot be read, or contradicts itself.
    pub fn adopt(store: S) -> Result<Self, StoreError> {
        let (image, names, ledger) = (Image::default(), Names::default(), Ledger::default());
        let (sweeps, peaks, walk) = (Sweeps::default(), BTreeMap::new(), Walk::default());
        let (services, holds, is_torn) = (Services::default(), None, false);
        let mut tables = Self { store, image, names, ledger, holds, sweeps, services, is_torn, peaks, walk };
        tables.take_over()?;
        Ok(tables)
    }

    /// Puts what is desired in force. `lookup` finds an interface that is guarded. Waits for packets under way only if they may
    /// still read what is to change, or hold the room that is needed.
    ///
    /// # Errors
    /// Something does not fit, or a write failed: the previous revision is in force.
    pub fn commit<'a>(&mut self, desired: impl Into<Latest<'a>>, lookup: Lookup<'_>) -> Result<Committed, CommitError> {
        let latest = desired.into();
        self.sweep()?;
        let (plan, services) = match self.plan_all(latest, lookup) {
            Ok((plan, services)) if !self.must_wait(&plan) && !self.services.forbid(&services) => (plan, services),
            Err(error) if self.is_settled() => return Err(error),
            Ok(_) | Err(_) => {
                self.settle()?;
                self.plan_all(latest, lookup)?
            }
        };
        for need in plan.needs.iter().chain(&services.needs()) {
            let peak = self.peaks.entry(need.map.name).or_default();
            *peak = need.entries.max(*peak);
        }
        let changed = !plan.change.is_empty();
        let (refused, refused_hosts) = self.put_in_force(plan, services)?;
        self.holds = latest.number();
        Ok(Committed { generation: self.image.generation, changed, refused, refused_hosts })
    }

    fn plan(&self, latest: Latest<'_>, lookup: Lookup<'_>) -> Result<Plan, CommitError> {
        let Self { image, names, ledger, .. } = self;
        let (retired, sizes) = (&self.sweeps.retired(), &self.store.sizes());
        plan::plan(Ground { image, names, ledger, retired, sizes }, latest, self.holds, lookup)
    }

    /// With services, in the same generation.
    fn plan_all(&self, latest: Latest<'_>, lookup: Lookup<'_>) -> Result<(Plan, services::Step), CommitError> {
        let mut plan = self.plan(latest, lookup)?;
        let touched = latest.since(self.holds).map(|touched| &touched.services);
        let generation = self.image.generation + 1;
        let services = self.services.plan((&latest.services, touched), generation, &self.store.sizes());
        let services = services.map_err(CommitError::Services)?;
        plan.change.is_renewed |= services.takes_generation();
        Ok((plan, services))
    }

    /// Whether the tables of services have room for these beside those in force, once nothing is left of former commits.
    pub fn has_room_for_services(&self, latest: Latest<'_>) -> bool {
        let touched = latest.since(self.holds).map(|touched| &touched.services);
        self.services.plan((&latest.services, touched), self.image.generation + 1, &self.store.sizes()).is_ok()
    }

    fn is_settled(&self) -> bool {
        self.sweeps.is_empty() && self.services.is_settled()
    }

    fn must_wait(&self, plan: &Plan) -> bool {
        let refusals = plan.refused.iter().map(|(_, refusal)| refusal);
        let of_hosts = plan.refused_hosts.iter().map(|(_, refusal)| refusal);
        let is_full = refusals.chain(of_hosts).any(|refusal| matches!(refusal, Refusal::Full { .. }));
        let step = Step { old: &self.image, change: &plan.change };
        !self.sweeps.is_empty() && (is_full || self.sweeps.forbid(step))
    }

    /// Gives what is left out.
    fn put_in_force(&mut self, plan: Plan, services: services::Step) -> Result<LeftOut, StoreError> {
        let Plan { change, names, entries, gone, fresh_hits, refused, refused_hosts, .. } = plan;
        self.write_step(&change, gone, &fresh_hits, services)?;
        self.ledger.follow(&self.image, &change, &self.names, &names, entries);
        change.apply(&mut self.image);
        names.apply(&mut self.names);
        Ok((refused, refused_hosts))
    }

    fn write_step(
        &mut self,
        change: &Change,
        gone: Retired,
        fresh_hits: &[u32],
        services: services::Step,
    ) -> Result<(), StoreError> {
        if change.is_empty() {
            self.services.put_in_force(services, 0);
            return Ok(());
        }
        let mut writes = order::put_in_force(Step { old: &self.image, change }, fresh_hits);
        self.sweeps.keep_words(&mut writes);
        self.write_all(&services.writes(self.image.generation + 1))?;
        self.write_all(&writes)?;
        let grace = self.store.ask_grace();
        self.sweeps.add(Step { old: &self.image, change }, gone, &writes, grace);
        self.services.put_in_force(services, grace);
        Ok(())
    }

    /// Takes away what no packet can see any more, without waiting. Whether something is left.
    ///
    /// # Errors
    /// A write failed; the next call reads the tables and begins anew.
    pub fn sweep(&mut self) -> Result<bool, StoreError> {
        if self.is_torn {
            self.take_over()?;
        }
        let over = self.store.graces_over()?;
        while let Some((writes, then)) = self.sweeps.due(&self.image, over) {
            self.write_all(&writes)?;
            match then {
                Then::Grace(at) => self.sweeps.wait(at, self.store.ask_grace()),
                Then::Free(retired) => self.ledger.numbers.free(&retired),
            }
        }
        while let Some((writes, waits)) = self.services.due(over) {
            self.write_all(&writes)?;
            if let Some(at) = waits {
                self.services.wait(at, self.store.ask_grace());
            }
        }
        Ok(!self.is_settled())
    }

    /// Backends that went since this was last asked, and that nothing is sent to any more.
    pub fn take_ended(&mut self) -> Ended {
        self.services.take_ended()
    }

    /// Waits until no packet sees any revision but the one in force, and takes the others away.
    ///
    /// # Errors
    /// A write failed; the next call reads the tables and begins anew.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        while self.sweep()? {
            if let Some(grace) = self.sweeps.last().max(self.services.last()) {
                self.store.await_grace(grace)?;
            }
        }
        Ok(())
    }

    /// Holds a part of the tables against the revision in force, the whole of them by and by, and puts back what others
    /// changed. Says what that was. Flows may have come by it: all are judged again.
    ///
    /// # Errors
    /// A map cannot be read or written; the tables are read anew before the next commit.
    pub fn audit(&mut self) -> Result<Vec<String>, StoreError> {
        if self.is_torn || !self.is_settled() {
            return Ok(Vec::new());
        }
        let mut wrong = self.walk.look(&self.image, &self.store)?;
        wrong.extend(self.services.look(&self.store)?);
        if wrong.is_empty() {
            return Ok(Vec::new());
        }
        let mended = wrong.iter().try_for_each(|write| self.store.mend(write));
        self.is_torn = mended.is_err();
        mended?;
        if wrong.contains(&Write::Generation(self.image.generation)) {
            self.write_all(&[Write::FlushAhead(self.image.generation)])?;
        }
        self.judge_again()?;
        Ok(wrong.iter().map(audit::text).collect())
    }

    /// The same revision under the next generation, with every endpoint stamped.
    fn judge_again(&mut self) -> Result<(), StoreError> {
        let mut change = Change { is_renewed: true, ..Change::default() };
        let rev = affected::revision(self.image.generation + 1);
        for (slot, entry) in &self.image.endpoints {
            change.endpoints.set(&self.image.endpoints, *slot, Some(Endpoint { rev, ..*entry }));
        }
        self.write_step(&change, Retired::default(), &[], self.services.still())?;
        change.apply(&mut self.image);
        Ok(())
    }

    /// Where a service port is in the tables.
    pub fn slots_of(&self, of: &ServicePortId) -> Slots {
        self.services.slots(of)
    }

    /// The revision in force.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What its numbers mean.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Entries that the revision in force takes of each map that commits write.
    pub fn needs(&self) -> Vec<Need> {
        let step = Step { old: &self.image, change: &Change::default() };
        let (retired, known, names) = (&Retired::default(), &self.names, &NamesChange::default());
        let counted = (!self.sweeps.is_empty()).then(|| Numbers::of(&self.image));
        let numbers = counted.as_ref().unwrap_or(&self.ledger.numbers);
        let policy = Asked { step, retired, known, names, numbers }.needs();
        policy.into_iter().chain(self.services.needs()).collect()
    }

    /// The most entries that commits of this process needed of a map, two revisions together.
    pub fn peak(&self, map: &MapSpec) -> u64 {
        self.peaks.get(map.name).copied().unwrap_or_default()
    }

    /// Spans whose rule is not counted apart, because `HITS` was full when they were compiled.
    pub fn uncounted(&self) -> usize {
        let spans = self.image.spans.values().flat_map(|spans| spans.iter());
        spans.filter(|span| span.kind().decides() && span.hit == HIT_NONE).count()
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store, for the tables that no commit writes.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ids in the tables keep no meaning but the hits still counted: every content gets a fresh id beside them.
    fn take_over(&mut self) -> Result<(), StoreError> {
        let found = self.store.read()?;
        let (services, mended) = Services::adopt(&found.services, found.generation);
        let (image, mut repairs) = image::adopt(found, self.store.sizes().of(&maps::ENDPOINTS));
        repairs.extend(mended);
        let live = image.hits();
        let hits = std::mem::take(&mut self.names).hits.into_iter().filter(|(_, id)| live.contains(*id)).collect();
        self.names = Names { hits, ..Names::default() };
        self.ledger = Ledger::of(&image, &self.names);
        self.holds = None;
        self.sweeps.clear();
        self.services = services;
        self.image = image;
        self.is_torn = false;
        self.write_all(&repairs)
    }

    fn write_all(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            if let Err(error) = self.store.write(write) {
                self.is_torn = true;
                return Err(error);
            }
        }
        Ok(())
    }
}
