//! Addresses for attachments: the ledger's decisions, written to the objects that all agents share.
//! In: attachments that need addresses or give them back. Out: addresses that nobody else has.
//! Invariant: every write names the revision it was decided on; whoever loses reads again and decides anew.
//! Never: answers with an address before the block that gives it is written.

mod sweep;

use calc::World;
use datastore::{
    Metadata, Object, ObjectError, Store,
    calendar::{go_time, rfc3339},
};
use ipam::{
    AssignError, Balanced, BalancerWish, BlockAffinity, IpamHandle, Kept, Ledger, Request, Write, cidr_name, handle_id,
};
use model::{AttachmentId, Cidr, Family, IpPool, IpamConfig, Labels, NodeName, PodId, ServiceId};
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
}

impl Wish {
    /// Any addresses.
    pub fn any(id: AttachmentId, pod: PodId) -> Self {
        let (wanted, pools, families) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { id, pod, namespace_labels: Labels::default(), wanted, pools, families }
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
    /// Claims of this node as they were when addresses were last given or taken: where it looks first.
    near: Mutex<BTreeMap<String, Kept<BlockAffinity>>>,
}

/// Of what is stored, what a decision is made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The blocks that this node is known to have, and those that handles name.
    Near,
    /// All blocks, all claims.
    Whole,
}

impl Allocator {
    /// For `node`, over the shared objects.
    pub fn new(objects: Store, node: NodeName) -> Self {
        Self { objects, node, rules: Rules::default(), near: Mutex::default() }
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
        let handles: Vec<_> = wishes.iter().map(|wish| handle_id(&wish.id)).collect();
        let decide =
            |ledger: &mut Ledger| wishes.iter().map(|wish| ledger.assign(&self.request(wish))).collect::<Vec<_>>();
        // A container is new: where its handle is there all the same, making it fails, and it is read.
        let decided = self.decide((&handles, false), decide, |assigned| record(assigned));
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
        let handle = request.handle.clone();
        Ok(self.decide((&[handle], true), |ledger| ledger.claim_wanted(&request), |_| {})??)
    }

    /// Marks what these attachments have as theirs, as far as the blocks do not say so already.
    pub fn claim_all(&self, wishes: &[Wish]) -> Result<Claimed, AllocateError> {
        // A cluster in which nobody has an address may lack the kinds that would say so.
        if wishes.is_empty() {
            return Ok(Claimed::default());
        }
        let ledger = self.read(&[], Reach::Whole)?;
        let is_of_pool = |address: &&IpAddr| ledger.pools.values().any(|pool| pool.cidr.contains(**address));
        let lacks = |wish: &&Wish| {
            let held = ledger.held_by(&handle_id(&wish.id));
            wish.wanted.iter().filter(is_of_pool).any(|address| !held.contains(address))
        };
        let lacking: Vec<_> = wishes.iter().filter(lacks).collect();
        if lacking.is_empty() {
            return Ok(Claimed::default());
        }
        let handles: Vec<_> = lacking.iter().map(|wish| handle_id(&wish.id)).collect();
        let claim = |ledger: &mut Ledger| {
            let refused = |wish: &&Wish| Some((wish.pod.clone(), ledger.claim_wanted(&self.request(wish)).err()?));
            lacking.iter().filter_map(refused).collect::<Vec<_>>()
        };
        let refused = self.decide_on((&handles, true), Reach::Whole, claim, |_| {})?;
        Ok(Claimed { lacking: lacking.len() - refused.len(), refused })
    }

    /// Takes back what these attachments hold.
    pub fn release(&self, ids: &[AttachmentId]) -> Result<Vec<IpAddr>, AllocateError> {
        let handles: Vec<_> = ids.iter().map(handle_id).collect();
        let release = |ledger: &mut Ledger| handles.iter().flat_map(|handle| ledger.release(handle)).collect();
        self.decide((&handles, true), release, |_| {})
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
        self.decide_on((&handles, true), Reach::Whole, decide, |_| {})
    }

    /// Load balancers that hold addresses, by handle.
    pub fn balanced(&self) -> Result<BTreeMap<String, ServiceId>, AllocateError> {
        Ok(self.read(&[], Reach::Whole)?.balanced())
    }

    /// Takes back what pods of this node hold that are not `known`, by their handles. Right only when the machine was started
    /// anew, which took every pod with it.
    pub fn release_strangers(&self, known: &BTreeSet<String>) -> Result<Vec<IpAddr>, AllocateError> {
        let ledger = self.read(&[], Reach::Whole)?;
        let is_stranger = |handle: &String| !known.contains(&handle.to_lowercase());
        let strangers: Vec<_> = ledger.handles_of_pods(&self.node).into_iter().filter(is_stranger).collect();
        if strangers.is_empty() {
            return Ok(Vec::new());
        }
        let release = |ledger: &mut Ledger| strangers.iter().flat_map(|handle| ledger.release(handle)).collect();
        self.decide_on((&strangers, true), Reach::Whole, release, |_| {})
    }

