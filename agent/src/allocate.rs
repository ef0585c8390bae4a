//! Addresses for attachments: the ledger's decisions, written to the objects that all agents share.
//! In: attachments that need addresses or give them back. Out: addresses that nobody else has.
//! Invariant: every write names the revision it was decided on; whoever loses reads again and decides anew.
//! Never: answers with an address before the block that gives it is written.

pub mod keep;
mod sweep;

pub use self::sweep::Taken;

use self::keep::StickyAddresses;
use calc::World;
use datastore::{
    Metadata, Object, ObjectError, Store,
    calendar::{go_time, rfc3339},
};
use ipam::{
    AssignError, Balanced, BalancerWish, BlockAffinity, Clock, IpamHandle, Kept, Ledger, Request, Tunnel, Write,
    audit::{by_owner, holdings},
    cidr_name,
    migrate::handle_of,
    node_handle, owner_of, tunnel_attributes, tunnel_handle,
};
use model::{AttachmentId, Cidr, Family, IpPool, IpamConfig, Keeps, Labels, NodeName, PodId, ServiceId};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const API_VERSION: &str = "crd.projectcalico.org/v1";
const BLOCK: &str = "IPAMBlock";
const AFFINITY: &str = "BlockAffinity";
const HANDLE: &str = "IPAMHandle";
/// Tries before a decision that others keep overtaking is given up; each lost race is another agent's gain.
const ATTEMPTS: u32 = 100;
/// An empty block that was claimed so recently is left to who claimed it (EmptyBlockMinReclaimAge of libcalico-go/lib/ipam).
const RECLAIM_AFTER: Duration = Duration::from_secs(60);

/// No addresses.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// There is none to give.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The shared objects cannot be read or written.
    #[error("addresses: {0}")]
    Object(#[from] ObjectError),
    /// A shared object is not in Calico's shape.
    #[error("{kind} {name}: cannot be read: {reason}; repair it before addresses are given out")]
    Shape {
        /// The kind.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else was always faster.
    #[error("addresses: other agents kept writing the same block; try again")]
    Contended,
}

/// Who needs addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The attachment.
    pub id: AttachmentId,
    /// Its pod.
    pub pod: PodId,
    /// Labels of its namespace.
    pub namespace_labels: Labels,
    /// Exactly these addresses, at most one a family.
    pub wanted: Vec<IpAddr>,
    /// Of these pools alone, by name or network.
    pub pools: BTreeMap<Family, Vec<String>>,
    /// Of these families; empty: of those that have a pool.
    pub families: Vec<Family>,
    /// What is said of whether they outlive it.
    pub keeps: Keeps,
}

impl Wish {
    /// Any addresses.
    pub fn any(id: AttachmentId, pod: PodId) -> Self {
        let (wanted, pools, families) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { id, pod, namespace_labels: Labels::default(), wanted, pools, families, keeps: Keeps::default() }
    }
}

/// What the datastore says of how addresses are given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Pools, by name.
    pub pools: BTreeMap<String, IpPool>,
    /// How nodes take blocks.
    pub config: IpamConfig,
    /// What is given to nobody who does not name it.
    pub reserved: Vec<Cidr>,
    /// Labels of this node.
    pub node_labels: Labels,
}

impl Rules {
    /// As the node hears it from which the world is seen.
    pub fn of(world: &World) -> Self {
        Self {
            pools: world.pools().map(|pool| (pool.name.clone(), pool.clone())).collect(),
            config: world.ipam_config(),
            reserved: world.reserved(),
            node_labels: world.own_node().map(|node| node.labels.clone()).unwrap_or_default(),
        }
    }
}

/// What came of claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Attachments that the blocks did not know, and do now.
    pub lacking: usize,
    /// Pods of which somebody else holds an address.
    pub refused: Vec<(PodId, AssignError)>,
}

