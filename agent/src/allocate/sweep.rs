//! Takes back what nobody has, as an audit has planned it.
//! In: a plan, and who lives by a newer word. Out: blocks, claims and handles as they are then.
//! Invariant: every write names the revision it was decided on; what a newer look does not bear out stays.
//! Never: gives up a block that holds an address.

use super::{AFFINITY, About, AllocateError, Allocator, BLOCK, HANDLE, Reach, kept, object};
use datastore::ObjectError;
use ipam::{
    AffinityState, BlockAffinity, Kept, Ledger,
    audit::{Census, Idle, Release, owner},
    cidr_name,
    hold::Parted,
};
use model::Cidr;
use std::{collections::BTreeSet, net::IpAddr};

/// Addresses that were taken from owners that are gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Nobody has them.
    pub freed: Vec<IpAddr>,
    /// They are held for their names.
    pub held: Vec<IpAddr>,
}

impl Allocator {
    /// Everything that is written of addresses; handles, of which there are as many as pods, only if they are asked for.
    pub fn ledger(&self, with_handles: bool) -> Result<Ledger, AllocateError> {
        let mut ledger = self.read(About::handles(&[]), Reach::Whole)?;
        if with_handles {
            for object in self.objects.list(HANDLE)? {
                ledger.handles.insert(object.metadata.name.clone(), kept(HANDLE, object)?);
            }
        }
        Ok(ledger)
    }

    /// Takes back the addresses of those releases that still hold by the ledger as it is now and by this census.
    pub fn take_back(&self, releases: &[Release], census: &Census) -> Result<Taken, AllocateError> {
        let handles: BTreeSet<_> = releases.iter().flat_map(|release| release.handles.iter().cloned()).collect();
        let handles: Vec<_> = handles.into_iter().collect();
        let take_back = |ledger: &mut Ledger| {
            let due: Vec<_> = releases.iter().filter(|release| release.holds(ledger, census)).collect();
            let given = due.iter().flat_map(|release| release.given.iter().map(|given| (&release.owner, *given)));
            let mut taken = Taken::default();
            for (owner, (_, address, sequence)) in given {
                match ledger.part_seen(address, owner, sequence) {
                    Ok(Parted::Free) => taken.freed.push(address),
                    Ok(Parted::Held) => taken.held.push(address),
                    Ok(Parted::Before) | Err(_) => {}
                }
            }
            taken
        };
        self.decide_on(About::handles(&handles), Reach::Whole, take_back, |_| {})
    }

    /// Decides on everything that is written, with all handles; who finds another revision decides anew.
    pub fn decide_whole<T>(&self, decision: impl FnMut(&mut Ledger) -> T) -> Result<T, AllocateError> {
        let handles: Vec<_> = self.objects.list(HANDLE)?.into_iter().map(|object| object.metadata.name).collect();
        self.decide_on(About::handles(&handles), Reach::Whole, decision, |_| {})
    }

    /// Takes back all that these handles have; it is free at once, for who has it has it of somebody else.
    pub fn take_back_all(&self, handles: &[String]) -> Result<Vec<IpAddr>, AllocateError> {
        let take_back = |ledger: &mut Ledger| {
            ledger.config.cooldown = 0;
            handles.iter().flat_map(|handle| ledger.release(handle)).collect()
        };
        self.decide_on(About::handles(handles), Reach::Whole, take_back, |_| {})
    }

    /// Takes back one address of an owner, counted under a handle, if it is still the one that was given out then.
    pub fn take_back_one(
        &self,
        address: IpAddr,
        handle: &str,
        owner: &str,
        sequence: u64,
    ) -> Result<bool, AllocateError> {
        let take_back = |ledger: &mut Ledger| ledger.release_seen(address, owner, sequence) == Ok(true);
        self.decide_on(About::handles(&[handle.to_owned()]), Reach::Whole, take_back, |_| {})
    }

    /// Has a node's handle count what these blocks say. False: somebody was faster, and it may be right by now.
    pub fn mend(&self, handle: &str, places: &BTreeSet<Cidr>) -> Result<bool, AllocateError> {
        let mut ledger = self.read(About::handles(&[handle.to_owned()]), Reach::Whole)?;
        ledger.mend(handle, places.iter().copied());
        match self.write_all(&ledger.writes()) {
            Err(ObjectError::Conflict { .. }) => Ok(false),
            done => Ok(done.map(|_| true)?),
        }
    }

    /// Gives up an empty block, as this ledger has it. False: somebody has written it since it was seen to be idle, or it holds something.
    ///
    /// In Calico's order: the claim says so first, so that nobody takes addresses by it; then the block goes, then the claim.
    pub fn give_up(&self, ledger: &Ledger, idle: &Idle) -> Result<bool, AllocateError> {
        let cidr = idle.cidr;
        let Some(block) = ledger.blocks.get(&cidr) else { return Ok(false) };
        let is_it =
            block.value.sequence_number == idle.sequence && (idle.node.is_none() || owner(&block.value) == idle.node);
        if !is_it || block.value.check().is_err() || block.value.allocations.iter().any(Option::is_some) {
            return Ok(false);
        }
        let is_its = |claim: &BlockAffinity| {
            claim.cidr == cidr && claim.affinity_type == "host" && Some(&claim.node) == owner(&block.value).as_ref()
        };
        let claim = ledger.affinities.iter().find(|(_, kept)| is_its(&kept.value));
        let claim = match claim.map(|(name, kept)| self.mark(name, kept)).transpose() {
            Err(AllocateError::Object(ObjectError::Conflict { .. })) => return Ok(false),
            marked => marked?,
        };
        if let Err(error) = self.objects.delete(BLOCK, &cidr_name(cidr), block.revision.as_deref()) {
            // The block is in use, and so is the claim.
            if let Some((name, marked)) = claim {
                let value = BlockAffinity { state: AffinityState::Confirmed, ..marked.value };
                let _others = self.objects.update(&object(AFFINITY, &name, marked.revision, &value));
            }
            return if matches!(error, ObjectError::Conflict { .. }) { Ok(false) } else { Err(error.into()) };
        }
        if let Some((name, marked)) = claim {
            self.drop_claim(&name, marked.revision.as_deref())?;
        }
        Ok(true)
    }

    fn mark(&self, name: &str, claim: &Kept<BlockAffinity>) -> Result<(String, Kept<BlockAffinity>), AllocateError> {
        let value = BlockAffinity { state: AffinityState::PendingDeletion, ..claim.value.clone() };
        let written = self.objects.update(&object(AFFINITY, name, claim.revision.clone(), &value))?;
        Ok((name.to_owned(), Kept { revision: written.metadata.resource_version, value }))
    }

    /// Removes a claim at this revision. False: it is another by now, or gone.
    pub fn drop_claim(&self, name: &str, revision: Option<&str>) -> Result<bool, AllocateError> {
        self.drop_object(AFFINITY, name, revision)
    }

    /// Removes a handle at this revision. False: it is another by now, or gone.
    pub fn drop_handle(&self, name: &str, revision: Option<&str>) -> Result<bool, AllocateError> {
        self.drop_object(HANDLE, name, revision)
    }

    fn drop_object(&self, kind: &str, name: &str, revision: Option<&str>) -> Result<bool, AllocateError> {
        match self.objects.delete(kind, name, revision) {
            Err(ObjectError::Conflict { .. }) => Ok(false),
            done => Ok(done?),
        }
    }
}