    /// The addresses an attachment holds by the blocks.
    pub fn held_by(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, AllocateError> {
        let handle = handle_id(id);
        let handles = std::slice::from_ref(&handle);
        let near = self.read(handles, Reach::Near)?;
        if near.handles.contains_key(&handle) {
            return Ok(near.held_by(&handle));
        }
        Ok(self.read(handles, Reach::Whole)?.held_by(&handle))
    }

    /// Whether one more pod would get addresses now. Writes nothing.
    pub fn room(&self) -> Result<(), AllocateError> {
        let id = AttachmentId { network: String::new(), container: String::new(), interface: String::new() };
        let request = self.request(&Wish::any(id, PodId::new("", "")));
        let mut near = self.read(&[], Reach::Near)?;
        let given = near.assign(&request);
        let given = if near.is_short { self.read(&[], Reach::Whole)?.assign(&request) } else { given };
        match given {
            // Pools that select namespaces: which of them a pod will be of is not known.
            Ok(_) | Err(AssignError::NoPoolForPod { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads, decides, writes; and again if somebody else wrote meanwhile. With `true` the handles are read from the beginning.
    /// `settled` hears what was decided before it is written.
    fn decide<T>(
        &self,
        handles: (&[String], bool),
        decision: impl FnMut(&mut Ledger) -> T,
        settled: impl FnMut(&T),
    ) -> Result<T, AllocateError> {
        self.decide_on(handles, Reach::Near, decision, settled)
    }

    fn decide_on<T>(
        &self,
        (handles, mut are_known): (&[String], bool),
        mut reach: Reach,
        mut decision: impl FnMut(&mut Ledger) -> T,
        mut settled: impl FnMut(&T),
    ) -> Result<T, AllocateError> {
        for _ in 0..ATTEMPTS {
            let mut ledger = self.read(if are_known { handles } else { &[] }, reach)?;
            let decided = decision(&mut ledger);
            if ledger.is_short {
                (reach, are_known) = (Reach::Whole, true);
                continue;
            }
            settled(&decided);
            match self.write_all(ledger.writes()) {
                Ok(()) => {
                    self.remember(&ledger);
                    return Ok(decided);
                }
                Err(ObjectError::Conflict { .. }) => (reach, are_known) = (Reach::Whole, true),
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Contended)
    }

    /// Where this node looks first from now on.
    fn remember(&self, ledger: &Ledger) {
        let is_own = |claim: &BlockAffinity| {
            claim.node == self.node
                && ledger.blocks.get(&claim.cidr).is_some_and(|block| block.value.belongs_to(&self.node))
        };
        let own = ledger.affinities.iter().filter(|(_, kept)| is_own(&kept.value));
        *self.near() = own.map(|(name, kept)| (name.clone(), kept.clone())).collect();
    }

    fn near(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Kept<BlockAffinity>>> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only the handles in question: their number grows with the pods of the whole cluster.
    fn read(&self, handles: &[String], reach: Reach) -> Result<Ledger, AllocateError> {
        let mut known = BTreeMap::new();
        for handle in handles {
            if let Some(object) = self.objects.get(HANDLE, &handle.to_lowercase())? {
                known.insert(handle.clone(), kept::<IpamHandle>(HANDLE, object)?);
            }
        }
        let near = self.near().clone();
        let is_partial = reach == Reach::Near && !near.is_empty();
        let (blocks, affinities) = if is_partial {
            let named = known.values().flat_map(|kept| kept.value.block.keys());
            let cidrs: BTreeSet<Cidr> = near.values().map(|kept| kept.value.cidr).chain(named.copied()).collect();
            let mut blocks = Vec::new();
            for cidr in cidrs {
                blocks.extend(self.objects.get(BLOCK, &cidr_name(cidr))?.map(block).transpose()?);
            }
            (blocks, near)
        } else {
            let blocks = self.objects.list(BLOCK)?.into_iter().map(block).collect::<Result<_, _>>()?;
            let named = |object: Object| Ok((object.metadata.name.clone(), kept(AFFINITY, object)?));
            (blocks, self.objects.list(AFFINITY)?.into_iter().map(named).collect::<Result<_, AllocateError>>()?)
        };
        let Rules { pools, mut config, reserved, node_labels } = self.rules.clone();
        if !is_partial {
            config = self.objects.ipam_config()?.unwrap_or(config);
        }
        Ok(Ledger {
            pools,
            config,
            reserved,
            here: Some((self.node.clone(), node_labels)),
            blocks: blocks.into_iter().collect(),
            affinities: affinities.into_iter().collect(),
            handles: known.into_iter().collect(),
            is_partial,
            is_short: false,
        })
    }

    /// In the order given. Objects that follow each other are written together.
    fn write_all(&self, writes: Vec<Write>) -> Result<(), ObjectError> {
        let mut claimed: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut waiting = Vec::new();
        for write in writes {
            match write {
                Write::Block(name, kept) => waiting.push(object(BLOCK, name, kept.revision, &kept.value)),
                Write::Handle(name, kept) => waiting.push(object(HANDLE, name, kept.revision, &kept.value)),
                Write::Affinity(name, kept) => waiting.push(object(AFFINITY, name, kept.revision, &kept.value)),
                Write::Confirm(name, affinity) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    let revision = claimed.get(&name).cloned().flatten();
                    waiting.push(object(AFFINITY, name, revision, &affinity));
                }
                Write::RemoveHandle(name, revision) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    self.objects.delete(HANDLE, &name, revision.as_deref()).map(drop)?;
                }
                Write::RemoveBlock(name, revision) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    self.objects.delete(BLOCK, &name, revision.as_deref()).map(drop)?;
                }
                Write::RemoveAffinity(name, revision) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    let revision = claimed.get(&name).cloned().flatten().or(revision);
                    self.objects.delete(AFFINITY, &name, revision.as_deref()).map(drop)?;
                }
            }
        }
        self.flush(&mut waiting, &mut claimed)
    }

    fn flush(
        &self,
        waiting: &mut Vec<Object>,
        claimed: &mut BTreeMap<String, Option<String>>,
    ) -> Result<(), ObjectError> {
        let written = self.objects.write_all(&std::mem::take(waiting))?;
        let claims = written.into_iter().filter(|object| object.kind == AFFINITY);
        claimed.extend(claims.map(|Object { metadata, .. }| (metadata.name, metadata.resource_version)));
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
            handle: handle_id(&wish.id),
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

fn object(kind: &str, name: String, resource_version: Option<String>, spec: &impl Serialize) -> Object {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        metadata: Metadata { name, resource_version },
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
mod tests {
    use super::*;

    fn allocator(dir: &std::path::Path, node: &str) -> Allocator {
        let mut allocator =
            Allocator::new(std::sync::Arc::new(datastore::Objects::open(dir).expect("a store")), node.into());
        let cidr = "10.65.0.0/16".parse().expect("a valid network");
        let pool = IpPool::of_pods("p", cidr, 26);
        allocator.rules.pools.insert("p".into(), pool);
        allocator
    }

    fn wish(container: &str) -> Wish {
        let id = AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() };
        Wish::any(id, PodId::new("default", container))
    }

    fn one(allocator: &Allocator, container: &str) -> Vec<IpAddr> {
        let mut all = allocator.assign(&[wish(container)], |_| {});
        all.remove(0).expect("an address")
    }

    #[test]
    fn an_address_survives_the_agent_and_goes_back_with_its_handle() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = one(&allocator(dir.path(), "n1"), "a");
        let again = allocator(dir.path(), "n1");
        assert_eq!(one(&again, "a"), first);
        assert_eq!(again.release(&[wish("a").id]).expect("released"), first);
        assert_eq!(again.release(&[wish("a").id]).expect("twice is no error"), Vec::<IpAddr>::new());
        assert_ne!(one(&again, "b"), first, "a released address goes to the back");
    }

    #[test]
    fn ipam_18_two_nodes_that_race_never_share_an_address() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let work = |node: &'static str| {
            let dir = dir.path().to_owned();
            std::thread::spawn(move || {
                let allocator = allocator(&dir, node);
                (0..10).flat_map(|pod| one(&allocator, &format!("{node}-{pod}"))).collect::<Vec<_>>()
            })
        };
        // Two agents of one node name race for one block, the third for another.
        let threads = [work("n1"), work("n2"), work("n3")];
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn what_the_blocks_know_of_pods_that_went_with_the_machine_is_taken_back_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (own, other) = (allocator(dir.path(), "n1"), allocator(dir.path(), "n2"));
        let [kept, lost, elsewhere] = [one(&own, "kept"), one(&own, "lost"), one(&other, "elsewhere")];
        let known = [handle_id(&wish("kept").id).to_lowercase()].into();
        assert_eq!(own.release_strangers(&known).expect("released"), lost);
        assert_eq!(own.release_strangers(&known).expect("nothing is left to release"), Vec::<IpAddr>::new());
        assert_eq!(own.held_by(&wish("kept").id).expect("readable"), kept);
        assert_eq!(other.held_by(&wish("elsewhere").id).expect("readable"), elsewhere);
    }

    #[test]
    fn what_attachments_have_is_held_again_where_the_blocks_have_forgotten_it_and_taken_from_nobody() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (own, other) = (allocator(dir.path(), "n1"), allocator(dir.path(), "n2"));
        let known: Vec<_> = ["a", "b"].map(|name| Wish { wanted: one(&own, name), ..wish(name) }).into();
        let is_held = |wish: &Wish| own.held_by(&wish.id).expect("readable") == wish.wanted;
        let revisions = || {
            let blocks = own.objects.list(BLOCK).expect("readable").into_iter();
            blocks.map(|block| block.metadata.resource_version).collect::<Vec<_>>()
        };
        let forget = || {
            for kind in [BLOCK, AFFINITY, HANDLE] {
                std::fs::remove_dir_all(dir.path().join(".tortie").join(kind)).expect("removed");
            }
        };
        let before = revisions();
        assert_eq!(own.claim_all(&known).expect("readable"), Claimed::default());
        let elsewhere = Wish { wanted: vec![[192, 0, 2, 9].into()], ..wish("e") };
        assert_eq!(own.claim_all(&[elsewhere]).expect("readable"), Claimed::default(), "it is no pool's");
        assert_eq!(revisions(), before, "what is held is not written");
        forget();
        assert_eq!(own.claim_all(&known).expect("written"), Claimed { lacking: 2, refused: vec![] });
        assert!(known.iter().all(is_held));
        let next = one(&own, "c");
        assert!(known.iter().all(|wish| wish.wanted != next), "nothing is given twice");
        forget();
        other.claim(&Wish { id: wish("theirs").id, ..known[0].clone() }).expect("another node was faster");
        let Claimed { refused, lacking } = own.claim_all(&known).expect("written");
        assert_eq!(lacking, 1, "what somebody else has is not claimed again and again");
        assert!(matches!(&refused[..], [(pod, AssignError::Taken { .. })] if *pod == known[0].pod), "{refused:?}");
        assert!(!is_held(&known[0]) && is_held(&known[1]));
    }

    #[test]
    fn all_who_wait_are_served_by_one_write_of_the_block() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let allocator = allocator(dir.path(), "n1");
        let wishes: Vec<_> = (0..5).map(|pod| wish(&format!("c{pod}"))).collect();
        assert!(allocator.assign(&wishes, |_| {}).iter().all(Result::is_ok));
        let ledger = allocator.read(&[], Reach::Whole).expect("readable");
        let block = &ledger.blocks.values().next().expect("one block").value;
        assert_eq!(block.sequence_number_for_allocation.values().min(), Some(&(block.sequence_number - 1)));
    }