/// Gives addresses out and takes them back.
#[derive(Debug)]
pub struct Allocator {
    objects: Store,
    node: NodeName,
    /// What the datastore says of it.
    pub rules: Rules,
    /// Whose addresses outlive them.
    pub sticky: StickyAddresses,
    /// Where it looks first.
    near: Mutex<Near>,
}

/// What this node had when addresses were last given or taken.
#[derive(Clone, Debug, Default)]
struct Near {
    /// Its claims.
    claims: BTreeMap<String, Kept<BlockAffinity>>,
    /// Blocks of others in which its pods had addresses when all blocks were read. What was borrowed since its handle names.
    lent: BTreeSet<Cidr>,
    /// Its blocks, as they were left then.
    blocks: BTreeMap<Cidr, Kept<ipam::Block>>,
    /// Its handle, likewise.
    handle: Option<Kept<IpamHandle>>,
}

/// Whose addresses a decision is about.
#[derive(Clone, Copy, Debug)]
struct About<'a> {
    whose: Whose<'a>,
    /// Handles of names whose addresses outlive their pods.
    names: &'a [String],
    /// Blocks that are looked at, whatever handles say.
    places: &'a [Cidr],
}

/// Whose they are.
#[derive(Clone, Copy, Debug)]
enum Whose<'a> {
    /// Attachments of this node, by their owners: they are counted under the node's handle, and older ones under their own.
    Own(&'a [String]),
    /// What is counted under these handles.
    Handles(&'a [String]),
}

impl<'a> About<'a> {
    fn own(owners: &'a [String]) -> Self {
        Self { whose: Whose::Own(owners), names: &[], places: &[] }
    }

    fn handles(handles: &'a [String]) -> Self {
        Self { whose: Whose::Handles(handles), names: &[], places: &[] }
    }
}

/// Of what is stored, what a decision is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The same without reading, as far as this agent knows how it left them: where somebody else has written since, the write is
    /// refused, and decided anew.
    Remembered,
    /// The blocks that this node is known to have, and those that its handle names.
    Near,
    /// All blocks, all claims.
    Whole,
}

impl Allocator {
    /// For `node`, over the shared objects.
    pub fn new(objects: Store, node: NodeName) -> Self {
        Self { objects, node, rules: Rules::default(), sticky: StickyAddresses::default(), near: Mutex::default() }
    }

    /// The objects that agents share.
    pub fn objects(&self) -> &Store {
        &self.objects
    }

    /// Addresses for all who wait, in one write of the block. `record` is called with what was decided before anything is
    /// written, so that a crash between leaves a trace; it is called again if the decision has to be made anew.
    pub fn assign(
        &self,
        wishes: &[Wish],
        mut record: impl FnMut(&[Result<Vec<IpAddr>, AssignError>]),
    ) -> Vec<Result<Vec<IpAddr>, AllocateError>> {
        // What was written down for a pod before is taken by its attachment.
        let owners: Vec<_> = wishes.iter().flat_map(|wish| [owner_of(&wish.id), handle_of(&wish.pod)]).collect();
        let names: Vec<_> = wishes.iter().filter_map(|wish| Some(self.sticky_of(wish)?.handle())).collect();
        let mut is_remembered = true;
        let decide = |ledger: &mut Ledger| {
            let decided: Vec<_> = wishes.iter().map(|wish| ledger.assign(&self.request(wish))).collect();
            // Nobody is refused on what was remembered: no write would tell that it is so no more.
            let is_first = std::mem::take(&mut is_remembered);
            ledger.is_short |= is_first && ledger.is_partial && decided.iter().any(Result::is_err);
            decided
        };
        let about = About { names: &names, ..About::own(&owners) };
        let decided = self.decide_on(about, Reach::Remembered, decide, |assigned| record(assigned));
        match decided {
            Ok(assigned) => assigned.into_iter().map(|result| result.map_err(AllocateError::from)).collect(),
            Err(error) => {
                let text = error.to_string();
                tracing::warn!("{text}");
                let mut first = Some(error);
                wishes.iter().map(|_| Err(first.take().unwrap_or(AllocateError::Contended))).collect()
            }
        }
    }