    #[test]
    fn a_block_under_another_blocks_name_is_named_and_gives_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let allocator = allocator(dir.path(), "n1");
        one(&allocator, "a");
        let blocks = dir.path().join(".tortie").join(BLOCK);
        let file = std::fs::read_dir(&blocks).expect("listed").next().expect("one block").expect("readable").path();
        let text = std::fs::read_to_string(&file).expect("readable");
        // As somebody copies a file to make another.
        let copied = text.replace(&*file.file_stem().expect("a name").to_string_lossy(), "10-65-99-0-26");
        std::fs::write(blocks.join("10-65-99-0-26.yaml"), copied).expect("written");
        // Who knows its own block writes that, under its own name; who looks for one among all does not know which is meant.
        let fresh = self::allocator(dir.path(), "n1");
        let error = fresh.assign(&[wish("b")], |_| {}).remove(0).expect_err("two say that they are one");
        assert!(
            error.to_string().contains("IPAMBlock 10-65-99-0-26: cannot be read: it says that it is 10.65."),
            "{error}"
        );
        assert!(fresh.release(&[wish("a").id]).is_err(), "nor is anything given back by it");
    }

    #[test]
    fn a_damaged_block_is_named_and_gives_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let allocator = allocator(dir.path(), "n1");
        one(&allocator, "a");
        let mut object = allocator.objects.list(BLOCK).expect("readable").remove(0);
        object.spec["unallocated"] = serde_json::json!([0, 0, 500]);
        allocator.objects.write_all(&[object]).expect("written");
        let error = allocator.assign(&[wish("b")], |_| {}).remove(0).expect_err("a damaged block");
        assert!(error.to_string().contains("IPAMBlock 10.65."), "{error}");
    }
}