    /// Marks addresses that another IPAM plugin has given out as the attachment's, where a pool has them: nobody else gets
    /// them from us.
    pub fn claim(&self, wish: &Wish) -> Result<(), AllocateError> {
        let request = self.request(wish);
        // What was written down for the pod before is the attachment's now.
        let owners = [request.owner.clone(), handle_of(&wish.pod)];
        Ok(self.decide(&owners, |ledger| ledger.claim_wanted(&request), |_| {})??)
    }

    /// Marks what these attachments have as theirs, as far as the blocks do not say so already.
    pub fn claim_all(&self, wishes: &[Wish]) -> Result<Claimed, AllocateError> {
        // A store that was put back to what it was may come to the same revisions again, with other objects.
        *self.near() = Near::default();
        // A cluster in which nobody has an address may lack the kinds that would say so.
        if wishes.is_empty() {
            return Ok(Claimed::default());
        }
        let ledger = self.read(About::handles(&[]), Reach::Whole)?;
        let held = by_owner(&ledger);
        let is_of_pool = |address: &&IpAddr| ledger.pools.values().any(|pool| pool.cidr.contains(**address));
        let lacks = |wish: &&Wish| {
            let held = held.get(&*owner_of(&wish.id)).map(Vec::as_slice).unwrap_or_default();
            wish.wanted.iter().filter(is_of_pool).any(|address| held.iter().all(|held| held.address != *address))
        };
        let lacking: Vec<_> = wishes.iter().filter(lacks).collect();
        if lacking.is_empty() {
            return Ok(Claimed::default());
        }
        let owners: Vec<_> = lacking.iter().flat_map(|wish| [owner_of(&wish.id), handle_of(&wish.pod)]).collect();
        let claim = |ledger: &mut Ledger| {
            let refused = |wish: &&Wish| Some((wish.pod.clone(), ledger.claim_wanted(&self.request(wish)).err()?));
            lacking.iter().filter_map(refused).collect::<Vec<_>>()
        };
        let refused = self.decide_on(About::own(&owners), Reach::Whole, claim, |_| {})?;
        Ok(Claimed { lacking: lacking.len() - refused.len(), refused })
    }

    /// Takes back what these attachments have, and what the first versions of Calico counted under the names of their pods (IPAM-27).
    pub fn release(
        &self,
        ids: &[AttachmentId],
        pods: &[PodId],
        addresses: &[IpAddr],
    ) -> Result<Vec<IpAddr>, AllocateError> {
        let owners: Vec<_> = ids.iter().map(owner_of).collect();
        let pods: Vec<_> = pods.iter().map(|pod| format!("{}.{}", pod.namespace, pod.name)).collect();
        let release = |ledger: &mut Ledger| {
            let released: Vec<_> = owners.iter().flat_map(|owner| ledger.release(owner)).collect();
            released.into_iter().chain(pods.iter().flat_map(|pod| ledger.release_here(pod))).collect()
        };
        // An address that outlives its pod no node's handle counts.
        let (owners, places) = ([&*owners, &*pods].concat(), self.blocks_of(addresses));
        self.decide_on(About { places: &places, ..About::own(&owners) }, Reach::Near, release, |_| {})
    }

    /// Gives load balancers what they want, in one decision; of those that `gone` names by their handles everything is taken back.
    pub fn balance(&self, wishes: &[BalancerWish], gone: &[String]) -> Result<Vec<Balanced>, AllocateError> {
        let handles: Vec<_> = wishes.iter().map(|wish| &wish.handle).chain(gone).cloned().collect();
        let decide = |ledger: &mut Ledger| {
            for handle in gone {
                ledger.release(handle);
            }
            wishes.iter().map(|wish| ledger.balance(wish)).collect()
        };
        self.decide_on(About::handles(&handles), Reach::Whole, decide, |_| {})
    }

    /// The address of this node's tunnel, of one of these pools: the same each time.
    pub fn tunnel(&self, tunnel: Tunnel, pools: &[String]) -> Result<IpAddr, AllocateError> {
        let (handle, family) = (tunnel_handle(&self.node, tunnel), tunnel.family());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = Request {
            node: self.node.clone(),
            node_labels: self.rules.node_labels.clone(),
            owner: handle.clone(),
            tunnel: Some(handle.clone()),
            secondary: tunnel_attributes(&self.node, tunnel),
            pools: [(family, pools.to_vec())].into(),
            families: vec![family],
            now: rfc3339(now),
            reclaimable: rfc3339(now.checked_sub(RECLAIM_AFTER).unwrap_or_default()),
            sequence: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2),
            ..Request::default()
        };
        let give = |ledger: &mut Ledger| ledger.assign_tunnel(&request);
        let given = self.decide_on(About::handles(&[handle]), Reach::Whole, give, |_| {})??;
        given.first().copied().ok_or(AllocateError::Assign(AssignError::NoPool))
    }

    /// Takes it back, where it has one.
    pub fn give_back_tunnel(&self, tunnel: Tunnel) -> Result<(), AllocateError> {
        let handle = tunnel_handle(&self.node, tunnel);
        // Where it has none, one look is all that this takes.
        if self.objects.get(HANDLE, &handle.to_lowercase())?.is_none() {
            return Ok(());
        }
        let release = |ledger: &mut Ledger| ledger.release(&handle);
        self.decide_on(About::handles(std::slice::from_ref(&handle)), Reach::Whole, release, |_| {}).map(drop)
    }

    /// Load balancers that hold addresses, by handle.
    pub fn balanced(&self) -> Result<BTreeMap<String, ServiceId>, AllocateError> {
        Ok(self.read(About::handles(&[]), Reach::Whole)?.balanced())
    }

    /// Takes back what pods of this node hold that are not `known`, by their owners. Right only when the machine was started
    /// anew, which took every pod with it.
    pub fn release_strangers(&self, known: &BTreeSet<String>) -> Result<Vec<IpAddr>, AllocateError> {
        let ledger = self.read(About::handles(&[]), Reach::Whole)?;
        let is_stranger = |owner: &String| !known.contains(&owner.to_lowercase());
        let strangers: Vec<_> = ledger.owners_of_pods(&self.node).into_iter().filter(is_stranger).collect();
        if strangers.is_empty() {
            return Ok(Vec::new());
        }
        let release = |ledger: &mut Ledger| strangers.iter().flat_map(|owner| ledger.release(owner)).collect();
        self.decide_on(About::own(&strangers), Reach::Whole, release, |_| {})
    }

    /// The addresses an attachment holds by the blocks.
    pub fn held_by(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, AllocateError> {
        let owner = owner_of(id);
        let near = self.read(About::own(&[]), Reach::Near)?.held_by(&owner);
        if !near.is_empty() {
            return Ok(near);
        }
        Ok(self.read(About::own(&[]), Reach::Whole)?.held_by(&owner))
    }

    /// Whether one more pod would get addresses now. Writes nothing.
    pub fn room(&self) -> Result<(), AllocateError> {
        let id = AttachmentId { network: String::new(), container: String::new(), interface: String::new() };
        let request = self.request(&Wish::any(id, PodId::new("", "")));
        let mut near = self.read(About::own(&[]), Reach::Near)?;
        let given = near.assign(&request);
        let given = if near.is_short { self.read(About::own(&[]), Reach::Whole)?.assign(&request) } else { given };
        match given {
            // Pools that select namespaces: which of them a pod will be of is not known.
            Ok(_) | Err(AssignError::NoPoolForPod { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads, decides, writes; and again if somebody else wrote meanwhile. `settled` hears what was decided before it is written.
    fn decide<T>(
        &self,
        owners: &[String],
        decision: impl FnMut(&mut Ledger) -> T,
        settled: impl FnMut(&T),
    ) -> Result<T, AllocateError> {
        self.decide_on(About::own(owners), Reach::Near, decision, settled)
    }

    fn decide_on<T>(
        &self,
        about: About<'_>,
        mut reach: Reach,
        mut decision: impl FnMut(&mut Ledger) -> T,
        mut settled: impl FnMut(&T),
    ) -> Result<T, AllocateError> {
        for _ in 0..ATTEMPTS {
            let mut ledger = self.read(about, reach)?;
            let decided = decision(&mut ledger);
            if ledger.is_short {
                reach = if reach == Reach::Remembered { Reach::Near } else { Reach::Whole };
                continue;
            }
            settled(&decided);
            let writes = ledger.writes();
            match self.write_all(&writes) {
                Ok(written) => {
                    self.remember(&ledger, &writes, &written);
                    return Ok(decided);
                }
                Err(ObjectError::Conflict { .. }) => reach = Reach::Whole,
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Contended)
    }

    /// Where this node looks first from now on, and what it knows of that.
    fn remember(&self, ledger: &Ledger, writes: &[Write], written: &Written) {
        let is_own = |claim: &BlockAffinity| {
            claim.node == self.node
                && ledger.blocks.get(&claim.cidr).is_some_and(|block| block.value.belongs_to(&self.node))
        };
        let own = ledger.affinities.iter().filter(|(_, kept)| is_own(&kept.value));
        let mut near = self.near();
        near.claims = own.map(|(name, kept)| (name.clone(), kept.clone())).collect();
        if !ledger.is_partial {
            let all = ledger.blocks.values().flat_map(|kept| holdings(&kept.value));
            let lent = all.filter(|holding| holding.is_borrowed() && holding.node().as_ref() == Some(&self.node));
            near.lent = lent.map(|holding| holding.block.cidr).collect();
        }
        let own = near.claims.values().filter_map(|claim| ledger.blocks.get_key_value(&claim.value.cidr));
        near.blocks = own.map(|(cidr, kept)| (*cidr, kept.clone())).collect();
        near.handle = ledger.counted.as_ref().and_then(|handle| ledger.handles.get(handle)).cloned();
        for write in writes {
            match write {
                Write::Block(name, kept) => {
                    if let Some(known) = near.blocks.get_mut(&kept.value.cidr) {
                        *known = Kept { revision: revision_of(written, BLOCK, name), value: kept.value.clone() };
                    }
                }
                Write::Handle(name, Kept { value, .. }) | Write::Recount(name, value)
                    if ledger.counted.as_ref() == Some(&value.handle_id) =>
                {
                    near.handle = Some(Kept { revision: revision_of(written, HANDLE, name), value: value.clone() });
                }
                _ => {}
            }
        }
    }

    fn near(&self) -> std::sync::MutexGuard<'_, Near> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only the handles in question, and before the blocks: what comes to a block is counted first.
    fn read(&self, about: About<'_>, reach: Reach) -> Result<Ledger, AllocateError> {
        let counted = matches!(about.whose, Whose::Own(_)).then(|| node_handle(&self.node));
        let near = self.near().clone();
        let is_partial = reach != Reach::Whole && !near.claims.is_empty();
        let is_remembered = is_partial && reach == Reach::Remembered;
        let mut handles = BTreeMap::new();
        match (about.whose, near.handle) {
            (Whose::Own(_), Some(kept)) if is_remembered => {
                handles.insert(kept.value.handle_id.clone(), kept);
            }
            (Whose::Own(_), _) => self.read_handles(counted.iter(), &mut handles)?,
            (Whose::Handles(named), _) => self.read_handles(named.iter(), &mut handles)?,
        }
        let Rules { pools, mut config, reserved, node_labels } = self.rules.clone();
        self.read_handles(about.names.iter(), &mut handles)?;
        if !is_partial {
            config = self.objects.ipam_config()?.unwrap_or(config);
        }
        let clock = clock(config);
        let (mut blocks, affinities): (BTreeMap<_, _>, _) = if is_partial {
            let named = handles.values().flat_map(|kept| kept.value.block.keys());
            let own = near.claims.values().map(|kept| &kept.value.cidr);
            let cidrs: BTreeSet<Cidr> = own.chain(named).chain(&near.lent).chain(about.places).copied().collect();
            let mut blocks = if is_remembered { near.blocks } else { BTreeMap::new() };
            for cidr in cidrs.into_iter().filter(|cidr| !blocks.contains_key(cidr)).collect::<Vec<_>>() {
                blocks.extend(self.objects.get(BLOCK, &cidr_name(cidr))?.map(block).transpose()?);
            }
            (blocks, near.claims)
        } else {
            let blocks = self.objects.list(BLOCK)?.into_iter().map(block).collect::<Result<_, _>>()?;
            let named = |object: Object| Ok((object.metadata.name.clone(), kept(AFFINITY, object)?));
            (blocks, self.objects.list(AFFINITY)?.into_iter().map(named).collect::<Result<_, AllocateError>>()?)
        };
        if let Whose::Own(owners) = about.whose {
            // Where something of theirs is counted otherwise than under the node: from before nodes had a handle, or to outlive them.
            let owners: BTreeSet<&str> = owners.iter().map(String::as_str).collect();
            let attributes = blocks.values().flat_map(|kept| &kept.value.attributes);
            let own = attributes.filter(|held| held.owner().is_some_and(|owner| owners.contains(owner)));
            let named = own.filter_map(|held| held.handle_id.as_ref()).filter(|handle| !handles.contains_key(*handle));
            self.read_handles(named.cloned().collect::<BTreeSet<_>>().iter(), &mut handles)?;
        }
        // Of a block that is written for another reason that is written, too.
        blocks.values_mut().for_each(|kept: &mut Kept<ipam::Block>| kept.value.thaw(&clock.cooled));
        Ok(Ledger {
            clock,
            pools,
            config,
            reserved,
            here: Some((self.node.clone(), node_labels)),
            blocks: blocks.into_iter().collect(),
            affinities: affinities.into_iter().collect(),
            handles: handles.into_iter().collect(),
            counted,
            is_partial,
            ..Ledger::default()
        })
    }

    fn read_handles<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        known: &mut BTreeMap<String, Kept<IpamHandle>>,
    ) -> Result<(), AllocateError> {
        for handle in names {
            if let Some(object) = self.objects.get(HANDLE, &handle.to_lowercase())? {
                known.insert(handle.clone(), kept::<IpamHandle>(HANDLE, object)?);
            }
        }
        Ok(())
    }

    /// In the order given. Objects that follow each other are written together.
    fn write_all(&self, writes: &[Write]) -> Result<Written, ObjectError> {
        let mut written = Written::new();
        let mut waiting = Vec::new();
        for write in writes {
            match write {
                Write::Block(name, kept) => waiting.push(object(BLOCK, name, kept.revision.clone(), &kept.value)),
                Write::Handle(name, kept) => waiting.push(object(HANDLE, name, kept.revision.clone(), &kept.value)),
                Write::Affinity(name, kept) => {
                    waiting.push(object(AFFINITY, name, kept.revision.clone(), &kept.value));
                }
                Write::Confirm(name, affinity) => {
                    self.flush(&mut waiting, &mut written)?;
                    waiting.push(object(AFFINITY, name, revision_of(&written, AFFINITY, name), affinity));
                }
                Write::Recount(name, handle) => {
                    self.flush(&mut waiting, &mut written)?;
                    waiting.push(object(HANDLE, name, revision_of(&written, HANDLE, name), handle));
                }
                Write::RemoveHandle(name, revision) => {
                    self.flush(&mut waiting, &mut written)?;
                    self.objects.delete(HANDLE, name, revision.as_deref()).map(drop)?;
                }
                Write::RemoveBlock(name, revision) => {
                    self.flush(&mut waiting, &mut written)?;
                    self.objects.delete(BLOCK, name, revision.as_deref()).map(drop)?;
                }
                Write::RemoveAffinity(name, revision) => {
                    self.flush(&mut waiting, &mut written)?;
                    let revision = revision_of(&written, AFFINITY, name).or_else(|| revision.clone());
                    self.objects.delete(AFFINITY, name, revision.as_deref()).map(drop)?;
                }
            }
        }
        self.flush(&mut waiting, &mut written)?;
        Ok(written)
    }

    fn flush(&self, waiting: &mut Vec<Object>, written: &mut Written) -> Result<(), ObjectError> {
        let objects = self.objects.write_all(&std::mem::take(waiting))?;
        written.extend(objects.into_iter().map(|Object { kind, metadata, .. }| {
            let Metadata { name, resource_version } = metadata;
            ((kind, name), resource_version)
        }));
        Ok(())
    }

    fn request(&self, wish: &Wish) -> Request {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = now.checked_sub(RECLAIM_AFTER).unwrap_or_default();
        let secondary = [
            ("pod", wish.pod.name.to_string()),
            ("namespace", wish.pod.namespace.to_string()),
            ("node", self.node.to_string()),
            ("timestamp", go_time(now)),
        ];
        Request {
            node: self.node.clone(),
            owner: owner_of(&wish.id),
            sticky: self.sticky_of(wish),
            tunnel: None,
            secondary: secondary.map(|(key, value)| (key.to_owned(), value)).into(),
            node_labels: self.rules.node_labels.clone(),
            namespace_labels: wish.namespace_labels.clone(),
            wanted: wish.wanted.clone(),
            pools: wish.pools.clone(),
            families: wish.families.clone(),
            now: rfc3339(now),
            reclaimable: rfc3339(before),
            sequence: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2),
        }
    }
}

fn clock(config: IpamConfig) -> Clock {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let cooled = now.saturating_sub(Duration::from_secs(config.cooldown.into()));
    Clock { at: now, now: rfc3339(now), cooled: rfc3339(cooled) }
}

/// At which revision objects are that one decision has written so far, by kind and name.
type Written = BTreeMap<(String, String), Option<String>>;

fn revision_of(written: &Written, kind: &str, name: &str) -> Option<String> {
    written.get(&(kind.to_owned(), name.to_owned())).cloned().flatten()
}

/// Under a wrong name its writes would go to another object, and two could say that they are one block.
fn block(object: Object) -> Result<(Cidr, Kept<ipam::Block>), AllocateError> {
    let name = object.metadata.name.clone();
    let kept = kept::<ipam::Block>(BLOCK, object)?;
    let cidr = kept.value.cidr;
    if name == cidr_name(cidr) {
        return Ok((cidr, kept));
    }
    let reason = format!("it says that it is {cidr}, whose name is {}", cidr_name(cidr));
    Err(AllocateError::Shape { kind: BLOCK, name, reason })
}

fn object(kind: &str, name: &str, resource_version: Option<String>, spec: &impl Serialize) -> Object {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        metadata: Metadata { name: name.to_owned(), resource_version },
        spec: serde_json::to_value(spec).expect("strings, numbers and lists are always JSON"),
    }
}

fn kept<T: DeserializeOwned>(kind: &'static str, object: Object) -> Result<Kept<T>, AllocateError> {
    let Metadata { name, resource_version } = object.metadata;
    let value = serde_json::from_value(object.spec).map_err(|error| AllocateError::Shape {
        kind,
        name,
        reason: error.to_string(),
    })?;
    // An object written by hand has no version yet; the store counts that as "0".
    Ok(Kept { revision: Some(resource_version.unwrap_or_else(|| "0".to_owned())), value })
}

#[cfg(test)]
mod tests;
